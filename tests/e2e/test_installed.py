"""A wheel is enough: built, installed into an empty environment, one command, and its progress."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest
import yaml

from tests.support.workflow import REPOSITORY, four_blocks, members

pytestmark = pytest.mark.e2e

NAME = "2021-06-01_2021-09-30"
REQUEST = ["--roi", "roi.geojson", "--start", "2021-06-01", "--end", "2021-09-30",
           "--weights", "weights.pt", "--out", "run"]  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command of an environment with the packages of this one, and the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # A path, so that the editable installation of this repository is not among them.
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    return str(folder / "venv" / "bin" / "tessera-flow")


def environment(folder: Path) -> dict[str, str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE_", "PYTHON"))}
    return variables | {"XDG_CACHE_HOME": str(folder / ".cache")}


def call(folder: Path, *words: str) -> tuple[int, str]:
    """Return exit status and output of a command in a folder."""
    done = subprocess.run(
        words, cwd=folder, env=environment(folder), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def edit(folder: Path) -> None:
    """Take the small archive in place of the public ones, and one small block."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    path = folder / "run" / "config" / "config.yaml"
    document = yaml.safe_load(path.read_text())
    for section in ("sentinel2", "sentinel1", "grid", "download", "products"):
        document[section] |= settings[section]
    for sensor in ("sentinel2", "sentinel1"):
        document[sensor]["location"] = "../items.json"
    document["grid"] |= {"block_size": 50, "patch_size": 25}
    document["download"]["slice_months"] = 12
    document["products"]["formats"] = ["zarr"]
    document["sentinel1"]["enabled"] = False
    path.write_text(yaml.safe_dump(document))


def test_one_command_from_a_wheel(command: str, tmp_path: Path) -> None:
    folder = four_blocks(tmp_path / "user")
    assert call(folder, command, "init", *REQUEST)[0] == 0
    edit(folder)
    edited = (folder / "run" / "config" / "config.yaml").read_text()

    # Ctrl-C in a terminal: exit status 130, no process is left, and the next run continues.
    process = subprocess.Popen(
        [command, "run", "--out", "run", "--cores", "2"], cwd=folder, env=environment(folder),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    slices = folder / "run" / "work" / "roi" / NAME / "slices"
    deadline = time.monotonic() + 300
    while not list(slices.rglob("*.zip")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "finished steps are kept; run again to continue" in output
    assert members(process.pid) == []
    assert not list((folder / "run").rglob("*.part"))

    status, output = call(
        folder,
        command,
        "run",
        *REQUEST,
        "--cores",
        "2",
        "--",
        "--logger-tessera-flow-interval",
        "5",
    )
    assert status == 0, output
    assert "jobs done; download " in output and "infer 1/1" in output
    assert f"Products:\n  run/results/roi/{NAME}" in output
    assert len([line for line in output.splitlines() if "jobs done; " not in line]) < 15, output
    assert (folder / "run" / "config" / "config.yaml").read_text() == edited
    status, output = call(folder, command, "status", "--out", "run")
    assert status == 0 and "1 of 1 blocks have embeddings." in output

    # Nothing is left to do, for snakemake in the folder as well.
    status, output = call(folder, command, "run", "--out", "run")
    assert status == 0 and "Nothing to be done" in output and "Products:" in output
    snakemake = [str(Path(command).with_name("python")), "-m", "snakemake", "--cores", "1"]
    status, output = call(folder / "run", *snakemake)
    assert status == 0 and "Nothing to be done" in output, output

    # A failed job is shown with its message and its log, and the exit status is that of Snakemake.
    (folder / "weights.pt").write_bytes(b"not a checkpoint")
    status, output = call(folder, command, "run", "--out", "run")
    assert status == 1
    assert "Error in rule weights:" in output and "log: logs/weights.log" in output
    assert f"{folder / 'weights.pt'}" in output.partition("Failed jobs:")[0]
    assert "repeat the command:\n  tessera-flow run --out run\n" in output
    assert "Products:" not in output
