"""What the jobs of sites do, from the plan of the table to the table of embeddings."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...atomic import write_text
from ...block_file import made_from
from ...config.configuration import Config
from ...config.fingerprint import sites_hash
from ...config.sections import Period
from ...dates import Slice
from ...errors import Refused
from ...models.weights_record import read_weights_record
from ...products.checksums import sha256_of
from ...products.provenance import model_record, scene_sources, software_versions
from ...products.tables.sites import CellRows, SiteLayout, site_pixels, write_sites
from ...region.sites import Cell, distinct_pixels
from ...scenes.manifest import Manifest
from ..assumptions import MOST_PIXELS
from ..block_attributes import read_attributes
from ..files import RunFiles
from ..made_from import settings_hash
from ..scene_warnings import warnings_of_list
from .files import SiteFiles, site_files, units_of
from .plan import SitePlan, SiteUnit, read_rows

log = logging.getLogger(__name__)


def list_cell_scenes(config: Config, days: str, cell: str, sensor: str) -> Manifest:
    """Search the scenes of a sensor in a cell and period.

    Raises:
        ItemError, ReadError: see `list_items`. A cell without scenes is no error.
    """
    # Imported here, as below: the job that writes the table reads no scenes.
    from ...ingest.scene_list import list_scenes

    period = Slice.from_name(days)
    return list_scenes(
        source=getattr(config, sensor),
        region=f"cell {cell} of sites",
        geobox=Cell.of_name(cell, config.grid.resolution).geobox,
        period=Period(start=period.start, end=period.end),
        preprocessing=config.preprocessing,
        download=config.download,
    )


def read_cell(config: Config, days: str, cell: str, output: Path) -> None:
    """Read the time series of the pixels of a cell and period.

    Raises:
        Refused: the table has changed since the run started, or there are too many pixels.
        ReadError, OutputError: see `ingest.sites.write_series`.
    """
    from ...ingest.sites import write_series
    from ...raster.pixels import PixelList

    sites, params = site_files(RunFiles(config))
    unit = sites.units.get((days, cell))
    if unit is None or sites.plan is None:
        raise Refused(f"The table of sites has no site in {cell} any more: start the run again.")
    square = Cell.of_name(cell, config.grid.resolution)
    rows = read_rows(config, sites.plan, unit.first, unit.count)
    _, row, column = site_pixels(rows, square, config.sites.size)
    pixels = distinct_pixels(row, column)
    if len(pixels) > MOST_PIXELS:
        raise Refused(
            f"The sites in {cell} have {len(pixels)} pixels, more than {MOST_PIXELS}: set a "
            "smaller sites.size, or compute them as a region."
        )
    log.info("%d pixels of %d sites", len(pixels), unit.count)
    record = params.record("site_series", days, cell, None)
    with made_from(record):
        write_series(
            PixelList(square.geobox, pixels[:, 0], pixels[:, 1]),
            {
                sensor: (Path(path), getattr(config, sensor))
                for sensor, path in sites.manifests(days, cell).items()
            },
            sites.time_slices(days),
            output,
            cell,
            config.preprocessing,
            config.download,
            config.grid.patch_size,
            record,
            config.all_values,
        )


def write_table(
    config: Config, embeddings: list[str], weights: str, output: Path, record: Path
) -> None:
    """Write the embeddings of all sites as GeoParquet, and a summary as JSON.

    Args:
        config: of the run.
        embeddings: files of the cells and periods that are not skipped.
        weights: the record of the weights.
        output: the table.
        record: the summary.

    Raises:
        Refused: a file was made with other settings, or the table has changed.
        TileError, ReadError: a file is damaged or cannot be read.
        OutputError: the output cannot be written.
    """
    sites, params = site_files(RunFiles(config))
    plan = sites.plan
    files = units_of(embeddings)
    absent = [unit for unit in sites.units if unit not in files and unit not in sites.skipped]
    if plan is None or absent:
        raise Refused("The table of sites has changed since this run started: start it again.")
    params.check(files, "site_infer", weights)
    known = asdict(read_weights_record(weights))
    model = model_record(config, known)
    placed = plan.rows - plan.unplaced
    layout = SiteLayout(
        config.sites.size,
        plan.polygons,
        plan.polygons and config.sites.polygons == "mean",
        config.sites.values == "codes",
        model.dim,
        read_rows(config, plan, 0, 0).schema.field("id").type,
        tuple(sites.sensors),
    )
    metadata = {
        "model": asdict(model),
        "sources": [asdict(source) for source in scene_sources(config, {})],
        "preprocessing": config.preprocessing,
        "resolution": config.grid.resolution,
        "min_observations": config.model.min_observations.model_dump(),
        "software": software_versions(),
        "configuration_sha256": sites_hash(config),
        "table_sha256": plan.sha256,
        "pixel": "the pixel of the UTM zone that contains the point",
    }
    states = write_sites(
        output,
        _cells(config, plan, sites, files),
        read_rows(config, plan, placed, plan.unplaced),
        layout,
        metadata,
    )
    document = {
        "table": Path(str(config.sites.table)).name,
        "settings": settings_hash(params.table()),
        "states": dict(sorted(states.items())),
        "rows": sum(states.values()),
        "failed_cells": [
            {"period": days, "cell": cell, "reason": reason, "rows": sites.units[days, cell].count}
            for (days, cell), reason in sites.skipped.items()
        ],
        "missing_scenes": list(_missing(files)),
        "warnings": _warnings(sites),
        "file": {"name": output.name, "sha256": sha256_of(output)},
        "provenance": metadata,
    }
    write_text(record, json.dumps(document, indent=1) + "\n")
    for name, count in sorted(states.items()):
        log.info("%s: %d rows", name, count)


def _cells(
    config: Config, plan: SitePlan, sites: SiteFiles, files: Mapping[tuple[str, str], str]
) -> Iterator[CellRows]:
    """Yield the rows of each cell and period, in the order of the plan."""
    for key, unit in sites.units.items():
        rows = read_rows(config, plan, unit.first, unit.count)
        cell = Cell.of_name(unit.cell, config.grid.resolution)
        file = files.get(key)
        yield CellRows(rows, cell, None if file is None else Path(file), _failure(sites, unit))


def _failure(sites: SiteFiles, unit: SiteUnit) -> str:
    return sites.skipped.get((unit.period, unit.cell), "")


def _missing(files: Mapping[tuple[str, str], str]) -> Iterator[dict[str, Any]]:
    """Yield the scenes that are missing or corrupt, and what replaced them."""
    for (days, cell), path in files.items():
        for sensor, kinds in read_attributes(path).get("missing_scenes", {}).items():
            for kind, entries in kinds.items():
                for entry in entries:
                    yield {"period": days, "cell": cell, "sensor": sensor, "kind": kind, **entry}


def _warnings(sites: SiteFiles) -> list[dict[str, Any]]:
    """Return the warnings about the scenes, each with the number of its lists."""
    numbers: dict[str, int] = {}
    for path in sites.all_manifests():
        for text in warnings_of_list(Path(path)) or ():
            numbers[text] = numbers.get(text, 0) + 1
    return [{"text": text, "lists": number} for text, number in numbers.items()]
