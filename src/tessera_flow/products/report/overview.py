"""Lay out the large preview of the report: scale bar, corners, area, period and model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyproj

from ...region.grid import RegionGrid
from ..provenance import Provenance
from .figures import data_uri, reduced_png

PREVIEW_EDGE = 1024
"""Most rows and columns of the preview in the page."""

_BAR_SHARE = 0.25
_STRIP_SHARE = 0.05
_MOST_SITES = 6


@dataclass(frozen=True)
class Overview:
    """The preview with what is needed to read it; lengths in pixels of the product.

    Attributes:
        width, height: of the image.
        strip: height of the strip below it, with the scale bar and the arrow to the north.
        mark: size of the marks of pixels; smaller than the strip where the image is narrow.
        image: the preview as a data URI.
        bar: length of the scale bar and its text; None for a grid in degrees.
        corners: text of the upper left and of the lower right corner.
        lines: area, period and model, as sentences.
    """

    width: int
    height: int
    strip: float
    mark: float
    image: str
    bar: tuple[float, str] | None
    corners: tuple[str, str]
    lines: tuple[str, ...]


def overview(
    grid: RegionGrid, provenance: Provenance, preview: Path, region_pixels: int
) -> Overview:
    """Return the layout of the preview.

    Args:
        grid: the region's grid.
        provenance: of the products.
        preview: the PNG of the preview.
        region_pixels: pixels inside the region.
    """
    height, width = provenance.shape
    left, bottom, right, top = grid.product_geobox.boundingbox.bbox
    crs = pyproj.CRS.from_user_input(provenance.crs)
    metres = abs(provenance.transform[0]) * _unit(crs) if crs.is_projected else None
    model = provenance.model
    lines = [
        f"{provenance.period_start} to {provenance.period_end}.",
        f"Model {model.name}, {model.dim} dimensions.",
    ]
    if metres is not None:
        lines.insert(0, f"{region_pixels * metres**2 / 1e6:,.4g} km² inside the region.")
    return Overview(
        width=width,
        height=height,
        strip=_STRIP_SHARE * max(width, height),
        mark=_STRIP_SHARE * min(max(width, height), 1.5 * min(width, height)),
        image=data_uri(reduced_png(preview, PREVIEW_EDGE)),
        bar=None if metres is None else scale_bar(width, metres),
        corners=(_corner(crs, left, top), _corner(crs, right, bottom)),
        lines=tuple(lines),
    )


def sites(grid: RegionGrid) -> list[tuple[int, int, int, int]]:
    """Return the windows of groups of adjoining blocks, (x, y, width, height) in pixels of the
    product, the largest first; none where they cover half of the grid, which shows them well."""
    waiting = {
        (window.y0, window.x0): window
        for window in (grid.product_window(block) for block in grid.blocks)
    }
    edge = grid.block_size // grid.downsample_rate
    found = []
    while waiting:
        group, queue = [], [next(iter(waiting))]
        while queue:
            y, x = queue.pop()
            window = waiting.pop((y, x), None)
            if window is not None:
                group.append(window)
                queue += [(y + edge * a, x + edge * b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        top, left = min(w.y0 for w in group), min(w.x0 for w in group)
        bottom = max(w.y0 + w.height for w in group)
        right = max(w.x0 + w.width for w in group)
        found.append((left, top, right - left, bottom - top))
    height, width = (int(n) for n in grid.product_geobox.shape)
    if sum(w * h for _, _, w, h in found) > height * width / 2:
        return []
    return sorted(found, key=lambda site: -site[2] * site[3])[:_MOST_SITES]


def _unit(crs: pyproj.CRS) -> float:
    return float(crs.axis_info[0].unit_conversion_factor)


def scale_bar(width: int, metres: float) -> tuple[float, str]:
    """Return the longest bar of 1, 2 or 5 times a power of ten that is at most a quarter of the
    width, in pixels, and its length as text."""
    longest = _BAR_SHARE * width * metres
    power = 10.0 ** (len(f"{int(longest)}") - 1) if longest >= 1 else 1.0
    length = max(step * power for step in (1, 2, 5) if step * power <= longest or step == 1)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return length / metres, text


def _corner(crs: pyproj.CRS, x: float, y: float) -> str:
    """Return a position in degrees, such as `51.2041° N, 4.3210° E`."""
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return _degrees(lat, lon)


def place_text(grid: RegionGrid, row: int, column: int) -> str:
    """Return the centre of a pixel of the product grid in degrees, as `51.2041° N, 4.3210° E`."""
    x, y = grid.product_geobox.affine * (column + 0.5, row + 0.5)
    return _corner(pyproj.CRS.from_user_input(grid.crs), x, y)


def _degrees(lat: float, lon: float) -> str:
    return f"{abs(lat):.4f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.4f}° {'E' if lon >= 0 else 'W'}"
