"""Figures of the report as text that stands in a page: SVG, and PNG as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.windows import Window

from ..geotiff import open_raster

# Dark to light, readable without colours and by the colour-blind.
_RAMP = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64
)
_WIDTH, _HEIGHT = 420, 170


def data_uri(png: bytes) -> str:
    """A PNG file as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def map_png(values: NDArray[np.float64], top: float) -> bytes:
    """A map as a PNG file: 0 dark, `top` light, NaN transparent.

    Args:
        values: (height, width).
        top: value of the lightest colour, above 0.
    """
    share = np.clip(np.nan_to_num(values) / top, 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(share.astype(int), len(_RAMP) - 2)
    part = (share - low)[..., np.newaxis]
    colours = _RAMP[low] * (1 - part) + _RAMP[low + 1] * part
    picture = np.concatenate([colours, 255.0 * np.isfinite(values)[..., np.newaxis]], axis=-1)
    return _png(np.moveaxis(np.rint(picture).astype(np.uint8), -1, 0))


def _png(data: NDArray[np.uint8]) -> bytes:
    """(bands, height, width) as a PNG file."""
    bands, height, width = data.shape
    profile = {"driver": "PNG", "height": height, "width": width, "count": bands}
    with MemoryFile(ext=".png") as memory:
        with open_raster(memory.name, "w", dtype="uint8", **profile) as file:
            file.write(data)
        return bytes(memory.read())


OUTSIDE, INSIDE, EMBEDDED = range(3)
_CLASSES = np.array([[228, 228, 228], [255, 255, 255], [80, 96, 112]], np.uint8)


def classes_png(classes: NDArray[np.integer[Any]]) -> bytes:
    """A map of (height, width) pixels that are `OUTSIDE`, `INSIDE` or `EMBEDDED`, as a PNG file."""
    return _png(np.moveaxis(_CLASSES[classes], -1, 0))


def thinned_mask(path: Path, step: int) -> NDArray[np.bool_]:
    """Every `step`-th pixel of a region's mask (`roi.tif`), in rows and columns."""
    with open_raster(path) as file:
        rows = [
            file.read(1, window=Window(0, y, file.width, 1))[0, ::step]
            for y in range(0, file.height, step)
        ]
    return np.stack(rows) > 0


def legend(top: float) -> str:
    """The colours of `map_png`, with their ends."""
    stops = "".join(
        f'<stop offset="{k / (len(_RAMP) - 1):.2f}" stop-color="rgb({",".join(map(str, c))})"/>'
        for k, c in enumerate(_RAMP.astype(int))
    )
    return (
        '<svg class="legend" viewBox="0 0 220 34" role="img"><defs><linearGradient id="ramp">'
        f'{stops}</linearGradient></defs><rect width="220" height="12" fill="url(#ramp)"/>'
        f'<text x="0" y="28">0</text><text x="220" y="28" text-anchor="end">{top:g}</text></svg>'
    )


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], axis: str) -> str:
    """Bars side by side, one group for each label.

    Args:
        labels: of the groups; some are left out where there are many.
        series: values by name, as many as labels.
        axis: what is counted, for the axis.
    """
    top = max((max(values, default=0) for values in series.values()), default=0) or 1
    group = (_WIDTH - 40) / max(1, len(labels))
    width = 0.85 * group / max(1, len(series))
    parts = []
    for number, (name, values) in enumerate(series.items()):
        for place, value in enumerate(values):
            height = value / top * (_HEIGHT - 45)
            x = 38 + place * group + number * width
            parts.append(
                f'<rect class="s{number}" x="{x:.1f}" y="{_HEIGHT - 25 - height:.1f}" '
                f'width="{max(width - 0.5, 0.5):.2f}" height="{height:.1f}">'
                f"<title>{escape(name)}, {escape(labels[place])}: {value:g}</title></rect>"
            )
    every = -(-len(labels) // 8)
    parts += [
        f'<text x="{38 + (place + 0.5) * group:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for place, label in enumerate(labels)
        if place % every == 0
    ]
    key = "".join(
        f'<rect class="s{n}" x="{120 + 95 * n}" y="2" width="9" height="9"/>'
        f'<text x="{133 + 95 * n}" y="10">{escape(name)}</text>'
        for n, name in enumerate(series)
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f'<text x="0" y="10">{escape(axis)}</text><text x="34" y="28" text-anchor="end">{top:g}'
        f'</text><text x="34" y="{_HEIGHT - 25}" text-anchor="end">0</text>'
        f'<line x1="38" y1="{_HEIGHT - 25}" x2="{_WIDTH}" y2="{_HEIGHT - 25}"/>'
        f"{key if len(series) > 1 else ''}{''.join(parts)}</svg>"
    )


def rectangles(
    shape: tuple[int, int],
    cells: Sequence[tuple[int, int, int, int, str, str]],
    background: bytes,
) -> str:
    """A map of rectangles, half transparent, on a grid of (height, width) pixels.

    Args:
        shape: of the grid.
        cells: (y0, x0, height, width, class of its style, what it says) each.
        background: a PNG that covers the grid.
    """
    height, width = shape
    edge = max(height, width)
    line = edge / 250
    drawn = "".join(
        f'<rect class="{kind}" x="{x + line / 2:g}" y="{y + line / 2:g}" '
        f'width="{max(w - line, line):g}" height="{max(h - line, line):g}">'
        f"<title>{escape(text)}</title></rect>"
        for y, x, h, w, kind, text in cells
    )
    return (
        f'<svg class="blocks" viewBox="0 0 {width} {height}" role="img" '
        f'style="stroke-width:{line:g}"><image href="{data_uri(background)}" width="{width}" '
        f'height="{height}" preserveAspectRatio="none"/>{drawn}</svg>'
    )
