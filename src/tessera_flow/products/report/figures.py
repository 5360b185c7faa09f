"""Compute the figures of the report: images as data URIs, and the geometry of SVG charts.

The templates turn these values into markup; nothing here contains any.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.windows import Window

from ..geotiff.preview import shrink
from ..geotiff.writer import open_raster

# Viridis, dark to light: readable in grey and by the colour-blind.
_COLOURS = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64
)
_CHART_WIDTH, _CHART_HEIGHT = 420, 170
_AXIS_X, _AXIS_MARGIN, _TOP_MARGIN = 38, 25, 20
_MAX_TICKS = 8


def data_uri(png: bytes) -> str:
    """Encode a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def map_png(values: NDArray[np.float64], maximum: float) -> bytes:
    """Render a map as a PNG file: 0 dark, `maximum` light, NaN transparent.

    Args:
        values: (height, width).
        maximum: value of the lightest colour, above 0.
    """
    position = np.clip(np.nan_to_num(values) / maximum, 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(position.astype(int), len(_COLOURS) - 2)
    fraction = (position - low)[..., np.newaxis]
    colours = _COLOURS[low] * (1 - fraction) + _COLOURS[low + 1] * fraction
    image = np.concatenate([colours, 255.0 * np.isfinite(values)[..., np.newaxis]], axis=-1)
    return rgba_png(np.moveaxis(np.rint(image).astype(np.uint8), -1, 0))


def rgba_png(data: NDArray[np.uint8]) -> bytes:
    """Encode (bands, height, width) as a PNG file."""
    bands, height, width = data.shape
    profile = {"driver": "PNG", "height": height, "width": width, "count": bands}
    with MemoryFile(ext=".png") as memory:
        with open_raster(memory.name, "w", dtype="uint8", **profile) as file:
            file.write(data)
        return bytes(memory.read())


def reduced_png(path: Path, edge: int) -> bytes:
    """Return an RGBA PNG file, averaged down to at most `edge` rows and columns."""
    with open_raster(path) as file:
        step = -(-max(file.shape) // edge)
        if step == 1:
            return path.read_bytes()
        return rgba_png(shrink(file.read(), step))


OUTSIDE, INSIDE, EMBEDDED = range(3)
_CLASS_COLOURS = np.array([[198, 201, 206], [255, 255, 255], [80, 96, 112]], np.uint8)


def classes_png(classes: NDArray[np.integer[Any]]) -> bytes:
    """Render a map of `OUTSIDE`, `INSIDE` and `EMBEDDED` pixels, (height, width), as a PNG file."""
    return rgba_png(np.moveaxis(_CLASS_COLOURS[classes], -1, 0))


def read_mask(path: Path, step: int) -> NDArray[np.bool_]:
    """Read every `step`-th row and column of a region's mask (`roi.tif`)."""
    with open_raster(path) as file:
        rows = [
            file.read(1, window=Window(0, y, file.width, 1))[0, ::step]
            for y in range(0, file.height, step)
        ]
    return np.stack(rows) > 0


def legend_colours() -> list[tuple[float, str]]:
    """Return the colours of `map_png`: (position between 0 and 1, CSS colour) of each."""
    last = len(_COLOURS) - 1
    return [
        (k / last, f"rgb({','.join(map(str, colour))})")
        for k, colour in enumerate(_COLOURS.astype(int))
    ]


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: number of its series, rectangle in SVG units, text shown on hovering."""

    series: int
    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class BarChart:
    """Bars side by side, one group for each label; lengths in SVG units.

    Attributes:
        width, height: of the chart.
        axis: title of the vertical axis.
        maximum: value at the top of the vertical axis.
        axis_x, base_y: position of the vertical and of the horizontal axis.
        bars: see `Bar`.
        ticks: (x, text) of the labels that are shown.
        series: names, for the legend.
    """

    width: int
    height: int
    axis: str
    maximum: float
    axis_x: int
    base_y: int
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    series: tuple[str, ...]


def bar_chart(labels: Sequence[str], series: Mapping[str, Sequence[float]], axis: str) -> BarChart:
    """Lay out a bar chart.

    Args:
        labels: one per group; if there are many, only every n-th is shown.
        series: values by name, one per label.
        axis: title of the vertical axis.
    """
    maximum = max((max(values, default=0) for values in series.values()), default=0) or 1
    group = (_CHART_WIDTH - _AXIS_X - 2) / max(1, len(labels))
    width = 0.85 * group / max(1, len(series))
    base_y = _CHART_HEIGHT - _AXIS_MARGIN
    bars = []
    for number, (name, values) in enumerate(series.items()):
        for index, value in enumerate(values):
            height = value / maximum * (base_y - _TOP_MARGIN)
            bars.append(
                Bar(
                    number,
                    _AXIS_X + index * group + number * width,
                    base_y - height,
                    max(width - 0.5, 0.5),
                    height,
                    f"{name}, {labels[index]}: {value:g}",
                )
            )
    every = -(-len(labels) // _MAX_TICKS)
    ticks = tuple(
        (_AXIS_X + (index + 0.5) * group, label)
        for index, label in enumerate(labels)
        if index % every == 0
    )
    return BarChart(
        _CHART_WIDTH,
        _CHART_HEIGHT,
        axis,
        maximum,
        _AXIS_X,
        base_y,
        tuple(bars),
        ticks,
        tuple(series),
    )


@dataclass(frozen=True)
class BlockFrame:
    """The frame of a block on the map: rectangle in pixels, CSS class, text shown on hovering."""

    x: float
    y: float
    width: float
    height: float
    status: str
    text: str


def block_frame(
    bounds: tuple[int, int, int, int], line: float, status: str, text: str
) -> BlockFrame:
    """Return the frame of a block, inset by half the width of its line.

    Args:
        bounds: (y0, x0, height, width) in pixels.
        line: width of the line in pixels.
        status: CSS class.
        text: shown on hovering.
    """
    y, x, height, width = bounds
    return BlockFrame(
        x + line / 2, y + line / 2, max(width - line, line), max(height - line, line), status, text
    )
