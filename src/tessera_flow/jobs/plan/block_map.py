"""Draw a map of the blocks of a region by state, as SVG: it needs no library and no font file.

With the outline of the region, a scale bar, longitudes and latitudes, and a legend.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pyproj
import rasterio.features
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from ...atomic import write_text
from ...region.crs import reproject
from ...region.grid import RegionGrid, Window
from ...region.mask import mask_reader
from ...region.roi import RasterRoi, VectorRoi

COLOURS = {"done": "#3f8a53", "cpu": "#8fb3d9", "gpu": "#f0be6e", "failed": "#c43c32"}
TEXTS = {
    "done": "done",
    "cpu": "to do, on CPUs",
    "gpu": "to do, on GPUs",
    "failed": "failed",
}
LEGEND = "Blocks by state; the parts outside the region are pale."

_EDGE = 720
"""Longer edge of the map in pixels."""
_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 46, 220, 56
_MARGIN = 0.03
_FLATTEST = 0.3
"""The shorter edge of the map, of the longer one, is at least this."""
_NAMED = 56
"""Pixels from which a block has its name."""
_MARKED = 9
"""Parts of the region that are smaller, in pixels, have a circle around them."""
_RASTER_SAMPLES = 600
_PALE = 0.3


def render_blocks(
    grid: RegionGrid,
    roi: VectorRoi | RasterRoi,
    states: Mapping[str, str],
    output: Path,
    title: str = "",
) -> None:
    """Write the map of one region as SVG; north is up.

    Args:
        grid: the region's grid.
        roi: the region.
        states: for each block a key of `COLOURS`.
        output: SVG file.
        title: shown above the map.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(output, _Map(grid, roi, states, title).text())


class _Map:
    """One map; `scale` is pixels of the image per pixel of the grid."""

    def __init__(
        self,
        grid: RegionGrid,
        roi: VectorRoi | RasterRoi,
        states: Mapping[str, str],
        title: str,
    ) -> None:
        self.grid, self.states, self.title = grid, states, title
        rows, columns = grid.geobox.shape
        longest = max(rows, columns)
        # Pixels of the grid around the region, also beside a row or column of small sites.
        self.above, self.left = (
            max(_MARGIN * longest, (_FLATTEST * longest - edge) / 2) for edge in (rows, columns)
        )
        self.rows, self.columns = rows + 2 * self.above, columns + 2 * self.left
        self.scale = _EDGE / max(self.rows, self.columns)
        self.width, self.height = self.columns * self.scale, self.rows * self.scale
        self.outline = _outline(grid, roi)

    def text(self) -> str:
        width, height = _LEFT + self.width + _RIGHT, max(_TOP + self.height + _BOTTOM, 300)
        shift = f"{self.left * self.scale:.1f},{self.above * self.scale:.1f}"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">',
            f"<title>Blocks of {escape(self.title)}</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="{_LEFT}" y="20" font-size="16">Blocks of {escape(self.title)}</text>',
            f'<g transform="translate({_LEFT},{_TOP})">',
            f'<g class="grid" transform="translate({shift})">',
            *self._blocks(),
            *self._edges(),
            "</g>",
            f'<rect width="{self.width:.1f}" height="{self.height:.1f}" fill="none" '
            'stroke="#555"/>',
            *self._ticks(),
            *self._scale_bar(),
            "</g>",
            *self._legend(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _blocks(self) -> Iterator[str]:
        inside = _path(self.outline, self.scale)
        yield f'<clipPath id="inside"><path d="{inside}" clip-rule="evenodd"/></clipPath>'
        for state, colour in COLOURS.items():
            windows = [b.window for b in self.grid.blocks if self.states[b.id] == state]
            if not windows:
                continue
            path = " ".join(self._square(window) for window in windows)
            yield f'<path d="{path}" fill="{colour}" fill-opacity="{_PALE}"/>'
            yield f'<path class="{state}" d="{path}" fill="{colour}" clip-path="url(#inside)"/>'
        crosses = " ".join(
            self._cross(b.window) for b in self.grid.blocks if self.states[b.id] == "failed"
        )
        yield f'<path d="{crosses}" stroke="white" stroke-width="1.2"/>'
        every = " ".join(self._square(block.window) for block in self.grid.blocks)
        thin = 0.7 if len(self.grid.blocks) < 2500 else 0.3
        yield f'<path d="{every}" fill="none" stroke="#777" stroke-width="{thin}"/>'
        if self.grid.block_size * self.scale < _NAMED:
            return
        for block in self.grid.blocks:
            w = block.window
            if w.width * self.scale >= _NAMED and w.height * self.scale >= 20:
                x, y = w.x0 * self.scale + 4, (w.y0 + w.height) * self.scale - 5
                yield (
                    f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" stroke="white" '
                    f'stroke-width="2.5" paint-order="stroke" fill="#222">{block.id}</text>'
                )

    def _square(self, w: Window) -> str:
        x, y, s = w.x0 * self.scale, w.y0 * self.scale, self.scale
        return f"M{x:.1f} {y:.1f}h{w.width * s:.1f}v{w.height * s:.1f}h{-w.width * s:.1f}z"

    def _cross(self, w: Window) -> str:
        """Return a cross, so that failed blocks differ by more than their colour."""
        x, y, width, height = (v * self.scale for v in (w.x0, w.y0, w.width, w.height))
        return (
            f"M{x:.1f} {y:.1f}l{width:.1f} {height:.1f}m0 {-height:.1f}l{-width:.1f} {height:.1f}"
        )

    def _edges(self) -> Iterator[str]:
        """Yield the outline, and a circle around each part that is too small to be seen."""
        path = _path(self.outline, self.scale)
        yield f'<path class="outline" d="{path}" fill="none" stroke="black" stroke-width="1.4"/>'
        for part in getattr(self.outline, "geoms", [self.outline]):
            west, north, east, south = (v * self.scale for v in part.bounds)
            if max(east - west, south - north) < _MARKED:
                x, y = (west + east) / 2, (north + south) / 2
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="black"/>'

    def _ticks(self) -> Iterator[str]:
        """Yield longitudes along the lower and latitudes along the left edge."""
        to_degrees = pyproj.Transformer.from_crs(self.grid.crs, "OGC:CRS84", always_xy=True)
        a, _, c, _, e, f = self.grid.transform
        steps = np.linspace(0.0, 1.0, 201)
        x = c + a * (steps * self.columns - self.left)
        y = f + e * (steps * self.rows - self.above)
        longitudes = np.asarray(to_degrees.transform(x, np.full(201, y[-1]))[0])
        latitudes = np.asarray(to_degrees.transform(np.full(201, x[0]), y)[1])
        for value, digits in _nice_values(longitudes.min(), longitudes.max(), self.width / 110):
            left = float(np.interp(value, longitudes, steps)) * self.width
            label = _degrees(value, "EW", digits)
            yield f'<path d="M{left:.1f} {self.height:.1f}v6" stroke="#555"/>'
            down = self.height + 19
            yield f'<text x="{left:.1f}" y="{down:.1f}" text-anchor="middle">{label}</text>'
        for value, digits in _nice_values(latitudes.min(), latitudes.max(), self.height / 70):
            down = float(np.interp(value, latitudes[::-1], steps[::-1])) * self.height
            label = _degrees(value, "NS", digits)
            yield f'<path d="M0 {down:.1f}h-6" stroke="#555"/>'
            yield f'<text x="-9" y="{down + 4:.1f}" text-anchor="end">{label}</text>'

    def _scale_bar(self) -> Iterator[str]:
        metres = abs(self.grid.transform[0]) / self.scale  # of a pixel of the image
        length = _nice(metres * min(self.width, 400) / 3)
        text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
        width, y = length / metres, self.height + 36
        bar = f"M0 {y - 5:.1f}v5h{width:.1f}v-5"
        yield f'<path class="scale" d="{bar}" fill="none" stroke="black"/>'
        yield f'<text x="{width + 6:.1f}" y="{y:.1f}">{text}</text>'

    def _legend(self) -> Iterator[str]:
        counts = Counter(self.states[block.id] for block in self.grid.blocks)
        x, y = _LEFT + self.width + 18, _TOP + 4
        for state in (state for state in COLOURS if counts[state]):
            yield f'<rect x="{x:.1f}" y="{y}" width="16" height="16" fill="{COLOURS[state]}"/>'
            text = f"{TEXTS[state]}: {counts[state]:,}"
            yield f'<text x="{x + 24:.1f}" y="{y + 13}">{text}</text>'
            y += 24
        yield f'<path d="M{x:.1f} {y + 8}h16" stroke="black" stroke-width="1.4"/>'
        yield f'<text x="{x + 24:.1f}" y="{y + 12}">outline of the region</text>'
        edge = self.grid.block_size * abs(self.grid.transform[0])
        size = f"{edge / 1000:g} km" if edge >= 1000 else f"{edge:g} m"
        notes = ("pale: outside the region", f"blocks of at most {size}", _crs_name(self.grid))
        for note in notes:
            y += 22
            yield f'<text x="{x:.1f}" y="{y + 12}" fill="#444">{escape(note)}</text>'


def _outline(grid: RegionGrid, roi: VectorRoi | RasterRoi) -> shapely.Geometry:
    """Return the region in pixels of the grid, without details that the image cannot show."""
    rows, columns = grid.geobox.shape
    detail = 0.4 * max(rows, columns) / _EDGE
    if isinstance(roi, VectorRoi):
        geometry = reproject(roi.geometry, roi.crs, pyproj.CRS.from_user_input(grid.crs))
        a, b, d, e, c, f = (~grid.geobox.affine).to_shapely()
        pixels = shapely.transform(
            geometry,
            lambda xy: np.column_stack(
                (a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f)
            ),
        )
        return shapely.simplify(pixels, detail)
    step = max(1.0, max(rows, columns) / _RASTER_SAMPLES)
    shape = (math.ceil(rows / step), math.ceil(columns / step))
    samples = GeoBox(shape, grid.geobox.affine @ Affine.scale(step), grid.geobox.crs)
    mask = mask_reader(roi, samples)(Window(0, 0, *shape))
    shapes = rasterio.features.shapes(
        mask.astype(np.uint8), mask=mask, transform=Affine.scale(step)
    )
    return shapely.union_all([shapely.geometry.shape(document) for document, _ in shapes])


def _path(geometry: shapely.Geometry, scale: float) -> str:
    """Return polygons as the path of an SVG."""
    parts = []
    for polygon in getattr(geometry, "geoms", [geometry]):
        if polygon.geom_type != "Polygon" or polygon.is_empty:
            continue
        for ring in (polygon.exterior, *polygon.interiors):
            points = (f"{x * scale:.1f} {y * scale:.1f}" for x, y in ring.coords[:-1])
            parts.append(f"M{' L'.join(points)}z")
    return " ".join(parts)


def _nice(value: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten up to a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * (1 + 1e-9))


def _nice_values(low: float, high: float, most: float) -> Sequence[tuple[float, int]]:
    """Return round numbers between two, and the digits that they need after the point."""
    step = _nice((high - low) / max(1.0, most))
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    while len(numbers) < 2:
        step = _nice(step / 2)
        numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(number * step, digits) for number in numbers]


def _degrees(value: float, letters: str, digits: int) -> str:
    letter = letters[0] if value >= 0 else letters[1]
    return f"{abs(value):.{digits}f}°{letter}"


def _crs_name(grid: RegionGrid) -> str:
    return grid.crs if grid.crs.startswith("EPSG:") else pyproj.CRS.from_user_input(grid.crs).name
