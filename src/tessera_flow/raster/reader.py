"""Reading one asset, wherever it lies: what failed, and what that means, is told apart here."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
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
from ..urls import is_url, public_href, redacted
from .failures import Failure, MissingSceneError
from .http_range import RangeClient, RemoteFile
from .resample import Before, Part, ReadOptions, block_ranges, nothing, read_window
from .retry import Attempts, RetryPolicy

log = logging.getLogger(__name__)

DECODE_TRIES = 2
"""A decode error from bytes that arrived whole is the object's own, if it comes twice."""

CACHE_BYTES = 2**28
"""GDAL's block cache: its default, a share of the machine's memory, knows no job's limit."""


@dataclass(frozen=True)
class AssetAddress:
    """One raster of one scene."""

    item: str
    key: str
    href: str

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"asset {self.key} of item {self.item}"


T = TypeVar("T")


class Reader:
    """Reads assets for many threads.

    Args:
        access: of the provider.
        policy: when a failed request is made again.
        gdal: GDAL options of the provider.
        connections: most requests at a time.
    """

    def __init__(
        self,
        access: GivesAccess,
        policy: RetryPolicy | None = None,
        gdal: Mapping[str, str] | None = None,
        connections: int = 16,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.client = RangeClient(access, self.policy, connections)
        self._access = access
        self._gdal = dict(gdal or {})
        # Many threads wait for the archive; more than there are cores to decode only take
        # memory and the processor's cache from one another.
        self._decoders = threading.Semaphore(len(os.sched_getaffinity(0)))
        # Holds for the whole process, so it is set here and not by the reading threads.
        self._cache = rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)

    def __enter__(self) -> Reader:
        self._cache.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End what is under way: no try is made again, and no read begins."""
        self.policy.stop.set()
        self.client.close()
        self._cache.__exit__()

    def read(self, asset: AssetAddress, geobox: GeoBox, dtype: str, options: ReadOptions) -> Part:
        """One asset on the part of a grid that it reaches; the rest holds no data.

        Returns:
            (rows, columns) of the part, and its pixels, (h, w) of `dtype`, 0 where there is
            no data.

        Raises:
            MissingSceneError: the object is missing or corrupt.
            ReadError: it cannot be read, or used.
        """
        try:
            part, pixels = self._use(
                asset,
                lambda dataset, before: read_window(
                    dataset, geobox, options, _described(asset), before
                ),
            )
        except (pyproj.exceptions.ProjError, affine.AffineError) as error:
            raise ReadError(
                f"Cannot use {_described(asset)}: the file does not say where it lies "
                f"({type(error).__name__}). Correct it or remove the item."
            ) from error
        return part, as_dtype(pixels, np.dtype(dtype), asset)

    def tags(self, asset: AssetAddress) -> dict[str, str]:
        """The tags of an asset; its header is read, no pixel.

        Raises:
            MissingSceneError: the object is missing or corrupt.
            ReadError: it cannot be read.
        """
        return self._use(asset, lambda dataset, before: dict(dataset.tags()))

    def _use(self, asset: AssetAddress, what: Callable[[Any, Before], T]) -> T:
        if self.policy.stop.is_set():
            raise ReadError(
                f"{_described(asset)} was not read, as the job had ended: see the error before."
            )
        with rasterio.Env(**self._gdal):
            if is_url(asset.href):
                return self._use_remote(asset, what)
            if "://" in asset.href:
                return self._use_by_gdal(asset, what)
            return self._use_file(asset, what)

    def _use_remote(self, asset: AssetAddress, what: Callable[[Any, Before], T]) -> T:
        cause = ""
        for _ in range(DECODE_TRIES):
            file = RemoteFile(self.client, asset.href, asset.label)
            with ExitStack() as stack:
                try:
                    dataset = stack.enter_context(
                        rasterio.open("asset.tif", opener=file.opener, sharing=False)
                    )
                    result = what(dataset, partial(self._fetched, file, dataset, stack))
                    # GDAL takes what it could not read of a file's index for blocks of no data.
                    if file.failure is not None:
                        raise file.failure
                    return result
                except rasterio.errors.RasterioError as error:
                    if file.failure is not None:
                        raise file.failure from None
                    cause = _decode_cause(error)
                    log.warning("%s cannot be decoded (%s)", asset.label, cause)
        raise _corrupt(asset, cause)

    def _fetched(
        self,
        file: RemoteFile,
        dataset: rasterio.DatasetReader,
        stack: ExitStack,
        window: RasterioWindow,
    ) -> None:
        """Fetch what a window needs, then wait for a turn to decode it."""
        file.load(block_ranges(dataset, window))
        stack.enter_context(self._decoders)

    def _use_file(self, asset: AssetAddress, what: Callable[[Any, Before], T]) -> T:
        try:
            with self._decoders, rasterio.open(asset.href, sharing=False) as dataset:
                return what(dataset, nothing)
        except rasterio.errors.RasterioError as error:
            cause = _decode_cause(error)
        # A disk that fails looks like a corrupt file to GDAL: a plain read tells them apart.
        try:
            with open(asset.href, "rb") as file:
                while file.read(2**20):
                    pass
        except FileNotFoundError:
            described = _described(asset)
            raise MissingSceneError(
                f"{described} does not exist.", f"{described}: no such file"
            ) from None
        except OSError as error:
            raise ReadError(
                f"Cannot read {_described(asset)}: {os.strerror(error.errno or 0).lower()}. Check "
                "the disk and its permissions, and run again."
            ) from None
        raise _corrupt(asset, cause)

    def _use_by_gdal(self, asset: AssetAddress, what: Callable[[Any, Before], T]) -> T:
        """An address of another kind (s3://, gs://): GDAL does all, and does not say why it
        failed, so that no failure can be told from an outage."""
        fresh = False

        def attempt() -> T | Failure:
            nonlocal fresh
            access = self._access(asset.href, fresh=fresh)
            fresh = True
            try:
                with (
                    rasterio.Env(**access.gdal),
                    rasterio.open(access.href, sharing=False) as dataset,
                ):
                    return what(dataset, nothing)
            except rasterio.errors.RasterioError as error:
                return Failure("transient", redacted(_decode_cause(error), access.href))

        result, count = Attempts(self.policy).call(attempt, asset.label)
        if isinstance(result, Failure):
            raise ReadError(
                f"Cannot read {_described(asset)} after {count} attempts: {result.cause}. Check "
                "that the archive is complete and reachable, and run again."
            )
        return result


def _described(asset: AssetAddress) -> str:
    return f"{asset.label} ({public_href(asset.href)})"


def _decode_cause(error: Exception) -> str:
    """GDAL's words, without the internal name of the file."""
    inner = error.__cause__ or error
    return str(inner).splitlines()[0][:300]


def _corrupt(asset: AssetAddress, cause: str) -> MissingSceneError:
    what = _described(asset)
    return MissingSceneError(
        f"{what} is corrupt at the archive: it came whole and cannot be decoded ({cause}).",
        f"{what}: corrupt ({cause})",
    )


def as_dtype(pixels: NDArray[Any], dtype: np.dtype[Any], asset: AssetAddress) -> NDArray[Any]:
    """The pixels in another type, if that changes no value.

    Raises:
        ReadError: a value does not fit, or fractions would be cut off.
    """
    if pixels.dtype == dtype:
        return pixels
    with np.errstate(invalid="ignore", over="ignore"):
        converted = pixels.astype(dtype)
    fits = np.issubdtype(dtype, np.floating) or bool((converted == pixels).all())
    if not fits:
        raise ReadError(
            f"Cannot use {_described(asset)}: it holds {pixels.dtype} values from {pixels.min()} "
            f"to {pixels.max()} that are no {dtype} numbers. Check that it is the product it "
            "claims to be."
        )
    return converted
