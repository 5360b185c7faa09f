"""Check finished embeddings for impossible values, seams between blocks, and days that differ.

A seam shows as a larger difference between neighbouring pixels where two blocks meet than
between neighbouring pixels beside it. The seam score is the ratio of the two mean absolute
differences, over all borders: 1 without seams, up to the noise of the landscape.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_text
from ..region.grid import RegionGrid, Window
from ..sensors.levels import Jump
from .blocks import RegionBlocks
from .components import valid_pixels
from .provenance import Provenance

logger = logging.getLogger(__name__)

_BATCH_VALUES = 2**22
_MAX_JUMPS = 20


@dataclass
class BlockState:
    """Pixels of one block: all, with an embedding, and with any observation (None if unknown)."""

    id: str
    pixels: int = 0
    embedded: int = 0
    observed: int | None = 0


@dataclass
class Border:
    """Border of two blocks: mean absolute differences and their ratio (None: no pixel).

    `blocks` are the names of the two, `pairs` the number of pixel pairs across the border.
    """

    blocks: tuple[str, str]
    across: float
    inside: float
    pairs: int
    ratio: float | None


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
        blocks: state of each block.
        embedded: pixels with an embedding.
        non_finite: pixels with an embedding that has a value that is not finite, or a scale
            that is not above 0.
        all_zero: pixels with an embedding whose values are all 0.
        constant: dimensions that are the same at every pixel.
        saturated_percent: share of int8 codes at an end of their range; None for float32.
        seam_score: see the module; None if no two blocks are adjacent.
        borders: each border.
        level_jumps: days whose Sentinel-2 values differ by about 1000 from the days around them.
        limits: the largest values allowed.
        failures: one message for each failed check.
    """

    blocks: list[BlockState]
    embedded: int = 0
    non_finite: int = 0
    all_zero: int = 0
    constant: list[int] = field(default_factory=list)
    saturated_percent: float | None = None
    seam_score: float | None = None
    borders: list[Border] = field(default_factory=list)
    level_jumps: list[LevelJump] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def write_checks(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    max_seam: float,
    max_saturated: float,
) -> Checks:
    """Check a region and write the results as JSON; a failed check is no error.

    Args:
        output: the JSON file.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: which the blocks must match.
        max_seam: largest seam score.
        max_saturated: largest share of saturated codes, in per cent.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        checks = _check_values(source)
        checks.borders = list(_borders(source))
        checks.level_jumps = list(_level_jumps(source))
    pairs = sum(border.pairs for border in checks.borders)
    if pairs:
        across = sum(border.across * border.pairs for border in checks.borders) / pairs
        inside = sum(border.inside * border.pairs for border in checks.borders) / pairs
        checks.seam_score = across / inside if inside > 0 else None
    checks.limits = {"max_seam": max_seam, "max_saturated": max_saturated}
    checks.failures = _failures(checks)
    for message in checks.failures:
        logger.warning("%s, %s: %s", provenance.region, provenance.period, message)
    document = asdict(checks) | {"configuration_sha256": provenance.configuration_sha256}
    write_text(output, json.dumps(document, indent=1) + "\n")
    return checks


def _failures(checks: Checks) -> list[str]:
    failures = []
    if not checks.embedded:
        failures.append("No pixel has an embedding.")
    if checks.non_finite:
        failures.append(f"{checks.non_finite} pixels have a value that is not finite.")
    if checks.all_zero:
        failures.append(f"{checks.all_zero} pixels have an embedding of zeros.")
    if checks.constant and checks.embedded > 1:
        failures.append(
            f"{len(checks.constant)} dimensions are the same everywhere: "
            f"{', '.join(map(str, checks.constant[:10]))}."
        )
    limit = checks.limits["max_saturated"]
    if checks.saturated_percent is not None and checks.saturated_percent > limit:
        failures.append(
            f"{checks.saturated_percent:.1f} % of the codes are at an end of their range, more "
            f"than {limit:g} %."
        )
    limit = checks.limits["max_seam"]
    if checks.seam_score is not None and checks.seam_score > limit:
        worst = max(checks.borders, key=lambda border: border.ratio or 0)
        failures.append(
            f"The seam score is {checks.seam_score:.2f}, above {limit:g}; the worst border is that "
            f"of {' and '.join(worst.blocks)}."
        )
    for jump in checks.level_jumps[:_MAX_JUMPS]:
        blocks = "1 block" if jump.blocks == 1 else f"{jump.blocks} blocks"
        failures.append(f"{jump.message} ({blocks})")
    if len(checks.level_jumps) > _MAX_JUMPS:
        failures.append(f"and {len(checks.level_jumps) - _MAX_JUMPS} more days (checks.json).")
    return failures


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


def _check_values(source: RegionBlocks) -> Checks:
    observed = 0 if source.counted else None
    states = {b.id: BlockState(b.id, observed=observed) for b in source.grid.blocks}
    checks = Checks(list(states.values()))
    low = np.full(source.dim, np.inf, np.float32)
    high = np.full(source.dim, -np.inf, np.float32)
    saturated = 0
    for block_id, inside, _ in source.pieces():
        state = states[block_id]
        state.pixels += inside.height * inside.width
        if state.observed is not None:
            counts = source.read(block_id, "counts", inside)
            state.observed += int(counts.any(axis=-1).sum())
        values = source.read(block_id, "embeddings", inside).reshape(-1, source.dim)
        scales = source.read(block_id, "scales", inside).ravel() if source.quantised else None
        # A float embedding that is only partly NaN counts as one with values that are not finite.
        embedded = np.flatnonzero(
            ~np.isnan(scales) if scales is not None else ~np.isnan(values).all(axis=-1)
        )
        state.embedded += len(embedded)
        for start in range(0, len(embedded), max(1, _BATCH_VALUES // source.dim)):
            pixels = embedded[start : start + max(1, _BATCH_VALUES // source.dim)]
            batch = values[pixels]
            if scales is not None:
                saturated += int((np.abs(batch.astype(np.int16)) >= 127).sum())
                bad = ~np.isfinite(scales[pixels]) | (scales[pixels] <= 0)
            else:
                bad = ~np.isfinite(batch).all(axis=-1)
            checks.non_finite += int(bad.sum())
            checks.all_zero += int((batch[~bad] == 0).all(axis=-1).sum())
            valid = batch[~bad].astype(np.float32)
            if scales is not None:
                valid *= scales[pixels][~bad, np.newaxis]
            if len(valid):
                low = np.minimum(low, valid.min(axis=0))
                high = np.maximum(high, valid.max(axis=0))
    checks.embedded = sum(state.embedded for state in states.values())
    if checks.embedded > checks.non_finite:
        checks.constant = [int(k) for k in np.flatnonzero(low == high)]
    if source.quantised and checks.embedded:
        checks.saturated_percent = 100 * saturated / (checks.embedded * source.dim)
    return checks


def _borders(source: RegionBlocks) -> Iterator[Border]:
    """Yield every border between two blocks, to the right of a block and below it."""
    height, width = source.shape
    windows = {block.id: source.grid.product_window(block) for block in source.grid.blocks}
    corners = {(window.y0, window.x0): block_id for block_id, window in windows.items()}
    for block_id, window in windows.items():
        right = corners.get((window.y0, window.x0 + window.width))
        if right is not None:
            x = window.x0 + window.width
            yield _border(
                source, (block_id, right), Window(window.y0, max(0, x - 2), window.height,
                                                  min(4, width - x + 2)), axis=1)  # fmt: skip
        below = corners.get((window.y0 + window.height, window.x0))
        if below is not None:
            y = window.y0 + window.height
            yield _border(
                source, (block_id, below), Window(max(0, y - 2), window.x0, min(4, height - y + 2),
                                                  window.width), axis=0)  # fmt: skip


def _border(source: RegionBlocks, names: tuple[str, str], strip: Window, axis: int) -> Border:
    """Compare the two pixels that meet with their neighbours away from the border."""
    values = _dequantised(source, strip)
    lines = np.moveaxis(values, axis, 0)
    steps = np.abs(np.diff(lines, axis=0)).mean(axis=-1)
    if len(steps) < 3:
        return Border(names, 0.0, 0.0, 0, None)
    usable = np.isfinite(steps).all(axis=0)
    pairs = int(usable.sum())
    if not pairs:
        return Border(names, 0.0, 0.0, 0, None)
    across = float(steps[1, usable].mean())
    inside = float(steps[[0, 2]][:, usable].mean())
    return Border(names, across, inside, pairs, across / inside if inside > 0 else None)


def _dequantised(source: RegionBlocks, window: Window) -> NDArray[np.float64]:
    """Read a window as (h, w, K) float64, NaN in pixels without an embedding."""
    values = source.read_region("embeddings", window)
    assert values is not None  # the window is in a block
    result: NDArray[Any] = values.astype(np.float64)
    if source.quantised:
        scales = source.read_region("scales", window)
        assert scales is not None
        result *= scales.astype(np.float64)[..., np.newaxis]
    result[~valid_pixels(result, None)] = np.nan
    return result
