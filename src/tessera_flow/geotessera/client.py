"""Access published embeddings with the `geotessera` package: list tiles, fetch their files.

The package is used unmodified, 0.7 (Python 3.11) or 0.11 (Python 3.12 and newer). It stores
downloads in a folder, each file under its final name only when it is complete. This module
adds that two jobs do not download the same file at the same time, that sizes are checked
against the lists of the store, and that files of a local store are never downloaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError

import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from pyproj import CRS, Transformer
from rasterio.errors import RasterioError
from urllib3.exceptions import HTTPError as PoolError

from ..atomic import DISK_ERRORS, output_error
from ..concurrency import lock_for
from ..config.configuration import Config
from ..config.locations import store_location
from ..errors import ConfigError, ItemError, ReadError, TileError
from ..input_files import without_links
from ..region.grid import RegionGrid, crop
from ..urls import redacted
from .manifest import StoredTile, StoreManifest

log = logging.getLogger(__name__)

PACKAGE = "geotessera"
TESTED = "0.7.5"
File = Literal["codes", "scales", "landmask"]

LOCK_SECONDS = 600.0
"""Longest wait for another job that downloads the same tile."""

_DENSIFY = 21
_MARGIN = 0.01


@dataclass(frozen=True)
class Store:
    """A store of published embeddings.

    Attributes:
        location: folder of a local store; None for the public one.
        version: dataset version, such as `v1`.
        variant: dataset variant, for a client that supports variants.
        cache: folder for downloads.
    """

    location: Path | None
    version: str
    variant: str | None
    cache: Path

    @property
    def folder(self) -> Path:
        """Folder of its files on this machine, one for each dataset, as their files have the same
        names."""
        if self.location is not None:
            return self.location
        return self.cache / "-".join(filter(None, (self.version, self.variant)))

    def __str__(self) -> str:
        return str(self.location) if self.location is not None else "the public geotessera store"


def configured_store(config: Config, region: str, period: str) -> Store:
    """Return the store of a region and period in the configuration."""
    location = store_location(config, region, period)
    cache = config.geotessera.cache or os.path.join(config.paths.work, PACKAGE)
    return Store(
        None if location is None else Path(location).expanduser(),
        config.geotessera.version,
        config.geotessera.variant,
        Path(cache).expanduser(),
    )


def client_version() -> str:
    """Return the version of the installed package, or `none`."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def open_client(store: Store, lists: Path | None = None) -> Any:
    """Return a `geotessera.GeoTessera` client of a store.

    Args:
        store: the store.
        lists: folder with lists of tiles to read instead of those of the store.

    Raises:
        ConfigError: the package is not installed, or does not support variants.
        ItemError: the store has no list of tiles, or the list cannot be read.
        ReadError: the list cannot be downloaded.
    """
    try:
        from geotessera import GeoTessera
    except ImportError as error:
        raise ConfigError(
            f"source is geotessera, but the package {PACKAGE} cannot be imported ({error}): "
            f"install it (`pip install {PACKAGE}=={TESTED}`), or set source to scenes."
        ) from error
    options: dict[str, Any] = {
        "dataset_version": store.version,
        "embeddings_dir": store.folder,
        "cache_dir": store.folder if store.location is None else store.cache,
    }
    parameters = inspect.signature(GeoTessera.__init__).parameters
    if "dataset_variant" in parameters:
        options["dataset_variant"] = store.variant
    elif store.variant is not None:
        raise ConfigError(
            f"geotessera.variant is {store.variant}, but {PACKAGE} {client_version()} does not "
            "support variants: leave it out, or install 0.11 or newer (Python 3.12)."
        )
    folder = lists or store.location
    if folder is not None:
        _check_lists(store, folder, "manifest" if "dataset_variant" in parameters else "registry")
        options["registry_dir"] = folder
    with _client_errors(store, "its list of tiles"):
        return GeoTessera(**options)


def _check_lists(store: Store, folder: Path, name: str) -> None:
    """Check that the lists exist: the client would download a missing list of the public store."""
    if not folder.is_dir():
        raise ItemError(
            f"There is no folder {folder}: set geotessera.location to a local store, or leave it "
            "out for the public one."
        )
    for file in (f"{name}.parquet", "landmasks.parquet"):
        if not (folder / file).exists():
            raise ItemError(
                f"{store} has no {file}, which {PACKAGE} {client_version()} reads: set "
                "geotessera.location to the folder of a complete store."
            )


@contextmanager
def _client_errors(store: Store, subject: str) -> Iterator[None]:
    """Raise the errors of the client and its libraries as errors of this package.

    Args:
        store: the store.
        subject: the thing that is read, for the message.
    """
    try:
        yield
    except HTTPError as error:
        raise ReadError(
            f"{subject} could not be read from {store}: HTTP {error.code}. Run again later; if the "
            "error remains, the store does not have it."
        ) from None
    except (OSError, RuntimeError, ValueError, PoolError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise output_error(store.folder, error) from error
        reason = " ".join(redacted(str(error) or type(error).__name__).split())
        if store.location is not None:
            raise ItemError(
                f"{subject} of {store} cannot be used ({reason}): fix it there."
            ) from None
        raise ReadError(
            f"{subject} could not be read from {store} ({reason}). Run again with a connection, or "
            "set geotessera.location to a copy on disk."
        ) from None


def list_tiles(store: Store, grid: RegionGrid, year: int, threads: int = 8) -> StoreManifest:
    """List the tiles of a year that overlap a region's blocks, with their georeference.

    Args:
        store: the store; land masks of a public one are downloaded for the georeference.
        grid: the region's grid.
        year: calendar year.
        threads: concurrent downloads.

    Raises:
        ConfigError: see `open_client`.
        ItemError: the store does not have the year or cover the region; or a local store is
            incomplete.
        ReadError: the public store cannot be reached.
        OutputError: a download cannot be written.
    """
    boxes = _lonlat_boxes(grid)
    client = open_client(store)
    with _client_errors(store, "its list of tiles"):
        years = [int(y) for y in client.registry.get_available_years()]
        listed = [
            entry for box in boxes for entry in client.registry.load_blocks_for_region(box, year)
        ]
    if year not in years:
        raise ItemError(
            f"{store}, {store.version}, has no embeddings of {year}; it has "
            f"{', '.join(map(str, years)) or 'none'}: choose another period."
        )
    centres = sorted({(round(lat * 100), round(lon * 100)) for _, lon, lat in listed})
    files = StoreFiles(store, client, year)
    hashes: dict[tuple[int, int], dict[str, str]] = {}
    for box in boxes:
        hashes |= _hashes(store, year, box)

    def describe(centre: tuple[int, int]) -> StoredTile:
        lat, lon = centre
        return _describe(files, lon, lat, hashes.get((lon, lat), {}))

    with ThreadPoolExecutor(threads) as pool:
        tiles = list(pool.map(describe, centres))
    blocks = [crop(grid.geobox, block.window).boundingbox.bbox for block in grid.blocks]
    overlapping = tuple(tile for tile in tiles if _overlaps_any(tile, grid, blocks))
    if not overlapping:
        west, south, east, north = boxes[0]
        raise ItemError(
            f"{store}, {store.version}, has no tile of {year} that overlaps region {grid.name} "
            f"(longitude {west:.2f} to {east:.2f}, latitude {south:.2f} to {north:.2f}): it is "
            "outside the store's coverage; choose another year, or compute it (source: scenes)."
        )
    log.info("%d tiles of %s, %d", len(overlapping), store, year)
    return StoreManifest(
        location=_location(store),
        version=store.version,
        variant=getattr(client.registry, "variant", None),
        year=year,
        client=client_version(),
        tiles=overlapping,
        model=_model(store),
    )


def _lonlat_boxes(grid: RegionGrid) -> list[tuple[float, float, float, float]]:
    """Return (west, south, east, north) in degrees around a region; two boxes if its grid, which is
    snapped outwards, crosses the antimeridian."""
    box = grid.product_geobox
    to_lonlat = Transformer.from_crs(CRS.from_user_input(str(box.crs)), "EPSG:4326", always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(
        *box.boundingbox.bbox, densify_pts=_DENSIFY
    )
    if west <= east:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def _location(store: Store) -> str:
    """Return the folder of a local store, or the URL of the public one."""
    from geotessera import registry

    if store.location is not None:
        return str(store.location)
    public = getattr(registry, "TESSERA_BASE_URL", None) or registry.TESSERA_MIRROR_URL
    return str(public)


def _model(store: Store) -> dict[str, Any] | None:
    """Return the record of the model in a store that tessera-flow wrote, else None."""
    if store.location is None:
        return None
    try:
        text = (store.location / "provenance.json").read_text(encoding="utf-8")
        model = json.loads(text)["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(model) if isinstance(model, Mapping) else None


def _hashes(
    store: Store, year: int, bounds: tuple[float, ...]
) -> dict[tuple[int, int], dict[str, str]]:
    """Return the SHA-256 of the files of the tiles of a year, by (lon, lat) in hundredths of a
    degree. They are read from the lists, because the client has no function for them. The lists
    of 0.11 have none."""
    west, south, east, north = bounds
    near = [
        ("lon", ">=", west - 0.1), ("lon", "<=", east + 0.1),
        ("lat", ">=", south - 0.1), ("lat", "<=", north + 0.1),
    ]  # fmt: skip
    hashes: dict[tuple[int, int], dict[str, str]] = {}
    for name, columns, filters in (
        ("registry", {"codes": "hash", "scales": "scales_hash"}, [*near, ("year", "==", year)]),
        ("landmasks", {"landmask": "hash"}, near),
    ):
        path = store.folder / f"{name}.parquet"
        if not path.exists():
            continue
        with _client_errors(store, "its list of tiles"):
            present = [c for c in columns.values() if c in pq.read_schema(path).names]
            table = pq.read_table(path, columns=["lon", "lat", *present], filters=filters)
        for row in table.to_pylist():
            centre = round(row["lon"] * 100), round(row["lat"] * 100)
            for file, column in columns.items():
                if row.get(column):
                    hashes.setdefault(centre, {})[file] = str(row[column])
    return hashes


def _describe(files: StoreFiles, lon: int, lat: int, sha256: Mapping[str, str]) -> StoredTile:
    """Return a tile with its georeference, which is read from its land mask."""
    registry = files.client.registry
    degrees = lon / 100, lat / 100
    sizes = {}
    for file, size_of, arguments in (
        ("codes", registry.get_tile_file_size, (files.year, *degrees)),
        ("scales", registry.get_scales_file_size, (files.year, *degrees)),
        ("landmask", registry.get_landmask_file_size, degrees),
    ):
        try:
            sizes[file] = int(size_of(*arguments))
        except ValueError:
            continue  # the store does not list it
    without_grid = StoredTile(lon, lat, "", (), (0, 0), sizes, sha256)
    path = files.fetch(without_grid, "landmask")
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
        lon,
        lat,
        f"EPSG:{code}" if code else crs.to_wkt(),
        tuple(float(v) for v in tuple(transform)[:6]),
        (int(shape[0]), int(shape[1])),
        sizes,
        sha256,
    )


def _overlaps_any(tile: StoredTile, grid: RegionGrid, blocks: Sequence[tuple[float, ...]]) -> bool:
    left, bottom, right, top = tile_bounds(tile, grid)
    return any(left < b[2] and right > b[0] and bottom < b[3] and top > b[1] for b in blocks)


def tile_bounds(tile: StoredTile, grid: RegionGrid) -> tuple[float, float, float, float]:
    """Return (left, bottom, right, top) of a tile in the region's CRS, slightly enlarged if the
    tile has another CRS."""
    tile_crs, grid_crs = CRS.from_user_input(tile.crs), CRS.from_user_input(str(grid.geobox.crs))
    if tile_crs == grid_crs:
        return tile.bounds
    to_grid = Transformer.from_crs(tile_crs, grid_crs, always_xy=True)
    left, bottom, right, top = to_grid.transform_bounds(*tile.bounds, densify_pts=_DENSIFY)
    # Edges are curves in the region's CRS, of which only some points are computed.
    x, y = _MARGIN * (right - left), _MARGIN * (top - bottom)
    return left - x, bottom - y, right + x, top + y


class StoreFiles:
    """The files of a store's tiles of one year, downloaded if they are missing.

    Attributes:
        store: the store.
        client: its `geotessera.GeoTessera` client.
        year: calendar year.
    """

    def __init__(self, store: Store, client: Any, year: int) -> None:
        self.store = store
        self.client = client
        self.year = year

    def fetch(self, tile: StoredTile, file: File) -> Path:
        """Return the path of one file of a tile, with the size and hash that the store lists.

        Raises:
            TileError: a local store does not have it, or it differs from the list.
            ReadError: it cannot be downloaded.
            OutputError: it cannot be written.
        """
        path = self._path(tile, file)
        if self.store.location is not None:
            self._check_local(tile, file, path)
        elif not _is_listed(path, tile, file):
            with _one_at_a_time(self.store.folder / "locks" / f"{tile.name}.lock"):
                if not _is_listed(path, tile, file):
                    self._download(tile, file, path)
        return path

    def _check_local(self, tile: StoredTile, file: File, path: Path) -> None:
        if not path.exists():
            raise TileError(
                f"{self.store} lists {tile.name} of {self.year}, but {path} does not "
                "exist: copy it, or the entire store, again."
            )
        size = tile.sizes.get(file)
        if not _has_size(path, size):
            raise TileError(
                f"{path} has {path.stat().st_size} bytes, but {self.store} lists {size}: copy it "
                "again, or, if the store was updated, list its tiles again (--forcerun "
                "store_tiles)."
            )
        # An updated tile can have the same size.
        if not _is_listed(path, tile, file):
            raise TileError(
                f"{path} has another SHA-256 than {self.store} lists: copy it again, or, if the "
                "store was updated, list its tiles again (--forcerun store_tiles)."
            )

    def _path(self, tile: StoredTile, file: File) -> Path:
        from geotessera import registry

        degrees = tile.lon / 100, tile.lat / 100
        if file == "landmask":
            name = registry.tile_to_landmask_filename(*degrees)
            return self.store.folder / str(registry.LANDMASKS_DIR_NAME) / str(name)
        codes, scales = registry.tile_to_embedding_paths(*degrees, self.year)
        name = codes if file == "codes" else scales
        return self.store.folder / str(registry.EMBEDDINGS_DIR_NAME) / str(name)

    def _download(self, tile: StoredTile, file: File, path: Path) -> None:
        """Download a file with the client, under its final name only when it is complete."""
        path.unlink(missing_ok=True)  # differs from the list: the client would keep it
        lon, lat = tile.lon / 100, tile.lat / 100
        log.info("downloading %s", path.name)
        with _client_errors(self.store, f"{path.name} of {self.year}"):
            if file == "landmask":
                self.client.registry.fetch_landmask(lon=lon, lat=lat)
            else:
                scales = file == "scales"
                self.client.registry.fetch(year=self.year, lon=lon, lat=lat, is_scales=scales)
        if not _has_size(path, tile.sizes.get(file)):
            size = path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)
            raise ReadError(
                f"{path.name} of {self.year} was downloaded with {size} bytes, but {self.store} "
                f"lists {tile.sizes.get(file)}: run again."
            )


def _has_size(path: Path, size: int | None) -> bool:
    return path.exists() and (size is None or path.stat().st_size == size)


def _is_listed(path: Path, tile: StoredTile, file: File) -> bool:
    """Return whether a file exists and has the size and hash of the list, if the list has them."""
    if not _has_size(path, tile.sizes.get(file)):
        return False
    listed = tile.sha256.get(file)
    if listed is None:
        return True
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == listed.lower()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait while another job, on this machine or another, downloads the same tile.

    This only avoids duplicate downloads: without locks in the file system, each job downloads
    to its own temporary name. The lock is released when its process ends.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a", opener=without_links)  # noqa: SIM115
    except PermissionError as error:
        if path.is_symlink() or not path.exists():
            raise output_error(path, error) from error
        log.info("%s belongs to another user: another job may download the same tile", path)
        yield
        return
    except OSError as error:
        raise output_error(path, error) from error
    with handle:
        try:
            lock_for(handle, LOCK_SECONDS, fcntl.flock)
        except OSError:
            log.info("no lock in %s: another job may download the same tile", path.parent)
        yield
