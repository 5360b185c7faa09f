"""Boxes of a search, and items in degrees, at the antimeridian and around the poles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.scenes.area import NOWHERE, bounds_of_degrees, search_boxes

ITEMS = Path(__file__).parents[3] / "shared" / "items"


def grid(crs: str, left: float, top: float, size: int = 1000, resolution: float = 10) -> GeoBox:
    return GeoBox((size, size), Affine(resolution, 0, left, 0, -resolution, top), crs)


FIJI = grid("EPSG:32760", 815000, 8150000)  # crosses 180 degrees


@pytest.mark.parametrize(
    ("geobox", "number"),
    [
        (grid("EPSG:32631", 600000, 5700000), 1),
        (FIJI, 2),
        (grid("EPSG:32701", 200000, 8150000), 1),
        (grid("EPSG:32601", 360000, 7500000, 15000), 2),
        (grid("EPSG:3031", 50000, 50000, 1000, 100), 1),
        (grid("EPSG:3413", 100000, -100000, 1000, 100), 1),
        (grid("EPSG:3413", -400000, 900000, 8000, 100), 2),
        (grid("EPSG:3995", -1000, 2_000_000, 20, 100), 2),
    ],
)
def test_boxes_contain_every_pixel_and_have_west_before_east(geobox: GeoBox, number: int) -> None:
    boxes = search_boxes(geobox)
    assert len(boxes) == number
    for west, south, east, north in boxes:
        assert -180 <= west <= east <= 180 and -90 <= south <= north <= 90
    left, bottom, right, top = geobox.boundingbox
    x, y = np.meshgrid(np.linspace(left, right, 60), np.linspace(bottom, top, 60))
    to_degrees = pyproj.Transformer.from_crs(str(geobox.crs), "EPSG:4326", always_xy=True)
    points = shapely.points(*to_degrees.transform(x.ravel(), y.ravel()))
    area = shapely.union_all([shapely.box(*box) for box in boxes])
    assert shapely.covers(area, points).all()


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3413", "EPSG:5041", "EPSG:5042"])
def test_box_around_a_pole_has_all_longitudes(crs: str) -> None:
    centre = 2_000_000 if crs in ("EPSG:5041", "EPSG:5042") else 0
    ((west, south, east, north),) = search_boxes(
        grid(crs, centre - 50000, centre + 50000, 1000, 100)
    )
    assert (west, east) == (-180, 180)
    assert north == 90 or south == -90


def polygon(*rings: list[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "MultiPolygon", "coordinates": [[list(map(list, ring))] for ring in rings]}


def box(west: float, south: float, east: float, north: float) -> list[tuple[float, float]]:
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


NEAR = [
    {"bbox": [179.5, -17.5, -179.5, -16.5]},
    {"bbox": [179.5, -17.5, 180.5, -16.5]},
    {"bbox": [-180.5, -17.5, -179.5, -16.5]},
    {"bbox": [179.5, -17.5, 0, -179.5, -16.5, 100]},
    {
        "bbox": [-180, -17.5, 180, -16.5],
        "geometry": polygon(box(179.5, -17.5, 180, -16.5), box(-180, -17.5, -179.5, -16.5)),
    },
    {
        "bbox": [-179.5, -17.5, 179.5, -16.5],
        "geometry": polygon(
            [(179.5, -17.5), (-179.5, -17.5), (-179.5, -16.5), (179.5, -16.5), (179.5, -17.5)]
        ),
    },
    {"geometry": polygon(box(179.9, -17.0, 180, -16.5))},
]


@pytest.mark.parametrize("document", NEAR)
def test_footprint_across_the_antimeridian_reaches_the_region(document: dict[str, Any]) -> None:
    bounds = bounds_of_degrees(document, FIJI)
    assert bounds is not None and bounds != NOWHERE
    left, bottom, right, top = FIJI.boundingbox
    assert bounds[0] < right and bounds[2] > left and bounds[1] < top and bounds[3] > bottom
    assert bounds[2] - bounds[0] < 250_000
    # Not on the other side of the globe, nor beside it.
    assert bounds_of_degrees(document, grid("EPSG:32631", 600000, 8150000)) == NOWHERE


def test_wide_box_without_a_geometry_is_kept() -> None:
    assert bounds_of_degrees({"bbox": [-180, -17.5, 180, -16.5]}, FIJI) is None
    assert bounds_of_degrees({}, FIJI) is None


def test_footprint_around_a_pole_reaches_a_region_at_the_pole() -> None:
    ring = [(float(longitude), 85.0) for longitude in range(-180, 181, 20)]
    pole = grid("EPSG:3413", -50000, 50000, 1000, 100)
    document = {"bbox": [-180, 85, 180, 90], "geometry": polygon(ring)}
    assert bounds_of_degrees(document, pole) != NOWHERE


def test_real_granules_at_the_antimeridian_reach_their_region() -> None:
    path = ITEMS / "opera_granules_01UBT_antimeridian.parquet"
    if not path.is_file():
        pytest.skip(f"no recorded granules at {ITEMS}")
    import pyarrow.parquet as pq

    table = pq.read_table(path).to_pylist()
    outlines = [shapely.from_wkb(row["geometry"]) for row in table]
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32601", always_xy=True)
    geobox = grid("EPSG:32601", 199980, 5_900_040, 10980)  # the tile 01UBT
    area = shapely.box(*geobox.boundingbox)
    near = 0
    for outline in outlines:
        document = {"bbox": list(outline.bounds), "geometry": shapely.geometry.mapping(outline)}
        bounds = bounds_of_degrees(document, geobox)
        projected = shapely.transform(
            outline, lambda xy: np.column_stack(to_grid.transform(xy[:, 0], xy[:, 1]))
        )
        if any(part.intersects(area) for part in shapely.get_parts(projected)):
            near += 1
            assert bounds is None or (
                bounds[0] < geobox.boundingbox[2] and bounds[2] > geobox.boundingbox[0]
            )
            assert bounds != NOWHERE
    assert near > 0
