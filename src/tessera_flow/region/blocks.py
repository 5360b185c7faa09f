"""Load the grid and blocks of a region, cached between two readings of the workflow.

Snakemake reads the workflow again in every cluster job, so grids are cached, by the content of
the ROI and the grid settings.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..config.configuration import Config
from ..config.sections import GridSettings, Region
from .grid import RegionGrid
from .roi_files import roi_digest, roi_files

CACHE_VERSION = 1
"""Increased when a change of `gridding` or `roi` alters grids or blocks."""


def _settings_key(region: Region, settings: GridSettings) -> str:
    document = {
        "version": CACHE_VERSION,
        "region": region.model_dump(mode="json", exclude={"periods"}),
        "grid": settings.model_dump(mode="json", exclude={"patch_size"}),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _signature(region: Region) -> list[list[Any]]:
    entries = []
    for file in roi_files(region.roi):
        if not file.exists():
            return []
        stat = file.stat()
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


def load_region_grid(config: Config, name: str) -> tuple[RegionGrid, str]:
    """Return the grid of a region and the SHA-256 of its ROI's content, from the cache if valid.

    The cache is valid while size and modification time of the ROI's files are unchanged. If they
    differ the content is hashed, and the grid is made again only if content or settings changed.

    Raises:
        RegionError: the region cannot be read or used.
        OutputError: the cache cannot be written.
    """
    region = config.regions[name]
    settings_key = _settings_key(region, config.grid)
    signature = _signature(region)
    cache = cache_folder(config) / "regions" / f"{name}.json"
    cached = _read_cache(cache, {"settings", "files", "roi", "grid"})
    if cached and cached["settings"] == settings_key and signature:
        if cached["files"] == signature:
            return RegionGrid.from_json(cached["grid"]), cached["roi"]
        if cached["roi"] == roi_digest(region.roi):
            write_text(cache, json.dumps({**cached, "files": signature}))
            return RegionGrid.from_json(cached["grid"]), cached["roi"]
    # Imported here: only a region that is new or changed needs the reader of geometries.
    from .gridding import make_grid

    grid = make_grid(name, region, config.grid)
    digest = roi_digest(region.roi)
    document = {
        "settings": settings_key,
        "files": signature,
        "roi": digest,
        "grid": grid.to_json(),
    }
    write_text(cache, json.dumps(document))
    return grid, digest


def _read_cache(path: Path, expected: set[str]) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and expected <= document.keys() else None
