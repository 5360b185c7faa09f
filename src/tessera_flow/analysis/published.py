"""Open what is compared: products, tiles, or one of them a published Zarr store.

Of a store, the UTM zone and the year of the other side are compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyproj
from affine import Affine

from ..config.path_text import url_with_variables
from ..errors import ConfigError, TileError
from ..geotessera import STORE_DIM, zone_name
from ..geotessera.manifest import SOUTH_SHIFT
from ..geotessera.metadata import METADATA
from ..geotessera.pixels import LARGEST_SCALE
from ..geotessera.stores import Store
from ..geotessera.zones import OpenZone, opened_zone
from ..products.geotiff.writer import Placement
from ..region.grid import Window
from ..urls import is_url, public_href
from .compared import Embeddings, Pixels, Published, open_embeddings, own_record

log = logging.getLogger(__name__)

_CHUNK = 32
"""Edge of the chunks of published stores."""


@contextmanager
def opened_pair(a: str, b: str, year: int | None = None) -> Iterator[tuple[Embeddings, Embeddings]]:
    """Open two sets of embeddings.

    Args:
        a, b: as `open_embeddings` takes them; one of them can be the folder or http(s) URL of a
            store in the published Zarr layout. `${NAME}` in a URL is a variable of the environment.
        year: of the store; by default the calendar year of the other side.

    Raises:
        ConfigError: both are stores, the period of the other side is no calendar year, or it is in
            no UTM zone.
        TileError: there is nothing that can be compared, or it cannot be read.
        ItemError: the store is of another layout, or has not this zone or year.
        ReadError: the store cannot be reached.
    """
    stores = [is_published_store(text) for text in (a, b)]
    if all(stores):
        raise ConfigError(
            "Both A and B are published Zarr stores: one of them must be a product or a tile, "
            "whose area is compared."
        )
    if not any(stores):
        if year is not None:
            raise ConfigError("--year is of a published Zarr store: leave it out.")
        yield open_embeddings(Path(a)), open_embeddings(Path(b))
        return
    other = open_embeddings(Path(b if stores[0] else a))
    store = _store(a if stores[0] else b)
    with opened_zone(store, _zone_number(other), _year(other, year)) as zone:
        pixels = _Zone(zone)
        published = pixels.embeddings(other.place)
        yield (published, other) if stores[0] else (other, published)
    if pixels.without_codes:
        log.warning(
            "%d pixels of %s have scales, but 0 as all codes: they count as without an embedding",
            pixels.without_codes,
            store,
        )


def is_published_store(text: str) -> bool:
    """Return whether a text is a URL, or the folder of a store in the published Zarr layout.

    Raises:
        TileError: it is a URL that cannot be read.
    """
    if is_url(text):
        return True
    if "://" in text:
        raise TileError(f"{public_href(text)} cannot be read: stores are read from http(s) URLs.")
    path = Path(text)
    zones = (path / zone_name(n) for n in range(1, 61))
    return (path / METADATA).is_file() and any(zone.is_dir() for zone in zones)


def _store(text: str) -> Store:
    try:
        return Store(url_with_variables(text) if is_url(text) else str(Path(text).absolute()))
    except ValueError as error:
        raise ConfigError(f"{public_href(text)}: {error}: set it, and run again.") from None


def _zone_number(other: Embeddings) -> int:
    code = pyproj.CRS.from_wkt(other.place.crs).to_epsg() or 0
    if code // 100 not in (326, 327) or not 1 <= code % 100 <= 60:
        raise ConfigError(
            f"{other.name} is in no UTM zone (its CRS is EPSG:{code or 'none'}), but published "
            "embeddings are, and nothing is resampled here: import them onto its grid (source: "
            "geotessera), and compare the two products."
        )
    return code % 100


def _year(other: Embeddings, year: int | None) -> int:
    if year is not None:
        return year
    if other.period is None:
        raise ConfigError(f"The period of {other.name} is not known: state the year by --year.")
    start, end = other.period
    if (start[4:], end[4:]) != ("-01-01", "-12-31") or start[:4] != end[:4]:
        raise ConfigError(
            f"The period of {other.name}, {start} to {end}, is no calendar year, as those of "
            "published embeddings are: state by --year which one to compare with."
        )
    return int(start[:4])


class _Zone:
    """Reads a zone; `without_codes` counts pixels that have a scale, but 0 as all codes."""

    def __init__(self, zone: OpenZone) -> None:
        self._zone = zone
        self.without_codes = 0

    def embeddings(self, other: Placement) -> Embeddings:
        """Return the zone in the CRS of `other`: the two of a zone differ by a shift only."""
        stored = self._zone.stored
        code = pyproj.CRS.from_wkt(other.crs).to_epsg() or 0
        south = code // 100 == 327
        affine = Affine.translation(0.0, SOUTH_SHIFT if south else 0.0) @ stored.affine
        year = int(self._zone.group["time"][stored.time])
        record = own_record(self._zone.attributes.get("provenance"))
        return Embeddings(
            name=f"{self._zone.store} ({stored.name}, {year})",
            place=Placement(stored.shape, other.crs, affine),
            dim=STORE_DIM,
            quantised=True,
            chunk=_CHUNK,
            record=record,
            read=self.read,
            published=None if record else Published(self._zone.version, year),
        )

    def read(self, window: Window) -> Pixels:
        codes, scales = self._zone.read(window)
        with np.errstate(invalid="ignore"):
            valid = (scales > 0) & (scales < LARGEST_SCALE)
        empty = valid & ~codes.any(axis=-1)
        self.without_codes += int(empty.sum())
        scale = np.where(valid & ~empty, scales, np.float32(np.nan))
        values = codes.astype(np.float32) * scale[..., np.newaxis]
        return Pixels(values, codes, None)
