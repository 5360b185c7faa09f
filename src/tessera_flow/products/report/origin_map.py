"""Lay out which embeddings are published and which were computed, and how they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...inference.block_embeddings import ORIGINS
from ...region.grid import RegionGrid
from ..blocks import RegionBlocks
from ..geotiff.origin import COLOURS
from ..provenance import Provenance
from .figures import data_uri, rgba_png

_EDGE = 600
_SOURCES = {
    "sha256": "the store states the SHA-256 of its weights, which are those of this run",
    "assumed": "the configuration states it (geotessera.assume_same_model); the store does not",
}


def origin_figure(
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    fill: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return the map, its legend and the tables of numbers, by name in the template; None if no
    holes of published embeddings were computed.

    Args:
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.
        fill: of the results of the checks.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    if fill is None or provenance.fill is None:
        return None
    agreement, borders = fill["agreement"], fill["borders"]
    return {
        "image": data_uri(rgba_png(_image(grid, blocks, provenance))),
        "legend": [
            ("rgb({},{},{})".format(*COLOURS[value][:3]), name)
            for value, name in enumerate(ORIGINS)
            if value
        ],
        "pixels": [
            ("published", f"{fill['published']:,}"),
            ("computed", f"{fill['computed']:,}"),
            ("of the region, neither", f"{fill['neither']:,}"),
            ("in the store with an impossible scale", f"{fill['impossible_scales']:,}"),
            ("in the store with a scale but no codes", f"{fill['without_codes']:,}"),
        ],
        "same_model": _SOURCES[provenance.fill.same_model],
        "head": ("embeddings", "pairs", "mean cosine", "median", "1st percentile", "least"),
        "cosines": [
            ("published and computed, of the same pixel", *_numbers(agreement)),
            ("neighbours, one published and one computed", *_numbers(borders["across"])),
            ("neighbours beside these", *_numbers(borders["beside"])),
        ],
        "equal": None
        if not agreement["pairs"]
        else f"{agreement['equal_codes_percent']:.1f} % of the codes are equal, and all codes and "
        f"the scale of {agreement['identical']:,} of {agreement['pairs']:,} pixels.",
    }


def _numbers(tally: Mapping[str, Any]) -> tuple[str, ...]:
    values = (tally[name] for name in ("mean", "median", "percentile_1", "least"))
    return f"{tally['pairs']:,}", *("" if v is None else f"{v:.6f}" for v in values)


def _image(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return (4, h, w): every n-th pixel in the colours of `origin.COLOURS`."""
    with RegionBlocks(grid, blocks, provenance) as source:
        height, width = source.shape
        step = -(-max(height, width) // _EDGE)
        origin = np.zeros((-(-height // step), -(-width // step)), np.uint8)
        for block_id, inside, window in source.pieces():
            y0, x0 = -window.y0 % step, -window.x0 % step
            part = source.read(block_id, "origin", inside)[y0::step, x0::step]
            top, left = (window.y0 + y0) // step, (window.x0 + x0) // step
            origin[top : top + part.shape[0], left : left + part.shape[1]] = part
    colours = np.array([COLOURS[value] for value in range(len(ORIGINS))], np.uint8)
    return np.moveaxis(colours[origin], -1, 0)
