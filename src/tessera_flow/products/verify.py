"""Compare the content of products with their records of checksums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import TileError
from .checksums import FOLDER, STORE_RECORD, Checksums, records_in
from .description import find_products


@dataclass(frozen=True)
class Verified:
    """The result for one record.

    Attributes:
        root: the store, or the folder of the files.
        files: number of files in the record.
        size: their bytes.
        faults: what is wrong; empty if all files are as recorded.
    """

    root: Path
    files: int
    size: int
    faults: tuple[str, ...]

    def line(self) -> str:
        """Return the result as text."""
        if self.faults:
            return "\n".join(f"{self.root}: {fault}" for fault in self.faults)
        return f"{self.root}: {self.files} files, {self.size / 1e6:,.1f} MB, as recorded"


def verify(path: Path) -> Iterator[Verified]:
    """Read all files of a product, or of the products in a folder, and compare their SHA-256.

    Yields:
        One result for each record of checksums, and one for each product without a record.

    Raises:
        TileError: there is no product.
    """
    folders: set[Path] = set()
    for product in find_products(path):
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
            yield from map(_files, records)
    if path.is_dir():
        yield from _collections(path, folders)


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
    return _result(record, tuple(record.changed_contents()))


def _result(record: Checksums, faults: tuple[str, ...]) -> Verified:
    return Verified(record.root, len(record.sizes), sum(record.sizes.values()), faults)
