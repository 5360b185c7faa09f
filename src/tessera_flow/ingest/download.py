"""Read the scenes of one block, sensor and time slice into daily mosaics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..block_file import CHUNK, create_array, create_block_file
from ..config.sections import Download, Sentinel1, Sentinel2
from ..dates import Slice
from ..raster.resample import ReadOptions
from ..region.grid import Window
from ..region.needed import passed_on
from ..scenes.manifest import Manifest, SourceItem
from ..sensors.levels import DayLevel
from ..sensors.sentinel1 import (
    CHANNELS,
    ORBITS,
    add_to_mosaic,
    power_to_scaled_decibels,
)
from ..sensors.sentinel2 import (
    BANDS,
    INVALID_SCL,
    SCL,
    THIN_CLOUDS,
    DayMosaic,
    Preprocessing,
    select_first_valid,
)
from .missing_scenes import Acquisition, usable
from .pixel_sample import OffsetConfirmation
from .radar_check import check_power
from .read_job import ReadJob, Reads, WindowJob, day_attributes, days_of, readers, results_of

log = logging.getLogger(__name__)


class _OpticalDays:
    """Daily mosaics of Sentinel-2."""

    def __init__(self, job: ReadJob, source: Sentinel2, preprocessing: Preprocessing) -> None:
        self.job = job
        self.confirmed = OffsetConfirmation(job.provider, job.reader, source, preprocessing)
        self.preprocessing = preprocessing
        declare_nodata = preprocessing == "corrected"
        self.scl = ReadOptions("nearest", declare_nodata, frozenset(INVALID_SCL))
        self.bilinear = ReadOptions("bilinear", declare_nodata)
        assets = job.provider.s2_assets
        self.scl_key = assets[SCL]
        self.band_keys = [assets[band] for band in BANDS]

    def read(
        self, items: Sequence[SourceItem]
    ) -> tuple[NDArray[np.uint16] | None, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the mosaic of a day on the bounding box, its valid and its clear pixels.

        One scene supplies all bands of a pixel. Therefore the mosaic is started again without a
        scene that turns out to be missing or corrupt.

        Returns:
            (H, W, 10) uint16, None if no pixel is valid; (H, W) bool; (H, W) bool, valid without
            thin clouds.
        """
        acquisitions = [Acquisition(item, self.job.missing_scenes) for item in items]
        while True:
            selected = self._selection(acquisitions)
            if selected is None:
                continue
            selection, clear = selected
            valid = selection >= 0
            if not valid.any():
                return None, valid, clear
            mosaic = self._mosaic(acquisitions, selection)
            if mosaic is not None:
                return mosaic, valid, clear

    def _selection(
        self, acquisitions: Sequence[Acquisition]
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]] | None:
        futures = [
            (acquisition, item, self.job.start(item, [self.scl_key], "uint8", self.scl))
            for acquisition, item in usable(acquisitions)
        ]
        scl = results_of(futures)
        if scl is None:
            return None
        if not scl:
            return np.full(self.job.inside.shape, -1, np.int16), self.job.inside
        codes = np.stack(scl)
        selection = select_first_valid(codes, self.job.inside)
        used = np.take_along_axis(codes, np.maximum(selection, 0)[np.newaxis], axis=0)[0]
        return selection, (selection >= 0) & (used != THIN_CLOUDS)

    def _mosaic(
        self, acquisitions: Sequence[Acquisition], selection: NDArray[np.int16]
    ) -> NDArray[np.uint16] | None:
        scenes = usable(acquisitions)
        mosaic = DayMosaic(selection, self.job.inside)
        started = {
            index: self._start(item)
            for index, (_, item) in enumerate(scenes)
            if mosaic.supplies(index)
        }
        complete = True
        for index, (acquisition, item) in enumerate(scenes):
            if not mosaic.needs(index):
                continue
            reads = started.pop(index, None)
            if reads is None:
                if not complete:
                    continue  # the mosaic will be started again
                reads = self._start(item)
            planes = results_of([(acquisition, item, reads)])
            if planes is None:
                complete = False
            elif complete:
                mosaic.add(index, planes, self._offsets(item))
        return mosaic.image() if complete else None

    def _offsets(self, item: SourceItem) -> list[Preprocessing | None]:
        used = self.confirmed(item)
        return [self.preprocessing if used.has_offset(band) else None for band in BANDS]

    def _start(self, item: SourceItem) -> Reads:
        return self.job.start(item, self.band_keys, "uint16", self.bilinear)


def download_sentinel2(
    manifest_path: Path,
    roi_path: Path,
    window: Window,
    time_slice: Slice,
    output: Path,
    source: Sentinel2,
    preprocessing: Preprocessing,
    settings: Download,
    published: str | Path | None = None,
) -> None:
    """Write the daily Sentinel-2 mosaics of one block and slice.

    The SCL of all items of a day is read first. If no pixel of the block is valid, the bands of
    that day are not read; this does not change the result of any pixel.

    Args:
        manifest_path: from `list_items`.
        roi_path: the region's mask, which also gives the grid.
        window: window of the block in the region's grid.
        time_slice: days to read.
        output: block file; arrays `bands` (T, H, W, 10) uint16 and `masks` (T, H, W) uint8
            over all days with an item, `kept` (T,) uint8: 1 where the day has a valid pixel;
            attributes `left_out` and `replaced`: see `MissingScenes.attributes`; `levels`: see
            `levels.DayLevel`; `scene_count`: number of acquisitions.
        published: the block's published embeddings, see `region.needed`; None if all are computed.

    Raises:
        ReadError: an asset cannot be read, or too many scenes are missing or corrupt. A failed
            read never results in an empty date.
        OutputError: the output cannot be written.
    """
    if passed_on([published] if published else [], output):
        return
    with readers(source, settings) as found:
        job = WindowJob(roi_path, window, *found, published)
        manifest = Manifest.read(manifest_path)
        write_sentinel2(job, manifest, time_slice, output, source, preprocessing, settings)


def write_sentinel2(
    job: ReadJob,
    manifest: Manifest,
    time_slice: Slice,
    output: Path,
    source: Sentinel2,
    preprocessing: Preprocessing,
    settings: Download,
) -> None:
    """Write the daily Sentinel-2 mosaics of the pixels of a job; see `download_sentinel2`."""
    of_period = job.scenes(manifest)
    days = days_of([item for item in of_period if item.date in time_slice])
    mosaics = _OpticalDays(job, source, preprocessing)
    kept = np.zeros(len(days), np.uint8)
    shape = (len(days), *job.shape)
    with create_block_file(output, day_attributes(days)) as group:
        all_bands = create_array(
            group, "bands", (*shape, len(BANDS)), (1, CHUNK, CHUNK, len(BANDS)), np.uint16
        )
        all_masks = create_array(group, "masks", shape, (1, CHUNK, CHUNK), np.uint8)
        levels = []
        with job.each_day(mosaics.read, days, 40, 20) as results:
            for index, (mosaic, valid, clear) in enumerate(results):
                day, items = days[index]
                share = 100 * valid.sum() / (shape[1] * shape[2])
                content = f"{len(items)} scenes, {share:.1f} % of the block valid"
                job.log_day("", index, len(days), day, content)
                if mosaic is not None:
                    kept[index] = 1
                    all_bands[index] = job.on_block(mosaic)
                    all_masks[index] = job.on_block(valid.astype(np.uint8))
                    level = DayLevel.of(day, mosaic, clear)
                    levels += [] if level is None else [level.to_json()]
        scenes = sum(len(items) for _, items in days)
        job.missing_scenes.check(scenes, len(of_period), settings.max_missing_percent)
        group.attrs["scene_count"] = scenes
        group.attrs.update(job.missing_scenes.attributes())
        group.attrs["levels"] = levels
        create_array(group, "kept", kept.shape, kept.shape, np.uint8)[:] = kept


class _RadarDays:
    """Daily mosaics of Sentinel-1, of one direction."""

    def __init__(self, job: ReadJob) -> None:
        self.job = job
        self.options = ReadOptions(job.provider.s1_resampling, True)
        self.keys = [job.provider.s1_assets[channel] for channel in CHANNELS]

    def read(self, items: Sequence[SourceItem]) -> NDArray[np.int16]:
        """Return the (H, W, 2) mosaic of a day on the bounding box."""
        mosaic = np.zeros((*self.job.inside.shape, len(CHANNELS)), np.int16)
        acquisitions = [Acquisition(item, self.job.missing_scenes) for item in items]
        started = [(acquisition, self._start(item)) for acquisition, item in usable(acquisitions)]
        for acquisition, reads in started:
            while (item := acquisition.item) is not None:
                power = results_of([(acquisition, item, reads)])
                if power is not None:
                    check_power(item, self.keys, power)
                    channels = [power_to_scaled_decibels(values) for values in power]
                    add_to_mosaic(mosaic, np.stack(channels, axis=-1))
                    break
                if acquisition.item is not None:
                    reads = self._start(acquisition.item)
        mosaic[~self.job.inside] = 0
        return mosaic

    def _start(self, item: SourceItem) -> Reads:
        return self.job.start(item, self.keys, "float32", self.options)


def download_sentinel1(
    manifest_path: Path,
    roi_path: Path,
    window: Window,
    time_slice: Slice,
    output: Path,
    source: Sentinel1,
    settings: Download,
    published: str | Path | None = None,
) -> None:
    """Write the daily Sentinel-1 mosaics of one block and slice, for both directions.

    Args:
        manifest_path, roi_path, window, time_slice, published: as in `download_sentinel2`.
        output: block file; arrays `ascending` and `descending` (T, H, W, 2) int16 over all
            days with an item of that direction, and `ascending_kept`, `descending_kept`
            (T,) uint8: 1 where the day has a value in the block; attributes as in
            `download_sentinel2`.

    Raises:
        ReadError: an asset cannot be read, or too many scenes are missing or corrupt.
        OutputError: the output cannot be written.
    """
    if passed_on([published] if published else [], output):
        return
    with readers(source, settings) as found:
        job = WindowJob(roi_path, window, *found, published)
        write_sentinel1(job, Manifest.read(manifest_path), time_slice, output, settings)


def write_sentinel1(
    job: ReadJob, manifest: Manifest, time_slice: Slice, output: Path, settings: Download
) -> None:
    """Write the daily Sentinel-1 mosaics of the pixels of a job; see `download_sentinel1`."""
    of_period = job.scenes(manifest)
    items = [item for item in of_period if item.date in time_slice]
    streams = {orbit: days_of([i for i in items if i.orbit == orbit]) for orbit in ORBITS}
    dates = {
        f"{orbit}_dates": [day.isoformat() for day, _ in days] for orbit, days in streams.items()
    }
    mosaics = _RadarDays(job)
    with create_block_file(output, dates) as group:
        for orbit, days in streams.items():
            shape = (len(days), *job.shape, len(CHANNELS))
            images = create_array(group, orbit, shape, (1, CHUNK, CHUNK, len(CHANNELS)), np.int16)
            kept = np.zeros(len(days), np.uint8)
            with job.each_day(mosaics.read, days, 32, 16) as results:
                for index, mosaic in enumerate(results):
                    day, day_items = days[index]
                    kept[index] = mosaic.any()
                    job.log_day(f"{orbit} ", index, len(days), day, f"{len(day_items)} scenes")
                    if kept[index]:
                        images[index] = job.on_block(mosaic)
            create_array(group, f"{orbit}_kept", kept.shape, kept.shape, np.uint8)[:] = kept
        job.missing_scenes.check(len(items), len(of_period), settings.max_missing_percent)
        group.attrs["scene_count"] = len(items)
        group.attrs.update(job.missing_scenes.attributes())
