"""Fit principal components to a sample of the pixels of a region.

The sample depends only on the position of the pixels in the region's grid, so the result does
not depend on the block size or the order of the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..region.pixel_order import window_priority
from .blocks import RegionBlocks

SAMPLE_PIXELS = 50_000
COMPONENTS = 3
# Below this share of the first variance a component is rounding noise: its direction would
# be arbitrary.
_NEGLIGIBLE = 1e-10
_BATCH_VALUES = 2**22  # float64 values in one projection: 32 MiB


@dataclass(frozen=True)
class Components:
    """Three principal components and the stretch of their scores.

    Attributes:
        mean: (K,) float64 mean of the sample.
        axes: (K, 3) float64 unit vectors; the entry of largest magnitude is positive. A
            component that the data do not have (fewer than three independent dimensions, a
            single pixel) is zeros.
        shares: (3,) float64 share of the total variance, 0 for a missing component.
        low, high: (3,) float64 scores shown as 0 and 255.
        pixels: number of pixels in the sample.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    shares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    pixels: int

    def colours(
        self, values: NDArray[Any], scales: NDArray[np.float32] | None
    ) -> NDArray[np.uint8]:
        """Return the colours of embeddings: (n, K) values and (n,) scales (int8) to (n, 3) uint8.

        A missing component is mid-grey (128) everywhere.
        """
        scores = values.astype(np.float64) @ self.axes
        if scales is not None:
            scores *= scales.astype(np.float64)[:, np.newaxis]
        scores -= self.mean @ self.axes
        span = self.high - self.low
        flat = ~(span > 0)
        stretched = (scores - self.low) / np.where(flat, 1.0, span)
        stretched[:, flat] = 128 / 255
        return np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)

    def image(self, values: NDArray[Any], scales: NDArray[np.float32] | None) -> NDArray[np.uint8]:
        """Return red, green, blue and alpha of a window: 0 everywhere without an embedding.

        Args:
            values: (h, w, K) embeddings.
            scales: (h, w) scales (int8), or None for float32 embeddings.

        Returns:
            (4, h, w).
        """
        shape, dim = values.shape[:2], values.shape[2]
        pixels = values.reshape(-1, dim)
        each = None if scales is None else scales.ravel()
        valid = np.flatnonzero(valid_pixels(pixels, each))
        image = np.zeros((4, len(pixels)), np.uint8)
        batch = max(1, _BATCH_VALUES // dim)
        for start in range(0, len(valid), batch):
            some = valid[start : start + batch]
            image[:3, some] = self.colours(pixels[some], None if each is None else each[some]).T
            image[3, some] = 255
        return image.reshape(4, *shape)


def valid_pixels(values: NDArray[Any] | None, scales: NDArray[Any] | None) -> NDArray[np.bool_]:
    """Return which pixels have an embedding: a finite scale (int8), or all dimensions finite.

    Args:
        values: (..., K) float32 embeddings; not needed with scales.
        scales: (...) float32 scales, or None for float32 embeddings.
    """
    if scales is not None:
        return np.asarray(np.isfinite(scales))
    assert values is not None
    return np.asarray(np.isfinite(values).all(axis=-1))


def fit_components(
    source: RegionBlocks, stretch: float, sample: int = SAMPLE_PIXELS
) -> Components | None:
    """Fit the components to at most `sample` valid pixels of the region.

    Args:
        source: the region's embeddings.
        stretch: per cent of the sample's scores cut at both ends.
        sample: maximum number of pixels; all valid ones if there are fewer.

    Returns:
        The components, or None if no pixel has an embedding.

    Raises:
        TileError: a block is damaged; it is named.
    """
    values = _sample(source, sample)
    if len(values) == 0:
        return None
    mean = values.mean(axis=0)
    values -= mean
    covariance = values.T @ values / max(1, len(values) - 1)
    variances, vectors = np.linalg.eigh(covariance)
    variances, vectors = variances[::-1], vectors[:, ::-1]
    # A constant sample leaves rounding errors of its mean, about 1e-16 of its size.
    floor = max(_NEGLIGIBLE * variances[0], (1e-12 * np.abs(mean).max()) ** 2)
    axes = np.zeros((source.dim, COMPONENTS))
    shares = np.zeros(COMPONENTS)
    for k in range(min(COMPONENTS, source.dim)):
        if variances[k] > floor:
            vector = vectors[:, k]
            axes[:, k] = vector * np.sign(vector[np.argmax(np.abs(vector))])
            shares[k] = variances[k] / np.trace(covariance)
    low, high = np.percentile(values @ axes, [stretch, 100 - stretch], axis=0)
    return Components(mean, axes, shares, low, high, len(values))


def _sample(source: RegionBlocks, size: int) -> NDArray[np.float64]:
    """Return the `size` valid pixels of lowest priority, ordered by it: (n, K) float64."""
    priorities = np.empty(0, np.uint64)
    values = np.empty((0, source.dim), source.dtype)
    scales = np.empty(0, np.float32)
    limit = np.uint64(2**64 - 1)
    for block_id, inside, window in source.pieces():
        priority = window_priority(window.y0, window.x0, window.shape)
        piece_scales, piece = None, None
        if source.quantised:
            piece_scales = source.read(block_id, "scales", inside)
        else:
            piece = source.read(block_id, "embeddings", inside)
        selected = valid_pixels(piece, piece_scales) & (priority <= limit)
        if not selected.any():
            continue
        if piece is None:
            piece = source.read(block_id, "embeddings", inside)
        priorities = np.concatenate([priorities, priority[selected]])
        values = np.concatenate([values, piece[selected]])
        if piece_scales is not None:
            scales = np.concatenate([scales, piece_scales[selected]])
        if len(priorities) > size:
            keep = np.argpartition(priorities, size - 1)[:size]
            priorities, values = priorities[keep], values[keep]
            scales = scales[keep] if source.quantised else scales
            limit = priorities.max()
    order = np.argsort(priorities)
    result = values[order].astype(np.float64)
    if source.quantised:
        result *= scales[order].astype(np.float64)[:, np.newaxis]
    return result
