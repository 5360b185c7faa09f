"""Measure seams: steps of the embeddings at the edges of blocks and patches.

A pixel pair is two neighbours; its difference is the mean over the dimensions of the absolute
difference of their (dequantised) embeddings. At each edge, the median difference of the pairs
across it is compared with that of the pairs two pixels before and after it. Medians are not
moved by the borders of fields that touch an edge, and pairs two pixels away are at the same
phase of the 20 m bands: where these were upsampled to 10 m, the pair next to an edge can differ
from the one across it by more than a factor of 2, without any seam.

The seam score is the ratio of the two medians, each averaged over all edges with their numbers
of pairs as weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...region.grid import Window, tiling

_DEPTH = 3
"""Pixels on each side of an edge that are compared."""

_LINE_BYTES = 256
"""Bytes of an embedding up to which every line across an edge is compared. Of longer ones every
n-th is, so that the strips kept in memory do not grow."""

_HIGHEST = 1000.0
"""Ratio of an edge beside which nothing differs."""


@dataclass
class Border:
    """Edge of two blocks, or the edges of the patches inside one block.

    Attributes:
        blocks: the two blocks, or the one.
        across: median difference of the pixel pairs across the edge.
        inside: median difference of the pairs two pixels away from it.
        pairs: number of pairs across.
        ratio: across / inside.
    """

    blocks: tuple[str, ...]
    across: float
    inside: float
    pairs: int
    ratio: float


@dataclass(frozen=True)
class _Strip:
    """Pixels at an edge of a patch: (lines, 3, K) values and (lines, 3) scales."""

    block: str
    values: NDArray[Any]
    scales: NDArray[np.float32] | None

    def dequantised(self) -> NDArray[np.float32]:
        values = self.values.astype(np.float32)
        if self.scales is not None:
            values *= self.scales[..., np.newaxis]
        return values


class SeamFinder:
    """Collect the edges of the pieces of a region, in the order of `RegionBlocks.pieces`."""

    def __init__(self) -> None:
        # Strips that wait for the patch to the right (axis 1) or below (axis 0), by the position
        # of its upper left pixel.
        self._waiting: dict[tuple[int, int, int], _Strip] = {}
        self._pairs: dict[tuple[str, ...], list[NDArray[np.float32]]] = {}
        self._block = ""
        self._done: set[str] = set()
        self._borders: list[Border] = []

    def add(
        self,
        block: str,
        window: Window,
        values: NDArray[Any],
        scales: NDArray[np.float32] | None,
        patch: tuple[int, int],
    ) -> None:
        """Compare the patches of a piece with those before it.

        Args:
            block: its block.
            window: of the piece in the region; it consists of complete patches.
            values: (h, w, K) embeddings or codes.
            scales: (h, w) scales of codes.
            patch: (height, width) of a patch that is not clipped.
        """
        if block != self._block:
            self._finish()
            self._block = block
        # Tiles are square: patches differ in height and width only where both are clipped.
        for tile in tiling(*window.shape, max(patch)):
            place = Window(window.y0 + tile.y0, window.x0 + tile.x0, *tile.shape)
            inner = values[tile.slices]
            self._add_patch(block, place, inner, None if scales is None else scales[tile.slices])

    def borders(self) -> list[Border]:
        """Return the edges, once all pieces are added."""
        self._finish()
        self._borders += [_border(key, pairs) for key, pairs in self._pairs.items()]
        self._pairs = {}
        return sorted(self._borders, key=lambda border: border.blocks)

    def _add_patch(
        self,
        block: str,
        place: Window,
        values: NDArray[Any],
        scales: NDArray[np.float32] | None,
    ) -> None:
        step = max(1, values.shape[-1] * values.itemsize // _LINE_BYTES)
        for axis in (0, 1):
            # Lines across the edge first: (lines, pixels along a line, K).
            lines = np.moveaxis(values, axis, 1)[::step]
            line_scales = None if scales is None else np.moveaxis(scales, axis, 1)[::step]
            before = self._waiting.pop((axis, place.y0, place.x0), None)
            if lines.shape[1] < _DEPTH:
                continue
            first = _strip(block, lines, line_scales, slice(0, _DEPTH))
            if before is not None and len(before.values) == len(first.values):
                self._compare(before, first)
            following = (
                (0, place.y0 + place.height, place.x0)
                if axis == 0
                else (1, place.y0, place.x0 + place.width)
            )
            self._waiting[following] = _strip(block, lines, line_scales, slice(-_DEPTH, None))

    def _compare(self, before: _Strip, after: _Strip) -> None:
        pixels = np.concatenate([before.dequantised(), after.dequantised()], axis=1)
        first, across, last = (
            np.abs(pixels[:, n + 1] - pixels[:, n]).mean(axis=-1) for n in (0, 2, 4)
        )
        pairs = np.stack([across, (first + last) / 2], axis=1)
        usable = np.isfinite(pixels).all(axis=(1, 2))
        key = tuple(dict.fromkeys((before.block, after.block)))
        self._pairs.setdefault(key, []).append(pairs[usable])

    def _finish(self) -> None:
        """Reduce the edges that are complete, so that memory does not grow with the region."""
        self._done.add(self._block)
        complete = [key for key in self._pairs if self._done.issuperset(key)]
        self._borders += [_border(key, self._pairs.pop(key)) for key in complete]


def seam_score(borders: list[Border]) -> float | None:
    """Return the seam score; None without an edge, or if nothing differs beside the edges."""
    across = sum(border.across * border.pairs for border in borders)
    inside = sum(border.inside * border.pairs for border in borders)
    return across / inside if inside > 0 else None


def _strip(
    block: str, lines: NDArray[Any], scales: NDArray[np.float32] | None, pixels: slice
) -> _Strip:
    # Copied, or the whole piece would be kept in memory.
    return _Strip(
        block, lines[:, pixels].copy(), None if scales is None else scales[:, pixels].copy()
    )


def _border(blocks: tuple[str, ...], pairs: list[NDArray[np.float32]]) -> Border:
    values = np.concatenate(pairs)
    if not len(values):
        return Border(blocks, 0.0, 0.0, 0, 1.0)
    across, inside = (float(value) for value in np.median(values, axis=0))
    ratio = min(across / inside, _HIGHEST) if inside > 0 else (_HIGHEST if across > 0 else 1.0)
    return Border(blocks, across, inside, len(values), ratio)
