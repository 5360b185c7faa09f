"""Lay out the map of seams: the borders of the blocks, and the patches inside them, by ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...region.grid import RegionGrid, Window

_LINE_SHARE = 1 / 120


@dataclass(frozen=True)
class SeamMap:
    """Rectangles of blocks and lines between them, in pixels of the product.

    Attributes:
        width, height: of the map.
        line: width of a line.
        levels: (CSS class, text) for the legend.
        blocks: (x, y, width, height, CSS class, text) of each block; its class is that of the
            borders of its patches, `none` if it is one patch.
        borders: (x1, y1, x2, y2, CSS class, text) of each border of two blocks.
    """

    width: int
    height: int
    line: float
    levels: tuple[tuple[str, str], ...]
    blocks: tuple[tuple[float, float, float, float, str, str], ...]
    borders: tuple[tuple[float, float, float, float, str, str], ...]


def seam_map(grid: RegionGrid, borders: Sequence[Mapping[str, Any]], limit: float) -> SeamMap:
    """Lay out the map.

    Args:
        grid: the region's grid.
        borders: of the checks: `blocks`, `ratio` and `pairs` of each.
        limit: largest seam score (`products.max_seam`).
    """
    height, width = (int(n) for n in grid.product_geobox.shape)
    half = round(1 + (limit - 1) / 2, 3)
    windows = {block.id: grid.product_window(block) for block in grid.blocks}
    known = {tuple(b["blocks"]): b for b in borders if b["pairs"]}

    def level(border: Mapping[str, Any] | None) -> str:
        if border is None:
            return "none"
        ratio = border["ratio"]
        return "low" if ratio <= half else "middle" if ratio <= limit else "high"

    def text(border: Mapping[str, Any]) -> str:
        where = " | ".join(border["blocks"])
        inner = ", borders of its patches" if len(border["blocks"]) == 1 else ""
        return f"{where}{inner}: ratio {border['ratio']:.3f} of {border['pairs']:,} pairs"

    blocks = []
    for name, window in windows.items():
        inside = known.get((name,))
        shown = f"{name}: one patch, or none to compare" if inside is None else text(inside)
        x, y, w, h = map(float, (window.x0, window.y0, window.width, window.height))
        blocks.append((x, y, w, h, level(inside), shown))
    lines = [
        (*_shared_edge(windows[names[0]], windows[names[1]]), level(border), text(border))
        for names, border in known.items()
        if len(names) == 2
    ]
    return SeamMap(
        width,
        height,
        max(width, height) * _LINE_SHARE,
        (
            ("low", f"ratio up to {half:g}"),
            ("middle", f"up to {limit:g}"),
            ("high", f"above {limit:g}"),
            ("none", "nothing to compare"),
        ),
        tuple(blocks),
        tuple(lines),
    )


def _shared_edge(one: Window, other: Window) -> tuple[float, float, float, float]:
    """Return the line that two neighbouring windows share, (x1, y1, x2, y2)."""
    left, top = max(one.x0, other.x0), max(one.y0, other.y0)
    right = min(one.x0 + one.width, other.x0 + other.width)
    bottom = min(one.y0 + one.height, other.y0 + other.height)
    return float(left), float(top), float(right), float(bottom)
