"""The store for the geotessera client, judged by what the client read from it.

tests/golden/geotessera.json has the answers of the unmodified client (0.11) to questions about such
stores, and a hash of their content. Here the stores are written again and must have this content.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from affine import Affine
from pyproj import Transformer

from tessera_flow.dates import main_year
from tessera_flow.errors import ConfigError
from tessera_flow.products.reading.description import find_products, read_record
from tessera_flow.products.reading.verify import verify
from tessera_flow.products.stores.geotessera import write_geotessera, zone_grids

from ..geotessera.questions import PLACES, content, sample_pixels, write_product
from ..support.products_region import Region, make_region

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/geotessera.json").read_text())


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Region, Path]]:
    return {name: write_product(name, tmp_path_factory.mktemp(name)) for name in PLACES}


def values(region: Region) -> np.ndarray:
    assert region.scales is not None
    return region.embeddings.astype(np.float32) * region.scales[..., None]


@pytest.mark.parametrize("name", PLACES)
def test_the_client_read_this_content(products: dict[str, tuple[Region, Path]], name: str) -> None:
    _, store = products[name]
    assert GOLDEN["geotessera"] == "0.11.0"
    assert content(store) == GOLDEN["stores"][name]["content"]


@pytest.mark.parametrize("name", PLACES)
def test_the_client_sampled_our_values_at_points(
    products: dict[str, tuple[Region, Path]], name: str
) -> None:
    """The value of the region's pixel that contains the point. Where a zone has a grid of its own,
    of the pixel that contains the centre of the zone's pixel: at most one pixel further."""
    region, _ = products[name]
    answer, question = GOLDEN["stores"][name]["answer"], GOLDEN["stores"][name]
    assert answer["years"] == [2023]
    zones = {zone.zone: zone for zone in zone_grids(region.grid)}
    crs, box = str(region.grid.geobox.crs), region.grid.geobox
    seen = {"copied": 0, "nearest": 0, "none": 0}
    for index, ((lon, lat), vector) in enumerate(
        zip(question["points"], answer["vectors"], strict=True)
    ):
        row, column = (int(part[index]) for part in sample_pixels())
        zone = zones[int((lon + 180) // 6) + 1]
        if not zone.is_copy:
            place = Transformer.from_crs("EPSG:4326", zone.crs, always_xy=True).transform(lon, lat)
            pixel = [np.floor(v) + 0.5 for v in ~zone.affine @ place]
            back = Transformer.from_crs(zone.crs, crs, always_xy=True)
            points = back.transform(*(zone.affine @ pixel))
            there = [int(np.floor(v)) for v in ~box.affine @ points]
            assert abs(there[0] - column) <= 1 and abs(there[1] - row) <= 1
            column, row = there
        if vector is None:
            assert not region.valid[row, column]
            assert answer["states"][index] == "nodata"
            seen["none"] += 1
        else:
            assert (values(region)[row, column] * 1024).tolist() == vector
            assert answer["states"][index] == "valid"
            seen["copied" if zone.is_copy else "nearest"] += 1
    assert seen["none"] >= 5 and seen["copied"] + seen["nearest"] >= 30
    assert (seen["copied"] > 0, seen["nearest"] > 0) == {
        "utm_31": (True, True), "utm_33_south": (True, False), "laea": (False, True),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["utm_31", "utm_33_south"])
def test_the_client_read_the_region(products: dict[str, tuple[Region, Path]], name: str) -> None:
    region, _ = products[name]
    (mosaic,) = GOLDEN["stores"][name]["answer"]["mosaics"]
    affine = region.grid.geobox.affine
    if name == "utm_33_south":
        assert mosaic["crs"] == "EPSG:32633"
        affine = Affine.translation(0, -1e7) @ affine
        assert affine.f < 0
    left, top = (round(v) for v in ~affine @ (mosaic["transform"][2], mosaic["transform"][5]))
    height, width = mosaic["shape"][:2]
    assert height * width > 9000
    part = values(region)[top : top + height, left : left + width]
    from .test_geotessera_zarr import digest

    assert digest(part) == mosaic["sha256"]
    assert int(np.isfinite(part).all(axis=-1).sum()) == mosaic["valid"]


def test_metadata_and_record(products: dict[str, tuple[Region, Path]]) -> None:
    region, store = products["utm_31"]
    root: Any = zarr.open_group(store, mode="r")
    assert sorted(root.group_keys()) == ["utm31", "utm32"]
    assert root.attrs["nearest_neighbour_zones"] == ["utm32"]
    assert root.attrs["geoemb:quantization"]["scale"]["nodata"] == "+inf"
    zone = root["utm31"]
    assert zone.attrs["proj:code"] == "EPSG:32631"
    assert zone["embeddings"].metadata.dimension_names == ("time", "band", "y", "x")
    assert zone["embeddings"].chunks == (1, 128, 32, 32)
    np.testing.assert_array_equal(
        zone["scales"][0], np.where(region.valid, region.scales, np.float32(np.inf))
    )
    np.testing.assert_array_equal(zone["embeddings"][0], np.moveaxis(region.embeddings, -1, 0))
    assert read_record(store) == json.loads(json.dumps(region.provenance.to_json()))
    assert find_products(store.parent) == [store]
    (result,) = verify(store)
    assert result.faults == () and result.files > 10


def test_other_data_types_and_dimensions_are_refused(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100, dim=16)
    with pytest.raises(ConfigError, match="int8 with 128 dimensions, but the embeddings are int8"):
        write_geotessera(tmp_path / "store", region.grid, region.blocks, region.provenance)
    assert not (tmp_path / "store").exists()


def test_year_of_a_period() -> None:
    for start, end, year in (
        ("2023-01-01", "2023-12-31", 2023),
        ("2023-09-01", "2024-05-31", 2024),
        ("2023-05-01", "2024-02-28", 2023),
        ("2020-06-01", "2022-03-01", 2021),
    ):
        assert main_year(date.fromisoformat(start), date.fromisoformat(end)) == year
