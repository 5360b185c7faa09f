"""What is left to do of one region, period and sensor: a row of a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ItemError
from ...geotessera.manifest import StoreManifest
from ...scenes.manifest import Manifest
from .simulate import Job

STORE = "geotessera"
"""In place of a sensor: a store of published embeddings."""
TILES = "tiles"
EMBEDDINGS = "embeddings"
"""In place of a sensor: what all sensors have in common, from the patches to the products."""


@dataclass
class Row:
    """What is left to do of one region, period and sensor, or of its embeddings.

    Attributes:
        region, period, sensor: names; the sensor may also be `STORE`, `TILES` or `EMBEDDINGS`.
        km2: area of the region.
        pixels: of the region, on the grid of the products.
        blocks, blocks_left: of the region, and those whose embeddings are to be made.
        scenes: of the list, or tiles of a store; None if they are not listed yet, or unknown.
        dates: mean number of dates of a block, known or assumed.
        download_gb: to be read.
        core_hours, gpu_hours: of all jobs of this row.
        block_gb: most disk of a block in progress.
        final_gb: embeddings and products.
        jobs: number of jobs by rule.
        months: number of dates of the list by month (`2023-01`); empty without a list.
        period_months: months of the period.
    """

    region: str
    period: str
    sensor: str
    km2: float
    pixels: float
    blocks: int
    blocks_left: int = 0
    scenes: int | None = None
    dates: float = 0.0
    download_gb: float = 0.0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    block_gb: float = 0.0
    final_gb: float = 0.0
    jobs: dict[str, int] = field(default_factory=dict)
    months: dict[str, int] = field(default_factory=dict)
    period_months: list[str] = field(default_factory=list)


def count_hours(row: Row, job: Job) -> None:
    """Add the time of a job to a row."""
    if job.rule == "infer_gpu":
        row.gpu_hours += job.seconds / 3600
    else:
        row.core_hours += job.seconds * job.threads / 3600


def read_list(path: str, name: str) -> Manifest | StoreManifest | None:
    """Return the list of a sensor's scenes or of a store's tiles; None without a valid one."""
    try:
        if not Path(path).exists():
            return None
        return StoreManifest.read(Path(path)) if name == STORE else Manifest.read(Path(path))
    except ItemError:
        return None


def dates_by_month(manifest: Manifest) -> dict[str, int]:
    """Return the number of dates, of each direction of Sentinel-1, by month (`2023-01`)."""
    dates = {(item.date, item.orbit) for item in manifest.items}
    return dict(sorted(Counter(f"{date:%Y-%m}" for date, _ in dates).items()))


def coverage_table(rows: Sequence[Row]) -> list[str]:
    """Return a table of the dates with scenes by region, sensor, year and month, as Markdown; empty
    if nothing is listed. A month that no period of a list contains is empty, one without a scene
    has a 0."""
    known: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in rows:
        for month in [] if row.scenes is None else row.period_months:
            of_year = known.setdefault((row.region, row.sensor, month[:4]), {})
            of_year[month[5:]] = max(of_year.get(month[5:], 0), row.months.get(month, 0))
    if not known:
        return []
    months = [f"{number:02}" for number in range(1, 13)]
    names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    lines = [
        "Dates with a scene of the region, by month:",
        "",
        f"| region | sensor | year | {' | '.join(names)} | all |",
        "|---" * 16 + "|",
    ]
    for (region, sensor, year), of_year in sorted(known.items()):
        cells = [str(of_year.get(month, "")) for month in months]
        cells.append(str(sum(of_year.values())))
        lines.append(f"| {region} | {sensor} | {year} | {' | '.join(cells)} |")
    return [*lines, ""]
