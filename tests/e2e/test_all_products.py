"""Run the workflow for every product, and again from its tile folders."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr

from tests.support.workflow import (
    change,
    command,
    environment,
    leftovers,
    plan,
    product_bytes,
    run,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PLACE = Path("results") / "here" / "then"


def test_every_product_then_the_same_from_its_tiles(finished: Path) -> None:
    """`finished` has the patches; only products are made. Its tiles, as the source of a second
    run in other folders, give the same embeddings and the same tiles."""
    change(finished, {"products.formats": ["zarr", "vrt", "counts", "stac", "tiles", "report"]})
    new = {"vrt": 1, "counts": 1, "stac_item": 1, "stac_collection": 1, "export_tiles": 4,
           "list_tiles": 1, "checks": 1, "report": 1, "index": 1}  # fmt: skip
    assert plan(finished) == new
    run(finished)
    assert plan(finished) == {}
    assert leftovers(finished) == []
    folder = finished / PLACE
    ds = xr.open_zarr(folder / "embeddings.zarr")
    expected = (ds.embeddings * ds.scales).values[0]
    with rasterio.open(folder / "embeddings.vrt") as raster:
        np.testing.assert_array_equal(raster.read(), expected)
    with rasterio.open(folder / "counts.tif") as raster:
        np.testing.assert_array_equal(raster.read([1, 2, 3]), ds.observation_counts.values[0])
        np.testing.assert_array_equal(raster.read([4, 5, 6]), ds.observation_months.values[0])
    (item,) = pystac.Collection.from_file(folder.parent / "collection.json").get_items()
    for asset in item.assets.values():
        assert Path(asset.get_absolute_href()).exists()
    assert "visual" not in item.assets  # the preview was not requested
    assert len([link for link in item.links if link.rel == "emb:source-data"]) == 10
    before = product_bytes(finished)
    tile = next(path for path in (folder / "tiles").iterdir() if path.is_dir())
    (tile / "bands.npy").write_bytes(b"short")
    (folder / "tiles.json").write_text("{}")
    assert plan(finished) == {"export_tiles": 1, "list_tiles": 1, "checks": 1, "report": 1,
                              "index": 1}  # fmt: skip
    run(finished)
    assert plan(finished) == {}
    after = product_bytes(finished)
    report = {name for name in before if "report" in name}  # states the costs
    assert {k for k in before if before[k] != after[k]} <= report
    page = (folder / "report.html").read_text()
    assert "<h2>Checks</h2>" in page
    assert "<td>infer</td><td>4</td>" in page
    assert page.encode() in packed_without_a_network(finished)

    change(
        finished,
        {
            "source": "tiles",
            "tiles.location": f"{folder.parent}/{{period}}/tiles",
            "products.formats": ["arrays", "tiles"],
            "paths.results": "results2",
            "paths.work": "work2",
            "paths.logs": "logs2",
            "paths.keep": None,
        },
    )
    assert plan(finished) == {
        "roi": 1, "weights": 1, "import_tiles": 4, "infer": 4, "stitch_arrays": 1,
        "export_tiles": 4, "list_tiles": 1,
    }  # fmt: skip
    run(finished)
    again = finished / "results2" / "here" / "then"
    for name in ("", "_scales", "_counts"):
        file = f"stitched_representation{name}.npy"
        assert (again / file).read_bytes() == (folder / file).read_bytes(), file
    tiles = [
        {k: v for k, v in product_bytes(top).items() if k.endswith((".npy", ".tiff"))}
        for top in (_only_tiles(folder, finished / "a"), _only_tiles(again, finished / "b"))
    ]
    assert tiles[0] == tiles[1]
    assert len(tiles[0]) == 12 * 8


def packed_without_a_network(folder: Path) -> list[bytes]:
    """Return the files of `snakemake --report`, made without network access if possible."""
    alone = ["unshare", "--map-root-user", "--net"]
    allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    report = [*(alone if allowed else []), *command(folder, "--report", str(folder / "r.zip"))]
    done = subprocess.run(
        report, env=environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(folder / "r.zip") as archive:
        return [archive.read(name) for name in archive.namelist()]


def _only_tiles(folder: Path, target: Path) -> Path:
    """Return a folder whose `results` has only the tiles."""
    target.mkdir()
    (target / "results").symlink_to(folder / "tiles", target_is_directory=True)
    return target
