"""From a region's settings to its grid and blocks, cached between parses.

The plan is made when the Snakefile is parsed, and the Snakefile is parsed again in every
cluster job, so it is cached: keyed by the content of the ROI and the grid settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pyproj
import shapely

from ..atomic import write_text
from ..config.configuration import Config
from ..config.sections import GridSettings, Region
from .grid import Block, RegionGrid, Window, block_id
from .mask import mask_reader, no_pixel_error
from .roi import VectorRoi, read_roi, region_geobox, reproject, roi_digest, roi_files

log = logging.getLogger(__name__)

_FAR_FROM_MERIDIAN = 4.0
"""Degrees: a zone ends at 3, and scenes of a zone reach beyond it."""

PLAN_VERSION = 1
"""Raised when a change of this module or of `roi` alters grids or blocks."""


def make_grid(name: str, region: Region, settings: GridSettings) -> RegionGrid:
    """Read the region and cut its grid into the blocks that hold a pixel of it.

    Raises:
        RegionError: the region cannot be read, or no pixel lies inside.
    """
    roi = read_roi(region.roi, region.layer)
    geobox = region_geobox(roi, settings.resolution, region.crs, region.align)
    height, width = geobox.shape
    size = settings.block_size
    read = mask_reader(roi, geobox)
    certain = _certain_blocks(roi, geobox) if isinstance(roi, VectorRoi) else None
    blocks = []
    for row in range(-(-height // size)):
        for column in range(-(-width // size)):
            y0, x0 = row * size, column * size
            window = Window(y0, x0, min(size, height - y0), min(size, width - x0))
            known = certain(window) if certain else None
            if known if known is not None else _kept_pixels(read(window), settings):
                blocks.append(Block(block_id(row, column), window))
    if not blocks:
        raise no_pixel_error(roi)
    _warn_of_width(name, geobox)
    return RegionGrid(name, geobox, size, settings.downsample_rate, tuple(blocks))


def _warn_of_width(name: str, geobox: Any) -> None:
    """Say so where a region in a UTM zone reaches far beyond it. One grid for the whole region
    is this program's choice: no seam between zones, at the price of distances."""
    crs = pyproj.CRS.from_user_input(str(geobox.crs))
    if crs.utm_zone is None:
        return
    west, _, east, _ = geobox.geographic_extent.boundingbox
    middle = 6 * int(crs.utm_zone[:-1]) - 183
    farthest = max(abs((edge - middle + 180) % 360 - 180) for edge in (west, east))
    if farthest > _FAR_FROM_MERIDIAN:
        log.warning(
            "Region %s is wider than one UTM zone: it reaches %.1f degrees from the meridian of "
            "zone %s. All of it is put on the one grid of %s, where its far edge is drawn larger "
            "than it is; cut it into regions of one zone each, or choose another CRS in "
            "regions.%s.crs, if that matters.",
            name,
            farthest,
            crs.utm_zone,
            geobox.crs,
            name,
        )


def _kept_pixels(mask: Any, settings: GridSettings) -> bool:
    n = settings.downsample_rate
    return bool(mask[::n, ::n].any())


def _certain_blocks(roi: VectorRoi, geobox: Any) -> Any:
    """True for a window wholly inside, False for one wholly outside, None for the border,
    which is rasterised: a window can touch the region and hold no pixel centre of it."""
    geometry = reproject(roi.geometry, roi.crs, pyproj.CRS.from_user_input(str(geobox.crs)))
    shapely.prepare(geometry)
    a, _, c, _, e, f = tuple(geobox.affine)[:6]

    def certain(window: Window) -> bool | None:
        box = shapely.box(
            c + a * window.x0,
            f + e * (window.y0 + window.height),
            c + a * (window.x0 + window.width),
            f + e * window.y0,
        )
        if not geometry.intersects(box):
            return False
        return True if geometry.contains(box) else None

    return certain


def _settings_key(region: Region, settings: GridSettings) -> str:
    document = {
        "version": PLAN_VERSION,
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
    """Where what is cached between parses lies."""
    return Path(config.paths.work) / "plan"


def content_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's content, remembered in `cache`.

    An unchanged path, size and modification time are trusted, so that a large file is not
    read at every parse.

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
    """The grid of a region and the SHA-256 of its ROI's content, from the cache when it fits.

    An unchanged size and modification time are trusted; otherwise the content is hashed,
    and the plan is made anew only when content or settings differ.

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
