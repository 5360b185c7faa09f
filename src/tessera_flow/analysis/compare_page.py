"""Write the page of a comparison: one HTML file without external resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyproj

from .. import __version__
from ..atomic import check_output, write_text
from ..errors import OutputError
from ..products.geotiff.writer import Placement
from ..products.report.figures import (
    BarChart,
    bar_chart,
    data_uri,
    legend_colours,
    map_png,
    rgba_png,
)
from ..products.report.overview import scale_bar
from ..products.report.templates import render_template
from .compare import Comparison, Cosines
from .compared import SAME_PRODUCT, Embeddings, same_product
from .diagnosis import DIFFERENT, Finding
from .difference_cells import BOTH, NEITHER, ONLY_A, ONLY_B, DifferenceCells
from .page import MapImage

GENERATOR = '<meta name="generator" content="tessera-flow compare">'
_HEAD = 2048
_TICKS = 5
_COVERAGE = {
    BOTH: ("in both", (80, 96, 112)),
    ONLY_A: ("in A only", (200, 112, 42)),
    ONLY_B: ("in B only", (59, 82, 139)),
    NEITHER: ("in neither", (222, 224, 228)),
}


def check_page(output: Path) -> None:
    """Refuse a file that is no page of a comparison, before anything is measured for it.

    Raises:
        OutputError: no file can be written there, or another file has this name.
    """
    check_output(output)
    if not output.exists():
        return
    try:
        with output.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be read ({error.strerror}): use another name."
        ) from None
    if GENERATOR.encode() not in head:
        raise OutputError(
            f"{output} exists and is no page of a comparison, so it is not replaced: use another "
            "name."
        )


def write_comparison(
    output: Path,
    a: Embeddings,
    b: Embeddings,
    measured: Comparison,
    findings: Sequence[Finding],
    lines: Sequence[tuple[str, str]],
    cells: DifferenceCells,
) -> None:
    """Write the page.

    Args:
        output: the HTML file.
        a, b: what was compared.
        measured: the numbers.
        findings: the diagnosis.
        lines: name and text of each measured number; a continued one has an empty name.
        cells: difference and coverage of the overlap.

    Raises:
        OutputError: see `check_page`, or the file cannot be written.
    """
    check_page(output)
    known = measured.cosines is not None and measured.coverage.in_both > measured.cosines.without
    difference, most = _difference(a.place, cells) if known else (None, 0.0)
    values: dict[str, Any] = {
        "generator": GENERATOR,
        "a": a.name,
        "b": b.name,
        "headline": f"{f'{SAME_PRODUCT}. ' if same_product(a, b) else ''}{_headline(measured)}",
        "lines": lines,
        "coverage": _coverage(a.place, cells),
        "swatches": [
            (text, "#{:02x}{:02x}{:02x}".format(*colour)) for text, colour in _COVERAGE.values()
        ],
        "difference": difference,
        "most": f"{most:.2g}",
        "step": cells.step,
        "chart": _chart(measured.cosines) if known and measured.cosines else None,
        "below": measured.cosines.histogram.below
        if measured.cosines and measured.cosines.histogram
        else 0,
        "ramp": legend_colours(),
        "notes": list(_notes(findings)),
        "findings": findings,
        "version": __version__,
    }
    write_text(output, render_template("compare.html.j2", __package__ or "", **values))


def _headline(measured: Comparison) -> str:
    both = measured.coverage.in_both
    if not both:
        return "No pixel has an embedding in both."
    parts = [f"{both:,} pixels with an embedding in both"]
    if measured.cosines is not None:
        parts.append(f"mean cosine {measured.cosines.mean:.4f}")
    if measured.codes is not None:
        parts.append(f"{100 * measured.codes.equal:.1f} % of codes equal")
    if measured.neighbour_overlap is not None:
        parts.append(f"{100 * measured.neighbour_overlap:.0f} % of neighbours in common")
    return f"{'; '.join(parts)}."


def _map_image(place: Placement, cells: DifferenceCells, png: bytes) -> MapImage:
    height, width = cells.shape
    crs = pyproj.CRS.from_wkt(place.crs)
    metres = abs(place.transform.a) * float(crs.axis_info[0].unit_conversion_factor)
    return MapImage(
        image=data_uri(png),
        width=width,
        height=height,
        strip=0.045 * max(width, height),
        bar=scale_bar(width, metres) if crs.is_projected else None,
    )


def _difference(place: Placement, cells: DifferenceCells) -> tuple[MapImage, float]:
    """Return the map, and the value of its lightest colour: the 98th percentile."""
    values = cells.distance()
    known = values[np.isfinite(values)]
    most = max(float(np.percentile(known, 98)), 1e-6)
    return _map_image(place, cells, map_png(values, most)), most


def _coverage(place: Placement, cells: DifferenceCells) -> MapImage:
    table = np.zeros((4, 3), np.uint8)
    for value, (_, colour) in _COVERAGE.items():
        table[value] = colour
    image = np.moveaxis(table[cells.coverage()], -1, 0)
    return _map_image(place, cells, rgba_png(np.ascontiguousarray(image)))


def _chart(cosines: Cosines) -> BarChart | None:
    bars = cosines.histogram
    if bars is None:
        return None
    digits = max(2, int(np.ceil(-np.log10(bars.width))) + 1)
    number = len(bars.pixels)
    labels = [
        f"{bars.low + k * bars.width:.{digits}f} to {bars.low + (k + 1) * bars.width:.{digits}f}"
        for k in range(number)
    ]
    chart = bar_chart(labels, {"pixels": bars.pixels}, "pixels by cosine")
    # Ticks at the ends of bars: the names of bars are too long for them.
    left, step = chart.axis_x, (chart.width - chart.axis_x - 2) / number
    ticks = tuple(
        (left + k * step, f"{bars.low + k * bars.width:.{digits}f}")
        for k in range(number // _TICKS // 2, number, number // _TICKS)
    )
    return BarChart(**{**vars(chart), "ticks": ticks})


def _notes(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield what follows from the findings."""
    for finding in findings:
        if finding.meaning and finding.state != "same":
            end = "" if finding.meaning.endswith(".") else "."
            # No verb: names are singular and plural.
            what = "different" if finding.state == DIFFERENT else "not known of both"
            yield f"{finding.name}: {what}. {finding.meaning}{end}"
