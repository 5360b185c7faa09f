"""Lay out what the page shows of the time series, and the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ..provenance import Provenance
from .charts import STREAM_NAMES, calendar, time_plot
from .explorer import page_data, read_explorer
from .figures import data_uri, rgba_png
from .overview import place_text, sites
from .series import RegionSummary, read_summary, true_colours


def observed(
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    manifests: Sequence[Manifest],
    published: bool,
) -> dict[str, Any]:
    """Return the values of the sections on time series and of the explorer, by name in the
    template.

    Args:
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.
        manifests: the lists of scenes; none for tile folders and published embeddings.
        published: whether the embeddings are published ones, without time series.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
    """
    summary = read_summary(grid, blocks, provenance)
    start, end = provenance.start, provenance.last
    listed = {item.date for m in manifests if m.sensor == "sentinel2" for item in m.items}
    pixels = summary.pixels
    plots = [
        time_plot("NDVI", start, end, pixels, ("sentinel2",), (0.0, 1.0)),
        *(
            time_plot(f"VV, dB, {STREAM_NAMES[orbit]}", start, end, pixels, (orbit,))
            for orbit in ("ascending", "descending")
        ),
    ]
    return {
        "colours": _colours(summary, grid),
        "sites": sites(grid),
        "no_series": _why_not(summary, published),
        "without_summary": [] if published else list(summary.without),
        "calendar": calendar(start, end, summary.days, listed) if summary.dated else None,
        "plots": [plot for plot in plots if plot is not None],
        "marks": [(n + 1, p.column + 0.5, p.row + 0.5) for n, p in enumerate(pixels)],
        "shown_pixels": [
            (
                n + 1,
                place_text(grid, p.row, p.column),
                f"row {p.row}, column {p.column}",
                ", ".join(f"{len(p.values[s])} {STREAM_NAMES[s]}" for s in p.values if p.values[s]),
            )
            for n, p in enumerate(pixels)
        ],
        "explorer": _explorer(grid, blocks, provenance),
    }


def _why_not(summary: RegionSummary, published: bool) -> str:
    """Return why there is no median image, or no series, as a sentence; empty if there are both."""
    if published:
        return "Published embeddings come without the reflectances and dates they were made from."
    if summary.median is None:
        return (
            "No block has a summary of its time series: they were embedded by an earlier version, "
            "or failed."
        )
    if not summary.dated:
        return (
            "The dates of the time series are not known: tile folders state days of the year, and "
            "a day of the year occurs twice in the period, or no date is in it."
        )
    return ""


def _colours(summary: RegionSummary, grid: RegionGrid) -> dict[str, Any] | None:
    """Return the true-colour image, its extent in pixels of the product, and its caption."""
    if summary.median is None:
        return None
    image, (low, high) = true_colours(summary.median)
    if not image[3].any():
        return None
    every = "" if summary.step == 1 else f" One row and column in {summary.step}."
    return {
        "image": data_uri(rgba_png(image)),
        "width": summary.median.shape[1] * summary.step,
        "height": summary.median.shape[0] * summary.step,
        "text": f"Median of the valid Sentinel-2 observations of each pixel, in true colour (B04, "
        f"B03, B02). Shown from {low} to {high}, in units of the input of the model.{every}",
    }


def _explorer(
    grid: RegionGrid, blocks: Mapping[str, Path], provenance: Provenance
) -> dict[str, Any] | None:
    explorer = read_explorer(grid, blocks, provenance)
    if explorer is None:
        return None
    size, (mean, largest) = len(explorer.weights), explorer.deviation
    pixels = "Every pixel" if explorer.step == 1 else f"One row and column in {explorer.step}"
    accuracy = (
        "with the stored codes: the similarity is exact"
        if explorer.exact
        else f"with {size} components of {explorer.dim} dimensions: the similarity differs from "
        f"that of the complete embeddings by {mean:.4f} on average and by at most {largest:.3f}, "
        "in a sample of pairs"
    )
    number = len(explorer.panels)
    side_by_side = (
        f" The {number} largest sites of the region are side by side." if number > 1 else ""
    )
    height, width = explorer.valid.shape
    return {
        "data": page_data(explorer, grid),
        "text": f"{pixels}, {accuracy}.{side_by_side}",
        "width": round(80 * width / height, 1),
    }
