"""Read the NPY layout of published embeddings from a folder: tiles of 0.1 degree and their lists.

    registry.parquet (or manifest.parquet)       year, lon, lat, sizes and hashes of the tiles
    landmasks.parquet                            the same of the land masks
    global_0.1_degree_representation/{year}/grid_{lon}_{lat}/grid_{lon}_{lat}.npy, ..._scales.npy
    global_0.1_degree_tiff_all/grid_{lon}_{lat}.tiff      it has the CRS and transform of the tile

Geotessera 0.7 has `registry.parquet`, 0.11 `manifest.parquet`, without hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..errors import ItemError, TileError
from ..input_files import memory_fault
from ..npy_file import open_array
from ..region.grid import RegionGrid
from . import STORE_DIM, tile_name
from .area import lonlat_boxes, overlaps_any
from .manifest import StoredTile, StoreManifest
from .metadata import model_of_tiles
from .pixels import Part
from .stores import Store

File = Literal["codes", "scales", "landmask"]

TILES = "global_0.1_degree_representation"
LANDMASKS = "global_0.1_degree_tiff_all"
_LISTS = {"registry.parquet": "file_size", "manifest.parquet": "grid_size"}
"""Lists of tiles, the first that exists is read, and their column with the size of the codes."""


def is_npy_store(folder: Path) -> bool:
    """Return whether a folder has a list of tiles."""
    return any((folder / name).exists() for name in _LISTS)


def list_tiles(
    store: Store, grid: RegionGrid, year: int, threads: int = 8, may_be_empty: bool = False
) -> StoreManifest:
    """List the tiles of a year that overlap a region's blocks, with their georeference.

    Args:
        store: a local store.
        grid: the region's grid.
        year: calendar year.
        threads: land masks that are read at a time.
        may_be_empty: no tile of the year or of the region is a warning and not an error.

    Raises:
        ItemError: the store does not have the year or cover the region, or a list is damaged.
        TileError: a land mask is missing or damaged.
    """
    boxes = lonlat_boxes(grid)
    rows: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for box in boxes:
        for centre, entry in _entries(store, year, box).items():
            rows[centre] = entry
    years = _years(store)
    if year not in years and not may_be_empty:
        raise ItemError(
            f"{store} has no embeddings of {year}; it has "
            f"{', '.join(map(str, years)) or 'none'}: choose another period."
        )

    def describe(centre: tuple[int, int]) -> StoredTile:
        lat, lon = centre
        return _describe(store.folder, year, lon, lat, **rows[centre])

    with ThreadPoolExecutor(threads) as pool:
        tiles = list(pool.map(describe, sorted(rows)))
    overlapping = tuple(tile for tile in tiles if overlaps_any(tile, grid))
    if not overlapping and not may_be_empty:
        raise ItemError(
            f"{store} has no tile of {year} that overlaps region {grid.name}: it is outside the "
            "store's coverage; choose another year, or compute it (source: scenes)."
        )
    return StoreManifest(
        layout="npy",
        location=str(store),
        version=store.version,
        variant=store.variant,
        year=year,
        tiles=overlapping,
        model=model_of_tiles(store),
        warnings=()
        if overlapping
        else (f"{store} has no tile of {year} that overlaps the region.",),
    )


def _list_of_tiles(store: Store) -> Path:
    for name in _LISTS:
        if (store.folder / name).exists():
            return store.folder / name
    raise ItemError(f"{store} has neither {' nor '.join(_LISTS)}.")


def _read(path: Path, columns: Sequence[str], filters: Any = None) -> list[dict[str, Any]]:
    """Return rows of a list with those of some columns that it has.

    Raises:
        ItemError: it is missing or damaged.
    """
    try:
        present = [name for name in columns if name in pq.read_schema(path).names]
        if fault := memory_fault(path, present):
            raise ValueError(fault)
        rows: list[dict[str, Any]] = pq.read_table(
            path, columns=present, filters=filters
        ).to_pylist()
        return rows
    except FileNotFoundError:
        raise ItemError(
            f"There is no {path}: set geotessera.location to the folder of a complete store."
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ItemError(
            f"The list of tiles {path} cannot be used ({' '.join(str(error).split())}): copy it "
            "again."
        ) from error


def _years(store: Store) -> list[int]:
    return sorted({int(row["year"]) for row in _read(_list_of_tiles(store), ["year"])})


def _entries(
    store: Store, year: int, box: tuple[float, float, float, float]
) -> dict[tuple[int, int], dict[str, dict[str, Any]]]:
    """Return `sizes` and `sha256` by file of the tiles in a box of degrees, by (lat, lon) in
    hundredths of a degree."""
    west, south, east, north = box
    near = [
        ("lon", ">=", west - 0.1), ("lon", "<=", east + 0.1),
        ("lat", ">=", south - 0.1), ("lat", "<=", north + 0.1),
    ]  # fmt: skip
    path = _list_of_tiles(store)
    entries: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    columns: dict[str, tuple[str, str]] = {
        "codes": (_LISTS[path.name], "hash"),
        "scales": ("scales_size", "scales_hash"),
    }
    names = ["lon", "lat", *(name for pair in columns.values() for name in pair)]
    for row in _read(path, names, [*near, ("year", "==", year)]):
        centre = round(row["lat"] * 100), round(row["lon"] * 100)
        _add(entries.setdefault(centre, {"sizes": {}, "sha256": {}}), row, columns)
    masks = store.folder / "landmasks.parquet"
    for row in _read(masks, ["lon", "lat", "file_size", "hash"], near):
        entry = entries.get((round(row["lat"] * 100), round(row["lon"] * 100)))
        if entry is not None:
            _add(entry, row, {"landmask": ("file_size", "hash")})
    return entries


def _add(
    entry: dict[str, dict[str, Any]],
    row: Mapping[str, Any],
    columns: Mapping[str, tuple[str, str]],
) -> None:
    for file, (size, sha256) in columns.items():
        if row.get(size):
            entry["sizes"][file] = int(row[size])
        if row.get(sha256):
            entry["sha256"][file] = str(row[sha256])


def _describe(
    folder: Path,
    year: int,
    lon: int,
    lat: int,
    sizes: Mapping[str, int],
    sha256: Mapping[str, str],
) -> StoredTile:
    """Return a tile with its georeference, which is read from its land mask."""
    tile = StoredTile("", (), (0, 0), lon, lat, sizes, sha256)
    path = checked_file(folder, year, tile, "landmask")
    try:
        with rasterio.open(path) as raster:
            crs, transform, shape = raster.crs, raster.transform, raster.shape
    except RasterioError as error:
        raise TileError(
            f"The land mask {path} cannot be read as a raster ({error}): delete it, or copy it "
            "again, and run again."
        ) from error
    if crs is None:
        raise TileError(f"The land mask {path} has no CRS, so its tile cannot be located: fix it.")
    code = crs.to_epsg()
    return StoredTile(
        f"EPSG:{code}" if code else crs.to_wkt(),
        tuple(float(v) for v in tuple(transform)[:6]),
        (int(shape[0]), int(shape[1])),
        lon,
        lat,
        sizes,
        sha256,
    )


def file_path(folder: Path, year: int, tile: StoredTile, file: File) -> Path:
    """Return the path of one file of a tile."""
    name = tile_name(tile.lon, tile.lat)
    if file == "landmask":
        return folder / LANDMASKS / f"{name}.tiff"
    return folder / TILES / str(year) / name / f"{name}{'' if file == 'codes' else '_scales'}.npy"


def checked_file(folder: Path, year: int, tile: StoredTile, file: File) -> Path:
    """Return the path of one file of a tile, which has the size and hash that the store lists.

    Raises:
        TileError: it does not exist, or differs from the list.
    """
    path = file_path(folder, year, tile, file)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise TileError(
            f"{folder} lists {tile.name} of {year}, but {path} does not exist: copy it, or the "
            "entire store, again."
        ) from None
    listed = tile.sizes.get(file)
    if listed is not None and size != listed:
        raise TileError(
            f"{path} has {size} bytes, but {folder} lists {listed}: copy it again, or, if the "
            "store was updated, list its tiles again (--forcerun store_tiles)."
        )
    sha256 = tile.sha256.get(file)
    if sha256 is not None:  # an updated tile can have the same size
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != sha256.lower():
                raise TileError(
                    f"{path} has another SHA-256 than {folder} lists: copy it again, or, if the "
                    "store was updated, list its tiles again (--forcerun store_tiles)."
                )
    return path


class TilePart(Part):
    """A tile that overlaps the region, opened when one of its pixels is read."""

    def __init__(self, store: Store, year: int, stored: StoredTile, grid: RegionGrid) -> None:
        super().__init__(stored, grid)
        self._tile, self._folder, self._year = stored, store.folder, year
        self._arrays: tuple[NDArray[np.int8], NDArray[np.float32]] | None = None

    def owns(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each point is in the tile's cell of 0.1 degree."""
        cell = np.floor(np.stack([lon, lat]) * 10).astype(np.int64) * 10 + 5
        result: NDArray[np.bool_] = (cell[0] == self._tile.lon) & (cell[1] == self._tile.lat)
        return result

    def scales(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.float32]:
        """See `Part.scales`."""
        return self._open()[1][row, column]

    def codes(self, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.int8]:
        """See `Part.codes`."""
        return self._open()[0][row, column]

    def _open(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return memory maps of codes and scales."""
        if self._arrays is None:
            files = [
                checked_file(self._folder, self._year, self._tile, file)
                for file in ("codes", "scales")
            ]
            shape = self._tile.shape
            self._arrays = (
                _load(files[0], (*shape, STORE_DIM), np.int8),
                _load(files[1], shape, np.float32),
            )
        return self._arrays


def _load(path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    try:
        array = open_array(path)
    except (OSError, ValueError, EOFError) as error:
        raise TileError(
            f"The tile {path} cannot be read ({error}): delete it, or copy it again, and run again."
        ) from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise TileError(
            f"The tile {path} is {array.shape} {array.dtype}, but its land mask requires "
            f"{shape} {np.dtype(dtype)}: get the tile again, or use another store."
        )
    return array
