"""Estimate downloads, time and disk of the table of sites, for the plan."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...atomic import write_text
from ...errors import ItemError
from ...region.sites import Cell
from ...scenes.manifest import Manifest, SourceItem
from ..assumptions import DOWNLOAD_BYTES_PER_SECOND, GB, SENSORS, inference_seconds, series_gb
from ..files import RunFiles
from ..schedule import Schedule
from .files import SiteFiles, SiteSchedule
from .plan import SiteUnit, read_rows

BLOCK = 512
"""Edge in pixels of a block of a scene's file, as Cloud-Optimized GeoTIFFs of the archives have."""

REQUEST_SECONDS = 0.1
"""Of a range request; assumed."""

_METRES = 10.0
_BYTES_BESIDE = 40


@dataclass(frozen=True)
class Files:
    """The files of a scene: number of files by the size of their pixels in metres, and compressed
    bytes of a pixel of them."""

    numbers: Mapping[float, int]
    pixel_bytes: float


FILES = {
    # B02, B03, B04 and B08; six bands and SCL. Together `assumptions.SENSORS` per 10 m pixel.
    "sentinel2": Files({10.0: 4, 20.0: 7}, SENSORS["sentinel2"].read_bytes / (4 + 7 / 4)),
    "sentinel1": Files({10.0: 2}, SENSORS["sentinel1"].read_bytes / 2),
}


@dataclass(frozen=True)
class SiteEstimate:
    """What is left of the table of sites.

    Attributes:
        rows, unplaced: of the table, for all periods.
        cells, periods, units, units_left: cells, periods, and cells and periods; of those without
            embeddings.
        jobs: of all cells and periods.
        pixels: of all.
        listed: lists of scenes that exist, of those that are needed for what is left.
        scenes: in these lists.
        requests, download_gb: of what is left, see docs/sites.md.
        download_hours: one job after the other.
        inference_hours: of what is left, one job after the other.
        rule: `infer_cpu` or `infer_gpu`.
        series_gb: time series of what is left, if none were deleted; a job has its own twice.
        final_gb: embeddings of all cells, and the table before compression.
    """

    rows: int
    unplaced: int
    cells: int
    periods: int
    units: int
    units_left: int
    jobs: int
    pixels: int
    listed: int
    lists: int
    scenes: int
    requests: int
    download_gb: float
    download_hours: float
    inference_hours: float
    rule: str
    series_gb: float
    final_gb: float

    def text(self, table: str) -> str:
        """Return the estimate for the plan."""
        dates = (
            f"from the {self.scenes:,} scenes of {self.listed} of {self.lists} lists"
            if self.listed
            else "scenes are not listed yet, so their number is assumed"
        )
        return (
            f"Sites: {self.rows} rows of {table} in {self.cells} cells and {self.periods} periods: "
            f"{self.units} cells and periods, {self.jobs} jobs, {self.pixels} pixels. "
            f"{self.unplaced} rows have no place on a grid. Of {self.units_left} cells and periods "
            f"without embeddings: downloads of about {self.requests:,} requests, "
            f"{_gb(self.download_gb)}, {self.download_hours:,.1f} h ({dates}); "
            f"{self.inference_hours:,.1f} h of inference ({self.rule}), each one job after the "
            f"other; time series of {_gb(self.series_gb)}, deleted after use. Embeddings and "
            f"table: {_gb(self.final_gb)}."
        )


def _gb(gb: float) -> str:
    return f"{gb:,.0f} GB" if gb >= 100 else f"{gb:,.3g} GB"


def estimate_sites(files: RunFiles, schedule: Schedule) -> SiteEstimate | None:
    """Estimate what is left of the table of sites; None without a table.

    Raises:
        RegionError, OutputError: see `SiteFiles`.
    """
    sites = SiteFiles(files)
    if sites.plan is None:
        return None
    times = SiteSchedule(files, sites, schedule)
    left = [unit for key, unit in sites.units.items() if not sites.embeddings_file(*key).exists()]
    reads = [_reads(files, sites, times, unit) for unit in left]
    device = times.inference.removeprefix("infer_")
    seconds = sum(
        inference_seconds(
            device, schedule.parameters, unit.pixels, sum(times.dates(unit.period).values()),
            schedule.threads(times.inference),
        )
        for unit in left
    )  # fmt: skip
    units = sites.units.values()
    pixels = sum(unit.pixels for unit in units)
    dim = times.dim()
    stored = dim * (4 if files.config.model.dtype == "float32" else 1) + _BYTES_BESIDE
    width = dim * (1 if files.config.sites.values == "codes" else 4) + _BYTES_BESIDE
    rows = pixels if files.config.sites.size > 1 else sites.plan.rows
    return SiteEstimate(
        rows=sites.plan.rows,
        unplaced=sites.plan.unplaced,
        cells=len({unit.cell for unit in units}),
        periods=len({unit.period for unit in units}),
        units=len(units),
        units_left=len(left),
        jobs=len(units) * (len(sites.sensors) + 2) + 1 + sites.has_stac,
        pixels=pixels,
        listed=sum(read.listed for read in reads),
        lists=len(left) * len(sites.sensors),
        scenes=sum(read.scenes for read in reads),
        requests=round(sum(read.requests for read in reads)),
        download_gb=sum(read.size for read in reads) / GB,
        download_hours=sum(
            max(
                read.size / DOWNLOAD_BYTES_PER_SECOND,
                read.requests * REQUEST_SECONDS / files.config.download.threads,
            )
            for read in reads
        )
        / 3600,
        inference_hours=seconds / 3600,
        rule=times.inference,
        series_gb=sum(series_gb(unit.pixels, times.dates(unit.period)) for unit in left),
        final_gb=(pixels * stored + rows * width) / GB,
    )


@dataclass
class _Reads:
    """Reads of a cell and period."""

    listed: int = 0
    scenes: int = 0
    requests: float = 0.0
    size: float = 0.0


def _reads(files: RunFiles, sites: SiteFiles, times: SiteSchedule, unit: SiteUnit) -> _Reads:
    """Return the reads of a cell and period: of each scene's file its header, and each of its
    blocks with a pixel. Neighbouring blocks come with one request, which is not counted here."""
    assert sites.plan is not None
    result = _Reads()
    cell = Cell.of_name(unit.cell, files.config.grid.resolution)
    rows = read_rows(files.config, sites.plan, unit.first, unit.count)
    places = np.stack([rows["row"].to_numpy(), rows["column"].to_numpy()], axis=1)
    edge = files.config.sites.size
    if sites.plan.polygons:  # as squares of their mean area around a point of each
        edge = math.ceil(math.sqrt(unit.pixels / unit.count))
    corners = [
        places - edge // 2 + np.array(offset)
        for offset in ((0, 0), (0, edge - 1), (edge - 1, 0), (edge - 1, edge - 1))
    ]
    pixels = np.unique(np.concatenate(corners), axis=0) * files.config.grid.resolution
    for sensor in sites.sensors:
        listed = list(_listed(sites.manifests(unit.period, unit.cell)[sensor]))
        result.listed += bool(listed)
        for metres, number in FILES[sensor].numbers.items():
            squares, which = np.unique(
                (pixels // (BLOCK * metres)).astype(np.int64), axis=0, return_inverse=True
            )
            dates = times.dates(unit.period)[sensor]
            opened, blocks = dates, dates * len(squares)
            if listed:
                opened, blocks = _of_scenes(listed[0].items, cell, pixels, which.reshape(-1))
            result.requests += number * (opened + blocks)
            result.size += number * blocks * BLOCK**2 * FILES[sensor].pixel_bytes
        result.scenes += len(listed[0].items) if listed else 0
    return result


def _listed(path: str) -> Iterator[Manifest]:
    """Yield the list of scenes, if it exists and can be read."""
    try:
        yield Manifest.read(Path(path))
    except ItemError:
        return


def _of_scenes(
    items: tuple[SourceItem, ...],
    cell: Cell,
    pixels: NDArray[np.float64],
    which: NDArray[np.intp],
) -> tuple[float, float]:
    """Return how many scenes cover a pixel, and how many blocks with such pixels they have.

    Args:
        items: with extents in the CRS of the cell; an unknown one covers everything.
        cell: the cell.
        pixels: (P, 2) metres down and right from the corner of its grid.
        which: (P,) square of each pixel.
    """
    left, top = cell.geobox.affine.c, cell.geobox.affine.f
    opened = blocks = 0
    for item in items:
        if item.extent is None:
            inside = np.ones(len(pixels), bool)
        else:
            west, south, east, north = item.extent
            x, y = left + pixels[:, 1], top - pixels[:, 0]
            inside = (x >= west) & (x < east) & (y > south) & (y <= north)
        found = len(np.unique(which[inside]))
        opened += found > 0
        blocks += found
    return float(opened), float(blocks)


def write_site_estimate(files: RunFiles, schedule: Schedule, folder: Path) -> str:
    """Write the estimate as `sites.json` into a folder; return it as text, empty without a table.

    Raises:
        RegionError, OutputError: see `estimate_sites`; or the file cannot be written.
    """
    estimate = estimate_sites(files, schedule)
    if estimate is None:
        return ""
    document: dict[str, Any] = asdict(estimate)
    write_text(folder / "sites.json", json.dumps(document, indent=2) + "\n")
    return estimate.text(str(files.config.sites.table))
