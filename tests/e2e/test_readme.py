"""The commands of README.md: run where they can run without internet or a cluster, else parsed by
the program that they call."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tessera_flow.cli.main import parser
from tessera_flow.cli.run_folder import RunFolder
from tessera_flow.config.configuration import load_config
from tests.support.workflow import REPOSITORY, change, environment, four_blocks

pytestmark = pytest.mark.e2e

PAGE = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
INLINE = re.findall(r"`(make [^`]+)`", PAGE)
CLONE = [line for line in LINES if line.startswith(("git ", "cd "))]
ON_SLURM = [line for line in LINES if "--profile slurm" in line]
YEAR = "--year 2023"
COMMANDS = [line for line in LINES if line.startswith("tessera-flow ")]
MAKE = [line for line in [*LINES, *INLINE] if line.startswith("make ")]
ON_A_LAPTOP = list(
    dict.fromkeys(
        line
        for line in LINES
        if line not in (*CLONE, *ON_SLURM, *MAKE) and not line.startswith("tessera-flow embed")
    )
)
"""In this order, these are a complete run."""

NAMES = {"regions": "region", "periods": "y2023"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone as a user has it, and the folder of a run in it with the names of the page; its
    configuration is that of the small archive of these tests."""
    folder = four_blocks(tmp_path / "clone")
    for name in ("Snakefile", "workflow", "src", "profiles", "envs"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "path" / "to").mkdir(parents=True)
    shutil.move(folder / "roi.geojson", folder / "path" / "to" / "region.geojson")
    change(folder, {"regions.here.roi": str(folder / "path/to/region.geojson")})
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for section, name in NAMES.items():
        settings[section] = {name: next(iter(settings[section].values()))}
    for sensor in ("sentinel1", "sentinel2"):
        settings[sensor]["location"] = str(folder / "items.json")
    settings["model"]["weights"] = str(folder / "weights.pt")
    run = RunFolder(folder / "tessera-run")
    run.write_workflow()
    for config in (folder / "config" / "config.yaml", run.config):
        config.parent.mkdir()
        config.write_text(yaml.safe_dump(settings))
    return folder


def shell(folder: Path, command: str) -> str:
    """Output of a command in a shell that has the environment of `.venv` active. The scenes of the
    archive are of another year than that of the page."""
    command = command.replace(YEAR, "--start 2021-06-01 --end 2021-09-30")
    done = subprocess.run(
        ["bash", "-euc", f"[ -e .venv/bin/activate ] && . .venv/bin/activate; {command}"],
        cwd=folder,
        env={**environment(folder), "PYTHONPATH": str(REPOSITORY / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def test_every_group_of_commands_is_found() -> None:
    """So that no test below passes on an empty list."""
    assert LINES[:2] == CLONE and LINES[2:4] == ["make demo", "make test"]
    assert len(ON_A_LAPTOP) >= 7 and len(ON_SLURM) == 3 and len(COMMANDS) >= 3
    assert sum(YEAR in line for line in ON_A_LAPTOP) == 2


@pytest.mark.slow
def test_a_run_on_a_laptop(clone: Path) -> None:
    outputs = {line: shell(clone, line) for line in ON_A_LAPTOP}
    output = {line.partition("  #")[0].strip(): text for line, text in outputs.items()}
    run = clone / "tessera-run"
    first = output[f"tessera-flow run --roi path/to/region.geojson {YEAR}"]
    assert "Products:\n  tessera-run/results/region/y2023\n" in first
    assert len(first.splitlines()) < 100
    assert (clone / "mask.tif").exists() and (run / "results" / "plan" / "plan.md").exists()
    assert "Nothing to be done" in output["tessera-flow run --dry-run"]
    assert "4 of 4 blocks have embeddings." in output["tessera-flow status"]
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    namespace: dict[str, Any] = {}
    folder = Path.cwd()
    os.chdir(clone)
    try:
        exec(block, namespace)
        values, image = namespace["ds"]["embeddings"].values, namespace["image"].values
    finally:
        os.chdir(folder)
    assert values.dtype == np.float32 and values.shape == (1, 128, 40, 50)
    has_embedding = np.isfinite(values).all(axis=1)
    np.testing.assert_array_equal(has_embedding, np.isfinite(values).any(axis=1))
    assert has_embedding.mean() > 0.9  # a pixel may be cloudy on every day
    np.testing.assert_array_equal(image, values[:, :, 10:30, 10:30])
    np.testing.assert_array_equal(namespace["vectors"], values[:, :, 19, 20])


@pytest.mark.slow
@pytest.mark.parametrize("line", ON_SLURM)
def test_a_dry_run_with_the_slurm_profile(clone: Path, line: str) -> None:
    assert "infer" in shell(clone, f"{line.partition('#')[0]} -n")


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("line", MAKE)
def test_targets_exist(line: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "-n", *line.split()[1:]], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_configuration_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    config = load_config(yaml.safe_load(block))
    assert list(config.regions) == [NAMES["regions"], "box"]
    years = [f"summer_{year}" for year in range(2017, 2026)]
    assert list(config.periods) == [NAMES["periods"], *years]


def test_keys_in_the_text_exist() -> None:
    from tessera_flow.config.configuration import Config
    from tessera_flow.config.messages import key_paths

    known = set(key_paths(Config))
    sections = "|".join(Config.model_fields)
    names = re.findall(rf"`((?:{sections})\.[a-z_0-9.]+)", PAGE)
    assert len(names) >= 5
    assert not [name for name in names if name not in known]
