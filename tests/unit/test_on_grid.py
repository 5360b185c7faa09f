"""Assets that were read are put onto the grid by odc-stac, which divides large grids into tiles."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.raster.odc_driver import on_grid
from tessera_flow.scenes.manifest import SourceItem

LAEA = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m"
PLACES = [
    (slice(0, 20), slice(0, 4500)),
    (slice(3, 17), slice(5, 2047)),  # ends before the second tile
    (slice(0, 20), slice(2040, 2050)),
    (slice(2, 9), slice(2048, 4500)),
    (slice(4, 4), slice(100, 100)),
]
"""Parts of a grid of 20 x 4500 pixels, which is 3 tiles."""


@pytest.mark.parametrize("crs", ["EPSG:32631", LAEA])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_each_asset_is_where_it_was_read(crs: str, dtype: str) -> None:
    geobox = GeoBox((20, 4500), Affine(10, 0, 600_000, 0, -10, 5_700_000), crs)
    random = np.random.default_rng(0)
    keys = [f"B{number}" for number in range(len(PLACES))]
    placed, expected = [], []
    for place in PLACES:
        image = np.zeros((20, 4500), dtype)
        pixels = random.integers(0, 200, image[place].shape).astype(dtype)  # some are 0
        image[place] = pixels
        placed.append((place, pixels))
        expected.append(image)
    item = SourceItem("scene", dt.date(2021, 6, 3), None, 0, None, {"collection": "s2"})
    found = on_grid(item, keys, placed, dtype, geobox)
    assert placed == []  # no longer in memory
    for image, wanted in zip(found, expected, strict=True):
        assert image.dtype == wanted.dtype
        np.testing.assert_array_equal(image, wanted)
