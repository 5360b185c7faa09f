"""The list of tiles of published embeddings for a region and a year, which every job reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from pyproj import CRS

from ..atomic import write_text
from ..errors import ItemError
from ..region.grid import RegionGrid
from . import tile_name

_ALIGNED = 1e-6
"""Pixels: largest shift of a tile from the region's grid that counts as aligned."""


@dataclass(frozen=True)
class StoredTile:
    """One tile of 0.1 degree.

    Attributes:
        lon, lat: hundredths of a degree of its centre (always ending in 5).
        crs: `EPSG:n`, or WKT for a CRS without a code.
        transform: affine coefficients (a, b, c, d, e, f) of its pixel corners.
        shape: (height, width) in pixels.
        sizes: bytes by file (`codes`, `scales`, `landmask`), where the store lists them.
        sha256: hexadecimal, by file, where the store lists them.
    """

    lon: int
    lat: int
    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]
    sizes: Mapping[str, int]
    sha256: Mapping[str, str]

    @property
    def name(self) -> str:
        """See `tile_name`."""
        return tile_name(self.lon, self.lat)

    @property
    def affine(self) -> Affine:
        """Transform of (column, row) to coordinates in `crs`."""
        return Affine(*self.transform)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in `crs`."""
        left, bottom, right, top = rasterio.transform.array_bounds(*self.shape, self.affine)
        return float(left), float(bottom), float(right), float(top)

    def is_aligned(self, grid: RegionGrid) -> bool:
        """Return whether its pixels coincide with pixels of the region's products."""
        box = grid.product_geobox
        if CRS.from_user_input(self.crs) != CRS.from_user_input(str(box.crs)):
            return False
        a, b, c, d, e, f = tuple(~box.affine @ self.affine)[:6]
        steps = (a - 1, b, d, e - 1, c - round(c), f - round(f))
        return bool(max(abs(step) for step in steps) < _ALIGNED)


@dataclass(frozen=True)
class StoreManifest:
    """The tiles of one region and year, in the order of (lat, lon).

    Attributes:
        location: folder of the store, or URL of the public one.
        version: dataset version, such as `v1`.
        variant: dataset variant, if the client supports variants.
        year: calendar year.
        client: version of the geotessera package that listed them.
        tiles: the tiles that overlap a block of the region.
        model: record of the model (see `provenance`), if the store was written by tessera-flow
            and has it.
    """

    location: str
    version: str
    variant: str | None
    year: int
    client: str
    tiles: tuple[StoredTile, ...]
    model: Mapping[str, Any] | None = None

    @property
    def dataset(self) -> str:
        """Version, variant and year as text."""
        variant = f" {self.variant}" if self.variant else ""
        return f"{self.version}{variant}, {self.year}"

    @property
    def bytes(self) -> int:
        """Size of all files that the store lists."""
        return sum(sum(tile.sizes.values()) for tile in self.tiles)

    def write(self, path: Path) -> None:
        """Write as JSON; the same tiles give the same bytes."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> StoreManifest:
        """Read a file written by `write`.

        Raises:
            ItemError: the file is missing or not such a list.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            tiles = tuple(_tile(entry) for entry in document.pop("tiles"))
            return cls(**document, tiles=tiles)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ItemError(
                f"{path} is not a list of the store's tiles: delete it and run again."
            ) from error


def _tile(entry: Mapping[str, Any]) -> StoredTile:
    values = {**entry, "transform": tuple(entry["transform"]), "shape": tuple(entry["shape"])}
    return StoredTile(**values)


def resampled(tiles: Iterable[StoredTile], grid: RegionGrid) -> int:
    """Return the number of tiles that are not aligned with the region's grid, so that nearest
    neighbours are used."""
    return sum(not tile.is_aligned(grid) for tile in tiles)
