"""Read the Zarr layout of published embeddings, from a URL or a folder.

    zarr.json                   geoemb: attributes, and the metadata of everything below
    utm{NN}/embeddings          int8     (time, band, y, x), one group per UTM zone
    utm{NN}/scales              float32  (time, y, x)
    utm{NN}/time, band, y, x    integer years; pixel centres in EPSG:326NN

The grid of a zone is in the northern CRS for both hemispheres: northings are negative south of the
equator. A scale that is not finite marks a pixel without an embedding: NaN is water (or no data),
+inf, the fill value, is not written yet. A chunk that does not exist therefore has no embeddings,
unless the store has a list of its files (`listed_store`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from ..errors import ItemError, ReadError, TesseraFlowError, TileError
from ..region.grid import RegionGrid, Window
from ..urls import redacted
from . import STORE_DIM, zone_name
from .area import lonlat_boxes, overlaps_any
from .http_store import CONNECTIONS, HttpStore
from .listed_store import ListedStore, listed_files
from .manifest import StoredZone, StoreManifest
from .metadata import FILE_LIST, METADATA, model_of, stated_version
from .pixels import Part
from .stores import Store

NEAR_BORDER = 0.1
"""Degrees: a tile of 0.1 degree is stored in the zone of its centre and can reach beyond it."""
_WINDOW = 512
"""Edge in pixels of what is read at once; also of the parts of a sparse selection."""
_CHUNK = 32
_DENSE = 1 / 16


@contextmanager
def opened(store: Store) -> Iterator[tuple[zarr.Group, str]]:
    """Open a Zarr store for reading; yield its root and the SHA-256 of its metadata.

    Raises:
        ItemError: it is not a Zarr store.
        ReadError: it cannot be reached.
    """
    source: ZarrStore = (
        HttpStore(store.location, store.policy)
        if store.is_remote
        else LocalStore(store.folder, read_only=True)
    )
    try:
        with _store_errors(store):
            text = sync(source.get(METADATA, default_buffer_prototype()))
            if text is None:
                raise ItemError(_not_zarr(store))
            sha256 = hashlib.sha256(text.to_bytes()).hexdigest()
            root = zarr.open_group(source, mode="r", zarr_format=3)
            if "provenance" in root.attrs:  # written by tessera-flow, with a list of its files
                root = zarr.open_group(_listed(source, store), mode="r", zarr_format=3)
        with zarr.config.set({"async.concurrency": CONNECTIONS}):
            yield root, sha256
    finally:
        source.close()


def _listed(source: ZarrStore, store: Store) -> ZarrStore:
    """Return a store in which a missing file is an error, if it has a list of its files."""
    text = sync(source.get(FILE_LIST, default_buffer_prototype()))
    if text is None:
        return source
    kind, remedy = _damage(store)
    try:
        listed = listed_files(text.to_bytes())
    except ValueError as error:
        raise ItemError(f"{FILE_LIST} of {store} is damaged ({error}). {remedy}") from None
    return ListedStore(
        source,
        listed,
        lambda message: kind(
            f"The Zarr store {store} is not complete: {message}. {remedy} If it was removed on "
            f"purpose, delete {FILE_LIST} in the store."
        ),
    )


def _damage(store: Store) -> tuple[type[ReadError | TileError], str]:
    """Return the error of a store that cannot be read, and the remedy."""
    if store.is_remote:
        return ReadError, "Run again; if the error remains, the store is damaged."
    return TileError, "Copy it again."


def _not_zarr(store: Store) -> str:
    if store.is_remote:
        return (
            f"{store} has no {METADATA}, so it is not a Zarr store (format 3). Only such stores "
            "are read from a URL: download tiles of the NPY layout, and set geotessera.location "
            "to their folder."
        )
    return (
        f"{store} is not a store of published embeddings: it has neither {METADATA} (Zarr) nor "
        "registry.parquet or manifest.parquet (NPY tiles). Set geotessera.location to the folder "
        "or URL of a complete store."
    )


@contextmanager
def _store_errors(store: Store) -> Iterator[None]:
    """Raise the errors of zarr and its codecs as errors of this package."""
    try:
        yield
    except TesseraFlowError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = redacted(" ".join(str(error).split()) or type(error).__name__, store.location)
        kind, remedy = _damage(store)
        raise kind(f"The Zarr store {store} cannot be read ({reason}). {remedy}") from None


def list_zones(
    store: Store, grid: RegionGrid, year: int, may_be_empty: bool = False
) -> StoreManifest:
    """List the UTM zones of a store that overlap a region's blocks.

    Args:
        store, grid, year: as for `listing.list_published`.
        may_be_empty: no zone, or none with the year, is a warning and not an error.

    Raises:
        ItemError: the store is not of this layout, is another version than the configured one,
            does not have the year, or does not cover the region.
        ReadError: the store cannot be reached.
    """
    zones, without, years = [], [], set()
    with opened(store) as (root, sha256), _store_errors(store):
        attributes = dict(root.attrs)
        version = stated_version(store, attributes)
        for number in _near_zones(grid):
            if zone_name(number) not in root:
                continue
            zone, its_years = _zone(store, root, number, year)
            if not overlaps_any(zone, grid):
                continue
            years |= set(its_years)
            if zone.time >= 0:
                zones.append(zone)
            else:
                without.append(zone.name)
    if not zones and years and not may_be_empty:
        raise ItemError(
            f"{store} has no embeddings of {year}; it has {', '.join(map(str, sorted(years)))}: "
            "choose another period."
        )
    if not zones and not may_be_empty:
        raise ItemError(
            f"{store} has no UTM zone that overlaps region {grid.name}: it is outside the store's "
            "coverage; compute it (source: scenes)."
        )
    return StoreManifest(
        layout="zarr",
        location=str(store),
        version=version,
        variant=store.variant,
        year=year,
        zones=tuple(zones),
        metadata_sha256=sha256,
        model=model_of(attributes),
        warnings=tuple(_lacking(store, year, bool(zones), without)),
    )


def _lacking(store: Store, year: int, has_zones: bool, without: list[str]) -> Iterator[str]:
    """Yield what the store does not have of a region."""
    for name in without:
        yield f"{name} of {store} has no embeddings of {year}."
    if not has_zones and not without:
        yield f"{store} has no UTM zone that overlaps the region."


def _near_zones(grid: RegionGrid) -> list[int]:
    """Return the UTM zones that pixels of a region can be in."""
    numbers = set()
    for west, _, east, _ in lonlat_boxes(grid):
        first, last = (math.floor((v + 180) / 6) for v in (west - NEAR_BORDER, east + NEAR_BORDER))
        numbers |= {n % 60 + 1 for n in range(first, last + 1)}
    return sorted(numbers)


def _zone(store: Store, root: zarr.Group, number: int, year: int) -> tuple[StoredZone, list[int]]:
    """Return a zone after checking its layout, and its years; `time` is -1 without `year`."""
    name = zone_name(number)
    group: Any = root[name]
    where = f"{name} of {store}"
    codes, scales = _array(group, "embeddings", where), _array(group, "scales", where)
    years, x, y = (_array(group, axis, where) for axis in ("time", "x", "y"))
    times: Any = years[:]
    sides: Any = (x[0], x[-1], y[0], y[-1])
    shape = (years.shape[0], y.shape[0], x.shape[0])
    actual = codes.shape, str(codes.dtype), scales.shape, str(scales.dtype), str(years.dtype.kind)
    expected = (shape[0], STORE_DIM, *shape[1:]), "int8", shape, "float32", "i"
    if actual != expected:
        raise ItemError(
            f"{where} is not of the published layout: (embeddings, scales, type of time) are "
            f"{actual}, not {expected}."
        )
    code, transform = group.attrs.get("proj:code"), group.attrs.get("spatial:transform")
    if code != f"EPSG:{32600 + number}":
        raise ItemError(f"{where} has the CRS {code}, not EPSG:{32600 + number}.")
    a, b, c, d, e, f = (float(v) for v in list(transform or ())[:6] or [math.nan] * 6)
    ends = (c + a / 2, c + a * (shape[2] - 0.5), f + e / 2, f + e * (shape[1] - 0.5))
    regular = a > 0 and e == -a and b == d == 0
    if not regular or any(
        abs(float(side) - end) > 1e-3 * a for side, end in zip(sides, ends, strict=True)
    ):
        raise ItemError(
            f"{where} has the transform {transform}, which does not agree with its coordinates "
            "x and y."
        )
    known = [int(v) for v in times]
    return (
        StoredZone(
            crs=code,
            transform=(a, b, c, d, e, f),
            shape=(shape[1], shape[2]),
            zone=number,
            time=known.index(year) if year in known else -1,
        ),
        known,
    )


def _array(group: Any, name: str, where: str) -> zarr.Array[Any]:
    array = group.get(name) if isinstance(group, zarr.Group) else None
    if not isinstance(array, zarr.Array):
        raise ItemError(f"{where} is not of the published layout: it has no array {name}.")
    return array


@contextmanager
def opened_parts(
    store: Store, manifest: StoreManifest, grid: RegionGrid
) -> Iterator[list[ZonePart]]:
    """Open the zones of a list.

    Raises:
        ItemError: the metadata of the store have changed since the list was made.
        ReadError, TileError: the store cannot be read, also while the parts are in use.
    """
    with opened(store) as (root, sha256):
        if sha256 != manifest.metadata_sha256:
            raise ItemError(
                f"{store} has changed since its list was made: list it again (--forcerun "
                "store_tiles)."
            )
        yield [ZonePart(store, root, zone, grid) for zone in manifest.zones]


@dataclass(frozen=True)
class OpenZone:
    """A UTM zone of an open store, in one year.

    Attributes:
        store: where it is.
        stored: its grid.
        version: of the dataset, such as `v1.1`; None if it is not known.
        attributes: of the store.
    """

    store: Store
    stored: StoredZone
    version: str | None
    attributes: Mapping[str, Any]
    group: Any

    def read(self, window: Window) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return codes (h, w, 128) and scales (h, w) of a window as they are stored; codes are 0
        where no scale is finite.

        Raises:
            TileError, ReadError: the store cannot be read.
        """
        rows, columns = window.slices
        with _store_errors(self.store):
            scales = np.asarray(self.group["scales"][self.stored.time, rows, columns])
            if not np.isfinite(scales).any():
                return np.zeros((*window.shape, STORE_DIM), np.int8), scales
            codes = self.group["embeddings"][self.stored.time, :, rows, columns]
        return np.ascontiguousarray(np.moveaxis(codes, 0, -1)), scales


@contextmanager
def opened_zone(store: Store, number: int, year: int) -> Iterator[OpenZone]:
    """Open a UTM zone (1 to 60) of a store.

    Raises:
        ItemError: the store is not of this layout, or has not this zone or year.
        ReadError, TileError: the store cannot be read.
    """
    with opened(store) as (root, _):
        with _store_errors(store):
            attributes = dict(root.attrs)
            version = stated_version(store, attributes)
            if zone_name(number) not in root:
                raise ItemError(f"{store} has no embeddings in UTM zone {number}.")
            stored, years = _zone(store, root, number, year)
            group = root[stored.name]
        if stored.time < 0:
            raise ItemError(
                f"{stored.name} of {store} has no embeddings of {year}; it has "
                f"{', '.join(map(str, sorted(years)))}."
            )
        yield OpenZone(store, stored, version, attributes, group)


class ZonePart(Part):
    """A UTM zone of a Zarr store."""

    sparse = True

    def __init__(
        self, store: Store, root: zarr.Group, stored: StoredZone, grid: RegionGrid
    ) -> None:
        super().__init__(stored, grid)
        with _store_errors(store):
            group: Any = root[stored.name]
        self._store = store
        self._zone, self._time = stored.zone, stored.time
        self._codes, self._scales = group["embeddings"], group["scales"]

    def owns(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether the longitude of each point is in the zone."""
        result: NDArray[np.bool_] = np.floor((lon + 180) / 6).astype(int) % 60 + 1 == self._zone
        return result

    def scales(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.float32]:
        """See `Part.scales`."""
        result = np.empty(len(row), np.float32)
        for index, rows, columns in _windows(row, column):
            with _store_errors(self._store):
                window = self._scales[self._time, rows, columns]
            result[index] = window[row[index] - rows.start, column[index] - columns.start]
        return result

    def codes(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.int8]:
        """See `Part.codes`."""
        result = np.empty((len(row), STORE_DIM), np.int8)
        for index, rows, columns in _windows(row, column):
            with _store_errors(self._store):
                window = self._codes[self._time, :, rows, columns]
            result[index] = window[:, row[index] - rows.start, column[index] - columns.start].T
        return result


def _windows(
    row: NDArray[np.intp], column: NDArray[np.intp], edge: int = _WINDOW
) -> Iterator[tuple[NDArray[np.intp], slice, slice]]:
    """Divide pixels into windows that are read at once.

    Yields:
        (index of the pixels, rows, columns). A window with few of its pixels, which a coarser
        grid leads to, is divided into chunks.
    """
    key = (row // edge).astype(np.int64) * 2**31 + column // edge
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    for index in np.split(order, starts[1:]):
        rows = slice(int(row[index].min()), int(row[index].max()) + 1)
        columns = slice(int(column[index].min()), int(column[index].max()) + 1)
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        if edge > _CHUNK and len(index) < _DENSE * area:
            for inner, inner_rows, inner_columns in _windows(row[index], column[index], _CHUNK):
                yield index[inner], inner_rows, inner_columns
        else:
            yield index, rows, columns
