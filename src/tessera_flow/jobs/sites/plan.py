"""Read the table of sites once, group its rows into cells and periods, and keep the result.

Two files in the folder of cached plans: `sites.json`, the cells and periods, which is read whenever
the workflow is read, and `sites.arrow`, the rows in their order, of which a job reads its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...atomic import write_text
from ...config.configuration import Config
from ...dates import Slice
from ...errors import OutputError, RegionError
from ...input_files import check_input
from ...region.blocks import cache_folder
from ..assumptions import MOST_PIXELS

if TYPE_CHECKING:
    import pyarrow as pa

PLAN_VERSION = 3
"""Increased when the content of the files of the plan changes."""

STAMP = b"plan"
"""Key of `SitePlan.stamp` in the metadata of the file of the rows."""

_KEYS = {"key", "file", "sha256", "units", "unplaced", "rows", "polygons"}


@dataclass(frozen=True)
class SiteUnit:
    """The sites of one cell and period: the unit of download and inference.

    Attributes:
        period: first and last day, `Slice.name`.
        cell: name of the cell, see `region.sites.Cell`.
        first, count: of its rows in the plan.
        pixels: number of pixels; of polygons, estimated from their bounds, if that is at most
            `MOST_PIXELS`.
        digest: of the pixels, or of the polygons.
    """

    period: str
    cell: str
    first: int
    count: int
    pixels: int
    digest: str

    @property
    def days(self) -> Slice:
        """First and last day."""
        return Slice.from_name(self.period)


@dataclass(frozen=True)
class SitePlan:
    """The cells and periods of a table.

    Attributes:
        units: in the order of the rows of the plan.
        unplaced: number of rows without a place; they are the last ones.
        rows: number of rows of the plan.
        sha256: of the file of the table.
        polygons: whether the sites are polygons.
        stamp: hash of the settings and the file of the table, which the file of the rows has, too.
    """

    units: tuple[SiteUnit, ...]
    unplaced: int
    rows: int
    sha256: str
    polygons: bool
    stamp: str


def load_site_plan(config: Config) -> SitePlan:
    """Return the plan of the table of sites, from the cache if it is valid.

    It is valid while size and modification time of the table are unchanged.

    Raises:
        RegionError: the table cannot be read or used, or a cell has too many pixels.
        OutputError: the cache cannot be written.
    """
    assert config.sites.table is not None
    table = Path(config.sites.table)
    check_input(str(table), RegionError)
    try:
        stat = table.stat()
    except OSError as error:
        raise RegionError(f"sites.table {table} cannot be read ({error.strerror}).") from error
    signature = [str(table), stat.st_size, stat.st_mtime_ns]
    key = _settings_key(config)
    stamp = hashlib.sha256(json.dumps([key, signature]).encode()).hexdigest()
    cached = _read(index_file(config))
    if not (
        cached
        and cached["key"] == key
        and cached["file"] == signature
        and rows_file(config).exists()
    ):
        # Imported here: reading the workflow needs no reader of tables.
        from .table import write_rows

        index_file(config).unlink(missing_ok=True)  # it is not that of the new rows
        cached = {
            "key": key,
            "file": signature,
            **write_rows(config, rows_file(config), {STAMP: stamp}),
        }
        write_text(index_file(config), json.dumps(cached))
    units = tuple(SiteUnit(*unit) for unit in cached["units"])
    _check_pixels(table, units)
    numbers = cached["unplaced"], cached["rows"]
    return SitePlan(units, *numbers, cached["sha256"], cached["polygons"], stamp)


def _check_pixels(table: Path, units: Sequence[SiteUnit]) -> None:
    """Refuse cells with more pixels than one job can have, before anything is searched."""
    large = [unit for unit in units if unit.pixels > MOST_PIXELS]
    if large:
        first = large[0]
        more = f", and {len(large) - 1} more cells and periods," if large[1:] else ""
        raise RegionError(
            f"sites.table {table}: the {first.count} sites in cell {first.cell} in {first.period}"
            f"{more} have more than {MOST_PIXELS:,} pixels: set a smaller sites.size, divide the "
            "table into several runs, or compute them as a region."
        )


def index_file(config: Config) -> Path:
    """Return the file of the cells and periods."""
    return cache_folder(config) / "sites.json"


def rows_file(config: Config) -> Path:
    """Return the file of the rows, in the Arrow IPC format."""
    return cache_folder(config) / "sites.arrow"


def read_rows(config: Config, plan: SitePlan, first: int, count: int) -> pa.Table:
    """Return rows of the plan; see `table.write_rows` for its columns.

    Raises:
        OutputError: the file cannot be read, or is of another plan.
    """
    import pyarrow as pa

    path = rows_file(config)
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{path} cannot be read ({error}): delete it and run again, so that the table of sites "
            "is read again."
        ) from error
    if (table.schema.metadata or {}).get(STAMP) != plan.stamp.encode():
        raise OutputError(
            f"{path} has the rows of another table, or of other settings: the table was changed "
            "during the run, or another configuration uses the same paths.work. Set another "
            f"paths.work there; delete {index_file(config)} and run again."
        )
    return table.slice(first, count)


def _settings_key(config: Config) -> str:
    sites = config.sites.model_dump(mode="json", exclude={"values", "polygons"})
    document = {
        "version": PLAN_VERSION,
        "sites": sites,
        "resolution": config.grid.resolution,
        "periods": [
            [period.start.isoformat(), period.end.isoformat()] for period in config.periods.values()
        ],
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.keys() >= _KEYS else None
