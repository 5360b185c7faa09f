"""Read an asset from a URL, an object store or a disk, and classify failures."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import affine
import numpy as np
import pyproj
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterioWindow

from ..archives.signing import GivesAccess
from ..errors import ReadError
from ..input_files import NO_FILE, is_special
from ..memory_errors import ran_out_of_memory
from ..urls import is_url, public_href, redacted
from .band import band_index, check_blocks, check_raster, check_values
from .failures import Failure, MissingSceneError, ReplacedError
from .formats import HEAD_BYTES, driver_of, other_format
from .http_range import RangeClient, read_error
from .local_archive import LocalArchive
from .pixels import PixelList, read_pixels
from .remote_file import RemoteFile
from .resample import (
    PlacedPixels,
    Prefetch,
    ReadOptions,
    block_ranges,
    check_crs,
    no_prefetch,
    read_window,
)
from .retry import Attempts, RetryPolicy

log = logging.getLogger(__name__)

DECODE_ATTEMPTS = 2
"""If completely received data cannot be decoded in this many attempts, the object is corrupt."""

OVERVIEW_EDGE = 512
"""Largest edge in pixels of an image from `Reader.overview`."""

VERSIONS = 4
"""An object that is replaced during so many reads in succession fails the read."""

CACHE_BYTES = 2**28
"""GDAL's block cache. Its default is a share of the machine's memory, which ignores the memory
limit of a job."""


@dataclass(frozen=True)
class Asset:
    """One raster of one scene.

    Attributes:
        item: id of the scene.
        key: key of the asset.
        href: unsigned URL, or path.
        band: band of the file (from 1) that the item states; None if it states none.
    """

    item: str
    key: str
    href: str
    band: int | None = None

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"asset {self.key} of item {self.item}"


T = TypeVar("T")


class _RemoteBlocks:
    """Fetches the blocks of windows of a remote raster; then waits for permission to decode them.

    Each call drops the blocks of the calls before that neither it nor a later one needs. The first
    thing it calls is `go_on`.
    """

    def __init__(
        self,
        file: RemoteFile,
        dataset: rasterio.DatasetReader,
        decoders: threading.Semaphore,
        go_on: Callable[[], None],
    ) -> None:
        self._file, self._dataset, self._decoders = file, dataset, decoders
        self._go_on = go_on
        self._held = False
        # The offsets are those of the first band. Other bands are fetched on demand.
        together = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL"
        self._known = dataset.count == 1 or together

    def __call__(self, *windows: RasterioWindow, keep: Sequence[RasterioWindow] = ()) -> None:
        self.release()
        self._go_on()
        if self._known:
            ranges = self._ranges(windows)
            if len(windows) > 1 or keep:
                self._file.forget(ranges | self._ranges(keep))
            self._file.load(ranges)
        self._decoders.acquire()
        self._held = True

    def _ranges(self, windows: Iterable[RasterioWindow]) -> set[tuple[int, int]]:
        return {part for window in windows for part in block_ranges(self._dataset, window)}

    def release(self) -> None:
        """Let another thread decode."""
        if self._held:
            self._held = False
            self._decoders.release()


class Reader:
    """Reads assets; thread-safe.

    Args:
        access: of the provider.
        policy: retries of failed requests.
        gdal: GDAL options of the provider.
        connections: maximum number of concurrent requests.
        folders: folders of a local archive, see `LocalArchive`.

    Attributes:
        archive: the files of a local archive.
    """

    def __init__(
        self,
        access: GivesAccess,
        policy: RetryPolicy | None = None,
        gdal: Mapping[str, str] | None = None,
        connections: int = 16,
        folders: Iterable[str] = (),
    ) -> None:
        self.archive = LocalArchive(folders)
        self.policy = policy or RetryPolicy()
        self.client = RangeClient(access, self.policy, connections)
        self._access = access
        self._gdal = dict(gdal or {})
        # Many threads wait for the archive, but decoding in more threads than cores would only
        # use more memory and cache.
        self._decoders = threading.Semaphore(len(os.sched_getaffinity(0)))
        # This option applies to the process, so it is not set by the reading threads.
        self._cache = rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)

    def __enter__(self) -> Reader:
        self._cache.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop retries and new reads, and close connections."""
        self.policy.stop.set()
        self.client.close()
        self._cache.__exit__()

    def read(self, asset: Asset, geobox: GeoBox, dtype: str, options: ReadOptions) -> PlacedPixels:
        """Read an asset on the part of a grid that it covers; outside there is no data.

        Returns:
            (rows, columns) of the part, and its pixels, (h, w) of `dtype`, 0 for no data.

        Raises:
            MissingSceneError: the object is missing or corrupt.
            ReadError: it cannot be read or used.
        """
        try:
            slices, pixels = self._use(asset, partial(_read, asset, geobox, dtype, options))
        except (pyproj.exceptions.ProjError, affine.AffineError) as error:
            raise _invalid_georeferencing(asset, error) from error
        return slices, as_dtype(pixels, np.dtype(dtype), asset)

    def read_pixels(
        self, asset: Asset, pixels: PixelList, dtype: str, options: ReadOptions
    ) -> NDArray[Any]:
        """Read an asset at N pixels of a grid: (N,) of `dtype`, 0 for no data.

        Raises:
            MissingSceneError, ReadError: see `read`.
        """
        try:
            values = self._use(asset, partial(_read_pixels, asset, pixels, dtype, options))
        except (pyproj.exceptions.ProjError, affine.AffineError) as error:
            raise _invalid_georeferencing(asset, error) from error
        return as_dtype(values, np.dtype(dtype), asset)

    def overview(self, asset: Asset, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Read the complete band of an asset at a reduced resolution, by nearest neighbour.

        Args:
            asset: the asset.
            shape: (H, W) of the result; None: that of the raster, its edges at most
                `OVERVIEW_EDGE`.

        Raises:
            MissingSceneError: the object is missing or corrupt.
            ReadError: it cannot be read, or it is unknown which band it is.
        """

        def use(dataset: Any, prefetch: Prefetch) -> NDArray[Any]:
            band = band_index(dataset, asset.key, asset.band, _described(asset))
            check_blocks(dataset, _described(asset))
            step = -(-max(dataset.shape) // OVERVIEW_EDGE)
            target = shape or tuple(-(-size // step) for size in dataset.shape)
            if not dataset.overviews(band):
                prefetch(RasterioWindow(0, 0, dataset.width, dataset.height))
            pixels: NDArray[Any] = dataset.read(band, out_shape=target)
            return pixels

        return self._use(asset, use)

    def _use(self, asset: Asset, use: Callable[[Any, Prefetch], T]) -> T:
        self._go_on(asset)
        try:
            with rasterio.Env(**self._gdal):
                # A provider can read the s3:// URLs of a bucket by HTTPS.
                in_bucket = asset.href.startswith("s3://")
                if is_url(asset.href) or (in_bucket and is_url(self._access(asset.href).href)):
                    return self._use_remote(asset, use)
                if in_bucket:
                    return self._use_by_gdal(asset, use)
                return self._use_file(asset, use)
        except MemoryError as error:
            raise _out_of_memory(asset) from error

    def _go_on(self, asset: Asset) -> None:
        """Raise a ReadError if the job has ended, so that no read goes on for long after it."""
        if self.policy.stop.is_set():
            raise ReadError(
                f"{_described(asset)} was not read: the job has ended, see the previous error."
            )

    def _use_remote(self, asset: Asset, use: Callable[[Any, Prefetch], T]) -> T:
        attempts = Attempts(self.policy)
        versions = 0
        while True:
            try:
                return self._use_version(asset, use, attempts)
            except ReplacedError as error:
                versions += 1
                if versions == VERSIONS:
                    raise ReadError(
                        f"{str(error).rstrip('.')}, {VERSIONS} times (its ETag, Last-Modified or "
                        "size changed): run again when the archive no longer changes."
                    ) from None
                log.warning("%s Reading it again.", error)

    def _use_version(
        self, asset: Asset, use: Callable[[Any, Prefetch], T], attempts: Attempts
    ) -> T:
        """Use one version of a remote object.

        Raises:
            ReplacedError: the object was replaced in the meantime.
        """
        cause = ""
        for _ in range(DECODE_ATTEMPTS):
            file = RemoteFile(self.client, asset.href, asset.label, attempts)
            head = file.read(0, HEAD_BYTES)
            if (driver := driver_of(head)) is None:
                cause = "it is no GeoTIFF or JPEG 2000 raster"
                continue
            with ExitStack() as stack:
                try:
                    dataset = stack.enter_context(
                        rasterio.open("asset", opener=file.opener, driver=driver, sharing=False)
                    )
                    go_on = partial(self._go_on, asset)
                    blocks = _RemoteBlocks(file, dataset, self._decoders, go_on)
                    stack.callback(blocks.release)
                    result = use(dataset, blocks)
                    # GDAL treats unread parts of a file's block index as blocks without data.
                    if file.failure is not None:
                        raise file.failure
                    return result
                except rasterio.errors.RasterioError as error:
                    if file.failure is not None:
                        raise file.failure from None
                    cause = _decode_cause(error)
                    if ran_out_of_memory(error):
                        raise _out_of_memory(asset, cause) from None
                    log.warning("%s cannot be decoded (%s)", asset.label, cause)
        raise _undecodable(asset, cause, head)

    def _use_file(self, asset: Asset, use: Callable[[Any, Prefetch], T]) -> T:
        def go_on(*_windows: RasterioWindow, keep: Sequence[RasterioWindow] = ()) -> None:
            self._go_on(asset)

        cause = ""
        for _ in range(DECODE_ATTEMPTS):
            try:
                head = _start_of_file(asset.href)
                if (driver := driver_of(head)) is None:
                    cause = "it is no GeoTIFF or JPEG 2000 raster"
                    continue
                with (
                    self._decoders,
                    rasterio.open(asset.href, driver=driver, sharing=False) as dataset,
                ):
                    result = use(dataset, go_on)
                self.archive.add_read(asset.href)
                return result
            except rasterio.errors.RasterioError as error:
                cause = _decode_cause(error)
                if ran_out_of_memory(error):
                    raise _out_of_memory(asset, cause) from None
            except OSError as error:
                raise self._of_system(asset, error) from None
            # For GDAL a failing disk looks like a corrupt file: a plain read distinguishes them.
            try:
                with open(asset.href, "rb") as file:
                    while file.read(2**20):
                        pass
            except OSError as error:
                raise self._of_system(asset, error) from None
        raise _undecodable(asset, cause, head)

    def _of_system(self, asset: Asset, error: OSError) -> ReadError:
        """Return the error for a file that the system does not open or read."""
        described = _described(asset)
        if not isinstance(error, FileNotFoundError):
            cause = os.strerror(error.errno).lower() if error.errno else str(error)
            return ReadError(
                f"Cannot read {described}: {cause}. Check the disk and its permissions, and run "
                "again."
            )
        if doubt := self.archive.doubt(asset.href):
            return ReadError(
                f"Cannot read {described}: it does not exist, but {doubt}. Check that the file "
                "system of the archive is mounted, and run again. If these scenes are permanently "
                "missing, list their ids in `exclude` of the sensor."
            )
        return MissingSceneError(f"{described} does not exist.", f"{described}: no such file")

    def _use_by_gdal(self, asset: Asset, use: Callable[[Any, Prefetch], T]) -> T:
        """Use an asset at an s3:// URL. GDAL does all requests and does not report why they fail,
        so every failure is treated as an outage."""
        fresh = False
        driver = "JP2OpenJPEG" if asset.href.lower().endswith(".jp2") else "GTiff"

        def attempt() -> T | Failure:
            nonlocal fresh
            access = self._access(asset.href, fresh=fresh)
            fresh = True
            try:
                with (
                    rasterio.Env(**access.gdal),
                    rasterio.open(access.href, driver=driver, sharing=False) as dataset,
                ):
                    return use(dataset, no_prefetch)
            except rasterio.errors.RasterioError as error:
                return Failure("transient", redacted(_decode_cause(error), access.href))

        result, count = Attempts(self.policy).call(attempt, asset.label)
        if isinstance(result, Failure):
            raise read_error(result, _described(asset), count)
        return result


def _read(
    asset: Asset, geobox: GeoBox, dtype: str, options: ReadOptions, dataset: Any, prefetch: Prefetch
) -> PlacedPixels:
    options = _checked(asset, dtype, options, dataset)
    return read_window(dataset, geobox, options, _described(asset), prefetch)


def _read_pixels(
    asset: Asset,
    pixels: PixelList,
    dtype: str,
    options: ReadOptions,
    dataset: Any,
    prefetch: Prefetch,
) -> NDArray[Any]:
    options = _checked(asset, dtype, options, dataset)
    return read_pixels(dataset, pixels, options, _described(asset), prefetch)


def _checked(asset: Asset, dtype: str, options: ReadOptions, dataset: Any) -> ReadOptions:
    """Return the options with the band of the asset.

    Raises:
        ReadError: the raster cannot be what the asset is.
    """
    label = _described(asset)
    band = band_index(dataset, asset.key, asset.band, label)
    check_raster(dataset, asset.key, band, label)
    check_crs(dataset, label)
    check_values(dataset.dtypes[band - 1], np.dtype(dtype), label)
    return replace(options, band=band)


def _invalid_georeferencing(asset: Asset, error: Exception) -> ReadError:
    return ReadError(
        f"Cannot use {_described(asset)}: its georeferencing is invalid "
        f"({type(error).__name__}). Correct it or remove the item."
    )


def _described(asset: Asset) -> str:
    return f"{asset.label} ({public_href(asset.href)})"


def _start_of_file(path: str) -> bytes:
    """Return the first bytes of a regular file.

    Raises:
        OSError: it cannot be read, or is no regular file, whose reading might never end.
    """
    if is_special(path):
        raise OSError(NO_FILE)
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _out_of_memory(asset: Asset, cause: str = "") -> ReadError:
    return ReadError(
        f"Cannot read {_described(asset)}: the memory of this job is not enough"
        f"{f' ({cause})' if cause else ''}. Give the job more memory, or set download.threads or "
        "grid.block_size lower."
    )


def _decode_cause(error: Exception) -> str:
    """Return GDAL's message, without the internal file name."""
    inner = error.__cause__ or error
    return str(inner).splitlines()[0][:300]


def _undecodable(asset: Asset, cause: str, head: bytes) -> ReadError:
    """Return the error for an object that was received completely but cannot be decoded."""
    described = _described(asset)
    if "missing codec" in cause:
        return ReadError(
            f"Cannot read {described}: this GDAL ({rasterio.__gdal_version__}) lacks the codec of "
            f"the file ({cause}). The archive is not at fault: install a rasterio with this codec, "
            "or convert the files."
        )
    if name := other_format(head):
        return ReadError(
            f"Cannot read {described}: it is a {name} file, not a GeoTIFF or JPEG 2000 raster. "
            "Unpack or convert it."
        )
    return MissingSceneError(
        f"{described} is corrupt in the archive: it was received completely but cannot be decoded "
        f"({cause}).",
        f"{described}: corrupt ({cause})",
    )


def as_dtype(pixels: NDArray[Any], dtype: np.dtype[Any], asset: Asset) -> NDArray[Any]:
    """Convert pixels to another dtype without changing a value.

    Raises:
        ReadError: a value is out of range or has a fraction.
    """
    if pixels.dtype == dtype:
        return pixels
    with np.errstate(invalid="ignore", over="ignore"):
        converted = pixels.astype(dtype)
    fits = np.issubdtype(dtype, np.floating) or bool((converted == pixels).all())
    if not fits:
        raise ReadError(
            f"Cannot use {_described(asset)}: it has {pixels.dtype} values from {pixels.min()} "
            f"to {pixels.max()}, which cannot be converted to {dtype}. Check that it is the "
            "expected product."
        )
    return converted
