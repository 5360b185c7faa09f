"""The workflow as a module of another one: from a clone, and from a git host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.snakemake_server import run_snakemake
from tests.support.workflow import REPOSITORY, environment, job_counts, unstarted

pytestmark = pytest.mark.e2e

OUTER = """
configfile: "settings.yaml"


module tessera_flow:
    snakefile:
        {source}
    config:
        config["maps"]


use rule * from tessera_flow as maps_*


rule listing:
    default_target: True
    input:
        rules.maps_all.input,
    output:
        "listing.txt",
    shell:
        "ls -d {{input}} > {{output}}"


onstart:
    tessera_flow.onstart()


onsuccess:
    tessera_flow.onsuccess()


onerror:
    tessera_flow.onerror()
"""
HOSTED = 'github("someone/tessera-flow", path="workflow/Snakefile", tag="v9")'
FOLDER = "results/here/then"
JOBS = {
    "maps_roi": 1, "maps_items": 2, "maps_weights": 1, "maps_download": 2, "maps_stack": 2,
    "maps_retile": 1, "maps_infer_cpu": 1, "maps_stitch_arrays": 1, "listing": 1,
}  # fmt: skip


@pytest.fixture
def outer(finished_run: Path, tmp_path: Path) -> Path:
    """The folder of an outer workflow, without its Snakefile: one block, one slice, arrays."""
    folder = unstarted(finished_run, tmp_path / "outer")
    maps = yaml.safe_load((folder / "config.yaml").read_text())
    maps["grid"]["block_size"] = 50
    maps["download"]["slice_months"] = 4
    maps["products"]["formats"] = ["arrays"]
    maps["jobs"] = {"cpu_gpu": [1, 0], "local_rules": ["items"]}
    (folder / "config.yaml").unlink()
    (folder / "settings.yaml").write_text(yaml.safe_dump({"maps": maps, "other": 1}))
    return folder


def snakemake(
    folder: Path, source: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in the folder of the outer workflow, as its user does."""
    (folder / "Snakefile").write_text(OUTER.format(source=source))
    output = folder.parent / "output.txt"
    output.write_text("")
    line = ["--cores", "2", *arguments]
    status = run_snakemake(line, folder, {**environment(folder), **variables}, output)
    return subprocess.CompletedProcess(line, status, output.read_text())


def provenance(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (folder / FOLDER / "stitched_representation.json").read_text()
    )
    return document


def labels(folder: Path) -> set[str]:
    """Return the names of all jobs in the job logs."""
    files = (folder / "work").rglob("job_log/*.jsonl")
    return {json.loads(line)["job"] for file in files for line in file.read_text().splitlines()}


def test_from_a_clone(outer: Path, finished_run: Path) -> None:
    """The rules have other names; the configuration is a section of another one."""
    source = repr(str(REPOSITORY / "workflow" / "Snakefile"))
    planned = snakemake(outer, source, "--dry-run")
    assert job_counts(planned.stdout) == JOBS, planned.stdout
    weights = (outer / "weights.pt").read_bytes()
    (outer / "weights.pt").write_bytes(b"not a checkpoint")
    failed = snakemake(outer, source, "work/weights.json")
    assert failed.returncode != 0
    assert "Failed jobs:\n  all regions: weights (1 attempt): " in failed.stdout
    (outer / "weights.pt").write_bytes(weights)
    holes = outer / FOLDER / "skipped_blocks.json"
    holes.parent.mkdir(parents=True)
    holes.write_text("of an earlier run")
    done = snakemake(outer, source)
    assert done.returncode == 0, done.stdout
    assert not holes.exists()
    name = f"{FOLDER}/stitched_representation.npy"
    assert (outer / name).read_bytes() == (finished_run / name).read_bytes()
    assert name in (outer / "listing.txt").read_text().split()
    assert labels(outer) >= {"infer_cpu", "roi", "items sentinel1", "weights", "retile"}
    assert not [label for label in labels(outer) if label.startswith("maps")]
    looked = snakemake(outer, source, "maps_status")
    assert "1 of 1 blocks have embeddings." in looked.stdout, looked.stdout


def published(folder: Path) -> dict[str, str]:
    """Make a git repository with a tag; return the variables by which git reads it for GitHub.

    Its package has another version, so that products state which package made them.
    """
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("workflow", "src", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored, symlinks=True)
    package = folder / "src" / "tessera_flow" / "__init__.py"
    text = package.read_text()
    package.write_text(text.split("__version__")[0] + '__version__ = "9.9.9"\n')
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"], ["tag", "v9"]):
        subprocess.run([*git, *arguments], check=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/someone/tessera-flow",
    }


def test_from_a_git_host(outer: Path, finished_run: Path, tmp_path: Path) -> None:
    """Snakemake fetches only the requested files; the fetched package is used, not an installed
    one."""
    done = snakemake(outer, HOSTED, **published(tmp_path / "hosted"))
    assert done.returncode == 0, done.stdout
    assert job_counts(done.stdout) == JOBS
    name = f"{FOLDER}/stitched_representation.npy"
    assert (outer / name).read_bytes() == (finished_run / name).read_bytes()
    assert provenance(outer)["software"]["tessera-flow"] == "9.9.9"


def test_from_a_commit_of_a_clone_is_refused(outer: Path, tmp_path: Path) -> None:
    """Snakemake's cache stores such files under names that Python cannot import."""
    published(tmp_path / "clone")
    source = f'gitfile({str(tmp_path / "clone")!r}, path="workflow/Snakefile", tag="v9")'
    done = snakemake(outer, source, "--dry-run")
    assert done.returncode != 0
    assert "cannot be read from a commit of a local clone" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout
    assert not os.listdir(outer).count("work")


def test_missing_packages_give_a_message(outer: Path, tmp_path: Path) -> None:
    """As where only Snakemake is installed, as with users of the workflow catalogue."""
    (tmp_path / "pyogrio.py").write_text("raise ModuleNotFoundError(\"No module named 'pyogrio'\")")
    source = repr(str(REPOSITORY / "workflow" / "Snakefile"))
    (outer / "Snakefile").write_text(OUTER.format(source=source))
    done = subprocess.run(
        [shutil.which("snakemake") or "snakemake", "--cores", "2", "--dry-run"],
        cwd=outer,
        env={**environment(outer), "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0
    assert "No module named 'pyogrio'. Run Snakemake in an environment" in done.stdout
    assert "Traceback" not in done.stdout
