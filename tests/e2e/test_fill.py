"""Published embeddings whose holes are computed: a store that was written here, with holes in it.

What is computed equals a run that computes everything, what is published equals the store, and
blocks without holes read no scene.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import xarray as xr
import zarr

from tessera_flow.demo.weights import write_demo_weights
from tests.support.workflow import change, four_blocks, leftovers, plan, run, unstarted

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PLACE = Path("results") / "here" / "then"
ARRAYS = ("stitched_representation.npy", "stitched_representation_scales.npy")
HOLES = (
    (np.s_[3:9, 4:12], np.nan),
    (np.s_[22:28, 10:14], np.inf),  # across a border of blocks
    (np.s_[0, 0], 5e5),
)
"""Places in the two blocks on the left, and the scale that is written there."""


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    codes, scales = (np.load(folder / PLACE / name) for name in ARRAYS)
    return codes, scales


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that computes 2 x 2 blocks over a calendar year, and its store."""
    folder = four_blocks(tmp_path_factory.mktemp("full") / "run")
    write_demo_weights(folder / "weights").rename(folder / "weights.pt")
    change(
        folder,
        {
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "download.slice_months": 12,
            "products.formats": ["arrays", "geotessera"],
            # A pixel that is always cloudy has an embedding, too: the only holes are those below.
            "model.min_observations": {"s2": 0, "s1": 0},
        },
    )
    run(folder)
    assert np.isfinite(arrays(folder)[1]).all()
    return folder


@pytest.fixture(scope="module")
def filled(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose source is that store, with holes, which GPU jobs compute, also ahead."""
    folder = unstarted(full, tmp_path_factory.mktemp("filled") / "run")
    shutil.copytree(full / PLACE / "geotessera", folder / "store")
    scales = zarr.open_group(folder / "store", mode="r+")["utm31/scales"]
    for place, value in HOLES:
        scales[(0, *place)] = value
    change(
        folder,
        {
            "source": "geotessera",
            "geotessera": {"location": "store", "fill": "compute"},
            "products.formats": ["arrays", "zarr", "stac", "report"],
            "jobs": {"cpu_gpu": [0, 1], "on_missing_gpu": "cpu"},
            "paths.keep": ["patches"],
        },
    )
    jobs = plan(folder)
    assert {rule: jobs[rule] for rule in ("store_tiles", "import_embeddings", "fill", "infer")} == {
        "store_tiles": 1, "import_embeddings": 4, "fill": 4, "infer": 4,
    }  # fmt: skip
    run(folder, "--resources", "gpu=1")
    assert plan(folder) == {}
    assert leftovers(folder) == []
    return folder


def expected_origin(scales: np.ndarray) -> np.ndarray:
    origin = np.ones(scales.shape, int)
    for place, _ in HOLES:
        origin[place] = 2
    return origin


def test_pixels_are_those_of_the_full_run_and_their_origin_is_stated(
    full: Path, filled: Path
) -> None:
    for a, b in zip(arrays(full), arrays(filled), strict=True):
        np.testing.assert_array_equal(a, b)
    origin = expected_origin(arrays(full)[1])
    assert set(np.unique(origin)) >= {1, 2}
    with rasterio.open(filled / PLACE / "origin.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), origin)
        assert raster.tags()["MEANINGS"] == "0 none, 1 published, 2 computed"
    ds = xr.open_zarr(filled / PLACE / "embeddings.zarr")
    np.testing.assert_array_equal(ds.origin.values[0], origin)
    assert ds.origin.attrs["flag_meanings"] == "none published computed"
    assert "observation_counts" not in ds


def test_checks_and_report_state_what_is_published_and_how_it_agrees(
    full: Path, filled: Path
) -> None:
    origin = expected_origin(arrays(full)[1])
    results = json.loads((filled / PLACE / "checks.json").read_text())
    fill = results["fill"]
    assert (fill["published"], fill["computed"], fill["impossible_scales"]) == (
        (origin == 1).sum(), (origin == 2).sum(), 1,
    )  # fmt: skip
    assert fill["same_model"] == "sha256"
    # The same model on the same scenes: every pixel that is both published and computed is equal.
    patches = [np.s_[0:20, 0:20], np.s_[20:25, 0:20], np.s_[25:40, 0:20]]
    both = sum(int((origin[patch] == 1).sum()) for patch in patches)
    agreement = fill["agreement"]
    assert (agreement["pairs"], agreement["identical"]) == (both, both)
    assert agreement["equal_codes_percent"] == 100
    assert agreement["mean"] == pytest.approx(1)
    record = xr.open_zarr(filled / PLACE / "embeddings.zarr").attrs["provenance"]
    made = json.loads((full / PLACE / "geotessera" / "provenance.json").read_text())
    assert record["fill"]["same_model"] == "sha256"
    assert record["fill"]["model"]["sha256"] == record["model"]["sha256"]
    assert record["model"] == made["model"]
    assert [s["provider"] for s in record["sources"]] == ["geotessera", "local", "local"]
    item = json.loads((filled / PLACE / "item.json").read_text())
    assert item["assets"]["origin"]["href"] == "./origin.tif"
    assert item["assets"]["scenes"]["href"] == "./scenes.parquet"
    assert pq.read_metadata(filled / PLACE / "scenes.parquet").num_rows == 10
    page = (filled / PLACE / "report.html").read_text()
    assert "Where they exist" in page and "Published or computed" in page


def test_blocks_without_holes_read_no_scene(filled: Path) -> None:
    logs = filled / "logs" / "here" / "then"
    for name in ("download/sentinel2/2021-01-01_2021-12-31", "stack/sentinel1", "retile", "infer"):
        for block in ("b000_001", "b001_001"):
            text = (logs / name / f"{block}.log").read_text()
            assert "nothing to do: every pixel of this block is published" in text
            assert "day 1 of" not in text
    assert (
        "day 1 of" in (logs / "download/sentinel2/2021-01-01_2021-12-31/b000_000.log").read_text()
    )


def test_gpu_jobs_leave_no_file_of_blocks_that_waited(filled: Path) -> None:
    place = filled / "work" / "here" / "then"
    assert not [path for path in (place / "computed").rglob("*") if path.is_file()]
    for log in sorted((place / "job_log").glob("b*.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        ahead = [line["state"] for line in lines if line.get("ahead")]
        assert ahead in ([], ["started", "done"])


def test_other_weights_and_a_store_that_states_none_are_refused(filled: Path) -> None:
    """Before anything runs, in the dry run."""
    other = unstarted(filled, filled.parent / "other")
    with (other / "weights.pt").open("ab") as file:
        file.write(b"other")
    output = run(other, "--dry-run", fails=True)
    assert "was not computed with the model of this run: its weights" in output
    assert "Traceback" not in output
    store = other / "store" / "zarr.json"
    document = json.loads(store.read_text())
    del document["attributes"]["provenance"]
    document["attributes"]["geoemb:model"] = "https://geotessera.org/model/1.1"
    store.write_text(json.dumps(document))
    output = run(other, "--dry-run", fails=True)
    assert "does not state the SHA-256" in output and "October 2026" in output
    change(other, {"geotessera.assume_same_model": True})
    output = run(other, "--dry-run")
    assert "is a statement in the configuration (geotessera.assume_same_model)" in output
    assert "October 2026" in output


def test_a_year_that_is_not_published_is_computed(full: Path, filled: Path) -> None:
    """Also with settings that are kept, everything is computed, as in the full run."""
    other = unstarted(filled, filled.parent / "year")
    years = zarr.open_group(other / "store", mode="r+")["utm31/time"]
    years[0] = 2019
    change(other, {"products.formats": ["arrays"], "jobs.max_disk_gb": 1e-9})
    output = run(other)
    # One block after the other, so that the published embeddings of all never wait on the disk.
    steps = re.findall(r"(Importing the embeddings|Filling the holes) of here", output)
    assert steps == ["Importing the embeddings", "Filling the holes"] * 4
    for a, b in zip(arrays(full), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)
    with rasterio.open(other / PLACE / "origin.tif") as raster:
        assert set(np.unique(raster.read(1))) <= {0, 2}
    listed = json.loads((other / "work/here/then/store_tiles.json").read_text())
    assert listed["warnings"] == [f"utm31 of {other}/store has no embeddings of 2021."]
