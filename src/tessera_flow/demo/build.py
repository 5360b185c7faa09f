"""Write the demo: a small simulated archive, a region, untrained weights and a configuration."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.warp import transform as transform_points

from ..atomic import output_error
from ..errors import OutputError
from .archive import write_item_collection
from .cog import write_if_different
from .scenes import CRS, Region, write_scenes
from .schedule import FIRST_DAY, LAST_DAY
from .weights import NAME, write_demo_weights

log = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""Increased with every change of the generated files, so that older demos are rewritten."""

SEED = 20210701
PERIOD = f"{FIRST_DAY:%Y-%m}_{LAST_DAY:%Y-%m}"

# Outline and hole of the region, as fractions of its bounds from the upper left corner.
_OUTLINE = (
    (0.04, 0.10), (0.24, 0.0), (0.52, 0.06), (0.78, 0.0), (1.0, 0.16), (0.95, 0.42), (1.0, 0.71),
    (0.90, 0.94), (0.63, 1.0), (0.47, 0.93), (0.22, 1.0), (0.0, 0.78), (0.05, 0.46), (0.0, 0.27),
)  # fmt: skip
_HOLE = ((0.52, 0.42), (0.60, 0.40), (0.64, 0.50), (0.58, 0.57), (0.51, 0.52))

_CONFIG = """\
# The demo of tessera-flow. Its scenes are SIMULATED and its weights UNTRAINED: the products
# show how the workflow runs and have no meaning. Paths are relative to the folder above this
# one. Written by `tessera-flow demo`; docs/configuration.md lists all keys.

regions:
  demo:
    # A polygon with a hole, in longitude and latitude; its UTM zone is chosen from it.
    roi: {roi}

periods:
  # The last day is included. A period may cross the end of a year and have any length.
  {period}:
    start: {first}
    end: {last}

model:
  weights: {weights}
  # The first 16, 32, 64 or all 128 dimensions.
  dim: 128
  # int8 codes with a float32 scale per pixel, or float32.
  dtype: int8
  min_observations:
    s2: 1
    s1: 0
  device: auto

# corrected: baseline offset and no data handled correctly; as_published: as in the published
# pipeline.
preprocessing: corrected

grid:
  resolution: 10.0
  # Small values, so that the region has several blocks, and a block several patches.
  block_size: 100
  patch_size: 50

sentinel2:
  # A local archive: a file of STAC items in the form of Planetary Computer.
  provider: local
  location: {items}
  item_format: mpc
  max_cloud: 100.0

sentinel1:
  provider: local
  location: {items}
  item_format: mpc
  orbits: both

download:
  slice_months: 6
  threads: 4

products:
  # Open report.html first.
  formats: [zarr, arrays, vrt, preview, counts, change, stac, report]

paths:
  results: {results}
  work: {work}
  logs: {logs}
"""


@dataclass(frozen=True)
class DemoPaths:
    """Paths of a demo.

    Attributes:
        folder: of all files.
    """

    folder: Path

    @property
    def archive(self) -> Path:
        """Folder of the simulated scenes."""
        return self.folder / "archive"

    @property
    def items(self) -> Path:
        """Item collection of the archive."""
        return self.archive / "items.json"

    @property
    def roi(self) -> Path:
        """The region, GeoJSON in longitude and latitude."""
        return self.folder / "roi.geojson"

    @property
    def weights(self) -> Path:
        """The untrained checkpoint."""
        return self.folder / "weights" / NAME

    @property
    def config(self) -> Path:
        """Configuration; its paths are relative to `folder`."""
        return self.folder / "config" / "config.yaml"

    @property
    def marker(self) -> Path:
        """Version of the generator, sizes of the files, hashes of the texts; it marks a demo."""
        return self.folder / "simulated.json"


def make_demo(folder: Path, *, height: int = 160, width: int = 200, seed: int = SEED) -> DemoPaths:
    """Write the demo to `folder`: archive, region, weights, configuration.

    Nothing is written if this generator has already made it. Archive and weights are rewritten if
    another version made them, or if files are missing or truncated. The region and the
    configuration are rewritten if they are missing, and kept if they were edited.
    Only files that the marker lists are removed.

    Args:
        folder: created if it does not exist.
        height: of the region in pixels of 10 m, even.
        width: the same.
        seed: of all random numbers.

    Raises:
        ValueError: height or width is odd or below 80.
        OutputError: a file cannot be written, or `folder` has files but is not a demo.
    """
    if height % 2 or width % 2 or min(height, width) < 80:
        raise ValueError(f"the region is {height} x {width} px: use even numbers of at least 80")
    paths = DemoPaths(Path(folder))
    region = Region(height, width, seed)
    texts = {
        paths.roi: _json_text(roi_document(region)),
        paths.config: _config_text(paths),
    }
    hashes = {path.name: _sha256(text.encode()) for path, text in texts.items()}
    made_by = {
        "generator": GENERATOR_VERSION,
        "region": [height, width],
        "seed": seed,
        "texts": hashes,
    }
    previous = _read_marker(paths)
    if not _as_recorded(paths, previous):
        previous |= {"generator": None}
    if {key: previous.get(key) for key in made_by} == made_by:
        return paths
    if any(previous.get(key) != made_by[key] for key in ("generator", "region", "seed")):
        # A demo from here on: after an interruption the next call continues.
        _write_json(paths.marker, previous | {"simulated": True, "generator": None})
        _remove_archive(paths, previous)
        items = sorted(write_scenes(region, paths.archive), key=_time)
        write_item_collection(paths.items, [_with_relative_hrefs(item, paths) for item in items])
        write_demo_weights(paths.weights.parent)
    written = dict(previous.get("texts") or {})
    for path, text in texts.items():
        if path.exists() and _sha256(path.read_bytes()) not in (
            written.get(path.name),
            hashes[path.name],
        ):
            log.warning("%s was edited and is kept: delete it to have it written again.", path)
        else:
            write_if_different(path, text.encode())
    _write_json(paths.marker, made_by | {"simulated": True, "files": _sizes(paths)})
    return paths


def _remove_archive(paths: DemoPaths, marker: Mapping[str, Any]) -> None:
    """Remove the files of the archive that a marker lists."""
    for name in marker.get("files", ()):
        path = paths.folder / name
        if paths.archive in path.parents and ".." not in path.parts:
            path.unlink(missing_ok=True)


def roi_document(region: Region) -> dict[str, Any]:
    """Return the GeoJSON of the demo region: an irregular polygon with a hole.

    Its outermost corners are 4 m inside the bounds of the region, so that snapping outwards to
    10 m gives exactly these bounds despite rounding.
    """
    left, bottom, right, top = region.bounds
    left, bottom, right, top = left + 4, bottom + 4, right - 4, top - 4

    def ring(corners: Iterable[tuple[float, float]], step: int) -> list[list[float]]:
        fractions = np.array([*corners])
        x = left + fractions[:, 0] * (right - left)
        y = top - fractions[:, 1] * (top - bottom)
        degrees = transform_points(CRS, "EPSG:4326", x, y)
        points = [[round(a, 9), round(b, 9)] for a, b in zip(*degrees, strict=True)][::step]
        return [*points, points[0]]

    # Outline counter-clockwise, hole clockwise (RFC 7946).
    rings = [ring(_OUTLINE, -1), ring(_HOLE, 1)]
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"name": "demo", "simulated": True},
                "geometry": {"type": "Polygon", "coordinates": rings},
            }
        ],
    }


def _time(item: dict[str, Any]) -> tuple[str, str]:
    return item["properties"]["datetime"], item["id"]


def _with_relative_hrefs(item: dict[str, Any], paths: DemoPaths) -> dict[str, Any]:
    """Make hrefs relative to the item collection, so that the demo can be moved."""
    base = paths.items.parent.absolute()
    assets = {
        key: asset
        if "://" in asset["href"]
        else asset | {"href": "./" + Path(asset["href"]).relative_to(base).as_posix()}
        for key, asset in item["assets"].items()
    }
    return item | {"assets": assets}


def _config_text(paths: DemoPaths) -> str:
    """Return the configuration, with paths relative to the folder of the demo."""

    def shown(path: Path) -> str:
        return path.relative_to(paths.folder).as_posix()

    return _CONFIG.format(
        roi=shown(paths.roi), items=shown(paths.items), weights=shown(paths.weights),
        results="results", work="work", logs="logs",
        period=PERIOD, first=FIRST_DAY, last=LAST_DAY,
    )  # fmt: skip


def _files(paths: DemoPaths) -> list[Path]:
    scenes = (path for path in paths.archive.rglob("*") if path.is_file())
    return sorted([*scenes, paths.weights])


def _sizes(paths: DemoPaths) -> dict[str, int]:
    return {
        path.relative_to(paths.folder).as_posix(): path.stat().st_size for path in _files(paths)
    }


def _as_recorded(paths: DemoPaths, marker: Mapping[str, Any]) -> bool:
    """Return whether the files that a marker lists have its sizes, and there is a configuration."""
    try:
        return (paths.config.is_file() and paths.roi.is_file()) and all(
            (paths.folder / name).stat().st_size == size for name, size in marker["files"].items()
        )
    except (OSError, KeyError, AttributeError):
        return False


def _read_marker(paths: DemoPaths) -> dict[str, Any]:
    """Return the marker of a demo; empty for a folder that is empty or does not exist.

    Raises:
        OutputError: the folder has files, but no marker; or it is not a folder.
    """
    try:
        names = sorted(os.listdir(paths.folder))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise output_error(paths.folder, error) from error
    try:
        document = json.loads(paths.marker.read_text(encoding="utf-8"))
        if document["simulated"] is True:
            return dict(document)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    if names:
        raise OutputError(
            f"{paths.folder.absolute()} has files ({', '.join(names[:3])}) and is not a demo that "
            "tessera-flow has written: name an empty or new folder."
        )
    return {}


def _json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_if_different(path, _json_text(document).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
