"""Write arrays as an archive: COGs and STAC items in the form of Planetary Computer.

The demo and the tests write their scenes with this module. Besides the assets that the
workflow reads, a Sentinel-2 item lists the other assets of a real one (60 m bands, metadata,
previews); those files are not written.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from ..atomic import write_text
from . import documents
from .cog import encode_cog, write_if_different
from .documents import S1_NODATA, S2_METADATA, S2_UNREAD, stamp

PIXEL_SIZES: dict[str, float] = {
    "B02": 10.0, "B03": 10.0, "B04": 10.0, "B08": 10.0,
    "B05": 20.0, "B06": 20.0, "B07": 20.0, "B8A": 20.0, "B11": 20.0, "B12": 20.0, "SCL": 20.0,
}  # fmt: skip
"""Native pixel size in metres of the assets that the workflow reads."""

_S2_ORDER = (
    "AOT", "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B11", "B12", "B8A",
    "SCL", "WVP", "visual",
)  # fmt: skip


def write_sentinel2_scene(
    folder: Path,
    *,
    bands: Mapping[str, NDArray[np.uint16]],
    scl: NDArray[np.uint8],
    crs: str,
    origin: tuple[float, float],
    datetime: dt.datetime,
    mgrs_tile: str,
    pixel_sizes: Mapping[str, float] = PIXEL_SIZES,
    baseline: str = "05.11",
    cloud_cover: float | None = None,
    platform: str = "Sentinel-2B",
    relative_orbit: int = 98,
    absolute_orbit: int | None = None,
    generation: dt.datetime | None = None,
    href_prefix: str | None = None,
    nodata_tag: bool = False,
    blocksize: int = 256,
    extra_properties: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one Sentinel-2 L2A scene and return its STAC item.

    Files are `{folder}/{item id}/T{tile}_{time}_{asset}_{size}m.tif`. A file that already
    has the same content is not rewritten.

    Args:
        folder: the archive.
        bands: asset key (`B02` ...) to (H, W) digital numbers as stored, any offset
            included; 0 is no data. Bands that are missing here are not listed.
        scl: (H, W) scene classes, 0 is no data; the item's footprint is the convex hull of
            its other pixels (of the complete raster if there are none).
        crs: `EPSG:<code>`.
        origin: (left, top) corner of all assets in units of `crs`.
        datetime: sensing time; without a zone it is UTC.
        mgrs_tile: tile name such as `31UCT`.
        pixel_sizes: pixel size per asset, `SCL` included, in units of `crs`.
        baseline: processing baseline, `NN.NN`.
        cloud_cover: `eo:cloud_cover` in percent (`cloud_percentage` computes it); None
            leaves the property out.
        platform: `Sentinel-2A`, `Sentinel-2B` or `Sentinel-2C`.
        relative_orbit: number 1..143.
        absolute_orbit: orbit number; by default counted from `datetime`, so that scenes of
            one pass share a datatake and those of other passes do not.
        generation: processing time (default: four hours after sensing). It distinguishes
            duplicate acquisitions.
        href_prefix: `http://host/path`; hrefs are this, a slash and the file's path below
            `folder`. None: hrefs are absolute paths.
        nodata_tag: declare 0 as no data inside the files (Planetary Computer does not).
        blocksize: edge of a COG block in pixels: a multiple of 16, at least 128.
        extra_properties: added to the item's properties.

    Raises:
        ValueError: an asset key is unknown, or an array has the wrong type or dimension.
        OutputError: a file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {**bands, "SCL": scl}
    _check(arrays, PIXEL_SIZES, {key: "uint8" if key == "SCL" else "uint16" for key in arrays})
    sensed = _utc(datetime)
    made = _utc(generation) if generation else sensed + dt.timedelta(hours=4)
    start = stamp(sensed)
    item_id = f"S2{platform[-1]}_MSIL2A_{start}_R{relative_orbit:03d}_T{mgrs_tile}_{stamp(made)}"

    def affine(size: float) -> Affine:
        return Affine(size, 0.0, origin[0], 0.0, -size, origin[1])

    sizes = S2_UNREAD | {key: float(pixel_sizes[key]) for key in arrays}
    height, width = (n * sizes["SCL"] for n in scl.shape)
    base = _href_base(folder, href_prefix) + item_id + "/"
    assets: dict[str, Any] = {}
    for key in (key for key in _S2_ORDER if key in sizes):
        size = sizes[key]
        name = f"T{mgrs_tile}_{start}_{'TCI' if key == 'visual' else key}_{size:g}m.tif"
        shape: tuple[int, ...] = (max(1, round(height / size)), max(1, round(width / size)))
        if key in arrays:
            shape = arrays[key].shape
            data = encode_cog(
                arrays[key], crs, affine(size), nodata=0 if nodata_tag else None,
                blocksize=blocksize, resampling="nearest" if key == "SCL" else "average",
            )  # fmt: skip
            write_if_different(folder / item_id / name, data)
        assets[key] = documents.sentinel2_asset(key, base + name, affine(size), shape)
    for key, name in S2_METADATA.items():
        assets[key] = documents.metadata_asset(key, base + name)
    assets |= documents.service_assets("sentinel-2-l2a", item_id)

    footprint = documents.footprint_of(scl != 0, crs, affine(sizes["SCL"]))
    properties = documents.sentinel2_properties(
        sensed=sensed, made=made, platform=platform, epsg=_epsg(crs), mgrs_tile=mgrs_tile,
        cloud_cover=cloud_cover, relative_orbit=relative_orbit, baseline=baseline,
        orbit=absolute_orbit or _orbit_number(sensed, per_day=143 / 10),
        footprint=footprint, scl=scl,
    )  # fmt: skip
    properties |= dict(extra_properties or {})
    return documents.item_document(item_id, "sentinel-2-l2a", footprint, assets, properties)


def write_sentinel1_scene(
    folder: Path,
    *,
    vv: NDArray[np.float32] | None,
    vh: NDArray[np.float32] | None,
    crs: str,
    origin: tuple[float, float],
    datetime: dt.datetime,
    orbit_state: str,
    pixel_size: float = 10.0,
    platform: str = "SENTINEL-1A",
    relative_orbit: int = 51,
    absolute_orbit: int | None = None,
    href_prefix: str | None = None,
    nodata_tag: bool = True,
    blocksize: int = 256,
    extra_properties: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one radiometrically terrain-corrected Sentinel-1 scene and return its STAC item.

    Files are `{folder}/{item id}/iw-{vv,vh}.rtc.tiff`. A file that already has the same
    content is not rewritten.

    Args:
        folder: the archive.
        vv: (H, W) float32 gamma0, linear power; -32768 is no data. None: no such asset.
        vh: the same; not both may be None.
        crs: `EPSG:<code>`.
        origin: (left, top) corner in units of `crs`.
        datetime: middle of the 25 s of sensing; without a zone it is UTC.
        orbit_state: `ascending` or `descending`.
        pixel_size: in units of `crs`.
        platform: `SENTINEL-1A`, `SENTINEL-1B` or `SENTINEL-1C`.
        relative_orbit: number 1..175.
        absolute_orbit: orbit number; by default counted from `datetime`.
        href_prefix: as for `write_sentinel2_scene`.
        nodata_tag: declare -32768 as no data inside the files too.
        blocksize: as for `write_sentinel2_scene`.
        extra_properties: added to the item's properties.

    Raises:
        ValueError: both channels are missing, or an array has the wrong type or dimension.
        OutputError: a file cannot be written.
    """
    arrays = {key: array for key, array in (("vh", vh), ("vv", vv)) if array is not None}
    if not arrays:
        raise ValueError("a Sentinel-1 scene needs vv, vh or both")
    _check(arrays, arrays, dict.fromkeys(arrays, "float32"))
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1:
        raise ValueError(f"vv and vh differ in shape: {sorted(shapes)}")
    height, width = shapes.pop()
    sensed = _utc(datetime)
    half = dt.timedelta(seconds=12.5)
    orbit = absolute_orbit or _orbit_number(sensed, per_day=175 / 12)
    item_id = (
        f"S1{platform[-1]}_IW_GRDH_1S{'DV' if len(arrays) == 2 else 'SV'}_"
        f"{stamp(sensed - half)}_{stamp(sensed + half)}_{orbit:06d}_"
        f"{documents.sentinel1_datatake(orbit):06X}_rtc"
    )
    affine = Affine(pixel_size, 0.0, origin[0], 0.0, -pixel_size, origin[1])
    assets: dict[str, Any] = {}
    seen = np.zeros((height, width), dtype=bool)
    for key, array in arrays.items():
        nodata = S1_NODATA if nodata_tag else None
        data = encode_cog(array, crs, affine, nodata=nodata, blocksize=blocksize)
        name = f"{item_id}/iw-{key}.rtc.tiff"
        write_if_different(folder / name, data)
        checksum = hashlib.md5(data, usedforsecurity=False).hexdigest()
        assets[key] = documents.sentinel1_asset(
            key, _href_base(folder, href_prefix) + name, len(data), checksum, pixel_size
        )
        seen |= np.isfinite(array) & (array != S1_NODATA)
    assets |= documents.service_assets("sentinel-1-rtc", item_id)

    properties = documents.sentinel1_properties(
        sensed=sensed, platform=platform, epsg=_epsg(crs), affine=affine, shape=(height, width),
        orbit_state=orbit_state, orbit=orbit, relative_orbit=relative_orbit,
        polarizations=[key.upper() for key in ("vv", "vh") if key in arrays],
    )  # fmt: skip
    properties |= dict(extra_properties or {})
    footprint = documents.footprint_of(seen, crs, affine)
    return documents.item_document(item_id, "sentinel-1-rtc", footprint, assets, properties)


def cloud_percentage(scl: NDArray[np.uint8]) -> float:
    """Return `eo:cloud_cover`: percentage of classes 8, 9 and 10 among the pixels with data."""
    seen = int((scl != 0).sum())
    return round(100.0 * int(np.isin(scl, (8, 9, 10)).sum()) / max(seen, 1), 6)


def write_item_collection(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write items as one GeoJSON FeatureCollection, atomically, in the given order.

    Raises:
        OutputError: the file cannot be written.
    """
    document = {"type": "FeatureCollection", "features": [dict(item) for item in items]}
    write_text(path, json.dumps(document, indent=1) + "\n")


def _check(
    arrays: Mapping[str, NDArray[Any]], known: Mapping[str, Any], dtypes: Mapping[str, str]
) -> None:
    for key, array in arrays.items():
        if key not in known:
            raise ValueError(f"unknown asset {key}: expected one of {', '.join(known)}")
        if array.ndim != 2 or array.dtype != dtypes[key]:
            raise ValueError(
                f"{key}: expected a 2-D {dtypes[key]} array, got {array.ndim}-D {array.dtype}"
            )


def _href_base(folder: Path, prefix: str | None) -> str:
    return (folder.absolute().as_posix() if prefix is None else prefix.rstrip("/")) + "/"


def _orbit_number(when: dt.datetime, per_day: float) -> int:
    """Return a count of orbits since 2014 that changes between passes and not within one."""
    return round((when - dt.datetime(2014, 4, 3, tzinfo=dt.UTC)) / dt.timedelta(days=1) * per_day)


def _epsg(crs: str) -> int:
    code = CRS.from_string(crs).to_epsg()
    if code is None:
        raise ValueError(f"{crs} has no EPSG code: a document of this form needs one")
    return int(code)


def _utc(when: dt.datetime) -> dt.datetime:
    return when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when.astimezone(dt.UTC)
