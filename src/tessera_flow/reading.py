"""Reading scenes onto a block's grid, exactly, whatever the window.

odc-stac schedules the reads; the driver here does each of them. GDAL's defaults make the
result of a reprojection depend on the window that is read (an approximate transformer, a
kernel scale estimated per window): a seam between blocks. `WarpedVRT` with a tolerance of
1e-9 and the kernel scale fixed at 1 gives the same pixels for any window, equal to an
exact bilinear computation.
"""

from __future__ import annotations

import datetime
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import odc.stac
import pyproj
import pystac
import rasterio
import requests
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.loader import RioDriver
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from .access import Access
from .errors import ReadError
from .hrefs import is_url, keep_secrets_out_of_log, public_href, redacted
from .items import SourceItem
from .providers import Provider

log = logging.getLogger(__name__)
keep_secrets_out_of_log("rasterio._env")

KERNEL_MARGIN = 3
"""Pixels around the overlap that a resampling kernel can still reach."""

T = TypeVar("T")

LATTICE_TOLERANCE = 1e-6
"""Part of a pixel by which two lattices may differ and still count as one."""


@dataclass(frozen=True)
class ReadOptions:
    """How one read is made.

    Attributes:
        resampling: `bilinear` or `nearest`.
        declare_nodata: treat 0 as no data in files that declare none, so that it is never
            mixed into a value (`arithmetic: exact`).
        attempts: tries of one read.
        timeout: seconds to wait for one request.
        threads: reads made side by side.
    """

    resampling: Literal["bilinear", "nearest"]
    declare_nodata: bool
    attempts: int = 5
    timeout: float = 60.0
    threads: int = 8


def read_window(
    dataset: rasterio.DatasetReader, geobox: GeoBox, options: ReadOptions
) -> tuple[tuple[slice, slice], NDArray[Any]]:
    """Read band 1 of `dataset` on the pixels of `geobox` that it can reach.

    Where both lattices coincide pixels are copied; else resampled exactly.

    Returns:
        (rows, columns) of the part of `geobox`, and that part's pixels in the dataset's
        dtype; 0 where there is no data.
    """
    rows, columns = _overlap(dataset, geobox)
    part = geobox[rows, columns]
    if 0 in part.shape:
        return (rows, columns), np.zeros(part.shape, dataset.dtypes[0])
    offset = _lattice_offset(dataset, part)
    if offset is not None:
        return _copy(dataset, rows, columns, offset, options)
    nodata = _source_nodata(dataset, options)
    height, width = part.shape
    with WarpedVRT(
        dataset,
        crs=str(part.crs),
        transform=part.affine,
        height=height,
        width=width,
        resampling=Resampling[options.resampling],
        src_nodata=nodata,
        nodata=0 if nodata is not None else None,
        tolerance=1e-9,
        XSCALE=1,
        YSCALE=1,
    ) as vrt:
        return (rows, columns), vrt.read(1)


def _source_nodata(dataset: rasterio.DatasetReader, options: ReadOptions) -> float | None:
    """The value never to be mixed into another, or None.

    Raises:
        ReadError: whole numbers with another no-data value than 0 are to be interpolated:
            GDAL knows one such value, and 0 is no data in these products.
    """
    nodata: float | None = dataset.nodata
    if not options.declare_nodata:
        return nodata
    if nodata is None:
        return 0
    whole = np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer)
    if whole and nodata != 0 and options.resampling == "bilinear":
        raise ReadError(
            f"{public_href(dataset.name)} declares {nodata:g} as no data, but in Sentinel-2 bands "
            "0 is no data: correct the file (gdal_edit.py -a_nodata 0)."
        )
    return nodata


def _overlap(dataset: rasterio.DatasetReader, geobox: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of `geobox` that lie over the dataset, with a margin."""
    bounds = dataset.bounds
    if dataset.crs is None:
        raise ReadError(f"{public_href(dataset.name)} has no coordinate reference system.")
    target = pyproj.CRS.from_user_input(str(geobox.crs))
    source = pyproj.CRS.from_user_input(dataset.crs)
    height, width = geobox.shape
    if not source.equals(target):
        transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)
        bounds = transformer.transform_bounds(
            bounds[0], bounds[1], bounds[2], bounds[3], densify_pts=21
        )
    if not np.isfinite(bounds).all():
        return slice(0, height), slice(0, width)
    inverse = ~geobox.affine
    (x0, y0), (x1, y1) = inverse @ (bounds[0], bounds[3]), inverse @ (bounds[2], bounds[1])
    reach = KERNEL_MARGIN * max(1.0, abs(dataset.transform.a / geobox.affine.a))
    top = int(np.clip(np.floor(min(y0, y1) - reach), 0, height))
    left = int(np.clip(np.floor(min(x0, x1) - reach), 0, width))
    bottom = int(np.clip(np.ceil(max(y0, y1) + reach), top, height))
    right = int(np.clip(np.ceil(max(x0, x1) + reach), left, width))
    return slice(top, bottom), slice(left, right)


def _lattice_offset(dataset: rasterio.DatasetReader, geobox: GeoBox) -> tuple[int, int] | None:
    """(row, column) of the dataset's pixel under the grid's first one, if both share a
    lattice; None otherwise."""
    if not pyproj.CRS.from_user_input(dataset.crs).equals(
        pyproj.CRS.from_user_input(str(geobox.crs))
    ):
        return None
    a, b, _, d, e, _ = tuple(dataset.transform)[:6]
    ga, gb, _, gd, ge, _ = tuple(geobox.affine)[:6]
    if b or d or gb or gd or not np.allclose((a, e), (ga, ge), rtol=1e-12, atol=0):
        return None
    column, row = ~dataset.transform @ (geobox.affine.c, geobox.affine.f)
    if max(abs(column - round(column)), abs(row - round(row))) > LATTICE_TOLERANCE:
        return None
    return round(row), round(column)


def _copy(
    dataset: rasterio.DatasetReader,
    rows: slice,
    columns: slice,
    offset: tuple[int, int],
    options: ReadOptions,
) -> tuple[tuple[slice, slice], NDArray[Any]]:
    row, column = offset
    top, left = max(0, -row), max(0, -column)
    bottom = min(rows.stop - rows.start, dataset.height - row)
    right = min(columns.stop - columns.start, dataset.width - column)
    part = (
        slice(rows.start + top, rows.start + max(top, bottom)),
        slice(columns.start + left, columns.start + max(left, right)),
    )
    if bottom <= top or right <= left:
        return part, np.zeros((max(0, bottom - top), max(0, right - left)), dataset.dtypes[0])
    pixels = dataset.read(
        1, window=RasterioWindow(column + left, row + top, right - left, bottom - top)
    )
    if dataset.nodata is not None and dataset.nodata != 0:
        missing = np.isnan(pixels) if np.isnan(dataset.nodata) else pixels == dataset.nodata
        pixels[missing] = 0
    return part, pixels


class _ExactReader:
    def __init__(self, source: Any, driver: ExactDriver) -> None:
        self._source = source
        self._driver = driver

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: Any = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], Any]:
        part, pixels = self._driver.read(self._source.uri, dst_geobox)
        pixels = self._driver.as_dtype(pixels, np.dtype(cfg.dtype), self._source.uri)
        if dst is not None:
            dst[part] = pixels
            return part, dst[part]
        return part, pixels


class ExactDriver(RioDriver):
    """odc-loader driver that reads through `read_window`, with retries.

    Args:
        options: how to read.
        gdal: GDAL settings of the provider.
        labels: unsigned address to "asset Y of item X", for messages.
        access: how to open an address; asked at every try, since a token can expire between
            two.
    """

    def __init__(
        self,
        options: ReadOptions,
        gdal: Mapping[str, str],
        labels: Mapping[str, str],
        access: Callable[[str, bool], Access],
    ) -> None:
        super().__init__()
        self.access = access
        self.options = options
        self.gdal = dict(gdal)
        self.labels = labels

    def capture_env(self) -> dict[str, Any]:
        """GDAL settings for the reading threads."""
        return self.gdal

    def open(self, src: Any, ctx: Any) -> Any:
        """A reader of one band of one item."""
        return _ExactReader(src, self)

    def as_dtype(self, pixels: NDArray[Any], dtype: np.dtype[Any], uri: str) -> NDArray[Any]:
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
            address = public_href(uri)
            raise ReadError(
                f"Cannot use {self.labels.get(address, address)} ({address}): it holds "
                f"{pixels.dtype} values from {pixels.min()} to {pixels.max()} that are no "
                f"{dtype} numbers. Check that it is the product it claims to be."
            )
        return converted

    def read(self, uri: str, geobox: GeoBox) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Open and read, trying again after a pause that doubles each time.

        Raises:
            ReadError: the last try failed too.
        """
        return self.use(uri, lambda dataset: read_window(dataset, geobox, self.options))

    def use(self, uri: str, what: Callable[[rasterio.DatasetReader], T]) -> T:
        """Open and do something with the dataset, trying again as `read` does."""
        for attempt in range(1, self.options.attempts + 1):
            signed = uri
            try:
                access = self.access(uri, attempt > 1)
                signed = access.href
                with (
                    rasterio.Env(**access.gdal),
                    rasterio.open(_fresh(signed, attempt), sharing=False) as dataset,
                ):
                    return what(dataset)
            except (rasterio.errors.RasterioError, requests.RequestException) as error:
                address = public_href(uri)
                label = self.labels.get(address, address)
                cause = redacted(str(error).splitlines()[0], signed)
                missing = not is_url(address) and "No such file" in cause
                if attempt == self.options.attempts or missing:
                    raise ReadError(
                        f"Cannot read {label} ({address}) after {attempt} tries: {cause}. Check "
                        "that the archive is complete and reachable, and run again."
                    ) from None
                pause = 0.5 * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                log.warning(
                    "try %d of %s failed (%s); again in %.1f s", attempt, label, cause, pause
                )
                time.sleep(pause)
        raise AssertionError("attempts is at least 1")


def _fresh(uri: str, attempt: int) -> str:
    """The address under a name that GDAL has not seen: it remembers for good that a file
    could not be opened, and the bytes it got. A fragment is not sent to the server."""
    return f"/vsicurl/{uri}#{attempt}" if attempt > 1 and is_url(uri) else uri


def load_assets(
    items: Iterable[SourceItem],
    assets: Mapping[str, str],
    geobox: GeoBox,
    particulars: Provider,
    options: ReadOptions,
) -> dict[str, NDArray[Any]]:
    """Read assets of items on a grid, one image per item, in the order given.

    Args:
        items: N scenes.
        assets: asset key to dtype.
        geobox: the grid, (H, W).
        particulars: of the provider.
        options: how to read.

    Returns:
        asset key to (N, H, W) array.

    Raises:
        ReadError: an asset cannot be read.
    """
    items = list(items)
    loaded = odc.stac.load(
        [_pystac_item(item, geobox) for item in items],
        bands=list(assets),
        geobox=geobox,
        dtype=dict(assets),
        nodata=0,
        resampling=options.resampling,
        groupby="id",
        preserve_original_order=True,
        pool=options.threads,
        driver=_driver(items, assets, particulars, options),
        stac_cfg={"*": {"warnings": "ignore"}},
        fail_on_error=True,
    )
    return {key: loaded[key].values for key in assets}


def read_tags(
    item: SourceItem, key: str, particulars: Provider, options: ReadOptions
) -> dict[str, str]:
    """Tags of an asset's raster; its header is read, no pixel.

    Raises:
        ReadError: the asset cannot be read.
    """
    driver = _driver([item], [key], particulars, options)
    with rasterio.Env(**driver.capture_env()):
        return driver.use(item.stac["assets"][key]["href"], lambda dataset: dict(dataset.tags()))


def _driver(
    items: Iterable[SourceItem],
    keys: Iterable[str],
    particulars: Provider,
    options: ReadOptions,
) -> ExactDriver:
    keys = list(keys)
    labels = {
        public_href(item.stac["assets"][key]["href"]): f"asset {key} of item {item.id}"
        for item in items
        for key in keys
    }
    gdal = {option.name: option.value for option in particulars.gdal_options}
    gdal["GDAL_HTTP_TIMEOUT"] = f"{options.timeout:g}"
    return ExactDriver(options, gdal, labels, particulars.access)


def _pystac_item(item: SourceItem, geobox: GeoBox) -> pystac.Item:
    """The item for odc-stac: what to open, and nothing to plan by.

    The grid serves as footprint: published ones are simplified, and odc-stac would leave out
    pixels beyond them, differently for each block. Types and roles are set, since odc-stac
    passes over assets that others mark as metadata; the files say for themselves where they
    lie.
    """
    found = pystac.Item(
        id=item.id,
        geometry=geobox.geographic_extent.json,
        bbox=list(geobox.geographic_extent.boundingbox),
        datetime=datetime.datetime.combine(item.date, datetime.time(), datetime.UTC),
        properties={},
        collection=item.stac["collection"],
    )
    for key, asset in item.stac["assets"].items():
        found.add_asset(
            key, pystac.Asset(asset["href"], media_type=pystac.MediaType.COG, roles=["data"])
        )
    return found
