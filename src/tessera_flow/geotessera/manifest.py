"""The list of what a region and a year take from published embeddings, which every job reads."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import rasterio
from affine import Affine
from pyproj import CRS, Transformer

from ..atomic import write_text
from ..dates import main_year
from ..errors import ItemError
from ..region.grid import RegionGrid
from . import tile_name, zone_name

SOUTH_SHIFT = 10_000_000.0
"""Metres: false northing of the southern UTM zones. A Zarr store has one grid per zone, in the
northern CRS; northings south of the equator are negative there."""

_ALIGNED = 1e-6
"""Pixels: largest shift of a part from the region's grid that counts as aligned."""
_DENSIFY = 21
_MARGIN = 0.01


@dataclass(frozen=True)
class StoredGrid:
    """A part of a store with a grid of its own.

    Attributes:
        crs: `EPSG:n`, or WKT for a CRS without a code.
        transform: affine coefficients (a, b, c, d, e, f) of its pixel corners.
        shape: (height, width) in pixels.
    """

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """Name of the part in its store."""
        raise NotImplementedError

    @property
    def affine(self) -> Affine:
        """Transform of (column, row) to coordinates in `crs`."""
        return Affine(*self.transform)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in `crs`."""
        left, bottom, right, top = rasterio.transform.array_bounds(*self.shape, self.affine)
        return float(left), float(bottom), float(right), float(top)

    def affine_in(self, grid: RegionGrid) -> Affine | None:
        """Return the transform of (column, row) to the region's CRS; None if it is not affine,
        because the CRS is another one. The two CRS of a UTM zone differ by a shift only."""
        ours, other = CRS.from_user_input(self.crs), CRS.from_user_input(str(grid.geobox.crs))
        if ours == other:
            return self.affine
        codes = ours.to_epsg() or 0, other.to_epsg() or 0
        if 32601 <= codes[0] <= 32660 and codes[1] == codes[0] + 100:
            return Affine.translation(0.0, SOUTH_SHIFT) @ self.affine
        return None

    def is_aligned(self, grid: RegionGrid) -> bool:
        """Return whether its pixels coincide with pixels of the region's products."""
        affine = self.affine_in(grid)
        if affine is None:
            return False
        a, b, c, d, e, f = tuple(~grid.product_geobox.affine @ affine)[:6]
        steps = (a - 1, b, d, e - 1, c - round(c), f - round(f))
        return bool(max(abs(step) for step in steps) < _ALIGNED)

    def bounds_in(self, grid: RegionGrid) -> tuple[float, float, float, float]:
        """Return (left, bottom, right, top) in the region's CRS, slightly enlarged if it is
        another CRS."""
        affine = self.affine_in(grid)
        if affine is not None:
            left, bottom, right, top = rasterio.transform.array_bounds(*self.shape, affine)
            return float(left), float(bottom), float(right), float(top)
        crs = CRS.from_user_input(str(grid.geobox.crs))
        to_grid = Transformer.from_crs(CRS.from_user_input(self.crs), crs, always_xy=True)
        left, bottom, right, top = to_grid.transform_bounds(*self.bounds, densify_pts=_DENSIFY)
        # Edges are curves in the region's CRS, of which only some points are computed.
        x, y = _MARGIN * (right - left), _MARGIN * (top - bottom)
        return left - x, bottom - y, right + x, top + y


@dataclass(frozen=True)
class StoredTile(StoredGrid):
    """One tile of 0.1 degree of the NPY layout.

    Attributes:
        lon, lat: hundredths of a degree of its centre (always ending in 5).
        sizes: bytes by file (`codes`, `scales`, `landmask`), where the store lists them.
        sha256: hexadecimal, by file, where the store lists them.
    """

    lon: int
    lat: int
    sizes: Mapping[str, int]
    sha256: Mapping[str, str]

    @property
    def name(self) -> str:
        """See `tile_name`."""
        return tile_name(self.lon, self.lat)


@dataclass(frozen=True)
class StoredZone(StoredGrid):
    """One UTM zone of the Zarr layout.

    Attributes:
        zone: 1 to 60.
        time: index of the year on its time axis.
    """

    zone: int
    time: int

    @property
    def name(self) -> str:
        """See `zone_name`."""
        return zone_name(self.zone)


@dataclass(frozen=True)
class StoreManifest:
    """What one region and year take from a store.

    Attributes:
        layout: `zarr`, or `npy` for tiles of 0.1 degree.
        location: folder or URL of the store, without secrets.
        version: version of the dataset, such as `v1.1`, if it is known.
        variant: variant of the dataset, if it is known.
        year: calendar year.
        tiles: of `npy`, the tiles that overlap a block of the region, in the order of (lat, lon).
        zones: of `zarr`, the UTM zones that overlap a block of the region.
        metadata_sha256: of `zarr`, SHA-256 of the store's metadata (`zarr.json`).
        model: fields of the record of the model (see `provenance`) that the store states, and
            `preprocessing` and `period` (its first and last day).
        warnings: what a reader of the products has to know about the list.
        same_model: how it is known that the store's model is the one that computes its holes:
            `sha256` or `assumed`; None if holes are not computed.
    """

    layout: Literal["zarr", "npy"]
    location: str
    version: str | None
    variant: str | None
    year: int
    tiles: tuple[StoredTile, ...] = ()
    zones: tuple[StoredZone, ...] = ()
    metadata_sha256: str | None = None
    model: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    same_model: Literal["sha256", "assumed"] | None = None

    @property
    def dataset(self) -> str:
        """Version, variant and year as text."""
        name = " ".join(filter(None, (self.version, self.variant)))
        return f"{name}, {self.year}" if name else str(self.year)

    @property
    def parts(self) -> tuple[StoredTile, ...] | tuple[StoredZone, ...]:
        """The tiles or the zones."""
        return self.tiles if self.layout == "npy" else self.zones

    @property
    def unit(self) -> str:
        """Word for one of the parts."""
        return "tile" if self.layout == "npy" else "UTM zone"

    @property
    def bytes(self) -> int:
        """Size of all files that the store lists; 0 if it lists none."""
        return sum(sum(tile.sizes.values()) for tile in self.tiles)

    def days_warning(self) -> str | None:
        """Return a warning if the store states that the embeddings of its year are of other days;
        stores that tessera-flow writes of any period have its main year."""
        try:
            first, last = map(datetime.date.fromisoformat, (self.model or {})["period"])
        except (LookupError, TypeError, ValueError):
            return None
        year = datetime.date(self.year, 1, 1), datetime.date(self.year, 12, 31)
        if (first, last) == year or main_year(first, last) != self.year:
            return None
        return (
            f"{self.location} states that its embeddings of {self.year} are of {first} to {last}. "
            f"The period is {year[0]} to {year[1]}, and so are the days of embeddings that are "
            "computed in holes."
        )

    def write(self, path: Path) -> None:
        """Write as JSON; the same content gives the same bytes."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> StoreManifest:
        """Read a file written by `write`.

        Raises:
            ItemError: the file is missing or not such a list.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            tiles = tuple(StoredTile(**_grid(entry)) for entry in document.pop("tiles"))
            zones = tuple(StoredZone(**_grid(entry)) for entry in document.pop("zones"))
            warnings = tuple(document.pop("warnings"))
            return cls(**document, tiles=tiles, zones=zones, warnings=warnings)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ItemError(
                f"{path} is not a list of published embeddings: delete it and run again."
            ) from error


def stated_model(record: Any) -> dict[str, Any] | None:
    """Return what a record of provenance that tessera-flow wrote states about the model; None if it
    is no such record.

    Embeddings of which some were computed with a model that was only assumed to be the same have no
    SHA-256 of weights.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("model"), Mapping):
        return None
    model = {**record["model"], "preprocessing": record.get("preprocessing", "unknown")}
    if "period_start" in record and "period_end" in record:
        model["period"] = [record["period_start"], record["period_end"]]
    fill = record.get("fill")
    if isinstance(fill, Mapping) and fill.get("same_model") != "sha256":
        model["sha256"] = None
    return model


def _grid(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "transform": tuple(entry["transform"]), "shape": tuple(entry["shape"])}


def resampled(parts: Iterable[StoredGrid], grid: RegionGrid) -> int:
    """Return the number of parts that are not aligned with the region's grid, so that nearest
    neighbours are used."""
    return sum(not part.is_aligned(grid) for part in parts)
