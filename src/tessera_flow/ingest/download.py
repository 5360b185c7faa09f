"""Read the scenes of one block, sensor and slice of time into daily mosaics."""

from __future__ import annotations

import datetime
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..archives.provider import Provider
from ..archives.providers import find_provider
from ..block_file import CHUNK, create_array, create_block_file
from ..config.sections import Download, Sentinel1, Sentinel2
from ..dates import Slice
from ..raster.failures import MissingSceneError
from ..raster.odc_driver import load_asset
from ..raster.reader import Reader
from ..raster.resample import ReadOptions
from ..raster.retry import RetryPolicy
from ..region.grid import Window, crop
from ..region.mask import read_mask
from ..scenes.manifest import Manifest, SourceItem
from ..sensors.sentinel1 import CHANNELS, ORBITS, add_to_mosaic, power_to_scaled_decibels
from ..sensors.sentinel2 import BANDS, SCL, DayMosaic, Preprocessing, select_first_valid
from .directions import known_directions
from .missing_scenes import Acquisition, MissingScenes, standing

log = logging.getLogger(__name__)

DAYS_MEMORY = 3 * 2**29
"""Bytes that days under way may take together."""

MOST_DAYS = 6
"""Days under way at a time: enough to keep the readers busy while one is put together."""

T = TypeVar("T")


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


def _block_items(manifest: Manifest, part: Slice, geobox: GeoBox) -> list[SourceItem]:
    return [item for item in manifest.items if item.date in part and item.overlaps(geobox)]


def _in_order(calls: Iterable[Callable[[], T]], ahead: int, stop: threading.Event) -> Iterator[T]:
    """Results of the calls in their order; up to `ahead` run at a time. An error sets `stop`:
    the others need not try on."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(ahead, thread_name_prefix="day") as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            stop.set()
            raise
        finally:
            for future in waiting:
                future.cancel()


class _Job:
    """What the days of one block and slice share: where to read, with what, and what is lost.

    Only the bounding box of the region inside the block is read.
    """

    def __init__(
        self,
        roi_path: Path,
        window: Window,
        provider: Provider,
        pool: ThreadPoolExecutor,
        reader: Reader,
    ) -> None:
        inside, geobox = read_mask(roi_path, window)
        self.block = geobox
        self.box = _bounding_box(inside)
        self.inside = inside[self.box.slices]
        self.geobox = crop(geobox, self.box)
        self.provider = provider
        self.missing_scenes = MissingScenes()
        self.pool = pool
        self.reader = reader

    def start(
        self, item: SourceItem, key: str, dtype: str, options: ReadOptions
    ) -> Future[NDArray[Any]]:
        """Begin to read one asset of an item, on the box."""
        return self.pool.submit(load_asset, self.reader, item, key, dtype, self.geobox, options)

    def on_block(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image of the box on the whole block, 0 around it."""
        shape = (self.block.height, self.block.width)
        if image.shape[:2] == shape:
            return image
        result = np.zeros((*shape, *image.shape[2:]), image.dtype)
        result[self.box.slices] = image
        return result

    @property
    def stop(self) -> threading.Event:
        """Set when the job has failed."""
        return self.reader.policy.stop

    def ahead(self, days: Sequence[tuple[Any, Sequence[Any]]], whole: int, scene: int) -> int:
        """Days that may be under way at a time.

        Args:
            days: with their scenes.
            whole: bytes for a pixel of a day.
            scene: bytes for a pixel of each scene of a day.
        """
        most = max((len(scenes) for _, scenes in days), default=1)
        day = max(1, self.box.height * self.box.width * (whole + scene * most))
        return max(1, min(MOST_DAYS, DAYS_MEMORY // day))

    def log_day(self, what: str, index: int, days: int, day: datetime.date, found: str) -> None:
        """Tell the progress."""
        client = self.reader.client
        log.info(
            "%sday %d of %d: %s, %s (so far %.1f MB in %d requests)",
            what, index + 1, days, day, found, client.received / 1e6, client.requests,
        )  # fmt: skip


def _bounding_box(inside: NDArray[np.bool_]) -> Window:
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return Window(0, 0, 0, 0)
    return Window(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


@contextmanager
def _job(
    roi_path: Path, window: Window, source: Sentinel2 | Sentinel1, settings: Download
) -> Iterator[_Job]:
    provider = find_provider(source.provider, source.item_format)
    policy = RetryPolicy(settings.attempts, settings.timeout, settings.deadline)
    gdal = {option.name: option.value for option in provider.gdal_options}
    with (
        ThreadPoolExecutor(settings.threads, thread_name_prefix="read") as pool,
        Reader(provider.access, policy, gdal, settings.threads) as reader,
    ):
        yield _Job(roi_path, window, provider, pool, reader)


def _gathered(
    futures: Sequence[tuple[Acquisition, SourceItem, Future[NDArray[Any]]]],
) -> list[NDArray[Any]] | None:
    """The images, or None if one of them was lost; then its acquisition has gone on to its
    next copy."""
    images = []
    for acquisition, item, future in futures:
        try:
            images.append(future.result())
        except MissingSceneError as error:
            acquisition.lose(item, error)
    return images if len(images) == len(futures) else None


class _OpticalDays:
    """Daily mosaics of Sentinel-2."""

    def __init__(self, job: _Job, preprocessing: Preprocessing) -> None:
        self.job = job
        self.preprocessing = preprocessing
        declare_nodata = preprocessing == "corrected"
        self.nearest = ReadOptions("nearest", declare_nodata)
        self.bilinear = ReadOptions("bilinear", declare_nodata)
        assets = job.provider.s2_assets
        self.scl_key = assets[SCL]
        self.band_keys = [assets[band] for band in BANDS]

    def read(
        self, items: Sequence[SourceItem]
    ) -> tuple[NDArray[np.uint16] | None, NDArray[np.bool_]]:
        """(H, W, 10) mosaic of a day on the box, None where no pixel is valid; (H, W) valid.

        Begins again without a scene that turns out lost: which scene supplies a pixel is one
        choice for all its bands.
        """
        acquisitions = [Acquisition(item, self.job.missing_scenes) for item in items]
        while True:
            selection = self._selection(acquisitions)
            if selection is None:
                continue
            valid = selection >= 0
            if not valid.any():
                return None, valid
            mosaic = self._mosaic(acquisitions, selection)
            if mosaic is not None:
                return mosaic, valid

    def _selection(self, acquisitions: Sequence[Acquisition]) -> NDArray[np.int16] | None:
        futures = [
            (acquisition, item, self.job.start(item, self.scl_key, "uint8", self.nearest))
            for acquisition, item in standing(acquisitions)
        ]
        scl = _gathered(futures)
        if scl is None:
            return None
        if not scl:
            return np.full(self.job.inside.shape, -1, np.int16)
        return select_first_valid(np.stack(scl), self.job.inside)

    def _mosaic(
        self, acquisitions: Sequence[Acquisition], selection: NDArray[np.int16]
    ) -> NDArray[np.uint16] | None:
        scenes = standing(acquisitions)
        mosaic = DayMosaic(selection, self.job.inside)
        begun = {
            index: self._start(item)
            for index, (_, item) in enumerate(scenes)
            if mosaic.supplies(index)
        }
        whole = True
        for index, (acquisition, item) in enumerate(scenes):
            if not mosaic.needs(index):
                continue
            futures = begun.pop(index, None)
            if futures is None:
                if not whole:
                    continue  # all begins anew without the lost scene
                futures = self._start(item)
            planes = _gathered([(acquisition, item, future) for future in futures])
            if planes is None:
                whole = False
            elif whole:
                mosaic.add(index, planes, self.preprocessing if item.boa_offset else None)
        return mosaic.image() if whole else None

    def _start(self, item: SourceItem) -> list[Future[NDArray[Any]]]:
        return [self.job.start(item, key, "uint16", self.bilinear) for key in self.band_keys]


def download_sentinel2(
    manifest_path: Path,
    roi_path: Path,
    window: Window,
    part: Slice,
    output: Path,
    source: Sentinel2,
    preprocessing: Preprocessing,
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
            over all days with an item, `kept` (T,) uint8: 1 where the day has a valid pixel;
            attributes `left_out` and `replaced`: see `MissingScenes.attributes`.

    Raises:
        ReadError: an asset cannot be read, or too many are lost. A failed read never becomes
            an empty date.
        OutputError: the output cannot be written.
    """
    manifest = Manifest.read(manifest_path)
    with _job(roi_path, window, source, settings) as job:
        days = _days(_block_items(manifest, part, job.geobox))
        mosaics = _OpticalDays(job, preprocessing)
        kept = np.zeros(len(days), np.uint8)
        shape = (len(days), *job.block.shape)
        with create_block_file(output, _attributes(days)) as group:
            all_bands = create_array(
                group, "bands", (*shape, len(BANDS)), (1, CHUNK, CHUNK, len(BANDS)), np.uint16
            )
            all_masks = create_array(group, "masks", shape, (1, CHUNK, CHUNK), np.uint8)
            calls = (partial(mosaics.read, items) for _, items in days)
            for index, (mosaic, valid) in enumerate(
                _in_order(calls, job.ahead(days, 40, 20), job.stop)
            ):
                day, items = days[index]
                share = 100 * valid.sum() / (shape[1] * shape[2])
                found = f"{len(items)} scenes, {share:.1f} % of the block valid"
                job.log_day("", index, len(days), day, found)
                if mosaic is not None:
                    kept[index] = 1
                    all_bands[index] = job.on_block(mosaic)
                    all_masks[index] = job.on_block(valid.astype(np.uint8))
            job.missing_scenes.check(
                sum(len(items) for _, items in days), settings.max_missing_percent
            )
            group.attrs.update(job.missing_scenes.attributes())
            create_array(group, "kept", kept.shape, kept.shape, np.uint8)[:] = kept


class _RadarDays:
    """Daily mosaics of Sentinel-1, of one direction."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.options = ReadOptions(job.provider.s1_resampling, True)
        self.keys = [job.provider.s1_assets[channel] for channel in CHANNELS]

    def read(self, items: Sequence[SourceItem]) -> NDArray[np.int16]:
        """(H, W, 2) mosaic of a day on the box."""
        mosaic = np.zeros((*self.job.inside.shape, len(CHANNELS)), np.int16)
        acquisitions = [Acquisition(item, self.job.missing_scenes) for item in items]
        begun = [(acquisition, self._start(item)) for acquisition, item in standing(acquisitions)]
        for acquisition, futures in begun:
            while (item := acquisition.item) is not None:
                power = _gathered([(acquisition, item, future) for future in futures])
                if power is not None:
                    channels = [power_to_scaled_decibels(values) for values in power]
                    add_to_mosaic(mosaic, np.stack(channels, axis=-1))
                    break
                if acquisition.item is not None:
                    futures = self._start(acquisition.item)
        mosaic[~self.job.inside] = 0
        return mosaic

    def _start(self, item: SourceItem) -> list[Future[NDArray[Any]]]:
        return [self.job.start(item, key, "float32", self.options) for key in self.keys]


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
            (T,) uint8: 1 where the day has a value in the block; attributes as there.

    Raises:
        ReadError: an asset cannot be read, or too many are lost.
        OutputError: the output cannot be written.
    """
    manifest = Manifest.read(manifest_path)
    with _job(roi_path, window, source, settings) as job:
        items = known_directions(
            _block_items(manifest, part, job.geobox),
            manifest.orbits,
            job.provider,
            job.reader.tags,
            job.missing_scenes,
            job.pool,
        )
        scenes = len(items) + job.missing_scenes.count
        streams = {orbit: _days([i for i in items if i.orbit == orbit]) for orbit in ORBITS}
        dates = {
            f"{orbit}_dates": [day.isoformat() for day, _ in days]
            for orbit, days in streams.items()
        }
        mosaics = _RadarDays(job)
        with create_block_file(output, dates) as group:
            for orbit, days in streams.items():
                shape = (len(days), *job.block.shape, len(CHANNELS))
                images = create_array(
                    group, orbit, shape, (1, CHUNK, CHUNK, len(CHANNELS)), np.int16
                )
                kept = np.zeros(len(days), np.uint8)
                calls = (partial(mosaics.read, day_items) for _, day_items in days)
                for index, mosaic in enumerate(_in_order(calls, job.ahead(days, 32, 16), job.stop)):
                    day, day_items = days[index]
                    kept[index] = mosaic.any()
                    found = f"{len(day_items)} scenes"
                    job.log_day(f"{orbit} ", index, len(days), day, found)
                    if kept[index]:
                        images[index] = job.on_block(mosaic)
                create_array(group, f"{orbit}_kept", kept.shape, kept.shape, np.uint8)[:] = kept
            job.missing_scenes.check(scenes, settings.max_missing_percent)
            group.attrs.update(job.missing_scenes.attributes())
