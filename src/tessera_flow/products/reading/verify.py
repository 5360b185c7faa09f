"""Compare the content of products with their records of checksums."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import TileError
from ..checksums import FOLDER, STORE_RECORD, TILES, Checksums, records_in
from .description import find_products

_SHOWN = 4
"""File names in the line about a record."""


@dataclass(frozen=True)
class Verified:
    """The result for one record.

    Attributes:
        root: the store, or the folder of the files.
        files: number of files in the record.
        size: their bytes.
        faults: what is wrong; empty if all files are as recorded.
        names: names of the first files; empty for a store.
    """

    root: Path
    files: int
    size: int
    faults: tuple[str, ...]
    names: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the result as text."""
        if self.faults:
            return "\n".join(f"{self.root}: {fault}" for fault in self.faults)
        more = ", ..." if len(self.names) < self.files else ""
        names = f" ({', '.join(self.names)}{more})" if self.names else ""
        size = f"{self.size / 1e6:,.1f} MB" if self.size >= 1e5 else f"{self.size / 1e3:,.1f} kB"
        return f"{self.root}: {self.files} files, {size}{names}, as recorded"


def verify(path: Path) -> Iterator[Verified]:
    """Read all files of a product, or of the products in a folder, and compare their SHA-256.

    Yields:
        One result for each record of checksums, also those of the tile folders of each block, and
        one for each product without a record.

    Raises:
        TileError: there is no product.
    """
    lists = _tile_lists(path)
    folders: set[Path] = set()
    for product in _products(path, bool(lists)):
        if product.is_dir():
            yield _store(product)
            continue
        folder = product.parent
        try:
            records = records_in(folder)
        except TileError as error:
            yield Verified(product, 0, 0, (str(error),))
            continue
        named = [record for record in records if product.name in record.sizes]
        if not named:
            fault = f"has no record of checksums in {folder / FOLDER}: run the workflow again"
            yield Verified(product, 0, 0, (fault,))
        elif path == product:
            yield from map(_files, named)
        elif folder not in folders:
            folders.add(folder)
            yield from map(_files, (record for record in records if record.sizes))
    for tile_list in lists:
        yield from _tiles(tile_list, tile_list.parent in folders)
    if path.is_dir():
        yield from _collections(path, folders)


def _products(path: Path, has_tiles: bool) -> list[Path]:
    if has_tiles and path.name == TILES:
        return []  # their masks are no products
    try:
        return find_products(path)
    except TileError:
        if has_tiles:
            return []  # tile folders are the only product
        raise


def _tile_lists(path: Path) -> list[Path]:
    """Return the lists of tile folders of a folder of results, of a region, or of a period."""
    if path.name == TILES:
        path = path.parent
    found = (p for depth in ("", "*/", "*/*/") for p in path.glob(f"{depth}{TILES}.json"))
    return sorted(p for p in found if p.parent.name != FOLDER)


def _tiles(tile_list: Path, list_is_done: bool) -> Iterator[Verified]:
    """Verify the tile folders of each block of a list, and the list, if that is not done yet."""
    folder = tile_list.with_suffix("")
    try:
        if not list_is_done:
            yield _files(Checksums.read(tile_list.parent / FOLDER / tile_list.name, folder.parent))
        blocks = [str(name) for name in json.loads(tile_list.read_bytes())["blocks"]]
    except TileError as error:
        yield Verified(tile_list, 0, 0, (str(error),))
        return
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield Verified(tile_list, 0, 0, (f"cannot be read ({error}): run the workflow again",))
        return
    for block in blocks:
        path = folder / f"{block}.json"
        try:
            record = Checksums.of_tiles(path)
        except TileError as error:
            yield Verified(path, 0, 0, (str(error),))
            continue
        if record.sizes:
            yield _files(record)
        else:
            yield Verified(path, 0, 0, ("has no checksums: delete it and run the workflow again",))


def _collections(path: Path, done: set[Path]) -> Iterator[Verified]:
    """Verify the records of the folders above those of products: of STAC Collections."""
    for folder in sorted({folder.parent for folder in done} - done):
        if folder == path or path in folder.parents:
            yield from map(_files, records_in(folder))


def _store(store: Path) -> Verified:
    if not (store / STORE_RECORD).exists():
        fault = f"has no {STORE_RECORD}: run the workflow again"
        return Verified(store, 0, 0, (fault,))
    record = Checksums.of_store(store)
    return _result(record, (*record.changed_contents(), *record.unknown()))


def _files(record: Checksums) -> Verified:
    return _result(record, tuple(record.changed_contents()), tuple(record.sizes)[:_SHOWN])


def _result(record: Checksums, faults: tuple[str, ...], names: tuple[str, ...] = ()) -> Verified:
    return Verified(record.root, len(record.sizes), sum(record.sizes.values()), faults, names)
