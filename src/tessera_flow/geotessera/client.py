"""Published embeddings through the `geotessera` package: which tiles there are, their files.

The package is used as it is published, 0.7 (Python 3.11) or 0.11 (Python 3.12 and newer). It
keeps what it downloads in a folder, each file under its name only when it is whole; this
module adds that two jobs do not download the same file at the same time, that sizes are those
that the store lists, and that a local store is never filled from the internet.
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
from ..config.configuration import Config
from ..config.locations import store_location
from ..errors import ConfigError, ItemError, ReadError, TileError
from ..region.grid import RegionGrid, crop
from ..urls import redacted
from .manifest import StoredTile, StoreManifest

log = logging.getLogger(__name__)

PACKAGE = "geotessera"
TESTED = "0.7.5"
File = Literal["codes", "scales", "landmask"]

_DENSIFY = 21
_MARGIN = 0.01


@dataclass(frozen=True)
class Store:
    """Where embeddings are taken from.

    Attributes:
        location: folder of a local store; None for the public one.
        version: dataset version, such as `v1`.
        variant: dataset variant, for a client that knows variants.
        cache: folder for what is downloaded.
    """

    location: Path | None
    version: str
    variant: str | None
    cache: Path

    @property
    def folder(self) -> Path:
        """Where its files lie on this machine: different datasets have the same names."""
        if self.location is not None:
            return self.location
        return self.cache / "-".join(filter(None, (self.version, self.variant)))

    def __str__(self) -> str:
        return str(self.location) if self.location is not None else "the public geotessera store"


def configured_store(config: Config, region: str, period: str) -> Store:
    """The store that a configuration names for a region and period."""
    location = store_location(config, region, period)
    cache = config.geotessera.cache or os.path.join(config.paths.work, PACKAGE)
    return Store(
        None if location is None else Path(location).expanduser(),
        config.geotessera.version,
        config.geotessera.variant,
        Path(cache).expanduser(),
    )


def client_version() -> str:
    """Version of the installed package, or `none`."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def open_client(store: Store, lists: Path | None = None) -> Any:
    """A `geotessera.GeoTessera` over a store.

    Args:
        store: the store.
        lists: folder with lists of tiles to read in place of the store's own.

    Raises:
        ConfigError: the package is not installed, or does not know variants.
        ItemError: the store has no list of tiles, or it cannot be read.
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
    known = inspect.signature(GeoTessera.__init__).parameters
    if "dataset_variant" in known:
        options["dataset_variant"] = store.variant
    elif store.variant is not None:
        raise ConfigError(
            f"geotessera.variant is {store.variant}, but {PACKAGE} {client_version()} knows no "
            "variants: leave it out, or install 0.11 or newer (Python 3.12)."
        )
    folder = lists or store.location
    if folder is not None:
        _check_lists(store, folder, "manifest" if "dataset_variant" in known else "registry")
        options["registry_dir"] = folder
    with _sentences(store, "its list of tiles"):
        return GeoTessera(**options)


def _check_lists(store: Store, folder: Path, name: str) -> None:
    """The client would fetch a list that is missing from the public store."""
    if not folder.is_dir():
        raise ItemError(
            f"There is no folder {folder}: set geotessera.location to a local store, or leave it "
            "out for the public one."
        )
    for file in (f"{name}.parquet", "landmasks.parquet"):
        if not (folder / file).exists():
            raise ItemError(
                f"{store} has no {file}, which {PACKAGE} {client_version()} reads: set "
                "geotessera.location to the folder of a whole store."
            )


@contextmanager
def _sentences(store: Store, what: str) -> Iterator[None]:
    """Turn whatever the client and the libraries below it raise into one sentence."""
    try:
        yield
    except HTTPError as error:
        raise ReadError(
            f"{what} could not be read from {store}: HTTP {error.code}. Run again later; if it "
            "stays so, the store does not have it."
        ) from None
    except (OSError, RuntimeError, ValueError, PoolError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise output_error(store.folder, error) from error
        reason = " ".join(redacted(str(error) or type(error).__name__).split())
        if store.location is not None:
            raise ItemError(
                f"{what} of {store} cannot be used ({reason}): mend it there."
            ) from None
        raise ReadError(
            f"{what} could not be read from {store} ({reason}). Run again with a connection, or "
            "set geotessera.location to a copy on disk."
        ) from None


def list_tiles(store: Store, grid: RegionGrid, year: int, threads: int = 8) -> StoreManifest:
    """The tiles of a year that touch a region's blocks, with their place on the ground.

    Args:
        store: the store; of a public one, land masks are downloaded, which tell the place.
        grid: the region's grid.
        year: calendar year.
        threads: concurrent downloads.

    Raises:
        ConfigError: see `open_client`.
        ItemError: the store has no such year or does not cover the region; or a local one is
            not whole.
        ReadError: the public store cannot be reached.
        OutputError: what is downloaded cannot be written.
    """
    places = _lonlat_boxes(grid)
    client = open_client(store)
    with _sentences(store, "its list of tiles"):
        years = [int(y) for y in client.registry.get_available_years()]
        found = [
            place for box in places for place in client.registry.load_blocks_for_region(box, year)
        ]
    if year not in years:
        raise ItemError(
            f"{store}, {store.version}, has no embeddings of {year}; it has "
            f"{', '.join(map(str, years)) or 'none'}: choose another period."
        )
    centres = sorted({(round(lat * 100), round(lon * 100)) for _, lon, lat in found})
    files = StoreFiles(store, client, year)
    hashes: dict[tuple[int, int], dict[str, str]] = {}
    for box in places:
        hashes |= _hashes(store, year, box)

    def describe(place: tuple[int, int]) -> StoredTile:
        lat, lon = place
        return _describe(files, lon, lat, hashes.get((lon, lat), {}))

    with ThreadPoolExecutor(threads) as pool:
        tiles = list(pool.map(describe, centres))
    blocks = [crop(grid.geobox, block.window).boundingbox.bbox for block in grid.blocks]
    chosen = tuple(tile for tile in tiles if _touches_any(tile, grid, blocks))
    if not chosen:
        west, south, east, north = places[0]
        raise ItemError(
            f"{store}, {store.version}, has no tile of {year} that touches region {grid.name} "
            f"(longitude {west:.2f} to {east:.2f}, latitude {south:.2f} to {north:.2f}): it is "
            "outside the store's coverage; choose another year, or compute it (source: scenes)."
        )
    log.info("%d tiles of %s, %d", len(chosen), store, year)
    return StoreManifest(
        location=_address(store),
        version=store.version,
        variant=getattr(client.registry, "variant", None),
        year=year,
        client=client_version(),
        tiles=chosen,
        model=_model(store),
    )


def _lonlat_boxes(grid: RegionGrid) -> list[tuple[float, float, float, float]]:
    """(west, south, east, north) in degrees around a region; two where its grid, which is snapped
    outwards, reaches over the antimeridian."""
    box = grid.product_geobox
    to_lonlat = Transformer.from_crs(CRS.from_user_input(str(box.crs)), "EPSG:4326", always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(
        *box.boundingbox.bbox, densify_pts=_DENSIFY
    )
    if west <= east:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def _address(store: Store) -> str:
    from geotessera import registry

    if store.location is not None:
        return str(store.location)
    public = getattr(registry, "TESSERA_BASE_URL", None) or registry.TESSERA_MIRROR_URL
    return str(public)


def _model(store: Store) -> dict[str, Any] | None:
    """The model that a store written by this program states."""
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
    """SHA-256 by file of the tiles of a year, by (lon, lat) in hundredths of a degree: from the
    lists themselves, as the client checks hashes but does not tell them. 0.11 has none."""
    west, south, east, north = bounds
    near = [
        ("lon", ">=", west - 0.1), ("lon", "<=", east + 0.1),
        ("lat", ">=", south - 0.1), ("lat", "<=", north + 0.1),
    ]  # fmt: skip
    found: dict[tuple[int, int], dict[str, str]] = {}
    for name, columns, filters in (
        ("registry", {"codes": "hash", "scales": "scales_hash"}, [*near, ("year", "==", year)]),
        ("landmasks", {"landmask": "hash"}, near),
    ):
        path = store.folder / f"{name}.parquet"
        if not path.exists():
            continue
        with _sentences(store, "its list of tiles"):
            there = [c for c in columns.values() if c in pq.read_schema(path).names]
            table = pq.read_table(path, columns=["lon", "lat", *there], filters=filters)
        for row in table.to_pylist():
            place = round(row["lon"] * 100), round(row["lat"] * 100)
            for file, column in columns.items():
                if row.get(column):
                    found.setdefault(place, {})[file] = str(row[column])
    return found


def _describe(files: StoreFiles, lon: int, lat: int, sha256: Mapping[str, str]) -> StoredTile:
    """A tile with its place, which its land mask tells."""
    registry = files.client.registry
    degrees = lon / 100, lat / 100
    sizes = {}
    for file, size_of, place in (
        ("codes", registry.get_tile_file_size, (files.year, *degrees)),
        ("scales", registry.get_scales_file_size, (files.year, *degrees)),
        ("landmask", registry.get_landmask_file_size, degrees),
    ):
        try:
            sizes[file] = int(size_of(*place))
        except ValueError:
            continue  # the store does not list it
    unknown = StoredTile(lon, lat, "", (), (0, 0), sizes, sha256)
    path = files.fetch(unknown, "landmask")
    try:
        with rasterio.open(path) as raster:
            crs, transform, shape = raster.crs, raster.transform, raster.shape
    except RasterioError as error:
        raise TileError(
            f"The land mask {path} cannot be read as a raster ({error}): delete it, or copy it "
            "again, and run again."
        ) from error
    if crs is None:
        raise TileError(f"The land mask {path} states no CRS, so its tile has no place: mend it.")
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


def _touches_any(tile: StoredTile, grid: RegionGrid, blocks: Sequence[tuple[float, ...]]) -> bool:
    left, bottom, right, top = tile_bounds(tile, grid)
    return any(left < b[2] and right > b[0] and bottom < b[3] and top > b[1] for b in blocks)


def tile_bounds(tile: StoredTile, grid: RegionGrid) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of a tile in the region's CRS; a little more where it has
    another one."""
    there, here = CRS.from_user_input(tile.crs), CRS.from_user_input(str(grid.geobox.crs))
    if there == here:
        return tile.bounds
    move = Transformer.from_crs(there, here, always_xy=True)
    left, bottom, right, top = move.transform_bounds(*tile.bounds, densify_pts=_DENSIFY)
    # Edges are curves there, of which some points were looked at.
    x, y = _MARGIN * (right - left), _MARGIN * (top - bottom)
    return left - x, bottom - y, right + x, top + y


class StoreFiles:
    """The files of a store's tiles of one year, downloaded where they are not there yet.

    Attributes:
        store: the store.
        client: a `geotessera.GeoTessera` over it.
        year: calendar year.
    """

    def __init__(self, store: Store, client: Any, year: int) -> None:
        self.store = store
        self.client = client
        self.year = year

    def fetch(self, tile: StoredTile, file: File) -> Path:
        """Path of one file of a tile, of the size and the hash that the store lists.

        Raises:
            TileError: a local store lacks it, or has another one than it lists.
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
                f"{self.store} lists {tile.name} of {self.year}, but {path} is not there: "
                "copy it, or the whole store, again."
            )
        size = tile.sizes.get(file)
        if not _is_whole(path, size):
            raise TileError(
                f"{path} has {path.stat().st_size} bytes, but {self.store} lists {size}: copy it "
                "again, or, if the store has been renewed, list its tiles anew (--forcerun "
                "store_tiles)."
            )
        # A renewed tile has the size of the one before.
        if not _is_listed(path, tile, file):
            raise TileError(
                f"{path} has another SHA-256 than {self.store} lists: copy it again, or, if the "
                "store has been renewed, list its tiles anew (--forcerun store_tiles)."
            )

    def _path(self, tile: StoredTile, file: File) -> Path:
        from geotessera import registry

        degrees = tile.lon / 100, tile.lat / 100
        if file == "landmask":
            name = registry.tile_to_landmask_filename(*degrees)
            return self.store.folder / str(registry.LANDMASKS_DIR_NAME) / str(name)
        codes, scales = registry.tile_to_embedding_paths(*degrees, self.year)
        chosen = codes if file == "codes" else scales
        return self.store.folder / str(registry.EMBEDDINGS_DIR_NAME) / str(chosen)

    def _download(self, tile: StoredTile, file: File, path: Path) -> None:
        """Have the client download a file, under its name only when it is whole."""
        path.unlink(missing_ok=True)  # not as listed: the client would keep it
        lon, lat = tile.lon / 100, tile.lat / 100
        log.info("downloading %s", path.name)
        with _sentences(self.store, f"{path.name} of {self.year}"):
            if file == "landmask":
                self.client.registry.fetch_landmask(lon=lon, lat=lat)
            else:
                scales = file == "scales"
                self.client.registry.fetch(year=self.year, lon=lon, lat=lat, is_scales=scales)
        if not _is_whole(path, tile.sizes.get(file)):
            found = path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)
            raise ReadError(
                f"{path.name} of {self.year} came with {found} bytes from {self.store}, which "
                f"lists {tile.sizes.get(file)}: run again."
            )


def _is_whole(path: Path, size: int | None) -> bool:
    return path.exists() and (size is None or path.stat().st_size == size)


def _is_listed(path: Path, tile: StoredTile, file: File) -> bool:
    """Whether a file is there and has the size and the hash of the list, as far as it has them."""
    if not _is_whole(path, tile.sizes.get(file)):
        return False
    listed = tile.sha256.get(file)
    if listed is None:
        return True
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == listed.lower()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait while another job, on this machine or another, downloads the same tile.

    Economy, not safety: a file system that knows no locks lets two jobs download it, each
    under a name of its own until it is whole. The lock goes with its process.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise output_error(path, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            log.info("no locks in %s: another job may download the same tile", path.parent)
        yield
