"""Runs in which jobs fail, are stopped, or wait for admission."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.jobs.assumptions import block_disk_gb, dates_in
from tessera_flow.jobs.journal import job_log_path, read_job_log
from tests.support.broken import patched
from tests.support.pipeline import read_config
from tests.support.workflow import (
    AnyRun,
    box,
    change,
    kill_group,
    plan,
    product_bytes,
    run,
    start,
    unstarted,
)

pytestmark = pytest.mark.e2e

DAMAGED = "b000_001"
SCALES = "results/here/then/stitched_representation_scales.npy"


def test_failed_block_can_be_skipped_and_fixed(finished_run: Path, tmp_path: Path) -> None:
    """The patches of one block are damaged. The other blocks are finished; no product is written
    until skipping is allowed; then the products lack the block and record it; after the block is
    fixed, they are those of an undisturbed run."""
    folder = patched(finished_run, tmp_path / "run")
    file = folder / "work" / "here" / "then" / "patches" / f"{DAMAGED}.zip"
    content, stat = file.read_bytes(), file.stat()
    file.write_bytes(content[:1000])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    output = run(folder, fails=True)
    summary = output.split("Failed jobs:")[1]
    assert f"here then {DAMAGED}: infer_cpu (1 attempt): " in summary
    assert "is not a complete block file" in summary
    assert "--config 'jobs={on_failed_block: skip}'" in summary
    assert not (folder / "results").exists()
    assert plan(folder)["infer"] == 1

    change(folder, {"jobs.on_failed_block": "skip"})
    assert plan(folder) == {
        "skip_block": 1, "list_skipped_blocks": 1, "stitch_zarr": 1, "stitch_arrays": 1,
        "preview": 1,
    }  # fmt: skip
    run(folder)
    scales = np.load(folder / SCALES)
    skipped = np.zeros_like(scales, bool)
    skipped[:25, 25:] = True
    assert np.isnan(scales[skipped]).all()
    np.testing.assert_array_equal(scales[~skipped], np.load(finished_run / SCALES)[~skipped])
    record = json.loads((folder / "results" / "here" / "then" / "skipped_blocks.json").read_text())
    (entry,) = record["skipped_blocks"]
    assert entry["block"] == DAMAGED and "not a complete block file" in entry["reason"]
    (folder / "results" / "here" / "then" / "skipped_blocks.json").write_text("{}")
    assert plan(folder) == {"list_skipped_blocks": 1}
    left, bottom, right, top = entry["bounds"]
    assert (right - left, top - bottom) == (250, 250)

    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    change(folder, {"jobs.on_failed_block": "fail"})
    run(folder)
    assert product_bytes(finished_run).items() <= product_bytes(folder).items()
    records = read_job_log(job_log_path(folder / "work", "here", "then", DAMAGED))
    assert [(v.rule, v.state, v.attempts) for v in records] == [
        ("infer_cpu", "done", 2),
        ("skip_block", "done", 1),
    ]


def test_stopped_job_is_run_again(finished_run: Path, tmp_path: Path) -> None:
    """SIGTERM to the process that embeds a block, as by preemption: the run continues, reports
    the stopped job, and the next run finishes it."""
    folder = patched(finished_run, tmp_path / "run")
    block = "b001_000"
    path = job_log_path(folder / "work", "here", "then", block)
    process = start(folder)
    try:
        while not (records := read_job_log(path)):
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(records[0].process, signal.SIGTERM)
        assert process.wait(timeout=300) != 0
    finally:
        kill_group(process)
    assert (
        f"here then {block}: infer_cpu (1 attempt): Stopped by SIGTERM"
        in (folder / "run.txt").read_text()
    )
    assert plan(folder)["infer"] == 1
    run(folder)
    assert product_bytes(folder) == product_bytes(finished_run)


@pytest.mark.slow
def test_number_of_blocks_in_flight_is_limited(finished_run: Path, tmp_path: Path) -> None:
    """With room for two blocks, no more than two have intermediate files at any time, among 4
    blocks and among 12, and these files take as much disk; the products are the same as without
    a limit."""
    peaks = []
    for number, columns in enumerate((20, 50)):
        folder = unstarted(finished_run, tmp_path / f"run{number}")
        box(folder / "roi.geojson", (0, columns), (0, 20 if number == 0 else 25))
        settings = {"grid.block_size": 10, "sentinel1.enabled": False, "paths.keep": []}
        settings |= {"download.slice_months": 4, "products.formats": ["zarr"]}
        change(folder, settings)
        period = read_config(folder / "config.yaml").periods["then"]
        assumed = {"sentinel2": dates_in("sentinel2", (period.end - period.start).days + 1)}
        change(folder, {"jobs.max_disk_gb": 2.5 * block_disk_gb(100, assumed)})
        peaks.append(peak_in_flight(start(folder), folder))
    (few, few_bytes), (many, many_bytes) = peaks
    assert (few, many) == (2, 2)
    assert 0 < many_bytes <= 1.1 * few_bytes


def peak_in_flight(process: AnyRun, folder: Path) -> tuple[int, int]:
    """Return the maxima during a run: blocks with intermediate files and without embeddings, and
    bytes of intermediate files."""
    most_blocks = most_bytes = 0
    run_folder = folder / "work" / "here" / "then"
    while process.poll() is None:
        sizes = {}
        for name in ("slices", "stack", "patches"):
            for path in (run_folder / name).rglob("b*.zip"):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    sizes[path] = path.stat().st_size
        done = {path.stem for path in (run_folder / "embeddings").glob("b*.zip")}
        most_blocks = max(most_blocks, len({path.stem for path in sizes} - done))
        most_bytes = max(most_bytes, sum(sizes.values()))
        time.sleep(0.02)
    assert process.returncode == 0, (folder / "run.txt").read_text()
    return most_blocks, most_bytes


@pytest.mark.slow
def test_report_lists_missing_scenes_and_only_present_skipped_blocks(
    finished_run: Path, tmp_path: Path
) -> None:
    """A scene is missing in the archive, and the patches of one block are damaged: the report of
    the products without the block lists both, after the intermediate files are deleted. The
    report after the fix lists only the scene, and the list of skipped blocks is deleted."""
    folder = unstarted(finished_run, tmp_path / "run")
    change(folder, {"products.formats": ["zarr", "report"], "download.max_missing_percent": 50})
    (missing,) = (folder / "scenes").rglob("*20210801*B05*")
    missing.unlink()
    run(folder, "--until", "retile")
    file = folder / "work" / "here" / "then" / "patches" / f"{DAMAGED}.zip"
    content, stat = file.read_bytes(), file.stat()

    def write(content: bytes) -> None:
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    write(content[:1000])
    run(folder, fails=True)
    change(folder, {"jobs.on_failed_block": "skip", "paths.keep": []})
    run(folder)
    results = folder / "results" / "here" / "then"
    page = (results / "report.html").read_text()
    assert "left out: 1, replaced by a duplicate: 0" in page
    assert missing.name in page and "no such file" in page
    assert f"<td>{DAMAGED}</td><td>" in page and "is not a complete block file" in page
    assert (results / "skipped_blocks.json").exists()

    write(content)
    change(folder, {"jobs.on_failed_block": "fail"})
    run(folder)
    page = (results / "report.html").read_text()
    assert "no such file" in page and "not a complete block file" not in page
    assert not list(results.rglob("skipped_blocks.json"))
