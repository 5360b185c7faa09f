"""Published embeddings that are read over HTTP, and computed where they have holes: a failure of
the server, or a damaged store, is an error and never a hole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.block_file import open_block_file
from tessera_flow.errors import ItemError, ReadError, TileError
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.listing import list_published
from tessera_flow.geotessera.stores import Store
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.region.grid import RegionGrid
from tessera_flow.region.needed import HOLES, NOT_NEEDED

from ..support.products_region import make_region
from ..support.published_zarr import ABSENT, ZONES, write_published
from ..support.servers import Fault, FileServer, serve_files
from .test_geotessera_source import write_roi
from .test_geotessera_zarr import POLICY, grid_of_zone

YEAR = 2024
SHARD = "/utm33/{}/c/1/{}0/0"
"""The first shard of `published`: array, and the index of the bands where it has one."""
SCALES, CODES = SHARD.format("scales", ""), SHARD.format("embeddings", "0/")


def imported(store: Store, grid: RegionGrid, folder: Path, year: int = YEAR) -> dict[str, Any]:
    """Import the only block of a region, and return its arrays."""
    folder.mkdir(exist_ok=True)
    roi = write_roi(folder / "roi.tif", grid, np.ones(grid.geobox.shape, bool))
    (block,) = grid.blocks
    path = folder / "block.zip"
    manifest = list_published(store, grid, year)
    try:
        import_embeddings(store, manifest, grid, block, roi, path, 50, filled=True)
    finally:
        assert sorted(p.name for p in folder.iterdir()) in (["block.zip", "roi.tif"], ["roi.tif"])
    with open_block_file(path) as group:
        found: dict[str, Any] = {name: group[name][:] for name in ("embeddings", "scales", HOLES)}
        return found | {NOT_NEEDED: group.attrs[NOT_NEEDED]}


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera_flow.raster.retry.FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "store")


@pytest.fixture(scope="module")
def from_folder(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    grid = grid_of_zone(ZONES[2])
    return imported(Store(str(published)), grid, tmp_path_factory.mktemp("folder"))


@pytest.fixture
def server(published: Path) -> Iterator[FileServer]:
    with serve_files(published.parent) as server:
        yield server


def remote(server: FileServer, attempts: int = 3) -> Store:
    return Store(f"{server.url}/store", policy=replace(POLICY, attempts=attempts))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", SCALES, count=2, value=503),
        Fault("busy", CODES, value=0),
        Fault("truncate", SCALES),
        Fault("cut", CODES, skip=2, count=2, value=100),
        Fault("reset", CODES, skip=3),
        Fault("short", CODES, skip=2),
        Fault("page", SCALES),
        # The metadata, which are read again for each absent file.
        Fault("gzip whole", "/zarr.json", count=None),
        Fault("status", "/zarr.json", skip=2, value=503),
    ],
    ids=lambda fault: f"{fault.kind} {fault.path}",
)
def test_a_server_that_recovers_changes_no_pixel(
    server: FileServer, from_folder: dict[str, Any], tmp_path: Path, fault: Fault
) -> None:
    own = replace(fault)
    server.faults.append(own)
    found = imported(remote(server), grid_of_zone(ZONES[2]), tmp_path)
    assert own.seen > own.skip
    assert_equal(found, from_folder)
    assert found[HOLES][ABSENT].all() and not found[NOT_NEEDED]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("status", SCALES, count=None, value=503), "HTTP 503"),
        (Fault("truncate", CODES, count=None), "IncompleteRead"),
        (Fault("cut", CODES, skip=3, count=None, value=100), "IncompleteRead"),
        (Fault("page", SCALES, skip=1, count=None), "was replaced while it was read. Run again"),
        (Fault("short", CODES, skip=2, count=None), "a shorter range than requested"),
        # The index of the shard was read before.
        (Fault("status", CODES, skip=2, count=None, value=404), "removed while it was read"),
        (Fault("status", SCALES, skip=2, count=None, value=410), "removed while it was read"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_server_that_does_not_recover_is_an_error(
    server: FileServer, tmp_path: Path, fault: Fault, reason: str
) -> None:
    server.faults.append(replace(fault))
    with pytest.raises(ReadError, match=reason):
        imported(remote(server, attempts=2), grid_of_zone(ZONES[2]), tmp_path)


@pytest.mark.parametrize("status", [404, 403])
def test_a_store_that_disappears_has_no_holes(
    server: FileServer, tmp_path: Path, status: int
) -> None:
    """As of a disk that is no longer mounted: nothing exists any more, also not the metadata."""
    grid, store = grid_of_zone(ZONES[2]), remote(server, attempts=1)
    list_published(store, grid, YEAR)
    gone = server.paths.count("/store/zarr.json")
    server.faults += [
        Fault("status", "/store/zarr.json", skip=2 * gone, count=None, value=status),
        Fault("status", "/utm33/scales/c", count=None, value=status),
    ]
    with pytest.raises(ReadError, match=rf"zarr.json|HTTP {status}"):
        imported(store, grid, tmp_path)


def test_metadata_that_are_replaced_while_a_block_is_read_are_an_error(
    server: FileServer, tmp_path: Path
) -> None:
    grid, store = grid_of_zone(ZONES[2]), remote(server)
    list_published(store, grid, YEAR)
    opened = server.paths.count("/store/zarr.json")
    document = (server.folder / "store/zarr.json").read_bytes()
    server.replacements["/store/zarr.json"] = document + b" "
    server.faults.append(Fault("replace", "/store/zarr.json", skip=2 * opened))
    with pytest.raises(ReadError, match=r"zarr.json was replaced while the store was read"):
        imported(store, grid, tmp_path)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RegionGrid]:
    """A store that was written here, of a region without holes."""
    folder = tmp_path_factory.mktemp("own")
    region = make_region(
        folder / "blocks", 600, dim=128, valid=np.ones((60, 60), bool),
        values=np.random.default_rng(0).normal(size=(60, 60, 128)).astype(np.float32),
    )  # fmt: skip
    write_geotessera(folder / "store", region.grid, region.blocks, region.provenance)
    return folder / "store", region.grid


LISTED = "is in its checksums.json, but does not exist"


@pytest.mark.parametrize("array", ["scales", "embeddings"])
@pytest.mark.parametrize("status", [404, 403])
def test_a_listed_file_that_the_server_does_not_have_is_an_error(
    own: tuple[Path, RegionGrid], tmp_path: Path, array: str, status: int
) -> None:
    """S3 answers 403 for what does not exist, where nobody may list the bucket."""
    with serve_files(own[0].parent) as server:
        server.faults.append(Fault("status", f"utm31/{array}/c/", count=None, value=status))
        with pytest.raises(ReadError, match=rf"utm31/{array}/c/0.* {LISTED}"):
            imported(remote(server, attempts=1), own[1], tmp_path, 2023)


def test_a_listed_file_that_was_deleted_is_an_error(
    own: tuple[Path, RegionGrid], tmp_path: Path
) -> None:
    complete = imported(Store(str(own[0])), own[1], tmp_path / "a", 2023)
    assert complete[NOT_NEEDED] and np.isfinite(complete["scales"]).all()
    store = Path(shutil.copytree(own[0], tmp_path / "store"))
    (shard,) = (path for path in (store / "utm31/scales/c").rglob("*") if path.is_file())
    shard.unlink()
    with pytest.raises(TileError, match=rf"utm31/scales/c/0/0/0 .*{LISTED}"):
        imported(Store(str(store)), own[1], tmp_path / "b", 2023)
    # Without the list it is a chunk of the fill value, as in any Zarr store.
    (store / "checksums.json").unlink()
    assert imported(Store(str(store)), own[1], tmp_path / "c", 2023)[HOLES].all()
    (store / "checksums.json").write_text("{")
    with pytest.raises(ItemError, match=r"checksums.json of .* is damaged"):
        imported(Store(str(store)), own[1], tmp_path / "d", 2023)
