"""Load the grid and blocks of a region, cached between two readings of the workflow.

Snakemake reads the workflow again in every cluster job, so grids are cached, by the geometry of
the ROI and the grid settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_text
from ..config.configuration import Config
from ..config.sections import OVERRIDES, GridSettings, Region
from ..errors import RegionError
from ..input_files import check_input
from .grid import RegionGrid
from .roi_files import roi_files

if TYPE_CHECKING:
    from .roi import RasterRoi, VectorRoi

CACHE_VERSION = 3
"""Increased when a change of `gridding` or `roi` alters grids or blocks."""


_KEYS = {"settings", "files", "roi", "grid", "warnings"}
"""Of the document in the cache of a region."""


def _settings_key(region: Region, settings: GridSettings, tiles: bool) -> str:
    document = {
        "version": CACHE_VERSION,
        "region": region.model_dump(mode="json", exclude={"periods", *OVERRIDES}),
        "grid": settings.model_dump(mode="json", exclude={"patch_size"}),
        "tiles": tiles,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _signature(region: Region) -> list[list[Any]]:
    if isinstance(region.roi, list):
        return [["box", *region.roi]]
    entries: list[list[Any]] = []
    for file in roi_files(region.roi):
        try:
            stat = file.stat()
        except OSError:
            return []
        entries.append([str(file), stat.st_size, stat.st_mtime_ns])
    return entries


def cache_folder(config: Config) -> Path:
    """Return the folder of the files that are cached between two readings of the workflow."""
    return Path(config.paths.work) / "plan"


def content_digest(path: Path, cache: Path) -> str:
    """Return the SHA-256 of a file's content, and keep it in `cache`.

    The cached value is used while path, size and modification time are unchanged, so that a large
    file is not read again whenever the workflow is read.

    Raises:
        OutputError: the cache cannot be written.
    """
    stat = path.stat()
    signature = [str(path), stat.st_size, stat.st_mtime_ns]
    cached = _read_cache(cache, {"file", "sha256"})
    if cached and cached["file"] == signature:
        return str(cached["sha256"])
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    write_text(cache, json.dumps({"file": signature, "sha256": digest}))
    return digest


def read_region(config: Config, name: str) -> VectorRoi | RasterRoi:
    """Read a region's geometry. With `source: tiles`, a raster mask is where the pixels of the
    tile folders are, see `roi.on_multiples`.

    Raises:
        RegionError: see `roi.read_roi`.
    """
    from .roi import on_multiples, read_roi

    region = config.regions[name]
    roi = read_roi(region.roi, region.layer)
    if config.source == "tiles" and region.align == "grid":
        roi = on_multiples(roi, config.grid.resolution)
    return roi


def load_region_grid(config: Config, name: str) -> tuple[RegionGrid, str]:
    """Return the grid of a region and the fingerprint of its geometry, from the cache if valid.

    The cache is valid while size and modification time of the ROI's files are unchanged. If they
    differ the geometry is read, and the grid is made again only if geometry or settings changed.

    Raises:
        RegionError: the region cannot be read or used.
        OutputError: the cache cannot be written.
    """
    region = config.regions[name]
    settings_key = _settings_key(region, config.grid, config.source == "tiles")
    if isinstance(region.roi, str):
        check_input(region.roi, RegionError)
    # Before the file is read: a change during the reading is then seen next time.
    signature = _signature(region)
    cache = _region_cache(config, name)
    cached = _read_cache(cache, _KEYS)
    if cached and cached["settings"] != settings_key:
        cached = None
    if cached and signature and cached["files"] == signature:
        return RegionGrid.from_json(cached["grid"]), cached["roi"]
    # Imported here: only a region that is new or changed needs the reader of geometries.
    from .gridding import make_grid

    with _collected_warnings() as reading:
        roi = read_region(config, name)
        fingerprint = roi.fingerprint()
    if cached and cached["roi"] == fingerprint:
        grid, of_grid = RegionGrid.from_json(cached["grid"]), cached["warnings"]["grid"]
    else:
        with _collected_warnings() as gridding:
            grid = make_grid(name, roi, region, config.grid)
        of_grid = gridding.texts
    document = {
        "settings": settings_key,
        "files": signature,
        "roi": fingerprint,
        "grid": grid.to_json(),
        "warnings": {"state": reading.of_state, "file": reading.texts, "grid": of_grid},
    }
    write_text(cache, json.dumps(document))
    return grid, fingerprint


def region_warnings(config: Config) -> list[str]:
    """Return the warnings about the files and grids of all regions, from the cache."""
    documents = (_read_cache(_region_cache(config, name), _KEYS) for name in config.regions)
    return [
        text
        for document in documents
        if document
        for texts in document["warnings"].values()
        for text in texts
    ]


def lasting_warnings(config: Config, name: str) -> list[str]:
    """Return the warnings about a region that concern its products, from the cache.

    They do not contain the path of its file, and not those about the state of the file, such as
    that another program has it open.
    """
    document = _read_cache(_region_cache(config, name), _KEYS)
    if not document:
        return []
    roi = config.regions[name].roi
    path = str(Path(roi)) if isinstance(roi, str) else ""  # a box names itself
    texts = [
        text.replace(path, f"the file of region {name}") if path else text
        for kind in ("file", "grid")
        for text in document["warnings"][kind]
    ]
    return [text[:1].upper() + text[1:] for text in texts]


def _region_cache(config: Config, name: str) -> Path:
    return cache_folder(config) / "regions" / f"{name}.json"


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.of_state: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        texts = self.of_state if getattr(record, "of_state", False) else self.texts
        texts.append(record.getMessage())


@contextmanager
def _collected_warnings() -> Iterator[_Collector]:
    """Collect the warnings of this package, which are shown in every run, also from the cache."""
    logger, collector = logging.getLogger(__package__), _Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def _read_cache(path: Path, expected: set[str]) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and expected <= document.keys() else None
