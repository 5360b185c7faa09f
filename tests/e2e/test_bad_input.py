"""Bad input in a running workflow: one clear message, no partial files, and only the affected jobs
fail."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tessera_flow.config.configuration import load_config
from tessera_flow.errors import CheckpointError, RegionError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.models.weights import fetch_weights
from tests.support.broken import damaged_checkpoint, one_row, region_without_crs, shown
from tests.support.scenes import optical
from tests.support.workflow import (
    CHECKPOINT,
    LEFT,
    PIXEL,
    REPOSITORY,
    TOP,
    archive,
    box,
    change,
    document,
    fill,
    job_counts,
    leftovers,
    plan,
    product_bytes,
    run,
    small_disk,
    snakemake,
)

pytestmark = pytest.mark.e2e


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.glob(pattern) if p.is_file())


def test_only_affected_jobs_fail_and_only_these_rerun(tmp_path: Path) -> None:
    """Three blocks: one complete, one with a truncated scene, one without scenes; also a period
    without scenes and a region outside the data."""
    folder = tmp_path / "run"
    items = one_row(folder, columns=75)
    random = np.random.default_rng(2)
    damaged = optical(
        folder / "scenes",
        "2021-06-23T10:00:00",
        random.integers(1, 9000, (20, 5, 10)),
        shape=(20, 5),
        origin=(LEFT + 35 * PIXEL, TOP),
    )
    archive(folder, [*items, damaged])
    band = Path(damaged["assets"]["B11"]["href"])
    content = band.read_bytes()
    band.write_bytes(content[: len(content) * 2 // 3])
    box(folder / "far.geojson", (90_000, 90_020), (0, 20))
    change(
        folder,
        {
            "regions.far": {"roi": "far.geojson", "periods": ["then"]},
            "periods.empty": {"start": "2019-01-01", "end": "2019-01-31"},
            "download.max_missing_percent": 0,
        },
    )

    output = run(folder, fails=True)
    shown(
        output, rf"1 of the \d scenes .* asset B11 of item {damaged['id']} \(.*\): corrupt .*again"
    )
    shown(
        output, r"Block b000_002 is covered by no sentinel2 scene in the period: .*on_empty_block"
    )
    shown(output, r"No Sentinel-2 scene covers region here .* from 2019-01-01 to 2019-01-31 .*\.")
    shown(output, r"No Sentinel-2 scene covers region far .* from 2021-06-01 to 2021-06-30 .*\.")
    assert files(folder, "work/*/*/embeddings/*") == ["work/here/then/embeddings/b000_000.zip"]
    assert files(folder, "work/*/*/items/*") == ["work/here/then/items/sentinel2.json"]
    assert files(folder, "results/**/*") == []
    assert leftovers(folder) == []
    finished = (folder / "work/here/then/embeddings/b000_000.zip").stat().st_mtime_ns

    band.write_bytes(content)
    box(folder / "far.geojson", (0, 20), (0, 20))
    change(folder, {"download.on_empty_block": "nodata", "periods.empty.start": "2021-06-01",
                    "periods.empty.end": "2021-06-30"})  # fmt: skip
    far = {"items": 1, "download": 1, "stack": 1, "retile": 1, "infer": 1, "stitch_arrays": 1}
    here_empty = {
        "items": 1,
        "download": 3,
        "stack": 3,
        "retile": 3,
        "infer": 3,
        "stitch_arrays": 1,
    }
    here_then = {"download": 1, "stack": 1, "retile": 2, "infer": 2, "stitch_arrays": 1}
    expected = {"roi": 1}
    for jobs in (far, here_empty, here_then):
        expected = {rule: expected.get(rule, 0) + jobs.get(rule, 0) for rule in expected | jobs}
    assert plan(folder) == expected
    run(folder, "results/here/then/stitched_representation.npy")
    embedding = folder / "work/here/then/embeddings/b000_000.zip"
    assert embedding.stat().st_mtime_ns == finished
    scales = np.load(folder / "results/here/then/stitched_representation_scales.npy")
    counts = np.load(folder / "results/here/then/stitched_representation_counts.npy")
    assert np.isfinite(scales[:, :40]).all()
    assert np.isnan(scales[:, 40:]).all()
    np.testing.assert_array_equal(np.unique(counts[:, :35, 0]), [2])
    np.testing.assert_array_equal(np.unique(counts[:, 35:40, 0]), [3])


def test_no_radar_scene(tmp_path: Path) -> None:
    """An error if radar is required, else a warning in the run and in each later dry run."""
    folder = tmp_path / "run"
    one_row(folder, columns=25, sentinel1={"provider": "local", "location": "items.json"})
    change(folder, {"model.min_observations": {"s2": 1, "s1": 1}})
    listed = "work/here/then/items/sentinel1.json"
    output = run(folder, listed, fails=True)
    shown(
        output,
        r"No Sentinel-1 scene covers region here .*model\.min_observations\.s1 is 1.*set it to 0",
    )
    assert files(folder, "work/here/then/items/*") == []
    change(folder, {"model.min_observations.s1": 0})
    warning = r"WARNING: here, then: No Sentinel-1 scene .*computed without Sentinel-1\."
    assert len(re.findall(warning, run(folder, listed))) == 1
    assert len(re.findall(warning, snakemake(folder, "--dry-run").stdout)) == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"cut\.pt is not a readable checkpoint \(its end is missing.*get the file again"),
        ("text", r"text\.pt is not a readable checkpoint \(its content is.*get the file again"),
        ("keys", r"keys\.pt: 1 tensors are missing \(.*\.weight\), .*: use the file as it was"),
        ("resnet", r"resnet\.pt is not a TESSERA checkpoint .*: set the weights to the file"),
    ],
)
def test_invalid_weights(tmp_path: Path, kind: str, message: str) -> None:
    path = damaged_checkpoint(tmp_path, kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch_weights(str(path))
    assert "\n" not in str(caught.value)


def test_invalid_weights_fail_dependent_jobs_until_they_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    one_row(folder, columns=25)
    damaged_checkpoint(folder, "keys").replace(folder / "weights.pt")
    output = run(folder, fails=True)
    shown(output, r"weights\.pt: 1 tensors are missing .*: use the file as it was published\.")
    assert files(folder, "work/*.json") == ["work/last_run.json"]
    assert files(folder, "work/here/then/patches/*") == ["work/here/then/patches/b000_000.zip"]
    shutil.copy(CHECKPOINT, folder / "weights.pt")
    assert plan(folder) == {"weights": 1, "infer": 1, "stitch_arrays": 1}


def test_no_disk_space(tmp_path: Path) -> None:
    """First the disk of the working folder is full, then that of the results: the message has the
    file, and the next run resumes once there is space."""
    folder = tmp_path / "run"
    one_row(folder, columns=25, products={"formats": ["zarr", "arrays", "preview"]})
    with (
        small_disk(folder / "work", 4 * 2**20) as work,
        small_disk(folder / "results", 4 * 2**20) as results,
    ):
        filler = fill(work, leave=64 * 2**10)
        output = run(folder, fails=True)
        shown(output, r"No space left while writing work/here/then/.*/b000_000\.zip .*free space")
        assert files(work, "here/then/embeddings/*") == [] and leftovers(folder) == []
        filler.unlink()

        filler = fill(results, leave=8 * 2**10)
        output = run(folder, fails=True)
        for product in (r"embeddings\.zarr", r"stitched_\w+\.npy", r"preview\.tif"):
            shown(output, rf"No space left while writing results/here/then/{product} .*free")
        assert set(product_bytes(folder)) == {"filler"}
        filler.unlink()

        products = {"stitch_zarr": 1, "stitch_arrays": 1, "preview": 1}
        assert plan(folder) == products
        assert job_counts(run(folder)) == products
        assert np.load(results / "here/then/stitched_representation.npy").shape == (20, 25, 128)


def test_results_on_a_read_only_disk(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    one_row(folder, columns=25)
    with small_disk(folder / "results", 2**20, "ro"):
        done = snakemake(folder, "--dry-run")
        assert done.returncode != 0
        # No job runs, so there is no summary that repeats the message.
        assert re.search(r"Cannot write results \(.*\): .* is writable\.", done.stdout)
        assert "Traceback" not in done.stdout


def _no_pixel(folder: Path) -> Path:
    path = folder / "zeros.tif"
    grid = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, LEFT, 0, -10, TOP)}
    with rasterio.open(path, "w", driver="GTiff", width=5, height=5, count=1, dtype="uint8",
                       **grid) as dataset:  # fmt: skip
        dataset.write(np.zeros((1, 5, 5), np.uint8))
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            region_without_crs,
            r"no_crs\.shp has no coordinate reference system: assign one .*\.prj file",
        ),
        (_no_pixel, r"The mask .*zeros\.tif has no positive value .*: mark the inside"),
    ],
)
def test_invalid_regions(tmp_path: Path, make: Any, message: str) -> None:
    settings = document(tmp_path, "2021-06-01", "2021-06-30")
    settings["regions"]["here"]["roi"] = str(make(tmp_path))
    settings["paths"] = {"work": str(tmp_path / "work")}
    with pytest.raises(RegionError, match=message):
        RunFiles(load_config(settings))
    assert files(tmp_path, "work/**/*") == []


def test_internal_error_asks_for_a_report(tmp_path: Path) -> None:
    """An error that is not due to bad input has a traceback in the log and asks for a report."""
    folder = tmp_path / "run"
    one_row(folder, columns=25)
    repository = tmp_path / "repository"
    for name in ("workflow", "src", "profiles"):
        shutil.copytree(REPOSITORY / name, repository / name, symlinks=True)
    script = repository / "workflow" / "scripts" / "roi.py"
    script.write_text(script.read_text() + "    raise ZeroDivisionError('broken')\n")
    entry = repository / "workflow" / "Snakefile"
    output = run(folder, "work/here/roi.tif", fails=True, snakefile=entry)
    assert "internal error in tessera-flow; please report it" in output
    in_log, in_summary = output.split("Failed jobs:")
    assert in_log.count("\nZeroDivisionError: broken\n") == 1
    assert "here: roi (1 attempt): ZeroDivisionError: broken" in in_summary
