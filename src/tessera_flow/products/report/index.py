"""Write the page that shows all regions and periods, with links to their reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...atomic import write_text
from ..checks.embeddings import read_checks
from ..checks.states import percent_text
from .figures import data_uri, reduced_png
from .templates import render_template

THUMBNAIL_EDGE = 256
"""Most rows and columns of a preview in the page."""


def write_index(
    output: Path, runs: Sequence[tuple[str, str]], checks: Sequence[Path], previews: Sequence[Path]
) -> None:
    """Write the page.

    Args:
        output: the HTML file, in the folder that has the folders of the regions.
        runs: region and period of each product folder.
        checks: the JSON file of `checks.embeddings.write_checks` of each.
        previews: the PNG of the preview of each.

    Raises:
        TileError: the results of checks cannot be read.
        OutputError: the file cannot be written.
    """
    regions: dict[str, list[dict[str, Any]]] = {}
    for (region, period), results, preview in zip(runs, checks, previews, strict=True):
        document = read_checks(results)
        regions.setdefault(region, []).append(
            {
                "period": period,
                "state": document["state"],
                "headline": document["headline"],
                "share": percent_text(document["embedded"], document["region_pixels"]),
                "image": data_uri(reduced_png(preview, THUMBNAIL_EDGE)),
                "link": f"{quote(region)}/{quote(period)}/report.html",
            }
        )
    write_text(output, render_template("index.html.j2", regions=regions, number=len(runs)))
