"""Read the scenes of one block, sensor and slice of time into daily mosaics."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from .blockfile import CHUNK, create_array, create_block_file
from .config import Download, Sentinel1, Sentinel2
from .dates import Slice
from .directions import known_directions
from .grid import Window
from .items import Manifest, SourceItem
from .mask import read_mask
from .providers import provider
from .reading import ReadOptions, load_assets
from .sentinel1 import CHANNELS, ORBITS, add_to_mosaic, power_to_scaled_decibels
from .sentinel2 import BANDS, SCL, Arithmetic, mosaic_day, remove_offset, select_first_valid

log = logging.getLogger(__name__)


def _days(
    items: Sequence[SourceItem],
) -> list[tuple[datetime.date, list[SourceItem]]]:
    """Items by day, in date order; within a day in the manifest's order."""
    ordered = sorted(items, key=lambda item: item.date)
    return [(day, list(group)) for day, group in groupby(ordered, key=lambda item: item.date)]


def _attributes(days: Sequence[tuple[datetime.date, list[SourceItem]]]) -> dict[str, Any]:
    return {
        "dates": [day.isoformat() for day, _ in days],
        "items": [[item.id for item in items] for _, items in days],
    }


def _options(
    resampling: Literal["bilinear", "nearest"], arithmetic: Arithmetic, settings: Download
) -> ReadOptions:
    return ReadOptions(
        resampling=resampling,
        declare_nodata=arithmetic == "exact",
        attempts=settings.attempts,
        timeout=settings.timeout,
        threads=settings.threads,
    )


def _block_items(manifest: Manifest, part: Slice, geobox: GeoBox) -> list[SourceItem]:
    return [item for item in manifest.items if item.date in part and item.overlaps(geobox)]


def download_sentinel2(
    manifest_path: Path,
    roi_path: Path,
    window: Window,
    part: Slice,
    output: Path,
    source: Sentinel2,
    arithmetic: Arithmetic,
    settings: Download,
) -> None:
    """Write the block's daily Sentinel-2 mosaics of one slice.

    For each day the SCL of all its items is read first; a day with no valid pixel in the
    block is dropped without reading a band, which changes no pixel's result.

    Args:
        manifest_path: from `list_items`.
        roi_path: the region's mask, which also gives the grid.
        window: the block's place in the region's grid.
        part: days to read.
        output: block file; arrays `bands` (T, H, W, 10) uint16 and `masks` (T, H, W) uint8
            over all days with an item, `kept` (T,) uint8: 1 where the day has a valid pixel.

    Raises:
        ReadError: an asset cannot be read. It never becomes an empty date.
        OutputError: the output cannot be written.
    """
    particulars = provider(source.provider, source.imitates)
    inside, geobox = read_mask(roi_path, window)
    days = _days(_block_items(Manifest.read(manifest_path), part, geobox))
    nearest = _options("nearest", arithmetic, settings)
    bilinear = _options("bilinear", arithmetic, settings)
    scl_key = particulars.s2_assets[SCL]
    band_keys = [particulars.s2_assets[band] for band in BANDS]
    height, width = geobox.shape

    def read_bands(item: SourceItem) -> NDArray[np.uint16]:
        keys = dict.fromkeys(band_keys, "uint16")
        loaded = load_assets([item], keys, geobox, particulars, bilinear)
        bands = np.empty((height, width, len(BANDS)), np.uint16)
        for index, key in enumerate(band_keys):
            dn = loaded[key][0]
            bands[..., index] = remove_offset(dn, arithmetic) if item.boa_offset else dn
        return bands

    kept = np.zeros(len(days), np.uint8)
    shape = (len(days), height, width)
    with create_block_file(output, _attributes(days)) as group:
        all_bands = create_array(
            group, "bands", (*shape, len(BANDS)), (1, CHUNK, CHUNK, len(BANDS)), np.uint16
        )
        all_masks = create_array(group, "masks", shape, (1, CHUNK, CHUNK), np.uint8)
        for index, (day, items) in enumerate(days):
            scl = load_assets(items, {scl_key: "uint8"}, geobox, particulars, nearest)
            selection = select_first_valid(scl[scl_key], inside)
            valid = selection >= 0
            log.info(
                "day %d of %d: %s, %d scenes, %.1f %% of the block valid",
                index + 1, len(days), day, len(items), 100 * valid.mean(),
            )  # fmt: skip
            if not valid.any():
                continue
            kept[index] = 1
            bands_of = [partial(read_bands, item) for item in items]
            all_bands[index] = mosaic_day(selection, bands_of, inside)
            all_masks[index] = valid.astype(np.uint8)
        create_array(group, "kept", kept.shape, kept.shape, np.uint8)[:] = kept


def download_sentinel1(
    manifest_path: Path,
    roi_path: Path,
    window: Window,
    part: Slice,
    output: Path,
    source: Sentinel1,
    settings: Download,
) -> None:
    """Write the block's daily Sentinel-1 mosaics of one slice, for both directions.

    Args:
        manifest_path, roi_path, window, part: as in `download_sentinel2`.
        output: block file; arrays `ascending` and `descending` (T, H, W, 2) int16 over all
            days with an item of that direction, and `ascending_kept`, `descending_kept`
            (T,) uint8: 1 where the day has a value in the block.

    Raises:
        ReadError: an asset cannot be read.
        OutputError: the output cannot be written.
    """
    particulars = provider(source.provider, source.imitates)
    inside, geobox = read_mask(roi_path, window)
    manifest = Manifest.read(manifest_path)
    options = _options(particulars.s1_resampling, "exact", settings)
    items = known_directions(
        _block_items(manifest, part, geobox), manifest.orbits, particulars, options
    )
    streams = {orbit: _days([i for i in items if i.orbit == orbit]) for orbit in ORBITS}
    keys = [particulars.s1_assets[channel] for channel in CHANNELS]

    def read_image(item: SourceItem) -> NDArray[np.int16]:
        wanted = dict.fromkeys(keys, "float32")
        loaded = load_assets([item], wanted, geobox, particulars, options)
        image = np.stack([power_to_scaled_decibels(loaded[key][0]) for key in keys], axis=-1)
        image[~inside] = 0
        return image

    attributes = {
        f"{orbit}_dates": [day.isoformat() for day, _ in days] for orbit, days in streams.items()
    }
    with create_block_file(output, attributes) as group:
        for orbit, days in streams.items():
            shape = (len(days), *geobox.shape, len(CHANNELS))
            images = create_array(group, orbit, shape, (1, CHUNK, CHUNK, len(CHANNELS)), np.int16)
            kept = np.zeros(len(days), np.uint8)
            for index, (day, day_items) in enumerate(days):
                mosaic = np.zeros(shape[1:], np.int16)
                for item in day_items:
                    add_to_mosaic(mosaic, read_image(item))
                kept[index] = mosaic.any()
                log.info(
                    "%s day %d of %d: %s, %d scenes",
                    orbit, index + 1, len(days), day, len(day_items),
                )  # fmt: skip
                if kept[index]:
                    images[index] = mosaic
            create_array(group, f"{orbit}_kept", kept.shape, kept.shape, np.uint8)[:] = kept
