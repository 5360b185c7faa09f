"""Summarise a region and period for the report: observations, missing scenes, warnings, costs."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TileError
from ...ingest.missing_scenes import MISSING_SCENES
from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ..blocks import COUNT_KINDS, RegionBlocks
from ..inference_record import InferenceRecord
from ..provenance import Provenance

MAP_EDGE = 400
_BINS = 24
_MAX_WARNINGS = 20


@dataclass(frozen=True)
class Observations:
    """Observation counts of the pixels of a region.

    Attributes:
        step: the maps show every `step`-th row and column of the product grid.
        embedded: (h, w) bool: whether the pixel has an embedding.
        maps: by kind, (h, w) float64 counts, NaN without an embedding.
        histograms: by kind, (lower ends of the bins, pixels in each) over the embedded
            pixels.
        means: by kind, over the embedded pixels; NaN if there are none.

    The last three are empty for published embeddings, whose counts are not known.
    """

    step: int
    embedded: NDArray[np.bool_]
    maps: dict[str, NDArray[np.float64]]
    histograms: dict[str, tuple[list[int], list[int]]]
    means: dict[str, float]


def summarise_observations(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> Observations:
    """Read the observation counts of a region in one pass.

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
            valid_sample = valid[y0::step, x0::step]
            top, left = (window.y0 + y0) // step, (window.x0 + x0) // step
            target = (
                slice(top, top + valid_sample.shape[0]),
                slice(left, left + valid_sample.shape[1]),
            )
            embedded[target] = valid_sample
            if not source.counted:
                continue
            counts = source.read(block_id, "counts", inside)
            count_sample = np.moveaxis(counts[y0::step, x0::step], -1, 0)
            maps[:, *target] = np.where(valid_sample, count_sample, np.nan)
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
    largest = int(np.flatnonzero(tally).max(initial=0))
    width = -(-(largest + 1) // _BINS)
    starts = list(range(0, largest + 1, width))
    return starts, [int(tally[start : start + width].sum()) for start in starts]


def days_per_month(manifests: Iterable[Manifest], months: Sequence[str]) -> dict[str, list[int]]:
    """Count the days with a scene in each month (`YYYY-MM`), by sensor."""
    result = {}
    for manifest in manifests:
        days = {item.date.isoformat() for item in manifest.items}
        counts = Counter(day[:7] for day in days)
        result[manifest.sensor] = [counts[month] for month in months]
    return result


def excluded_scenes(manifests: Iterable[Manifest]) -> list[tuple[str, str, int, str]]:
    """Group the scenes that were found but not listed by sensor and reason.

    Reasons that differ only in the scene they name are one group.

    Returns:
        (sensor, reason, number of scenes, id of one of them), most frequent first.
    """
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for manifest in manifests:
        for scene, reason in manifest.left_out:
            general = re.sub(r"\b\w*_\w+\b|\b\d+(\.\d+)?\b", "…", reason)
            grouped[manifest.sensor, general].append(scene)
    rows = [(sensor, why, len(scenes), scenes[0]) for (sensor, why), scenes in grouped.items()]
    return sorted(rows, key=lambda row: (-row[2], row[:2]))


def skipped_blocks(path: Path | None) -> dict[str, str]:
    """Read the reasons of the skipped blocks, by block; empty if `path` is None."""
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {entry["block"]: entry["reason"] for entry in document["skipped_blocks"]}
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise TileError(
            f"{path} cannot be read as a list of skipped blocks ({error}): delete it and run again."
        ) from error


@dataclass(frozen=True)
class MissingScene:
    """A listed scene that was missing or corrupt in the archive when it was read.

    Attributes:
        sensor, item, date: of the scene.
        reason: the first of its objects that could not be read, and the error.
        duplicate: the duplicate acquisition used instead; empty if there was none, so that the
            scene was left out.
        blocks: number of blocks in which this happened.
    """

    sensor: str
    item: str
    date: str
    reason: str
    duplicate: str
    blocks: int


@dataclass(frozen=True)
class BlockRecords:
    """Attributes of the block files of a region, put together.

    Attributes:
        missing: first the scenes that were left out, then those that were replaced; by date.
        inference: in which precision and on which device the blocks were computed.
        tile_facts: facts about the tile folders of each block, as sentences.
    """

    missing: tuple[MissingScene, ...]
    inference: InferenceRecord
    tile_facts: tuple[str, ...] = ()


def read_block_records(
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
) -> BlockRecords:
    """Read the attributes of every block file.

    Args:
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    reasons: dict[tuple[str, str, str, str], list[str]] = {}
    tile_facts: dict[str, None] = {}
    with RegionBlocks(grid, blocks, provenance) as source:
        inference = source.inference()
        for block in grid.blocks:
            tile_facts |= dict.fromkeys(fact.text for fact in source.tile_facts(block.id))
            for sensor, record in source.missing_scenes(block.id).items():
                for key in MISSING_SCENES:
                    for entry in record.get(key, []):
                        duplicate = entry["duplicate"] if key == "replaced" else ""
                        scene = (duplicate, entry["date"], sensor, entry["item"])
                        reasons.setdefault(scene, []).append(entry["reason"])
    missing = [
        MissingScene(sensor, item, date, why[0], duplicate, len(why))
        for (duplicate, date, sensor, item), why in sorted(
            reasons.items(), key=lambda scene: (scene[0][0] != "", *scene[0][1:])
        )
    ]
    return BlockRecords(tuple(missing), inference, tuple(tile_facts))


def missing_counts(missing: Iterable[MissingScene], sensor: str | None = None) -> tuple[int, int]:
    """Count the acquisitions that were (left out, replaced by a duplicate) in any block.

    Args:
        missing: see `BlockRecords`.
        sensor: count only this one.
    """
    scenes = [scene for scene in missing if sensor in (None, scene.sensor)]
    left_out = {(scene.sensor, scene.item) for scene in scenes if not scene.duplicate}
    replaced = {
        (scene.sensor, scene.item): (scene.sensor, scene.duplicate)
        for scene in scenes
        if scene.duplicate
    }
    # A duplicate can be missing as well: follow each acquisition to the last item tried.
    count = 0
    for last in replaced.keys() - replaced.values():
        while last in replaced:
            last = replaced[last]
        count += last not in left_out
    return len(left_out), count


def read_warnings(logs: Path, known: Iterable[str] = ()) -> list[str]:
    """Collect the warnings in the log files of a region and period, each once, without times.

    Args:
        logs: folder of the log files.
        known: reasons shown elsewhere; warnings that end in one of them are dropped.
    """
    dropped = tuple(filter(None, known))
    counts: dict[str, int] = {}
    for path in sorted(logs.rglob("*.log")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.match(r"[\d-]+ [\d:,]+ (?:WARNING|ERROR) (.*)", line)
            if match and not match[1].endswith(dropped):
                counts[match[1]] = counts.get(match[1], 0) + 1
    lines = [text if n == 1 else f"{text} ({n} times)" for text, n in counts.items()]
    more = len(lines) - _MAX_WARNINGS
    return lines[:_MAX_WARNINGS] + ([f"and {more} more: see {logs}"] if more > 0 else [])


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
    """Sum the benchmark files below the logs of a region and period, by rule.

    A benchmark file is in a folder named after its rule, or is itself named after it. Jobs that
    end before Snakemake's first measurement have no values; they are not in the sums.
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


def total_cost(costs: Sequence[RuleCost]) -> RuleCost:
    """Return the sums over all rules, and the largest memory of a job; None where no rule has a
    value."""

    def known(values: Iterable[float | None]) -> list[float]:
        return [value for value in values if value is not None]

    def total(values: Iterable[float | None]) -> float | None:
        return sum(numbers) if (numbers := known(values)) else None

    return RuleCost(
        "all",
        sum(cost.jobs for cost in costs),
        sum(cost.seconds for cost in costs),
        total(cost.cpu_seconds for cost in costs),
        max(known(cost.memory_mb for cost in costs), default=None),
        total(cost.read_mb for cost in costs),
        total(cost.written_mb for cost in costs),
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _total(jobs: Sequence[Mapping[str, float | None]], key: str) -> float | None:
    values = [value for job in jobs if (value := job.get(key)) is not None]
    return sum(values) if values else None
