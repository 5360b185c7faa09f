"""Read the summaries of the time series of all blocks: median image, days, a few pixels."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...inference.months import STREAMS
from ...region.grid import RegionGrid
from ...region.pixel_order import pixel_priority
from ..blocks import RegionBlocks
from ..provenance import Provenance

MEDIAN_EDGE = 900
"""Most rows and columns of the median image in the page."""

_SHOWN_PIXELS = 5
_CANDIDATES = 4096
_STRETCH = (2, 98)

Series = tuple[tuple[datetime.date, float], ...]


@dataclass(frozen=True)
class PixelSeries:
    """The time series of one pixel.

    Attributes:
        row, column: in the region's product grid.
        values: by stream (`months.STREAMS`), (date, NDVI or VV in dB), in order of time.
    """

    row: int
    column: int
    values: Mapping[str, Series]


@dataclass(frozen=True)
class RegionSummary:
    """The summaries of all blocks of a region.

    Attributes:
        without: blocks with embeddings and without a summary.
        median: (h, w, 3) uint16, every `step`-th row and column; 0 without a valid step. None if
            no block has a summary.
        step: of `median`, in pixels of the product grid.
        days: by stream, the share of the region's pixels that are valid on each date, in the
            blocks whose dates are known. Empty if none are.
        pixels: the pixels whose series are shown.
    """

    without: tuple[str, ...]
    median: NDArray[np.uint16] | None
    step: int
    days: Mapping[str, Mapping[datetime.date, float]]
    pixels: tuple[PixelSeries, ...]

    @property
    def dated(self) -> bool:
        """Whether the dates of a block are known."""
        return any(self.days.values())


def read_summary(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> RegionSummary:
    """Read the summaries of all blocks.

    Args:
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    with RegionBlocks(grid, blocks, provenance) as source:
        reader = _Reader(source)
        for block in grid.blocks:
            if not source.skipped(block.id):
                reader.add(block.id)
        return reader.result()


class _Reader:
    """Join the summaries of blocks; of each, only what the page shows is kept."""

    def __init__(self, source: RegionBlocks) -> None:
        self._source = source
        self._median: NDArray[np.uint16] | None = None
        self._block_step = self._step = 0
        self._without: list[str] = []
        self._valid: dict[tuple[int, int], int] = {}
        self._pixels = 0
        self._places = np.zeros((0, 2), np.int64)
        self._vectors = np.zeros((0, source.dim), np.float32)

    def add(self, block_id: str) -> None:
        summary = self._source.summary(block_id)
        if summary is None or (self._block_step and summary["step"] != self._block_step):
            self._without.append(block_id)
            return
        if self._median is None:
            self._block_step = int(summary["step"])
            thinned = -(-max(self._source.shape) // self._block_step)
            self._step = self._block_step * -(-thinned // MEDIAN_EDGE)
            shape = [-(-n // self._step) for n in self._source.shape]
            self._median = np.zeros((*shape, 3), np.uint16)
        window = self._source.grid.product_window(self._source.grid.block(block_id))
        self._add_median(summary["median"], (window.y0, window.x0), self._median)
        if "days" not in summary:
            return
        self._pixels += int(summary["pixels"])
        for stream, day, valid in summary["days"].tolist():
            self._valid[stream, day] = self._valid.get((stream, day), 0) + valid
        self._add_candidates(summary["places"] + [window.y0, window.x0], summary["vectors"])

    def _add_median(
        self, part: NDArray[np.uint16], origin: tuple[int, int], median: NDArray[np.uint16]
    ) -> None:
        step, target, selection = self._block_step, [], []
        for start, n in zip(origin, part.shape[:2], strict=True):
            first = -(-start // step)  # number of the first row of the part, in steps of the block
            factor = self._step // step
            skipped = -first % factor
            size = len(range(skipped, n, factor))
            selection.append(slice(skipped, None, factor))
            begin = (first + skipped) // factor
            target.append(slice(begin, begin + size))
        median[tuple(target)] = part[tuple(selection)]

    def _add_candidates(self, places: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        known = np.isfinite(vectors).all(axis=-1) & vectors.any(axis=-1)
        self._places = np.concatenate([self._places, places[known]])
        self._vectors = np.concatenate([self._vectors, vectors[known]])
        if len(self._places) > _CANDIDATES:
            rows, columns = self._places.astype(np.uint64).T
            order = np.sort(np.argsort(pixel_priority(rows, columns))[:_CANDIDATES])
            self._places, self._vectors = self._places[order], self._vectors[order]

    def result(self) -> RegionSummary:
        days: dict[str, dict[datetime.date, float]] = {stream: {} for stream in STREAMS}
        for (stream, day), valid in sorted(self._valid.items()):
            share = valid / self._pixels if self._pixels else 0.0
            days[STREAMS[stream]][datetime.date.fromordinal(day)] = share
        chosen = contrasting(self._vectors, _SHOWN_PIXELS)
        return RegionSummary(
            tuple(self._without),
            self._median,
            self._step,
            days,
            tuple(self._series([tuple(place) for place in self._places[chosen].tolist()])),
        )

    def _series(self, places: Sequence[tuple[int, int]]) -> list[PixelSeries]:
        """Read the series of the chosen pixels: one block at a time."""
        found: dict[tuple[int, int], PixelSeries] = {}
        grid = self._source.grid
        for block in grid.blocks:
            window = grid.product_window(block)
            inside = [
                (y, x)
                for y, x in places
                if 0 <= y - window.y0 < window.height and 0 <= x - window.x0 < window.width
            ]
            if not inside:
                continue
            summary = self._source.summary(block.id)
            assert summary is not None
            index = [tuple(place) for place in (summary["places"]).tolist()]
            for y, x in inside:
                number = index.index((y - window.y0, x - window.x0))
                rows = summary["series"][summary["series"][:, 0] == number]
                found[y, x] = PixelSeries(y, x, _by_stream(rows))
        return [found[place] for place in places]


def _by_stream(rows: NDArray[Any]) -> dict[str, Series]:
    return {
        stream: tuple(
            (datetime.date.fromordinal(int(day)), float(value))
            for _, _, day, value in sorted(rows[rows[:, 1] == number].tolist())
        )
        for number, stream in enumerate(STREAMS)
    }


def contrasting(vectors: NDArray[np.float32], number: int) -> list[int]:
    """Choose vectors that differ: first the one nearest to the mean direction of all, then each
    time the one whose largest cosine with those chosen is smallest.

    Args:
        vectors: (n, K), none of them 0.
        number: how many to choose; fewer if there are fewer different ones.

    Returns:
        Their indices.
    """
    if not len(vectors):
        return []
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    chosen = [int(np.argmax(units @ units.mean(axis=0)))]
    nearest = units @ units[chosen[0]]
    while len(chosen) < min(number, len(vectors)):
        following = int(np.argmin(nearest))
        if nearest[following] > 1 - 1e-6:
            break
        chosen.append(following)
        nearest = np.maximum(nearest, units @ units[following])
    return chosen


def true_colours(median: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Stretch a median image for display, all bands alike.

    Args:
        median: (h, w, 3), 0 without a value.

    Returns:
        (4, h, w) uint8 red, green, blue and alpha; and the values shown as 0 and 255, the 2nd and
        98th percentile of all bands.
    """
    known: NDArray[np.bool_] = np.asarray((median > 0).any(axis=-1))
    if not known.any():
        return np.zeros((4, *median.shape[:2]), np.uint8), (0, 0)
    low, high = (round(float(n)) for n in np.percentile(median[known], _STRETCH))
    scaled = (median.astype(np.float32) - low) / max(1, high - low)
    colours = np.rint(np.clip(scaled, 0, 1) * 255) * known[..., np.newaxis]
    image = np.concatenate([colours, 255 * known[..., np.newaxis]], axis=-1)
    return np.moveaxis(image.astype(np.uint8), -1, 0), (low, high)
