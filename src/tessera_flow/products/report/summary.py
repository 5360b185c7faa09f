"""What the report tells of a region beside its record: observations, what was left out, costs."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...ingest.missing_scenes import MISSING_SCENES
from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ..blocks import COUNT_KINDS, RegionBlocks
from ..provenance import Provenance

MAP_EDGE = 400
_BINS = 24
_MOST_LINES = 20


@dataclass(frozen=True)
class Observations:
    """Counts of a region's pixels.

    Attributes:
        step: pixels of the product grid to one of the maps.
        embedded: (h, w) bool, of every `step`-th pixel whether it has an embedding.
        maps: by kind, (h, w) float64 counts of these pixels, NaN without an embedding.
        histograms: by kind, (lower ends of the bins, pixels in each) over the embedded
            pixels.
        means: by kind, over the embedded pixels; NaN where there are none.

    Where counts are not known, the last three are empty.
    """

    step: int
    embedded: NDArray[np.bool_]
    maps: dict[str, NDArray[np.float64]]
    histograms: dict[str, tuple[list[int], list[int]]]
    means: dict[str, float]


def survey_counts(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> Observations:
    """Read the observation counts of a region once.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        height, width = source.shape
        step = -(-max(height, width) // MAP_EDGE)
        shape = (len(COUNT_KINDS), -(-height // step), -(-width // step))
        maps = np.full(shape, np.nan)
        embedded = np.zeros(shape[1:], bool)
        tallies = np.zeros((len(COUNT_KINDS), 2**16), np.int64)
        for block_id, inside, window in source.pieces():
            if source.quantised:
                valid = np.isfinite(source.read(block_id, "scales", inside))
            else:
                valid = np.isfinite(source.read(block_id, "embeddings", inside)).all(axis=-1)
            y0, x0 = -window.y0 % step, -window.x0 % step
            some_valid = valid[y0::step, x0::step]
            top, left = (window.y0 + y0) // step, (window.x0 + x0) // step
            place = slice(top, top + some_valid.shape[0]), slice(left, left + some_valid.shape[1])
            embedded[place] = some_valid
            if not source.counted:
                continue
            counts = source.read(block_id, "counts", inside)
            some = np.moveaxis(counts[y0::step, x0::step], -1, 0)
            maps[:, *place] = np.where(some_valid, some, np.nan)
            for kind in range(len(COUNT_KINDS)):
                tallies[kind] += np.bincount(counts[..., kind][valid], minlength=2**16)
    if not source.counted:
        return Observations(step, embedded, {}, {}, {})
    values = np.arange(2**16)
    pixels = tallies.sum(axis=1)
    return Observations(
        step,
        embedded,
        dict(zip(COUNT_KINDS, maps, strict=True)),
        {kind: _histogram(tally) for kind, tally in zip(COUNT_KINDS, tallies, strict=True)},
        {
            kind: float(tally @ values / n) if n else float("nan")
            for kind, tally, n in zip(COUNT_KINDS, tallies, pixels, strict=True)
        },
    )


def _histogram(tally: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    most = int(np.flatnonzero(tally).max(initial=0))
    width = -(-(most + 1) // _BINS)
    starts = list(range(0, most + 1, width))
    return starts, [int(tally[start : start + width].sum()) for start in starts]


def days_per_month(manifests: Iterable[Manifest], months: Sequence[str]) -> dict[str, list[int]]:
    """Days with a scene in each month (`YYYY-MM`), by sensor."""
    result = {}
    for manifest in manifests:
        days = {item.date.isoformat() for item in manifest.items}
        found = Counter(day[:7] for day in days)
        result[manifest.sensor] = [found[month] for month in months]
    return result


def months_of(provenance: Provenance) -> list[str]:
    """The months of the period, `YYYY-MM`, in order."""
    year, month = provenance.start.year, provenance.start.month
    last = provenance.period_end[:7]
    months = [f"{year:04d}-{month:02d}"]
    while months[-1] < last:
        year, month = (year + month // 12, month % 12 + 1)
        months.append(f"{year:04d}-{month:02d}")
    return months


def left_out(manifests: Iterable[Manifest]) -> list[tuple[str, str, int, str]]:
    """(sensor, reason, scenes, one of them), most frequent first. Reasons that differ only in
    the scene they name count as one."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for manifest in manifests:
        for scene, reason in manifest.left_out:
            general = re.sub(r"\b\w*_\w+\b|\b\d+(\.\d+)?\b", "…", reason)
            grouped[manifest.sensor, general].append(scene)
    rows = [(sensor, why, len(found), found[0]) for (sensor, why), found in grouped.items()]
    return sorted(rows, key=lambda row: (-row[2], row[:2]))


@dataclass(frozen=True)
class MissingScene:
    """A scene of the list that the archive had lost when it was read.

    Attributes:
        sensor, item, date: which.
        reason: the first of its objects that was missing or corrupt, and how.
        copy: the copy of the acquisition that took its place; empty where there was none.
        blocks: number of blocks that met the loss.
    """

    sensor: str
    item: str
    date: str
    reason: str
    copy: str
    blocks: int


def lost_scenes(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> list[MissingScene]:
    """What every block's file says was lost: first what was left out, then by date.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    reasons: dict[tuple[str, str, str, str], list[str]] = {}
    with RegionBlocks(grid, blocks, provenance) as source:
        for block in grid.blocks:
            for sensor, found in source.missing_scenes(block.id).items():
                for entry in (entry for key in MISSING_SCENES for entry in found.get(key, [])):
                    scene = (entry.get("copy", ""), entry["date"], sensor, entry["item"])
                    reasons.setdefault(scene, []).append(entry["reason"])
    return [
        MissingScene(sensor, item, date, why[0], copy, len(why))
        for (copy, date, sensor, item), why in sorted(
            reasons.items(), key=lambda lost: (lost[0][0] != "", *lost[0][1:])
        )
    ]


def warnings_of(logs: Path, known: Iterable[str] = ()) -> list[str]:
    """Warnings in the log files of a region and period, each once, without their times; those
    that end in one of the `known` reasons are not repeated."""
    told = tuple(known)
    found: dict[str, int] = {}
    for path in sorted(logs.rglob("*.log")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.match(r"[\d-]+ [\d:,]+ (?:WARNING|ERROR) (.*)", line)
            if match and not match[1].endswith(told):
                found[match[1]] = found.get(match[1], 0) + 1
    lines = [text if n == 1 else f"{text} ({n} times)" for text, n in found.items()]
    more = len(lines) - _MOST_LINES
    return lines[:_MOST_LINES] + ([f"and {more} more: see {logs}"] if more > 0 else [])


@dataclass(frozen=True)
class RuleCost:
    """Cost of one rule over its jobs, from Snakemake's benchmark files.

    Attributes:
        rule: its name.
        jobs: number of benchmark files.
        seconds: wall time, the sum.
        cpu_seconds: processor time, the sum; None where it was not measured.
        memory_mb: largest resident set of a job; None where it was not measured.
        read_mb, written_mb: the sums; None where they were not measured.
    """

    rule: str
    jobs: int
    seconds: float
    cpu_seconds: float | None
    memory_mb: float | None
    read_mb: float | None
    written_mb: float | None


def rule_costs(logs: Path) -> list[RuleCost]:
    """Costs by rule, from the benchmark files below the logs of a region and period.

    A file lies in a folder named after its rule, or is itself named after it. Short jobs
    end before they are measured; theirs count as unknown.
    """
    rows: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for path in sorted(logs.rglob("*.bench.tsv")):
        inner = path.relative_to(logs).parts
        rule = inner[0] if len(inner) > 1 else inner[0].removesuffix(".bench.tsv")
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle, delimiter="\t"):
                rows[rule].append({key: _number(value) for key, value in row.items()})
    return [
        RuleCost(
            rule,
            len(jobs),
            _total(jobs, "s") or 0.0,
            _total(jobs, "cpu_time"),
            max((v for job in jobs if (v := job.get("max_rss")) is not None), default=None),
            _total(jobs, "io_in"),
            _total(jobs, "io_out"),
        )
        for rule, jobs in rows.items()
    ]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _total(jobs: Sequence[Mapping[str, float | None]], key: str) -> float | None:
    values = [value for job in jobs if (value := job.get(key)) is not None]
    return sum(values) if values else None
