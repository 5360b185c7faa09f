"""The baseline of `benchmarks/ingest.py`: a slice read with plain odc-stac and xarray, as a user
would write it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac

from tessera_flow.block_file import CHUNK, create_array, create_block_file
from tessera_flow.region.grid import Window
from tessera_flow.region.mask import read_mask
from tessera_flow.scenes.search import Manifest
from tessera_flow.sensors.sentinel1 import CHANNELS, add_to_mosaic, power_to_scaled_decibels
from tessera_flow.sensors.sentinel2 import BANDS, SCL, remove_offset, select_first_valid


def read_with_odc(
    sensor: str, manifest: Path, mask: Path, output: Path, size: int, threads: int
) -> int:
    """Load the slice at once, then process it; return the number of assets read."""
    items = Manifest.read(manifest).items
    geobox = read_mask(mask, Window(0, 0, size, size))[1]
    odc.stac.configure_rio(cloud_defaults=True)
    options: dict[str, Any] = {
        "geobox": geobox, "groupby": "id", "preserve_original_order": True, "nodata": 0,
        "pool": threads, "stac_cfg": {"*": {"warnings": "ignore"}},
    }  # fmt: skip
    stac_items = [as_pystac(item, sensor, geobox) for item in items]
    days = {
        day: [n for n, item in enumerate(items) if item.date == day]
        for day in sorted({item.date for item in items})
    }
    load = odc_sentinel1 if sensor == "sentinel1" else odc_sentinel2
    with create_block_file(output, {}) as group:
        return len(stac_items) * load(stac_items, days, options, group)


def as_pystac(item: Any, sensor: str, geobox: Any) -> Any:
    west, south, east, north = geobox.geographic_extent.boundingbox
    stac = pystac.Item(
        item.id, geobox.geographic_extent.json, [west, south, east, north],
        dt.datetime.combine(item.date, dt.time(10), dt.UTC), {}, collection=sensor,
    )  # fmt: skip
    for key, asset in item.stac["assets"].items():
        stac.add_asset(
            key,
            pystac.Asset(asset["href"], media_type=pystac.MediaType.COG, roles=["data"]),
        )
    return stac


def odc_sentinel1(
    items: list[Any], days: dict[dt.date, list[int]], options: dict[str, Any], group: Any
) -> int:
    """Write the radar mosaics; return the number of assets per item."""
    shape = options["geobox"].shape
    loaded = odc.stac.load(
        items, bands=list(CHANNELS), dtype="float32", resampling="nearest", **options
    )
    images = create_array(group, "images", (len(days), *shape, 2), (1, CHUNK, CHUNK, 2), np.int16)
    for index, rows in enumerate(days.values()):
        mosaic = np.zeros((*shape, 2), np.int16)
        for n in rows:
            scaled = [power_to_scaled_decibels(loaded[c].values[n]) for c in CHANNELS]
            add_to_mosaic(mosaic, np.stack(scaled, -1))
        images[index] = mosaic
    return 2


def odc_sentinel2(
    items: list[Any], days: dict[dt.date, list[int]], options: dict[str, Any], group: Any
) -> int:
    """Write the optical mosaics; return the number of assets per item."""
    shape = options["geobox"].shape
    loaded = odc.stac.load(
        items,
        bands=[*BANDS, SCL],
        dtype={**dict.fromkeys(BANDS, "uint16"), SCL: "uint8"},
        resampling={"*": "bilinear", SCL: "nearest"},
        **options,
    )
    inside = np.ones(shape, bool)
    bands = create_array(group, "bands", (len(days), *shape, 10), (1, CHUNK, CHUNK, 10), np.uint16)
    for index, rows in enumerate(days.values()):
        selection = select_first_valid(loaded[SCL].values[rows], inside)
        mosaic = np.zeros((*shape, 10), np.uint16)
        unfilled = selection < 0
        for order, n in enumerate(rows):
            image = np.stack([remove_offset(loaded[b].values[n]) for b in BANDS], axis=-1)
            fallback = unfilled & image.any(axis=-1)
            unfilled &= ~fallback
            np.copyto(mosaic, image, where=((selection == order) | fallback)[..., None])
        bands[index] = mosaic
    return 11
