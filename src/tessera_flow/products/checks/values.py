"""Read the embeddings, counts and months of a region once, for the checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...geotessera.fill import FillRecord
from ...region.mask import read_mask
from ..blocks import RegionBlocks
from .origin_borders import OriginBorders
from .seams import Border, SeamFinder

_BATCH_VALUES = 2**22
_MOST_STEPS = 2**17
"""Above the sum of two counts (uint16)."""

SENSORS = {"sentinel2": slice(0, 1), "sentinel1": slice(1, 3)}
"""Where the last axis of counts and months has each sensor; the two directions are added."""


@dataclass
class BlockState:
    """Pixels of one block: all, inside the region, with an embedding, and with any observation
    (None if unknown)."""

    id: str
    pixels: int = 0
    inside: int = 0
    embedded: int = 0
    observed: int | None = 0


@dataclass
class SensorValues:
    """Observations of one sensor, of the pixels with an embedding.

    Attributes:
        steps: pixels by number of valid steps.
        months: pixels by number of months with a valid step.
        by_month: pixels with a valid step in each month of the period.
    """

    steps: NDArray[np.int64]
    months: NDArray[np.int64]
    by_month: NDArray[np.int64]


@dataclass
class Values:
    """What the pixels of a region contain.

    Attributes:
        blocks: state of each block.
        non_finite: pixels with an embedding that has a value that is not finite, or a scale
            that is not above 0.
        all_zero: pixels with an embedding whose values are all 0.
        constant: dimensions that are the same at every pixel.
        saturated_percent: share of int8 codes at an end of their range; None for float32.
        borders: edges of blocks and patches.
        sensors: observations by sensor; empty for published embeddings.
        fill: what was published and what was computed; None if no holes were filled.
        origin_borders: borders of published and computed pixels.
    """

    blocks: list[BlockState]
    non_finite: int = 0
    all_zero: int = 0
    constant: list[int] = field(default_factory=list)
    saturated_percent: float | None = None
    borders: list[Border] = field(default_factory=list)
    sensors: dict[str, SensorValues] = field(default_factory=dict)
    fill: FillRecord | None = None
    origin_borders: OriginBorders = field(default_factory=OriginBorders)

    @property
    def embedded(self) -> int:
        """Pixels with an embedding."""
        return sum(block.embedded for block in self.blocks)

    @property
    def inside(self) -> int:
        """Pixels of the region."""
        return sum(block.inside for block in self.blocks)


def read_values(source: RegionBlocks, mask: Path) -> Values:
    """Read all blocks of a region, piece by piece.

    Args:
        source: the region's embeddings.
        mask: its mask on the full grid (`roi.tif`).

    Raises:
        TileError: a block is damaged; it is named.
    """
    states = {
        block.id: BlockState(
            block.id,
            inside=_inside(source, block.window, mask),
            observed=0 if source.counted else None,
        )
        for block in source.grid.blocks
    }
    values = Values(list(states.values()))
    if source.counted:
        values.sensors = {
            sensor: SensorValues(
                np.zeros(_MOST_STEPS, np.int64),
                np.zeros(len(source.months) + 1, np.int64),
                np.zeros(len(source.months), np.int64),
            )
            for sensor in SENSORS
        }
    if source.filled:
        values.fill = source.fill_record()
    embeddings = _Embeddings(source)
    seams = SeamFinder()
    for block_id, inside, window in source.pieces():
        state = states[block_id]
        state.pixels += inside.height * inside.width
        codes = source.read(block_id, "embeddings", inside)
        scales = source.read(block_id, "scales", inside) if source.quantised else None
        # A float embedding that is only partly NaN counts as one with values that are not finite.
        embedded = ~np.isnan(scales) if scales is not None else ~np.isnan(codes).all(axis=-1)
        state.embedded += int(embedded.sum())
        embeddings.add(codes, scales, embedded)
        seams.add(block_id, window, codes, scales, source.patch_shape(block_id))
        if source.filled:
            values.origin_borders.add(source, window)
        if state.observed is not None:
            counts = source.read(block_id, "counts", inside)
            state.observed += int(counts.any(axis=-1).sum())
            months = source.read(block_id, "months", inside) if source.months else None
            _add_observations(values.sensors, counts, months, embedded)
    embeddings.report(values)
    values.borders = seams.borders()
    return values


def _inside(source: RegionBlocks, window: Any, mask: Path) -> int:
    rate = source.grid.downsample_rate
    return int(read_mask(mask, window)[0][::rate, ::rate].sum())


def _add_observations(
    sensors: dict[str, SensorValues],
    counts: NDArray[np.uint16],
    months: NDArray[np.unsignedinteger] | None,
    embedded: NDArray[np.bool_],
) -> None:
    counts = counts[embedded]
    for sensor, kinds in SENSORS.items():
        values = sensors[sensor]
        steps = counts[:, kinds].sum(axis=-1, dtype=np.int64)
        values.steps += np.bincount(steps, minlength=_MOST_STEPS)
        if months is not None:
            masks = np.bitwise_or.reduce(months[embedded][:, kinds], axis=-1)
            number = np.bitwise_count(masks).astype(np.int64)
            values.months += np.bincount(number, minlength=len(values.months))
            for month in range(len(values.by_month)):
                bit = masks.dtype.type(1 << month)
                values.by_month[month] += np.count_nonzero(masks & bit)


class _Embeddings:
    """Count impossible values, piece by piece."""

    def __init__(self, source: RegionBlocks) -> None:
        self._dim, self._quantised = source.dim, source.quantised
        self._low = np.full(source.dim, np.inf, np.float32)
        self._high = np.full(source.dim, -np.inf, np.float32)
        self._saturated = self._non_finite = self._all_zero = 0

    def add(
        self,
        codes: NDArray[Any],
        scales: NDArray[np.float32] | None,
        embedded: NDArray[np.bool_],
    ) -> None:
        values = codes.reshape(-1, self._dim)
        flat = None if scales is None else scales.ravel()
        indices = np.flatnonzero(embedded)
        size = max(1, _BATCH_VALUES // self._dim)
        for start in range(0, len(indices), size):
            pixels = indices[start : start + size]
            self._add_batch(values[pixels], None if flat is None else flat[pixels])

    def _add_batch(self, batch: NDArray[Any], scales: NDArray[np.float32] | None) -> None:
        if scales is not None:
            self._saturated += int((np.abs(batch.astype(np.int16)) >= 127).sum())
            bad = ~np.isfinite(scales) | (scales <= 0)
        else:
            bad = ~np.isfinite(batch).all(axis=-1)
        self._non_finite += int(bad.sum())
        self._all_zero += int((batch[~bad] == 0).all(axis=-1).sum())
        valid = batch[~bad].astype(np.float32)
        if scales is not None:
            valid *= scales[~bad, np.newaxis]
        if len(valid):
            self._low = np.minimum(self._low, valid.min(axis=0))
            self._high = np.maximum(self._high, valid.max(axis=0))

    def report(self, values: Values) -> None:
        """Set what is known when all pieces have been added."""
        values.non_finite, values.all_zero = self._non_finite, self._all_zero
        if values.embedded > self._non_finite:
            values.constant = [int(k) for k in np.flatnonzero(self._low == self._high)]
        if self._quantised and values.embedded:
            values.saturated_percent = 100 * self._saturated / (values.embedded * self._dim)
