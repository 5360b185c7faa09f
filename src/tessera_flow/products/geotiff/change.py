"""Write how much the embeddings differ from those of the previous period, as a GeoTIFF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...region.grid import RegionGrid, Window
from ..blocks import RegionBlocks
from ..components import valid_pixels
from ..provenance import Provenance
from .writer import Placement, cog_writer

BAND = "cosine_distance"

_DECIMALS = 4
_BATCH_VALUES = 2**22


def write_change(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    before: Mapping[str, Path],
    before_period: str,
) -> None:
    """Write the cosine distance of each pixel to its embedding of the previous period.

    Args:
        output: cloud-optimised GeoTIFF on the product grid, one float32 band: 1 - cosine (0 to
            2), rounded to 4 decimals; NaN where a period has no embedding. Overviews hold single
            pixels.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: written to the GeoTIFF's tags.
        before: embeddings files of the previous period.
        before_period: its name.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    tags = {
        **provenance.tags(),
        "TIFFTAG_IMAGEDESCRIPTION": "Cosine distance of TESSERA embeddings, "
        f"{provenance.region}, {provenance.period} to {before_period}",
        "PREVIOUS_PERIOD": before_period,
    }
    with (
        RegionBlocks(grid, blocks, provenance, values_only=True) as now,
        RegionBlocks(grid, before, provenance, values_only=True) as then,
    ):
        placement = Placement.of(grid)
        with cog_writer(output, placement, "float32", [BAND], tags, nodata=float("nan")) as write:
            for window, distance in _pieces(now, then):
                write(window, distance)


def _pieces(now: RegionBlocks, then: RegionBlocks) -> Iterator[tuple[Window, NDArray[Any]]]:
    for block_id, inside, window in now.pieces():
        known = np.ones(inside.shape, bool)
        pair = []
        for source in (now, then):
            values = source.read(block_id, "embeddings", inside)
            scales = source.read(block_id, "scales", inside) if source.quantised else None
            known &= valid_pixels(values, scales)
            pair.append(values.reshape(-1, source.dim))
        distance = np.full(known.size, np.nan, np.float32)
        pixels = np.flatnonzero(known)
        size = max(1, _BATCH_VALUES // now.dim)
        for start in range(0, len(pixels), size):
            batch = pixels[start : start + size]
            distance[batch] = _distance(pair[0][batch], pair[1][batch])
        yield window, distance.reshape(1, *inside.shape)


def _distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float32]:
    """Return the distances of pairs of vectors; NaN for a vector of zeros, which has no direction.
    The scale of a pixel does not matter."""
    one, other = one.astype(np.float32), other.astype(np.float32)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosine = np.einsum("nk,nk->n", one, other) / np.where(norms > 0, norms, np.nan)
    return np.asarray(np.round(np.clip(1 - cosine, 0, 2), _DECIMALS), np.float32)
