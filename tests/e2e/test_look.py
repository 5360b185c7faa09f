"""`snakemake plan` and `snakemake status`, before, during and after a run."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tessera_flow.atomic import HOST
from tests.support.workflow import change, kill_group, plan, run, start, unstarted

pytestmark = pytest.mark.e2e


def planned(folder: Path) -> dict[str, object]:
    run(folder, "plan")
    document: dict[str, object] = json.loads((folder / "results/plan/plan.json").read_text())
    return document


def counted(folder: Path) -> dict[str, int]:
    """Return the jobs that Snakemake counts, on a machine without a GPU."""
    counts = plan(folder)
    if "infer" in counts:
        counts["infer_cpu"] = counts.pop("infer")
    return counts


def states(folder: Path) -> dict[str, str]:
    """Return the states of the blocks by name, and check that the map has as many of each."""
    features = json.loads((folder / "results/plan/here_then.geojson").read_text())["features"]
    states = {f["properties"]["block"]: f["properties"]["state"] for f in features}
    drawn = (folder / "results/plan/here_then.svg").read_text()
    for state in states.values():
        (path,) = re.findall(rf'<path class="{state}" d="([^"]*)"', drawn)
        assert path.count("M") == list(states.values()).count(state)
    return states


def test_plan_and_status(finished: Path) -> None:
    """Two of four blocks are missing: the plan counts their jobs as Snakemake does, from the known
    scenes and times; without the lists of scenes it states its assumptions."""
    work = finished / "work" / "here" / "then"
    for name in ("b000_001", "b001_000"):
        (work / "embeddings" / f"{name}.zip").unlink()
    shutil.rmtree(work / "patches")
    shutil.rmtree(work / "stack")
    shutil.rmtree(work / "slices")
    shutil.rmtree(finished / "results")
    (work / "job_log" / "b001_000.jsonl").write_text(
        '{"job": "retile", "state": "started", "time": "2026-01-01T00:00:00+00:00", "host": "x", '
        '"process": 1}\n'
        '{"job": "retile", "state": "failed", "time": "2026-01-01T00:00:01+00:00", "host": "x", '
        '"process": 1, "seconds": 1, "reason": "the disk is full"}\n'
    )
    known = planned(finished)
    assert (known["blocks"], known["blocks_left"]) == (4, 2)
    assert known["jobs"] == counted(finished)
    of_blocks = {"download": 8, "stack": 4, "retile": 2, "infer_cpu": 2}
    assert of_blocks.items() <= known["jobs"].items()  # type: ignore[attr-defined]
    assert known["items"] == {"sentinel2": 5, "sentinel1": 5}
    assert {"download", "infer_cpu", "retile", "stack", "preview"} <= {*known["calibrated"]}  # type: ignore[misc]
    # 25 * 25 and 15 * 25 pixels, five dates of each sensor, seven bytes of each.
    assert known["download_gb"] == pytest.approx(1000 * 10 * 7 / 1e9)
    assert states(finished) == {
        "b000_000": "done", "b000_001": "cpu", "b001_000": "failed", "b001_001": "done"
    }  # fmt: skip
    text = (finished / "results/plan/plan.md").read_text()
    assert "| blocks | 4, of which 2 have no embeddings yet |" in text
    output = run(finished, "status")
    assert "2 of 4 blocks have embeddings." in output
    assert "here then b001_000: retile (1 attempt): the disk is full" in output

    shutil.rmtree(work / "items")
    unknown = planned(finished)
    assert unknown["items"] == {"sentinel2": None, "sentinel1": None}
    assert any("100 dates per year are assumed" in line for line in unknown["assumptions"])  # type: ignore[attr-defined]
    # The lists are made again, and therefore all blocks, of 2000 pixels; 122 days.
    assert unknown["jobs"] == counted(finished)
    assert unknown["blocks_left"] == 4
    dates = (100 + 90) * 122 / 365.25
    assert unknown["download_gb"] == pytest.approx(2000 * dates * 7 / 1e9)


def test_plan_and_status_are_never_refused(finished: Path) -> None:
    """Products of other settings exist, so a run is refused; plan and status replace nothing."""
    change(finished, {"model.dim": 16})
    refused = run(finished, fails=True)
    assert "was made with other settings" in refused
    planned_again = planned(finished)
    assert planned_again["blocks_left"] == planned_again["blocks"] == 4
    text = (finished / "results/plan/plan.md").read_text()
    assert "4 files were made with other settings than the present ones" in text
    (of_products,) = re.findall("WARNING: (.* made with other settings than those of .*)", refused)
    assert f"- Warning: {of_products}" in text
    output = run(finished, "status")
    assert "4 of 4 blocks have embeddings." in output
    assert "4 files were made with other settings than the present ones" in output
    assert " left." not in output


def test_plan_and_status_keep_files_and_the_lock_of_a_run(finished: Path, tmp_path: Path) -> None:
    """Snakemake removes all locks of the folder when it ends, also those of other processes: after
    a look from another terminal a second run could start beside the first."""
    folder = unstarted(finished, tmp_path / "again")
    process = start(folder)
    locks = folder / ".snakemake" / "locks"
    try:
        while not (locks.exists() and len(list(locks.iterdir())) == 2):
            assert process.poll() is None
            time.sleep(0.01)
        locks_before = {path: path.read_bytes() for path in locks.iterdir()}
        # A run that succeeds deletes it; a look must not, beside jobs on other machines.
        leftover = folder / f"work/here/.x.zip.{HOST}.{2**22}.{'1' * 16}.part"
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.touch()
        assert "0 of 4 blocks" in run(folder, "status")
        run(folder, "plan")
        assert process.poll() is None, "the run ended too soon for this test"
        assert leftover.exists()
        assert {path: path.read_bytes() for path in locks.iterdir()} == locks_before
        refused = run(folder, fails=True)
        assert f"is locked by the run in {folder.resolve()}" in refused
        assert "which is running" in refused
    finally:
        kill_group(process)
