"""Write a plan as text, as JSON, and as maps and GeoJSON of the blocks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...atomic import write_text
from ...config.configuration import Config, runs
from ...region.blocks import read_region
from ..files import RunFiles
from ..schedule import Schedule
from ..sites.estimate import write_site_estimate
from ..state.damage import faulty_now
from ..state.outdated import outdated_now, outdated_text
from ..state.status import duration
from .block_features import blocks_geojson
from .block_map import LEGEND, render_blocks
from .estimate import Estimate, make_estimate
from .row import EMBEDDINGS, STORE, Row, coverage_table
from .simulate import Limits

MOST_ROWS = 40
"""Rows that the text of a plan has at most; `plan.json` has all of them."""


def estimate_text(estimate: Estimate) -> str:
    """Return the estimate as Markdown."""
    rows = [*_rows_of_work(estimate), *_rows_of_time(estimate)]
    table = ["| item | amount |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    notes = [f"- {a}" for a in estimate.assumptions]
    warnings = [f"- Warning: {text}" for text in estimate.warnings]
    parts = ["# Plan", "", *table, "", *_region_table(estimate.rows), ""]
    parts += [*coverage_table(estimate.rows), *warnings, *notes, ""]
    return "\n".join(parts)


def _rows_of_work(estimate: Estimate) -> Iterable[tuple[str, str]]:
    total = sum(estimate.jobs.values())
    yield "blocks", f"{estimate.blocks}, of which {estimate.blocks_left} have no embeddings yet"
    if estimate.outdated:
        yield (
            "damaged or made with other settings, to be made again",
            (f"{estimate.outdated:,} files"),
        )
    yield "jobs", f"{total:,}" if total else "none: everything exists"
    if total:
        yield "jobs by rule", ", ".join(f"{rule} {n:,}" for rule, n in estimate.jobs.items())
    if estimate.cluster_jobs:
        yield "jobs submitted to the cluster", f"{estimate.cluster_jobs:,}"
    for name, number in estimate.items.items():
        yield _named(name), "not listed yet" if number is None else f"{number:,}"
    yield "to download", size_text(estimate.download_gb)
    yield "intermediate files at most", size_text(estimate.peak_disk_gb)
    yield "embeddings and products", size_text(estimate.final_disk_gb)
    yield "files (inodes) at most", f"about {estimate.peak_inodes:,}"


def _rows_of_time(estimate: Estimate) -> Iterable[tuple[str, str]]:
    yield "CPU", f"{duration(estimate.cpu_hours)} of one core"
    gpu = f" ({estimate.gpu})" if estimate.gpu else ""
    yield "GPU", f"{duration(estimate.gpu_hours)} of one GPU{gpu}"
    if estimate.inference_limit_hours:
        yield "time limit of an inference job", duration(estimate.inference_limit_hours)
    longest = estimate.longest_job
    if longest is not None:
        limit = f"{duration(longest.hours)}, of {duration(longest.limit_hours)} requested"
        yield "longest job", f"{longest.rule}: {limit}"
    if estimate.wall_hours:
        low, high = (duration(hours) for hours in estimate.wall_hours_range)
        text = f"{low} to {high}, most likely {duration(estimate.wall_hours)}"
        yield f"wall time with {estimate.limits}", text
    if estimate.dominated_by:
        yield "the wall time is dominated by", estimate.dominated_by
    yield "calibrated on earlier jobs", ", ".join(estimate.calibrated) or "nothing yet"


def _region_table(rows: Sequence[Row]) -> list[str]:
    head = (
        "region", "period", "of", "km2", "million px", "blocks left", "scenes", "dates",
        "to read", "core hours", "GPU hours", "disk of a block", "products", "jobs",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines += ["", f"{len(rows) - MOST_ROWS} more rows are in plan.json."]
    return lines


def _cells(row: Row) -> list[str]:
    last = row.sensor == EMBEDDINGS
    return [
        row.region,
        row.period,
        row.sensor,
        f"{row.km2:,.1f}" if row.km2 < 100 else f"{row.km2:,.0f}",
        f"{row.pixels / 1e6:,.2f}",
        f"{row.blocks_left:,} of {row.blocks:,}",
        "" if last else "not listed" if row.scenes is None else f"{row.scenes:,}",
        f"{row.dates:,.0f}" if row.dates else "",
        "" if last else size_text(row.download_gb),
        f"{row.core_hours:,.2f}",
        f"{row.gpu_hours:,.2f}",
        size_text(row.block_gb) if row.block_gb else "",
        size_text(row.final_gb) if last else "",
        f"{sum(row.jobs.values()):,}",
    ]


def _named(source: str) -> str:
    return "tiles of the store" if source == STORE else f"scenes of {source}"


def size_text(gb: float) -> str:
    """Return a size in a fitting unit."""
    for unit, factor in (("TB", 1e-3), ("GB", 1.0), ("MB", 1e3)):
        if gb * factor >= 1:
            digits = 1 if gb * factor < 100 else 0
            return f"{gb * factor:,.{digits}f} {unit}"
    return f"{1e6 * gb:,.0f} kB" if gb else "nothing"


def estimate_json(estimate: Estimate) -> str:
    """Return the estimate as JSON."""
    document: dict[str, Any] = asdict(estimate)
    return json.dumps(document, indent=2) + "\n"


def write_estimate(config: Config, folder: Path, limits: Limits) -> str:
    """Write `plan.json`, `plan.md`, and for each region and period a map and a GeoJSON file of its
    blocks, `<region>_<period>.svg` and `.geojson`, into a folder; with sites, `sites.json`.

    Args:
        config: of the run.
        folder: to write.
        limits: of the run.

    Returns:
        The estimate as text. Without regions, it is that of the sites, in `plan.md` alone.

    Raises:
        RegionError: a region cannot be read.
        OutputError: a file cannot be written.
    """
    files = RunFiles(config)
    schedule = Schedule(files, cores=limits.cores)
    sites = write_site_estimate(files, schedule, folder)
    outdated, problems = outdated_now(files)
    faulty, unknown = faulty_now(files)
    problems += [*outdated_text(outdated, "made again"), *faulty.warnings(), *unknown]
    if not runs(config):
        text = "\n".join([*(f"Warning: {text}" for text in problems), sites])
        write_text(folder / "plan.md", text)
        return text
    again = outdated | {path: "the product" for path in faulty.paths}
    estimate = make_estimate(files, schedule, limits, again)
    estimate.warnings.extend(problems)
    text = estimate_text(estimate) + (f"\n{sites}" if sites else "")
    write_text(folder / "plan.json", estimate_json(estimate))
    maps = [_map_text(region, period) for region, period in runs(config)]
    write_text(folder / "plan.md", "\n".join([text, *maps]))
    for region, period in runs(config):
        grid = files.grids[region]
        states = {
            b.id: schedule.device(b.id)
            if str(files.embeddings_file(region, period, b.id)) in outdated
            else schedule.block_state(region, period, b.id)
            for b in grid.blocks
        }
        stem = folder / f"{region}_{period}"
        roi = read_region(config, region)
        render_blocks(grid, roi, states, stem.with_name(f"{stem.name}.svg"), f"{region}, {period}")
        text_of_blocks = blocks_geojson(grid, period, states)
        write_text(stem.with_name(f"{stem.name}.geojson"), text_of_blocks)
    return text


def _map_text(region: str, period: str) -> str:
    """Return the map of a region's blocks with its legend, as Markdown."""
    title = f"Blocks of {region}, {period}"
    return f"![{title}]({region}_{period}.svg)\n\n{title}. {LEGEND}\n"
