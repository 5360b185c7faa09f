"""Published embeddings whose holes are computed: a store that was written here, with holes in it.

What is computed equals a run that computes everything, what is published equals the store, and
blocks without holes read no scene.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr

from tessera_flow.demo.weights import write_demo_weights
from tests.support.workflow import change, four_blocks, leftovers, plan, run, unstarted

pytestmark = pytest.mark.e2e
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
        },
    )
    run(folder)
    return folder


@pytest.fixture(scope="module")
def filled(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose source is that store, with holes, which it computes."""
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
        },
    )
    jobs = plan(folder)
    assert {rule: jobs[rule] for rule in ("store_tiles", "import_embeddings", "fill", "infer")} == {
        "store_tiles": 1, "import_embeddings": 4, "fill": 4, "infer": 4,
    }  # fmt: skip
    run(folder)
    assert plan(folder) == {}
    assert leftovers(folder) == []
    return folder


def expected_origin(scales: np.ndarray) -> np.ndarray:
    origin = np.where(np.isfinite(scales), 1, 0)
    for place, _ in HOLES:
        origin[place] = np.where(np.isfinite(scales[place]), 2, 0)
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
