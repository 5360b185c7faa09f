"""STAC items in the form of Planetary Computer's `sentinel-2-l2a` and `sentinel-1-rtc`.

Keys, their order, nesting, data types and extensions are those of the published documents
(recorded in 2024); titles and links are this project's own.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

API = "https://simulated.invalid/api/stac/v1"
"""Root of the links in documents; `.invalid` never resolves (RFC 2606)."""

S1_NODATA = -32768.0

S2_UNREAD = {"AOT": 10.0, "B01": 60.0, "B09": 60.0, "WVP": 10.0, "visual": 10.0}
"""Rasters that a Sentinel-2 item lists but the demo does not write: pixel size in metres."""

S2_METADATA = {
    "safe-manifest": "manifest.safe",
    "granule-metadata": "MTD_TL.xml",
    "inspire-metadata": "INSPIRE.xml",
    "product-metadata": "MTD_MSIL2A.xml",
    "datastrip-metadata": "MTD_DS.xml",
}
"""Metadata assets that a Sentinel-2 item lists, and their file names; not written."""

_COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSIONS = {
    "sentinel-2-l2a": ("eo/v1.0.0", "sat/v1.0.0", "projection/v1.0.0"),
    "sentinel-1-rtc": (
        "sar/v1.0.0", "sat/v1.0.0", "projection/v1.1.0", "file/v2.0.0", "raster/v1.1.0",
    ),
}  # fmt: skip

# Band: common name, centre and width of the band in micrometres (Sentinel-2 user handbook).
_S2_BANDS: dict[str, tuple[str | None, float, float]] = {
    "B01": ("coastal", 0.443, 0.027),
    "B02": ("blue", 0.49, 0.098),
    "B03": ("green", 0.56, 0.045),
    "B04": ("red", 0.665, 0.038),
    "B05": ("rededge", 0.704, 0.019),
    "B06": ("rededge", 0.74, 0.018),
    "B07": ("rededge", 0.783, 0.028),
    "B08": ("nir", 0.842, 0.145),
    "B09": (None, 0.945, 0.026),
    "B11": ("swir16", 1.61, 0.143),
    "B12": ("swir22", 2.19, 0.242),
    "B8A": ("rededge", 0.865, 0.033),
}
# Scene classes whose share of the pixels with data a document states.
_SCL_SHARES = {
    "s2:water_percentage": 6,
    "s2:snow_ice_percentage": 11,
    "s2:vegetation_percentage": 4,
    "s2:thin_cirrus_percentage": 10,
    "s2:cloud_shadow_percentage": 3,
    "s2:unclassified_percentage": 7,
    "s2:not_vegetated_percentage": 5,
    "s2:high_proba_clouds_percentage": 9,
    "s2:medium_proba_clouds_percentage": 8,
    "s2:saturated_defective_pixel_percentage": 1,
}


def item_document(
    item_id: str,
    collection: str,
    footprint: shapely.Polygon,
    assets: dict[str, Any],
    properties: dict[str, Any],
) -> dict[str, Any]:
    """Return a STAC item with the keys and links of a published one, in the same order."""
    home = f"{API}/collections/{collection}"
    links = [
        link("collection", home),
        link("parent", home),
        link("root", f"{API}/"),
        link("self", f"{home}/items/{item_id}") | {"type": "application/geo+json"},
        {"rel": "license", "href": f"{home}/license"},
        {
            "rel": "preview",
            "href": f"{API}/map?collection={collection}&item={item_id}",
            "title": "Map",
            "type": "text/html",
        },
    ]
    if collection == "sentinel-1-rtc":
        source = f"{API}/collections/sentinel-1-grd/items/{item_id.removesuffix('_rtc')}"
        links.insert(-1, link("derived_from", source) | {"title": "Ground-range scene"})
    return {
        "id": item_id,
        "bbox": [float(value) for value in footprint.bounds],
        "type": "Feature",
        "links": links,
        "assets": assets,
        "geometry": json.loads(shapely.to_geojson(footprint)),
        "collection": collection,
        # Published documents come from a PostgreSQL jsonb column: short keys first.
        "properties": dict(sorted(properties.items(), key=lambda pair: (len(pair[0]), pair[0]))),
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/schema.json"
            for name in _EXTENSIONS[collection]
        ],
        "stac_version": "1.0.0",
    }


def link(rel: str, href: str) -> dict[str, str]:
    """Return a STAC link to another document."""
    return {"rel": rel, "href": href, "type": "application/json"}


def sentinel2_properties(
    *,
    sensed: dt.datetime,
    made: dt.datetime,
    platform: str,
    epsg: int,
    mgrs_tile: str,
    cloud_cover: float | None,
    orbit: int,
    relative_orbit: int,
    baseline: str,
    footprint: shapely.Polygon,
    scl: NDArray[np.uint8],
) -> dict[str, Any]:
    """Return the properties of a `sentinel-2-l2a` item; `eo:cloud_cover` only if it is known."""
    craft, start, end = "S2" + platform[-1], stamp(sensed), stamp(made)
    product = f"{craft}_MSIL2A_{start}_N{baseline.replace('.', '')}_R{relative_orbit:03d}"
    cover = {} if cloud_cover is None else {"eo:cloud_cover": cloud_cover}
    return {
        "datetime": _rfc3339(sensed),
        "platform": platform,
        "proj:epsg": epsg,
        "instruments": ["msi"],
        "s2:mgrs_tile": mgrs_tile,
        "constellation": "Sentinel 2",
        "s2:granule_id": (
            f"{craft}_OPER_MSI_L2A_TL_2BPS_{end}_A{orbit:06d}_T{mgrs_tile}_N{baseline}"
        ),
        **cover,
        "s2:datatake_id": f"G{craft}_{start}_{orbit:06d}_N{baseline}",
        "s2:product_uri": f"{product}_T{mgrs_tile}_{end}.SAFE",
        "s2:datastrip_id": f"{craft}_OPER_MSI_L2A_DS_2BPS_{end}_S{start}_N{baseline}",
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": "descending",
        "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": _rfc3339(made),
        "sat:relative_orbit": relative_orbit,
        **sun_angles(sensed, footprint),
        "s2:processing_baseline": baseline,
        **_scene_shares(scl),
        "s2:degraded_msi_data_percentage": 0.0,
        "s2:reflectance_conversion_factor": 1.0,
    }


def sentinel1_properties(
    *,
    sensed: dt.datetime,
    platform: str,
    epsg: int,
    affine: Affine,
    shape: tuple[int, int],
    orbit_state: str,
    orbit: int,
    relative_orbit: int,
    polarizations: Sequence[str],
) -> dict[str, Any]:
    """Return the properties of a `sentinel-1-rtc` item; `sensed` is the middle of its 25 s."""
    half = dt.timedelta(seconds=12.5)
    return {
        "datetime": _rfc3339(sensed),
        "platform": platform,
        "s1:shape": [shape[1], shape[0]],
        "proj:bbox": bounds(affine, shape),
        "proj:epsg": epsg,
        "proj:shape": list(shape),
        "end_datetime": (sensed + half).isoformat(" "),
        "constellation": "Sentinel-1",
        "s1:resolution": "high",
        "proj:transform": list(affine),
        "s1:datatake_id": str(sentinel1_datatake(orbit)),
        "start_datetime": (sensed - half).isoformat(" "),
        "s1:orbit_source": "PREORB",
        "s1:slice_number": "1",
        "s1:total_slices": "1",
        "sar:looks_range": 5,
        "sat:orbit_state": orbit_state,
        "sar:product_type": "GRD",
        "sar:looks_azimuth": 1,
        "sar:polarizations": list(polarizations),
        "sar:frequency_band": "C",
        "sat:absolute_orbit": orbit,
        "sat:relative_orbit": relative_orbit,
        "s1:processing_level": "1",
        "sar:instrument_mode": "IW",
        "sar:center_frequency": 5.405,
        "sar:resolution_range": 20,
        "s1:product_timeliness": "NRT-3h",
        "sar:resolution_azimuth": 22,
        "sar:pixel_spacing_range": 10,
        "sar:observation_direction": "right",
        "sar:pixel_spacing_azimuth": 10,
        "sar:looks_equivalent_number": 4.4,
        "s1:instrument_configuration_ID": "7",
        "sat:platform_international_designator": (
            "2016-025A" if platform.endswith("B") else "2014-016A"
        ),
    }


def sentinel2_asset(key: str, href: str, affine: Affine, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return one raster asset of a `sentinel-2-l2a` item."""
    shown = ("B04", "B03", "B02") if key == "visual" else (key,) if key in _S2_BANDS else ()
    asset: dict[str, Any] = {
        "href": href,
        "proj:bbox": bounds(affine, shape),
        "proj:shape": list(shape),
        "proj:transform": list(affine)[:6],
        "gsd": affine.a,
        "type": _COG_TYPE,
        "roles": ["data"],
        "title": f"{key} ({affine.a:g} m){', not written' if key in S2_UNREAD else ''}",
    }
    if shown:
        asset["eo:bands"] = [_eo_band(name) for name in shown]
    return asset


def _eo_band(name: str) -> dict[str, Any]:
    common, centre, full_width = _S2_BANDS[name]
    return {
        "name": name,
        **({"common_name": common} if common else {}),
        "description": f"Band {name}",
        "center_wavelength": centre,
        "full_width_half_max": full_width,
    }


def metadata_asset(key: str, href: str) -> dict[str, Any]:
    """Return one metadata asset of a `sentinel-2-l2a` item."""
    return {
        "href": href,
        "type": "application/xml",
        "roles": ["metadata"],
        "title": f"{key}, not written",
    }


def sentinel1_asset(
    key: str, href: str, size: int, checksum: str, pixel_size: float
) -> dict[str, Any]:
    """Return one raster asset of a `sentinel-1-rtc` item; `size` in bytes, MD5 `checksum`."""
    return {
        "href": href,
        "file:size": size,
        "file:checksum": checksum,
        "type": _COG_TYPE,
        "roles": ["data"],
        "title": key.upper(),
        "description": f"Gamma0 {key.upper()}, linear power, terrain-corrected.",
        "raster:bands": [
            {
                "nodata": int(S1_NODATA),
                "data_type": "float32",
                "spatial_resolution": float(pixel_size),
            }
        ],
    }


def service_assets(collection: str, item_id: str) -> dict[str, dict[str, Any]]:
    """Return the two assets that link to the archive's rendering service."""
    query = f"collection={collection}&item={item_id}"
    return {
        "tilejson": {
            "title": "Tiles, not written",
            "href": f"{API}/tilejson.json?{query}",
            "type": "application/json",
            "roles": ["tiles"],
        },
        "rendered_preview": {
            "title": "Preview, not written",
            "rel": "preview",
            "href": f"{API}/preview.png?{query}",
            "roles": ["overview"],
            "type": "image/png",
        },
    }


def footprint_of(seen: NDArray[np.bool_], crs: str, affine: Affine) -> shapely.Polygon:
    """Return the convex hull of the true pixels, with their edges, in longitude and latitude.

    If no pixel is true, return the outline of the raster.
    """
    rows = np.flatnonzero(seen.any(axis=1))
    if len(rows):
        first = seen[rows].argmax(axis=1)
        last = seen.shape[1] - seen[rows, ::-1].argmax(axis=1)
        x, y = np.r_[first, first, last, last], np.r_[rows, rows + 1, rows, rows + 1]
    else:
        x, y = np.array([0, 0, 1, 1]) * seen.shape[1], np.array([0, 1, 0, 1]) * seen.shape[0]
    hull = shapely.MultiPoint(np.column_stack(affine @ (x, y))).convex_hull
    # A straight edge on the grid is a curve in degrees.
    hull = shapely.segmentize(hull, hull.length / 16)
    degrees = transform_points(CRS.from_string(crs), "EPSG:4326", *np.array(hull.exterior.xy))
    return shapely.geometry.polygon.orient(shapely.Polygon(zip(*degrees, strict=True)))


def sun_angles(sensed: dt.datetime, footprint: shapely.Polygon) -> dict[str, float]:
    """Return the mean solar angles in degrees, to about a degree (declination and hour angle)."""
    longitude, latitude = footprint.centroid.coords[0]
    day = sensed.timetuple().tm_yday + sensed.hour / 24
    declination = np.radians(-23.44 * np.cos(2 * np.pi * (day + 10) / 365.25))
    hour = np.radians(15 * (sensed.hour + sensed.minute / 60 - 12) + longitude)
    phi = np.radians(latitude)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    return {
        "s2:mean_solar_zenith": round(float(np.degrees(np.arccos(up))), 6),
        "s2:mean_solar_azimuth": round(float(np.degrees(np.arctan2(east, north))) % 360, 6),
    }


def _scene_shares(scl: NDArray[np.uint8]) -> dict[str, float]:
    seen = max(int((scl != 0).sum()), 1)
    shares = {
        name: round(100.0 * int((scl == value).sum()) / seen, 6)
        for name, value in _SCL_SHARES.items()
    }
    return shares | {"s2:nodata_pixel_percentage": round(100.0 * float((scl == 0).mean()), 6)}


def sentinel1_datatake(orbit: int) -> int:
    """Return a datatake number of the usual size, one per orbit."""
    return 8 * orbit + 6


def bounds(affine: Affine, shape: tuple[int, ...]) -> list[float]:
    """Return [left, bottom, right, top] of a raster."""
    left, top = affine @ (0, 0)
    right, bottom = affine @ (shape[1], shape[0])
    return [float(left), float(bottom), float(right), float(top)]


def stamp(when: dt.datetime) -> str:
    """Format a time as in product names."""
    return f"{when:%Y%m%dT%H%M%S}"


def _rfc3339(when: dt.datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S.%fZ}"
