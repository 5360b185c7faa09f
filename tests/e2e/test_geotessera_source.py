"""Published embeddings through the workflow: computed ones that come back, and tiles of two UTM
zones; one job for each block, listed once, resumed and rerun like the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pystac
import pytest
import rasterio
import xarray as xr
from pyproj import CRS

from tessera_flow.demo.weights import write_demo_weights
from tessera_flow.products.reading.sample import open_store, sample_store
from tessera_flow.products.tables.points import Points
from tests.geotessera.questions import content
from tests.support.pipeline import write_box
from tests.support.store import PIXEL, YEAR, write_store
from tests.support.workflow import change, four_blocks, leftovers, plan, run, write_config
from tests.unit.test_geotessera_source import EAST, WEST, around_the_border, expected

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PLACE = Path("results") / "here" / "then"
ARRAYS = ("stitched_representation.npy", "stitched_representation_scales.npy")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 x 2 blocks with a model of 128 dimensions over a calendar year, and its store."""
    folder = four_blocks(tmp_path_factory.mktemp("computed") / "run")
    shutil.copy(write_demo_weights(folder / "weights"), folder / "weights.pt")
    period = {"start": f"{YEAR}-01-01", "end": f"{YEAR}-12-31"}
    change(
        folder,
        {
            "periods": {"then": period},
            "download.slice_months": 12,
            "products.formats": ["arrays", "geotessera"],
        },
    )
    run(folder)
    return folder


@pytest.fixture(scope="module")
def taken(computed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose source is that store, in other blocks, with every product that it can have."""
    folder = tmp_path_factory.mktemp("taken")
    shutil.copy(computed / "roi.geojson", folder)
    formats = ["zarr", "arrays", "preview", "vrt", "stac", "geotessera", "report"]
    write_config(
        folder,
        {
            "regions": {"here": {"roi": "roi.geojson"}},
            "periods": {"then": {"start": f"{YEAR}-01-01", "end": f"{YEAR}-12-31"}},
            "source": "geotessera",
            "geotessera": {"location": f"{computed}/results/here/{{period}}/geotessera"},
            "grid": {"block_size": 30, "patch_size": 20},
            "products": {"formats": formats},
        },
    )
    assert plan(folder) == {
        "roi": 1, "store_tiles": 1, "import_embeddings": 4, "stitch_zarr": 1, "stitch_arrays": 1,
        "preview": 1, "vrt": 1, "geotessera": 1, "stac_item": 1, "stac_collection": 1, "checks": 1,
        "report": 1, "index": 1,
    }  # fmt: skip
    run(folder, "plan")
    planned = json.loads((folder / "results/plan/plan.json").read_text())
    assert planned["jobs"] == {"import_embeddings": 4}
    assert (planned["items"], planned["download_gb"]) == ({"geotessera": None}, 0.0)
    run(folder)
    assert plan(folder) == {}
    assert leftovers(folder) == []
    return folder


def test_what_was_computed_comes_back(computed: Path, taken: Path) -> None:
    """compute -> geotessera store -> source: geotessera -> the same codes and scales."""
    first, again = computed / PLACE, taken / PLACE
    for name in ARRAYS:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    assert not (again / "stitched_representation_counts.npy").exists()
    assert content(first / "geotessera") == content(again / "geotessera")
    ds = xr.open_zarr(again / "embeddings.zarr")
    assert "observation_counts" not in ds and "kind" not in ds.coords
    codes = ds.embeddings.values[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(codes, np.load(first / ARRAYS[0]))
    with rasterio.open(again / "embeddings.vrt") as raster:
        np.testing.assert_array_equal(raster.read(), (ds.embeddings * ds.scales).values[0])
    places = ds.x.values[[5, 20]], ds.y.values[[7, 30]]
    points = Points(*places, CRS(32631), pa.table({"n": [1, 2]}))
    sample = sample_store(open_store(again / "embeddings.zarr"), points)
    columns = sample.columns_after(points.table).column_names
    assert columns[:5] == ["n", "row", "column", "state", "e000"]
    vector = (ds.embeddings * ds.scales).values[0, :, 7, 5]
    np.testing.assert_array_equal(sample.embeddings[0], vector)


def test_products_say_where_they_are_from(computed: Path, taken: Path) -> None:
    first, again = computed / PLACE, taken / PLACE
    record = xr.open_zarr(again / "embeddings.zarr").attrs["provenance"]
    (source,) = record["sources"]
    assert (source["provider"], source["collection"]) == ("geotessera", str(YEAR))
    assert (source["items"], source["resampled"]) == (1, 0)
    made = json.loads((first / "geotessera" / "provenance.json").read_text())["model"]
    assert record["model"]["sha256"] == made["sha256"]
    (item,) = pystac.Collection.from_file(again.parent / "collection.json").get_items()
    (link,) = [link for link in item.links if link.rel == "emb:source-data"]
    assert link.title == "both: utm31"
    page = (again / "report.html").read_text()
    assert "do not record the number of observations" in page
    assert "All of them are aligned with the grid" in page
    assert "<td>import_embeddings</td><td>4</td>" in page
    assert f"Published pixel embeddings of {YEAR}" in page
    assert "4 of 4 blocks have embeddings." in run(taken, "status")


def test_a_lost_block_is_taken_again_and_another_type_takes_all(
    computed: Path, taken: Path
) -> None:
    first, again = computed / PLACE, taken / PLACE
    (taken / "work/here/then/embeddings/b000_001.zip").unlink()
    shutil.rmtree(again)  # a product that is there asks for no block
    assert plan(taken)["import_embeddings"] == 1
    change(taken, {"model": {"dtype": "float32"}, "products.formats": ["arrays"]})
    assert plan(taken) == {"import_embeddings": 4, "stitch_arrays": 1}
    run(taken)
    codes, scales = (np.load(first / name) for name in ARRAYS)
    np.testing.assert_array_equal(np.load(again / ARRAYS[0]), codes * scales[..., np.newaxis])


def test_tiles_of_two_zones(tmp_path: Path) -> None:
    """The store's values, in the region's own zone; what was resampled is stated."""
    write_store(tmp_path / "store", WEST + EAST)
    grid = around_the_border()
    write_box(tmp_path / "roi.geojson", *grid.geobox.boundingbox.bbox)
    write_config(
        tmp_path,
        {
            "regions": {"here": {"roi": "roi.geojson", "crs": "EPSG:32631"}},
            "periods": {"then": {"start": f"{YEAR}-01-01", "end": f"{YEAR}-12-31"}},
            "source": "geotessera",
            "geotessera": {"location": "store"},
            "grid": {"resolution": PIXEL, "block_size": 50, "patch_size": 50},
            "products": {"formats": ["arrays", "report"]},
        },
    )
    run(tmp_path)
    folder = tmp_path / PLACE
    codes, scales = expected(grid, WEST + EAST)
    np.testing.assert_array_equal(np.load(folder / ARRAYS[0]), codes)
    np.testing.assert_array_equal(np.load(folder / ARRAYS[1]), scales)
    record = json.loads((folder / "stitched_representation.json").read_text())
    assert (record["sources"][0]["items"], record["sources"][0]["resampled"]) == (4, 2)
    assert record["model"]["sha256"] is None
    assert (record["preprocessing"], record["min_observations"]) == ("unknown", {})
    page = (folder / "report.html").read_text()
    assert "2 of them are in another UTM zone" in page
    assert "pixels of 2 tiles on other grids were resampled" in page

    change(tmp_path, {"periods": {"then": {"start": "2017-01-01", "end": "2017-12-31"}}})
    output = run(tmp_path, "--force", "work/here/then/store_tiles.json", fails=True)
    assert "has no embeddings of 2017; it has 2021: choose another period." in output
