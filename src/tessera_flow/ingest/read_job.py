"""What the days of a job that reads scenes share: pixels, readers, record of missing scenes."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..archives.places import archive_folders
from ..archives.provider import Provider
from ..archives.providers import find_provider
from ..concurrency import ordered_map
from ..config.sections import Download, Sentinel1, Sentinel2
from ..raster.failures import MissingSceneError
from ..raster.odc_driver import asset_of, on_grid
from ..raster.pixels import PixelList
from ..raster.reader import Reader
from ..raster.resample import ReadOptions
from ..raster.retry import RetryPolicy
from ..region.grid import Window, crop
from ..region.mask import read_mask
from ..region.needed import needed_pixels
from ..scenes.manifest import Manifest, SourceItem
from ..urls import is_url
from .missing_scenes import Acquisition, MissingScenes

log = logging.getLogger(__name__)

DAYS_MEMORY = 3 * 2**29
"""Memory for all days read at a time, in bytes."""

MAX_PARALLEL_DAYS = 6
"""Days read at a time: enough to keep the readers busy while a mosaic is composed."""

T = TypeVar("T")


def days_of(
    items: Sequence[SourceItem],
) -> list[tuple[datetime.date, list[SourceItem]]]:
    """Group items by day, in date order; within a day in the order of the manifest."""
    ordered = sorted(items, key=lambda item: item.date)
    return [(day, list(group)) for day, group in groupby(ordered, key=lambda item: item.date)]


def day_attributes(days: Sequence[tuple[datetime.date, list[SourceItem]]]) -> dict[str, Any]:
    """Return the attributes of a block file that state its days and their scenes."""
    return {
        "dates": [day.isoformat() for day, _ in days],
        "items": [[item.id for item in items] for _, items in days],
    }


class Reads:
    """Assets of one item that are being read.

    Args:
        futures: one for each asset.
        finish: makes images of their results.
    """

    def __init__(
        self, futures: Sequence[Future[T]], finish: Callable[[list[T]], list[NDArray[Any]]]
    ) -> None:
        self._futures: Sequence[Future[Any]] = futures
        self._finish: Callable[[list[Any]], list[NDArray[Any]]] = finish

    def images(self) -> list[NDArray[Any]]:
        """Return an image of each asset.

        Raises:
            MissingSceneError: an asset is missing or corrupt.
            ReadError: one cannot be read; also if another one is missing.
        """
        results, missing = [], None
        for future in self._futures:
            try:
                results.append(future.result())
            except MissingSceneError as error:
                missing = missing or error
        self._futures = ()
        if missing is not None:
            raise missing
        return self._finish(results)


class ReadJob:
    """Shared state of the days of one job.

    Attributes:
        shape: (H, W) of the images that are written.
        inside: (h, w) bool, the pixels that are read.
        provider: of the scenes.
        reader: of their assets.
        missing_scenes: record of the missing or corrupt ones.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        inside: NDArray[np.bool_],
        provider: Provider,
        pool: ThreadPoolExecutor,
        reader: Reader,
    ) -> None:
        self.shape = shape
        self.inside = inside
        self.provider = provider
        self.missing_scenes = MissingScenes()
        self.pool = pool
        self.reader = reader

    def covered_by(self, item: SourceItem) -> bool:
        """Return whether a scene may have a pixel of this job."""
        raise NotImplementedError

    def start(
        self, item: SourceItem, keys: Sequence[str], dtype: str, options: ReadOptions
    ) -> Reads:
        """Start to read assets of an item: images of the shape of `inside`."""
        raise NotImplementedError

    def on_block(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return an image of the pixels that are read as it is written."""
        raise NotImplementedError

    def scenes(self, manifest: Manifest) -> list[SourceItem]:
        """Return the scenes of the job in the whole period, in the order of the manifest."""
        items = [item for item in manifest.items if self.covered_by(item)]
        assets = [asset for item in items for asset in [*item.stac["assets"].values()][:1]]
        self.reader.client.witnesses = [a["href"] for a in assets if is_url(a["href"])]
        self.reader.archive.witnesses = [a["href"] for a in assets if not is_url(a["href"])]
        return items

    @property
    def stop(self) -> threading.Event:
        """Set when the job has failed or ended."""
        return self.reader.policy.stop

    def each_day(
        self,
        read: Callable[[Sequence[SourceItem]], T],
        days: Sequence[tuple[datetime.date, list[SourceItem]]],
        day_bytes: int,
        scene_bytes: int,
    ) -> closing[Generator[T, None, None]]:
        """Read days in parallel, as many as `DAYS_MEMORY` allows; results in date order.

        Args:
            read: reads the scenes of a day.
            days: with their scenes.
            day_bytes: memory for a pixel of a day.
            scene_bytes: memory for a pixel of each scene of a day.
        """
        scenes = max((len(items) for _, items in days), default=1)
        pixels = self.inside.size
        memory = max(1, pixels * (day_bytes + scene_bytes * scenes))
        parallel = max(1, min(MAX_PARALLEL_DAYS, DAYS_MEMORY // memory))
        results = ordered_map(read, (items for _, items in days), parallel, stop=self.stop)
        return closing(results)

    def log_day(self, stream: str, index: int, days: int, day: datetime.date, content: str) -> None:
        """Log the progress."""
        client = self.reader.client
        log.info(
            "%sday %d of %d: %s, %s (so far %.1f MB in %d requests)",
            stream, index + 1, days, day, content, client.received / 1e6, client.requests,
        )  # fmt: skip


class WindowJob(ReadJob):
    """The pixels of one block. Only the bounding box of the region inside it is read; with
    published embeddings, that of its patches with holes."""

    def __init__(
        self,
        roi_path: Path,
        window: Window,
        provider: Provider,
        pool: ThreadPoolExecutor,
        reader: Reader,
        published: str | Path | None = None,
    ) -> None:
        inside, geobox = read_mask(roi_path, window)
        inside = needed_pixels(inside, published)
        self.box = _bounding_box(inside)
        super().__init__(window.shape, inside[self.box.slices], provider, pool, reader)
        self.geobox = crop(geobox, self.box)

    def covered_by(self, item: SourceItem) -> bool:
        """See `ReadJob`."""
        return item.overlaps(self.geobox)

    def start(
        self, item: SourceItem, keys: Sequence[str], dtype: str, options: ReadOptions
    ) -> Reads:
        """Start to read assets of an item on the bounding box."""
        futures = [
            self.pool.submit(self.reader.read, asset_of(item, key), self.geobox, dtype, options)
            for key in keys
        ]
        return Reads(futures, lambda placed: on_grid(item, keys, placed, dtype, self.geobox))

    def on_block(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return an image of the bounding box on the full block, 0 outside."""
        if image.shape[:2] == self.shape:
            return image
        result = np.zeros((*self.shape, *image.shape[2:]), image.dtype)
        result[self.box.slices] = image
        return result


class PixelJob(ReadJob):
    """Single pixels of a grid, as an image of (H, W) pixels, row by row, that may end early."""

    def __init__(
        self,
        pixels: PixelList,
        shape: tuple[int, int],
        provider: Provider,
        pool: ThreadPoolExecutor,
        reader: Reader,
    ) -> None:
        inside = np.arange(shape[0] * shape[1]).reshape(shape) < len(pixels)
        super().__init__(shape, inside, provider, pool, reader)
        self.pixels = pixels

    def covered_by(self, item: SourceItem) -> bool:
        """See `ReadJob`."""
        return bool(pixels_covered(self.pixels, item).any())

    def start(
        self, item: SourceItem, keys: Sequence[str], dtype: str, options: ReadOptions
    ) -> Reads:
        """Start to read assets of an item at the pixels."""
        futures = [self.pool.submit(self._read, item, key, dtype, options) for key in keys]
        return Reads(futures, lambda images: images)

    def _read(self, item: SourceItem, key: str, dtype: str, options: ReadOptions) -> NDArray[Any]:
        image = np.zeros(self.shape, dtype)
        values = self.reader.read_pixels(asset_of(item, key), self.pixels, dtype, options)
        image.reshape(-1)[: len(values)] = values
        return image

    def on_block(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the image itself."""
        return image


def pixels_covered(pixels: PixelList, item: SourceItem) -> NDArray[np.bool_]:
    """Return which pixels (N,) the raster of an item may overlap, as `SourceItem.overlaps`."""
    if item.extent is None:
        return np.ones(len(pixels), bool)
    west, south, east, north = item.extent
    a, _, c, _, e, f = tuple(pixels.geobox.affine)[:6]
    left, top = c + a * pixels.columns, f + e * pixels.rows
    covered: NDArray[np.bool_] = np.logical_and.reduce(
        [west < left + a, east > left, south < top, north > top + e]
    )
    return covered


def _bounding_box(inside: NDArray[np.bool_]) -> Window:
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return Window(0, 0, 0, 0)
    return Window(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


@contextmanager
def readers(
    source: Sentinel2 | Sentinel1, settings: Download
) -> Iterator[tuple[Provider, ThreadPoolExecutor, Reader]]:
    """Yield the provider, the threads and the reader of a job."""
    provider = find_provider(source.provider, source.item_format)
    policy = RetryPolicy(settings.attempts, settings.timeout, settings.deadline)
    gdal = {option.name: option.value for option in provider.gdal_options}
    with (
        ThreadPoolExecutor(settings.threads, thread_name_prefix="read") as pool,
        Reader(provider.access, policy, gdal, settings.threads, archive_folders(source)) as reader,
    ):
        yield provider, pool, reader


def results_of(
    started: Sequence[tuple[Acquisition, SourceItem, Reads]],
) -> list[NDArray[Any]] | None:
    """Return the images, or None if one is missing or corrupt. Its acquisition then continues with
    the next duplicate."""
    images: list[NDArray[Any]] = []
    complete = True
    for acquisition, item, reads in started:
        try:
            images += reads.images()
        except MissingSceneError as error:
            acquisition.discard(item, error)
            complete = False
    return images if complete else None
