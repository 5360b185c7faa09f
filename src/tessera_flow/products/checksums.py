"""Record the sizes and SHA-256 of product files, and find files that are missing or have changed.

A store (a folder) contains its record, `checksums.json`; the files of other products have it in
the folder `checksums` next to them, one record for each rule that writes products. Of tile folders
it is in the list of those of a block, next to them. Nothing here imports a reader of a product: the
workflow compares sizes whenever it is read.

GDAL rewrites a VRT when it computes statistics, also if it only reads it. So the SHA-256 of a VRT
is that of the values that decide its pixels, and that of the names of classes beside a GeoTIFF
(`.aux.xml`) that of the names.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic import output_error, write_text
from ..concurrency import ordered_map
from ..errors import TileError

STORE_RECORD = "checksums.json"
FOLDER = "checksums"
TILES = "tiles"
"""Folder of the exported tile folders, and of the list of those of each block."""

VRT = ".vrt"
_STATISTICS = ".aux.xml"
REWRITTEN = (VRT, _STATISTICS)
"""Ends of the names of files that GDAL writes statistics into."""

_CRS_CODE = re.compile(r'(?:ID|AUTHORITY)\["(\w+)",\s*"?(\w+)"?\]\]$')
_VRT_TAGS = (
    *("SourceFilename", "SourceBand"),
    *("ImageOffset", "PixelOffset", "LineOffset", "ByteOrder"),
    *("Description", "NoDataValue", "PixelFunctionType", "SourceTransferType"),
)
_LISTED = 5
_FEW = 100
_THREADS = 16


@dataclass(frozen=True)
class Checksums:
    """The record of some files.

    Attributes:
        root: folder that the names are relative to.
        sizes: bytes of each file, by name.
        sha256: hexadecimal, by name; of a VRT or .aux.xml, that of its values.
        settings: that the files were made with; None if not recorded.
    """

    root: Path
    sizes: Mapping[str, int]
    sha256: Mapping[str, str]
    settings: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, root: Path, settings: Mapping[str, Any] | None = None, threads: int = 1
    ) -> Checksums:
        """Read the files of a folder, apart from its record."""
        names = sorted(name for name in _names(root) if name != STORE_RECORD)
        return cls.of_files([root / name for name in names], root, settings, threads)

    @classmethod
    def of_files(
        cls,
        files: Iterable[Path],
        root: Path,
        settings: Mapping[str, Any] | None = None,
        threads: int = 1,
    ) -> Checksums:
        """Read some files below `root`.

        Raises:
            OSError: a file cannot be read.
        """
        names = {file.relative_to(root).as_posix(): file for file in files}
        return cls(
            root,
            {name: file.stat().st_size for name, file in names.items()},
            dict(zip(names, ordered_map(sha256_of, names.values(), threads), strict=True)),
            settings,
        )

    def write(self, path: Path) -> None:
        """Write the record.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(path, json.dumps(self.document(), indent=1) + "\n")

    def document(self) -> dict[str, Any]:
        """Return the record as `read` expects it, possibly among other keys."""
        files = {
            name: {"size": self.sizes[name], "sha256": self.sha256[name]} for name in self.sizes
        }
        return {"files": files, "settings": self.settings}

    @classmethod
    def read(cls, path: Path, root: Path) -> Checksums:
        """Read a record.

        Raises:
            TileError: it is missing or damaged.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            files = document["files"].items()
            return cls(
                root,
                {name: int(file["size"]) for name, file in files},
                {name: str(file["sha256"]) for name, file in files},
                document["settings"],
            )
        except FileNotFoundError as error:
            raise TileError(
                f"{path} does not exist, so {root} cannot be verified: run the workflow again to "
                "write it."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TileError(
                f"{path} is no record of checksums ({error}), so {root} cannot be verified: run "
                "the workflow again to write it."
            ) from error

    @classmethod
    def of_store(cls, store: Path) -> Checksums:
        """Read the record in a store; raises TileError as `read`."""
        return cls.read(store / STORE_RECORD, store)

    @classmethod
    def of_tiles(cls, path: Path) -> Checksums:
        """Read the record in the list of the tile folders of a block.

        A list of an earlier version has no record, and the result no files.

        Raises:
            TileError: as `read`.
        """
        with contextlib.suppress(OSError, ValueError):
            document = json.loads(path.read_bytes())
            if isinstance(document, dict) and "tiles" in document and "files" not in document:
                return cls(path.parent, {}, {})
        return cls.read(path, path.parent)

    def only(self, names: Iterable[str]) -> Checksums:
        """Return the record of some of the files."""
        chosen = list(names)
        return replace(
            self,
            sizes={name: self.sizes[name] for name in chosen},
            sha256={name: self.sha256[name] for name in chosen},
        )

    def changed_sizes(self) -> Iterator[str]:
        """Yield what is wrong with each file that is missing or has another size."""
        names = list(self.sizes)
        # Each size is a request to the server of a network file system.
        groups = [names[n::_THREADS] for n in range(min(_THREADS, len(names)))]

        def compare(group: list[str]) -> list[str]:
            return [fault for name in group if (fault := self.fault(name))]

        threads = _THREADS if len(names) > _FEW else 0
        found = itertools.chain.from_iterable(ordered_map(compare, groups, threads))
        yield from sorted(found)

    def fault(self, name: str) -> str | None:
        """Return what is wrong with the existence or the size of a file of the record."""
        expected = self.sizes[name]
        try:
            size = os.stat(os.path.join(self.root, name)).st_size
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if size == expected or self._has_same_values(name):
            return None
        return f"{name} has {size} bytes instead of {expected}"

    def _has_same_values(self, name: str) -> bool:
        try:
            return name.endswith(REWRITTEN) and sha256_of(self.root / name) == self.sha256[name]
        except OSError:
            return False

    def changed_contents(self) -> Iterator[str]:
        """Yield what is wrong with each file that is missing or has changed; reads all of it."""
        for name, expected in self.sha256.items():
            fault = self.fault(name)
            try:
                if fault is None and sha256_of(self.root / name) != expected:
                    fault = f"{name} has changed (its SHA-256 is another)"
            except OSError as error:
                fault = f"{name} cannot be read ({error.strerror})"
            if fault:
                yield fault

    def unknown(self) -> Iterator[str]:
        """Yield the files of a store that are not in its record, but not statistics of GDAL."""
        for name in sorted(_names(self.root)):
            if name not in self.sizes and name != STORE_RECORD and not name.endswith(_STATISTICS):
                yield f"{name} is not in the record"


def record_files(
    record: Path, files: Iterable[Path], settings: Mapping[str, Any] | None = None
) -> None:
    """Write the record of product files in the parent of the record's folder.

    Raises:
        OutputError: a file cannot be read again, or the record cannot be written.
    """
    try:
        checksums = Checksums.of_files(files, record.parent.parent, settings)
    except OSError as error:
        raise output_error(Path(error.filename or record), error) from error
    checksums.write(record)


def records_in(folder: Path, products: Iterable[str] | None = None) -> list[Checksums]:
    """Return the records of the product files in a folder; stores have their own.

    Args:
        folder: of the products.
        products: those whose records are read, if they have one; None for all.

    Raises:
        TileError: a record is damaged.
    """
    paths = (folder / FOLDER).glob("*.json")
    # A Mac writes `._counts.json` beside `counts.json` on disks of other systems.
    names = sorted(path.name for path in paths if not path.name.startswith("."))
    if products is not None:
        chosen = {f"{product}.json" for product in products}
        names = [name for name in names if name in chosen]
    return [Checksums.read(folder / FOLDER / name, folder) for name in names]


def damage_message(root: Path, faults: Iterable[str]) -> str:
    """Return the message about a damaged product: the first faults, and what to do."""
    listed = list(faults)
    shown = "; ".join(listed[:_LISTED])
    more = len(listed) - _LISTED
    return (
        f"{root} is damaged: {shown}{f' and {more} more' if more > 0 else ''}. Run the workflow "
        "again, which writes it again, or copy it again; `tessera-flow info --verify` reads all "
        "of it."
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal; of a VRT or .aux.xml, that of its values."""
    if path.name.endswith(_STATISTICS):
        return hashlib.sha256(_class_names(path.read_bytes())).hexdigest()
    if path.suffix == VRT:
        return hashlib.sha256(_vrt_values(path.read_bytes())).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _vrt_values(data: bytes) -> bytes:
    """Return what decides the pixels and the record of a VRT: the same after GDAL has rewritten it.

    These are the grid, the metadata, and type, description and sources of each band. Of the CRS it
    is the code, if it has one, because GDAL rewrites the text. What is not XML is returned as is.
    """
    # Imported here: the workflow reads this module often, but compares sizes only.
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(data)
        numbers = [float(n) for n in root.findtext("GeoTransform", "").split(",")]
    except (ElementTree.ParseError, ValueError):
        return data
    code = _CRS_CODE.search(root.findtext("SRS", "").strip())
    values: list[Any] = [
        [root.get("rasterXSize"), root.get("rasterYSize"), numbers, code and code.groups()],
        sorted((item.get("key", ""), item.text) for item in root.iterfind("Metadata/MDI")),
    ]
    for band in root.iterfind("VRTRasterBand"):
        texts = [(e.tag, e.text) for e in band.iter() if e.tag in _VRT_TAGS]
        # Sources keep their order; GDAL changes that of the other elements.
        texts.sort(key=lambda pair: pair[0])
        values.append([band.get("band"), band.get("dataType"), band.get("subClass"), texts])
    return json.dumps(values).encode()


def _class_names(data: bytes) -> bytes:
    """Return the names of classes and the table of values in an .aux.xml, the same after GDAL has
    added statistics. What is not XML is returned as is."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return data
    names = [
        [(element.tag, (element.text or "").strip()) for element in part.iter()]
        for tag in ("CategoryNames", "GDALRasterAttributeTable")
        for part in root.iterfind(f"PAMRasterBand/{tag}")
    ]
    return json.dumps(names).encode()


def multihash(sha256: str) -> str:
    """Return a SHA-256 as STAC's `file:checksum`: code of the function, length, value."""
    return f"1220{sha256}"


def _names(root: Path) -> Iterator[str]:
    """Yield the files below a folder, by relative path; not hidden ones, as of file browsers."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()
