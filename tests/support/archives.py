"""Write small archives in the formats of OPERA and Earth Search from arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.warp import transform_bounds

from .cmr_server import granule, granule_attributes, granule_outlines
from .pipeline import CRS

PIXEL = 30.0
PROCESSED = "20230605T120000Z"

EARTH_SEARCH_KEYS = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B11": "swir16", "B12": "swir22",
    "SCL": "scl",
}  # fmt: skip


def opera_title(
    when: str, burst: str = "T131-279916-IW1", satellite: str = "S1A", processed: str = PROCESSED
) -> str:
    sensed = when.replace("-", "").replace(":", "")
    return f"OPERA_L2_RTC-S1_{burst}_{sensed}Z_{processed}_{satellite}_30_v1.0"


def opera_burst(
    folder: Path,
    when: str,
    vv: np.ndarray,
    vh: np.ndarray,
    origin: tuple[float, float],
    direction: str | None = "descending",
    crs: str = CRS,
    **name: str,
) -> dict[str, Any]:
    """Write a burst in the layout of the archive, and return its granule.

    Args:
        folder: root of the archive; files are `OPERA/OPERA_L2_RTC-S1/{title}/{title}_VV.tif`.
        when: sensing time, `2023-06-04T05:30:00`.
        vv, vh: (H, W) gamma0; NaN is no data.
        origin: (left, top).
        direction: orbit direction; None: the granule does not state it.
        crs: CRS of the rasters.
        name: `burst`, `satellite` and `processed` of the title.
    """
    title = opera_title(when, **name)
    directory = folder / "OPERA" / "OPERA_L2_RTC-S1" / title
    directory.mkdir(parents=True, exist_ok=True)
    height, width = vv.shape
    affine = Affine(PIXEL, 0, origin[0], 0, -PIXEL, origin[1])
    for key, power in (("VV", vv), ("VH", vh)):
        with rasterio.open(
            directory / f"{title}_{key}.tif", "w", driver="GTiff", dtype="float32", count=1,
            height=height, width=width, crs=crs, transform=affine, nodata=np.nan, tiled=True,
            blockxsize=128, blockysize=128, compress="deflate",
        ) as dataset:  # fmt: skip
            dataset.write(power.astype(np.float32), 1)
    west, south, east, north = transform_bounds(
        crs, "EPSG:4326", origin[0], origin[1] - PIXEL * height, origin[0] + PIXEL * width,
        origin[1],
    )  # fmt: skip
    outline = shapely.box(west, south, east, north)
    return granule(title, f"{when}Z", outline, direction and direction.upper())


def opera_item(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a granule as a STAC item of a local archive, as described in docs/sources.md."""
    umm = entry["umm"]
    title = umm["GranuleUR"]
    (outline,) = granule_outlines(umm)
    (direction,) = granule_attributes(umm)["ASCENDING_DESCENDING"]
    directory = folder / "OPERA" / "OPERA_L2_RTC-S1" / title
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": title,
        "collection": "OPERA_L2_RTC-S1_V1",
        "geometry": json.loads(shapely.to_geojson(outline)),
        "bbox": list(outline.bounds),
        "properties": {
            "datetime": umm["TemporalExtent"]["RangeDateTime"]["BeginningDateTime"],
            "sat:orbit_state": direction.lower(),
        },
        "links": [],
        "assets": {
            key: {"href": str((directory / f"{title}_{key}.tif").absolute())}
            for key in ("VV", "VH")
        },
    }


def earth_search_item(
    item: Mapping[str, Any],
    bucket: str = "sentinel-cogs",
    collection: str = "sentinel-2-l2a",
    sequence: int = 0,
) -> dict[str, Any]:
    """Convert an item in the format of Planetary Computer to the format of Earth Search.

    Each asset also has a `-jp2` key with a URL that no test server provides.
    """
    properties = item["properties"]
    tile = properties["s2:mgrs_tile"]
    day = properties["datetime"][:10].replace("-", "")
    satellite = "S" + properties["platform"][-2:]
    assets: dict[str, Any] = {}
    for band, key in EARTH_SEARCH_KEYS.items():
        asset = item["assets"][band]
        assets[key] = {
            "href": asset["href"],
            "type": asset["type"],
            "proj:shape": asset["proj:shape"],
            "proj:transform": asset["proj:transform"],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}],
            "roles": ["data", "reflectance"],
        }
    for key in list(assets):
        assets[f"{key}-jp2"] = {
            "href": f"s3://sentinel-s2-l2a/tiles/{tile}/{key}.jp2",
            "type": "image/jp2",
        }
    name = f"{satellite}_{tile}_{day}_{sequence}_L2A"
    return {
        **item,
        "id": name,
        "collection": collection,
        "assets": assets,
        "properties": {
            "datetime": properties["datetime"],
            "platform": f"sentinel-2{satellite[-1].lower()}",
            "eo:cloud_cover": properties.get("eo:cloud_cover", 50.0),
            "proj:epsg": properties["proj:epsg"],
            "mgrs:utm_zone": int(tile[:2]),
            "mgrs:latitude_band": tile[2],
            "mgrs:grid_square": tile[3:],
            "grid:code": f"MGRS-{tile}",
            "s2:processing_baseline": properties["s2:processing_baseline"],
            "s2:product_uri": properties["s2:product_uri"],
            "s2:generation_time": properties["s2:generation_time"],
            "s2:datatake_id": properties["s2:datatake_id"],
            "earthsearch:s3_path": f"s3://{bucket}/{name}",
        },
    }
