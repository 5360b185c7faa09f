"""Check finished embeddings: values, seams, coverage of the region and of the period.

`values` reads the pixels, `states` decides what passes, `seams` has the seam score.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...atomic import write_text
from ...dates import complete_months, period_months
from ...errors import TileError
from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ...sensors.levels import Jump
from ..blocks import RegionBlocks
from ..provenance import Provenance
from .fill import fill_checks, summary
from .seams import Border, seam_score
from .states import (
    FEW_STEPS,
    PASS,
    Check,
    Facts,
    MonthCoverage,
    SensorSteps,
    decide,
    headline,
    worst,
)
from .values import SENSORS, BlockState, SensorValues, Values, read_values

logger = logging.getLogger(__name__)


@dataclass
class LevelJump:
    """A jump of the Sentinel-2 values of a day, in `blocks` blocks; see `levels.Jump`.

    `change` is the median over these blocks, in digital numbers.
    """

    first: str
    last: str
    change: int
    items: list[str]
    blocks: int
    message: str


@dataclass
class Checks:
    """Results of the checks.

    Attributes:
        state: `pass`, `warn` or `fail`: the worst of all checks.
        headline: the result as a sentence.
        checks: each check.
        blocks: state of each block.
        region_pixels: pixels inside the region.
        embedded: pixels with an embedding.
        non_finite, all_zero, constant, saturated_percent: see `values.Values`.
        steps: valid steps by sensor; empty for published embeddings.
        months: coverage of each month of the period by sensor.
        inference: see `inference_record.InferenceRecord.to_json`.
        seam_score: see `seams`; None if there is no edge of blocks or patches.
        borders: the edges of blocks, and those of the patches in each block.
        level_jumps: days whose Sentinel-2 values differ by about 1000 from the days around them.
        limits: the largest values allowed, from the configuration.
        fill: published and computed pixels and how they agree (`fill.summary`); None if no
            holes were filled.
    """

    state: str
    headline: str
    checks: list[Check]
    blocks: list[BlockState]
    region_pixels: int
    embedded: int
    non_finite: int
    all_zero: int
    constant: list[int]
    saturated_percent: float | None
    steps: dict[str, SensorSteps]
    months: dict[str, list[MonthCoverage]]
    inference: dict[str, Any]
    seam_score: float | None
    borders: list[Border]
    level_jumps: list[LevelJump]
    limits: dict[str, float]
    fill: dict[str, Any] | None = None

    @property
    def messages(self) -> list[str]:
        """The messages of the checks that do not pass."""
        return [text for check in self.checks for text in check.messages]


def write_checks(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    mask: Path,
    manifests: Sequence[Manifest],
    max_seam: float,
    max_saturated: float,
    tile_list: Path | None = None,
) -> Checks:
    """Check a region and write the results as JSON; a failed check is no error.

    Args:
        output: the JSON file.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: which the blocks must match.
        mask: the region's mask on its full grid (`roi.tif`).
        manifests: the lists of scenes; none for tile folders and published embeddings.
        max_seam: largest seam score.
        max_saturated: largest share of saturated codes, in per cent.
        tile_list: the list of the exported tile folders; None if there are none.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        values = read_values(source, mask)
        jumps = list(_level_jumps(source))
        facts = _facts(source, values, provenance, manifests, jumps)
    if tile_list is not None:
        facts.other_folders = _other_folders(tile_list)
    facts.limits = {"max_seam": max_seam, "max_saturated": max_saturated}
    decided = [*decide(values, facts), *fill_checks(values, provenance)]
    checks = Checks(
        state=worst(check.state for check in decided),
        headline=headline([asdict(check) for check in decided]),
        checks=decided,
        blocks=values.blocks,
        region_pixels=values.inside,
        embedded=values.embedded,
        non_finite=values.non_finite,
        all_zero=values.all_zero,
        constant=values.constant,
        saturated_percent=values.saturated_percent,
        steps=dict(facts.steps),
        months={sensor: list(months) for sensor, months in facts.months.items()},
        inference=facts.inference.to_json(),
        seam_score=facts.seam_score,
        borders=values.borders,
        level_jumps=jumps,
        limits=dict(facts.limits),
        fill=summary(values, provenance),
    )
    for check in decided:
        if check.state != PASS:
            for message in check.messages:
                logger.warning("%s, %s: %s", provenance.region, provenance.period, message)
    document = asdict(checks) | {"configuration_sha256": provenance.configuration_sha256}
    write_text(output, json.dumps(document, indent=1) + "\n")
    return checks


def _facts(
    source: RegionBlocks,
    values: Values,
    provenance: Provenance,
    manifests: Sequence[Manifest],
    jumps: Sequence[LevelJump],
) -> Facts:
    used = {record.sensor for record in provenance.sources}
    sensors = [sensor for sensor in SENSORS if used & {sensor, "both"}]
    skipped = [block.id for block in source.grid.blocks if source.skipped(block.id)]
    embedded = [block.id for block in source.grid.blocks if block.id not in skipped]
    left_out = {
        (sensor, entry["item"])
        for block in embedded
        for sensor, record in source.missing_scenes(block).items()
        for entry in record.get("left_out", [])
    }
    counted = values.sensors if source.counted else {}
    return Facts(
        sensors=sensors,
        steps={sensor: _steps(observed) for sensor, observed in counted.items()},
        months={
            sensor: _months(provenance, values.sensors.get(sensor), values.embedded, manifest)
            for sensor in sensors
            for manifest in [next((m for m in manifests if m.sensor == sensor), None)]
            if source.counted
        },
        seam_score=seam_score(values.borders),
        jumps=[
            f"{jump.message} ({jump.blocks} block{'s' if jump.blocks > 1 else ''})"
            for jump in jumps
        ],
        inference=source.inference(),
        skipped=skipped,
        left_out=len(left_out),
        outside_period=max((source.steps_outside_period(block) for block in embedded), default=0),
        warnings=len(provenance.warnings),
        limits={},
    )


def _other_folders(tile_list: Path) -> list[str]:
    """Return the folders beside the exported tile folders that are none of this run."""
    try:
        return [str(name) for name in json.loads(tile_list.read_bytes())["other_folders"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TileError(
            f"{tile_list} cannot be read ({error}): delete it and run again."
        ) from error


def _steps(observed: SensorValues) -> SensorSteps:
    total = int(observed.steps.sum())
    few, none = int(observed.steps[:FEW_STEPS].sum()), int(observed.steps[0])
    return SensorSteps(
        median=_percentile(observed.steps, 50),
        percentile_5=_percentile(observed.steps, 5),
        fewer_percent=100 * few / total if total else 0.0,
        none_percent=100 * none / total if total else 0.0,
        median_months=_percentile(observed.months, 50) if len(observed.months) > 1 else None,
    )


def _percentile(tally: NDArray[np.int64], percent: float) -> int | None:
    """Return the smallest value that `percent` of the pixels do not exceed."""
    sums = np.cumsum(tally)
    return int(np.searchsorted(sums, percent / 100 * sums[-1])) if sums[-1] else None


def _months(
    provenance: Provenance,
    observed: SensorValues | None,
    embedded: int,
    manifest: Manifest | None,
) -> list[MonthCoverage]:
    """Return the coverage of each month of the period by one sensor."""
    days = provenance.start, provenance.last
    complete = set(complete_months(*days))
    scene_days = Counter(
        day.strftime("%Y-%m") for day in {item.date for item in manifest.items}
    ) if manifest is not None else None  # fmt: skip
    known = observed is not None and len(provenance.months) > 0 and embedded > 0
    return [
        MonthCoverage(
            month,
            month in complete,
            None if scene_days is None else scene_days[month],
            100 * int(observed.by_month[index]) / embedded if known and observed else None,
        )
        for index, month in enumerate(period_months(*days))
    ]


def _level_jumps(source: RegionBlocks) -> Iterator[LevelJump]:
    """Yield the jumps of all blocks, one for each pair of days."""
    jumps: dict[tuple[datetime.date, datetime.date], list[Jump]] = {}
    for block in source.grid.blocks:
        for jump in source.level_jumps(block.id):
            jumps.setdefault((jump.last, jump.first), []).append(jump)
    for (last, first), found in sorted(jumps.items()):
        change = round(float(np.median([jump.change for jump in found])))
        items = tuple(dict.fromkeys(name for jump in found for name in jump.items))
        text = Jump(first, last, change, items).text()
        yield LevelJump(first.isoformat(), last.isoformat(), change, list(items), len(found), text)


def read_checks(path: Path) -> dict[str, Any]:
    """Return the document that `write_checks` wrote.

    Raises:
        TileError: the file cannot be read, or is not such a document.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"state", "headline", "checks", "blocks", "borders"} - set(document)
        if missing or not isinstance(document, dict):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError) as error:
        raise TileError(
            f"{path} cannot be read as the results of the checks ({error}): delete it and run "
            "again."
        ) from error
    return document
