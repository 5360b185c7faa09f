"""Write the report of a region and period: one HTML page without external resources.

This module computes the values that the page shows; `page.html.j2` has the markup and
`style.css` the styles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import numpy as np

from ...atomic import write_text
from ...dates import period_months
from ...geotessera.manifest import StoreManifest, resampled
from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ...scenes.publication import TITLES
from ..checks.embeddings import read_checks
from ..checks.states import BORDER_PAIRS, FAIL, PASS, WARN, percent_text
from ..provenance import Provenance, pixel_text
from .change_map import change_figure
from .figures import (
    EMBEDDED,
    INSIDE,
    OUTSIDE,
    bar_chart,
    block_frame,
    classes_png,
    data_uri,
    legend_colours,
    map_png,
    read_mask,
)
from .observed import observed
from .origin_map import origin_figure
from .overview import overview
from .seam_map import seam_map
from .summary import (
    BlockRecords,
    MissingScene,
    Observations,
    RuleCost,
    days_per_month,
    excluded_scenes,
    missing_counts,
    read_block_records,
    read_warnings,
    rule_costs,
    skipped_blocks,
    summarise_observations,
    total_cost,
)
from .templates import render_template
from .text import CITATIONS, methods, opening_examples, warnings_about

_STATES = (PASS, WARN, FAIL)
_NAVIGATION = (
    ("explorer", "explorer"),
    ("summary", "summary"),
    ("checks", "checks"),
    ("days", "days"),
    ("observations", "observations"),
    ("origin", "origin"),
    ("change", "change"),
    ("blocks", "blocks"),
    ("seams", "seams"),
    ("series", "time series"),
    ("left", "left out"),
    ("time", "costs"),
    ("methods", "methods"),
    ("how", "files"),
)
_MAX_MISSING = 100
_MAX_BORDERS = 10
_MAX_CRS_LENGTH = 20
_COUNT_NAMES = {
    "s2_valid": "Sentinel-2, valid",
    "s1_ascending": "Sentinel-1, ascending",
    "s1_descending": "Sentinel-1, descending",
}


def write_report(
    output: Path,
    grid: RegionGrid,
    blocks: Mapping[str, Path],
    provenance: Provenance,
    checks: Path,
    preview: Path,
    manifests: Sequence[Manifest],
    products: Mapping[str, Sequence[str]],
    logs: Path,
    mask: Path | None = None,
    skip_list: Path | None = None,
    store: StoreManifest | None = None,
    reference: str | None = None,
    change: tuple[str, Path] | None = None,
) -> None:
    """Write the report.

    Args:
        output: the HTML file.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.
        checks: JSON file of `checks.embeddings.write_checks`.
        preview: the PNG of the preview.
        manifests: the lists of scenes; none for tile folders and published embeddings.
        products: names of the files of each product, for the section on opening them.
        logs: folder of the logs and benchmark files of the region and period.
        mask: the region's mask on its full grid (`roi.tif`), for the map of blocks.
        skip_list: JSON file of `skipped_blocks.write_skip_list`; None if no block was skipped.
        store: the tiles of published embeddings.
        reference: the period to which the components of the preview are fitted; None for this one.
        change: the previous period, and the GeoTIFF of `change.write_change`.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    results = read_checks(checks)
    observations = summarise_observations(grid, blocks, provenance)
    skipped = skipped_blocks(skip_list)
    records = read_block_records(grid, blocks, provenance)
    write_text(
        output,
        render(
            title=f"{provenance.region}, {provenance.period}",
            state=results["state"],
            headline=results["headline"],
            messages=_messages(results),
            skipped=skipped,
            summary=_summary(provenance, results, manifests, store, records),
            checks=_checks(results),
            block_map=_block_map(grid, results, observations, mask, skipped),
            overview=overview(grid, provenance, preview, results["region_pixels"]),
            observations=_observations(observations),
            **_appearance(),
            **_of_other_periods(provenance, reference, change),
            **_scenes(provenance, manifests, records, store),
            coverage=_coverage(results),
            origin=origin_figure(grid, blocks, provenance, results.get("fill")),
            **observed(grid, blocks, provenance, manifests, store is not None),
            tiles=None if store is None else _tiles(grid, store),
            about=warnings_about(provenance),
            source_warnings=provenance.warnings,
            warnings=read_warnings(logs, _shown(provenance, records, results, skipped)),
            **_seams(grid, results),
            **_costs(logs),
            methods=methods(
                *(provenance, manifests, records, len(skipped)),
                *(grid.downsample_rate, store, results.get("fill")),
            ),
            citations=CITATIONS,
            **_files(provenance, products),
            software=provenance.software,
            record=json.dumps(provenance.to_json(), indent=1),
        ),
    )


def _shown(
    provenance: Provenance,
    records: BlockRecords,
    results: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> list[str]:
    """Return the warnings that other sections of the page show."""
    return [
        *(scene.reason for scene in records.missing),
        *provenance.warnings,
        *records.tile_facts,
        *(text for _, text in _messages(results)),
        *skipped.values(),
    ]


def _files(provenance: Provenance, products: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return how to open the files, and the pages of maps, by name in the template."""
    pages = [(PurePath(page).parent.name, quote(page)) for page in products.get("maps", ())]
    return {"opening": _opening(provenance, products), "map_pages": pages}


def _opening(
    provenance: Provenance, products: Mapping[str, Sequence[str]]
) -> list[tuple[list[tuple[str, str]], str]]:
    """Return (name and link of each file, code that opens them) of each product."""
    return [
        ([(file, quote(file)) for file in products[name]], code)
        for name, code in opening_examples(provenance)
        if name in products
    ]


def _of_other_periods(
    provenance: Provenance, reference: str | None, change: tuple[str, Path] | None
) -> dict[str, Any]:
    """Return what the page shows of other periods of the region, by name in the template."""
    fitted = reference or provenance.period
    which = "this period" if fitted == provenance.period else f"period {fitted} of this region"
    return {
        "components_note": f"They are fitted to {which}, for all periods of the region: their "
        "colours can be compared with each other, not with those of other regions.",
        "change": None if change is None else change_figure(*change),
    }


def _appearance() -> dict[str, Any]:
    """Return the colours of maps and the links to the sections, by name in the template."""
    colours = legend_colours()
    return {
        "legend": colours,
        "ramp": ", ".join(f"{colour} {100 * at:g}%" for at, colour in colours),
        "navigation": _NAVIGATION,
    }


def _scenes(
    provenance: Provenance,
    manifests: Sequence[Manifest],
    records: BlockRecords,
    store: StoreManifest | None,
) -> dict[str, Any]:
    """Return the values of the sections on scenes, by name in the template."""
    months = period_months(provenance.start, provenance.last)
    return {
        "has_scenes": bool(manifests),
        "source": "published embeddings" if store is not None else "tile folders",
        "months": bar_chart(months, _scene_days(manifests, months), "days"),
        "excluded": [(TITLES[s], n, why, one) for s, why, n, one in excluded_scenes(manifests)],
        "missing": [_missing_row(scene) for scene in records.missing[:_MAX_MISSING]],
        "more_missing": max(0, len(records.missing) - _MAX_MISSING),
    }


def render(**values: Any) -> str:
    """Render the page; every value is escaped, and a value that is missing is an error."""
    return render_template("page.html.j2", **values)


def _summary(
    provenance: Provenance,
    results: Mapping[str, Any],
    manifests: Sequence[Manifest],
    store: StoreManifest | None,
    records: BlockRecords,
) -> list[tuple[str, Any]]:
    """Return (name, value) of the table at the top of the page."""
    model = provenance.model
    height, width = provenance.shape
    pixels = results["region_pixels"]
    share = percent_text(results["embedded"], pixels)
    sources = []
    if store is not None:
        text = f"published embeddings of dataset {store.dataset}: {len(store.parts)} "
        sources.append(("Source", f"{text}{store.unit}s from {store.location}"))
    if manifests:
        scenes = ", ".join(f"{len(m.items)} of {TITLES[m.sensor]}" for m in manifests)
        sources.append(("Scenes", scenes))
    rows: list[tuple[str, Any]] = [
        ("Period", f"{provenance.period_start} to {provenance.period_end}"),
        (
            "Grid",
            f"{width} x {height} px of {pixel_text(provenance.crs, provenance.transform[0])} in "
            f"{provenance.crs}",
        ),
        ("Blocks", len(results["blocks"])),
        ("Pixels with an embedding", f"{results['embedded']:,} ({share} of the region)"),
        ("Model", f"{model.name} ({model.family}), {model.dim} dimensions, {model.dtype}"),
        *(sources or [("Source", "tile folders")]),
    ]
    if store is None or records.inference.groups:
        rows.append(("Computed in", records.inference.text))
    if records.inference.compared is not None:
        compared, cosine = records.inference.compared
        rows.append(
            (
                "Compared with float32 on a CPU",
                f"{compared:,} pixels, smallest cosine {cosine:.6f}",
            )
        )
    if records.missing:
        left_out, replaced = missing_counts(records.missing)
        rows.append(
            (
                "Missing or corrupt scenes",
                f"left out: {left_out}, replaced by a duplicate: {replaced}",
            )
        )
    return rows


def _checks(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (state, check, result, limit) of each check, those that do not pass first."""
    rows = sorted(results["checks"], key=lambda check: -_STATES.index(check["state"]))
    return [(row["state"], row["name"], row["result"], row["limit"]) for row in rows]


def _messages(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (state, message) of the checks that do not pass, the failed ones first."""
    rows = sorted(results["checks"], key=lambda check: -_STATES.index(check["state"]))
    return [(row["state"], text) for row in rows for text in row["messages"]]


def _coverage(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of months: its head, and for each month the numbers of each sensor."""
    head, columns = ["month"], []
    for sensor, months in results["months"].items():
        for key, text in (("scene_days", "days with a scene"), ("pixels_percent", "embeddings")):
            if any(month[key] is not None for month in months):
                head.append(f"{TITLES[sensor]}, {text}")
                columns.append([_covered(month[key]) for month in months])
    first: list[dict[str, Any]] = next(iter(results["months"].values()), [])
    names = [month["month"] + ("" if month["complete"] else " (part)") for month in first]
    return {"head": head, "rows": list(zip(names, *columns, strict=True)) if columns else []}


def _covered(value: float | None) -> str:
    if value is None:
        return "unknown"
    return str(value) if isinstance(value, int) else f"{value:.0f} %"


def _block_map(
    grid: RegionGrid,
    results: Mapping[str, Any],
    observations: Observations,
    mask: Path | None,
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """Return the image of the region and the frames of its blocks, in pixels."""
    height, width = (int(n) for n in grid.product_geobox.shape)
    line = max(height, width) / 250
    states = {block["id"]: block for block in results["blocks"]}
    frames = []
    for block in grid.blocks:
        window = grid.product_window(block)
        status, text = _block_status(states[block.id], skipped.get(block.id))
        bounds = (window.y0, window.x0, window.height, window.width)
        frames.append(block_frame(bounds, line, status, text))
    classes = np.where(observations.embedded, EMBEDDED, OUTSIDE)
    if mask is not None:
        inside = read_mask(mask, observations.step * grid.downsample_rate)
        classes[inside & (classes == OUTSIDE)] = INSIDE
    counted = bool(observations.maps)
    return {
        "width": width,
        "height": height,
        "line": line,
        "image": data_uri(classes_png(classes)),
        "frames": frames,
        "left_out": _left_out(grid, skipped),
        "statuses": [
            ("full", f"every {'observed ' if counted else ''}pixel has an embedding"),
            ("partial", "some have too few observations" if counted else "some have none"),
            ("empty", "none has an embedding"),
            ("skipped", "the block failed and was skipped"),
        ],
    }


def _left_out(grid: RegionGrid, skipped: Mapping[str, str]) -> list[tuple[int, int, int, int, str]]:
    """Return (x, y, width, height, text) of each skipped block, in pixels of the product."""
    windows = {block.id: grid.product_window(block) for block in grid.blocks if block.id in skipped}
    return [(w.x0, w.y0, w.width, w.height, f"{name}: skipped") for name, w in windows.items()]


def _block_status(state: Mapping[str, Any], skipped_reason: str | None) -> tuple[str, str]:
    """Return the CSS class of a block and the text shown on hovering."""
    if skipped_reason is not None:
        return "skipped", f"{state['id']}: skipped. {skipped_reason}"
    text = f"{state['id']}: {state['embedded']:,} of {state['inside']:,} px with an embedding"
    expected = state["inside"]
    if state["observed"] is not None:
        expected = state["observed"]
        text += f", {state['observed']:,} observed"
    if not state["embedded"]:
        return "empty", text
    return "full" if state["embedded"] == expected else "partial", text


def _observations(observations: Observations) -> list[dict[str, Any]]:
    """Return title, map and histogram of each kind of count; none where they are not known."""
    figures = []
    for kind in observations.maps:
        starts, pixels = observations.histograms[kind]
        maximum = float(max(starts[-1], 1))
        mean = observations.means[kind]
        figures.append(
            {
                "name": _COUNT_NAMES[kind],
                "mean": "none" if math.isnan(mean) else f"mean {mean:.1f}",
                "map": data_uri(map_png(observations.maps[kind], maximum)),
                "maximum": maximum,
                "chart": bar_chart(
                    [str(start) for start in starts], {"pixels": pixels}, "pixels by count"
                ),
            }
        )
    return figures


def _scene_days(manifests: Sequence[Manifest], months: Sequence[str]) -> dict[str, list[float]]:
    return {
        TITLES[sensor]: [float(n) for n in days]
        for sensor, days in days_per_month(manifests, months).items()
    }


def _tiles(grid: RegionGrid, store: StoreManifest) -> dict[str, Any]:
    """Return the parts of a store of published embeddings, and how many were resampled."""
    rows = [
        (
            tile.name,
            tile.crs if len(tile.crs) < _MAX_CRS_LENGTH else "custom",
            "copied" if tile.is_aligned(grid) else "nearest neighbour",
        )
        for tile in store.parts
    ]
    return {"rows": rows, "resampled": resampled(store.parts, grid), "unit": store.unit}


def _missing_row(scene: MissingScene) -> tuple[Any, ...]:
    """Return (sensor, date, blocks, scene and reason)."""
    outcome = f"replaced by {scene.duplicate}" if scene.duplicate else "left out"
    reason = scene.reason.replace(f" of item {scene.item}", "")
    return TITLES[scene.sensor], scene.date, scene.blocks, f"{scene.item} {outcome}: {reason}"


def _borders(results: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return (blocks, ratio, across, inside, pairs) of the borders with the largest ratios."""
    borders = [border for border in results["borders"] if border["pairs"]]
    return [
        (
            " | ".join(border["blocks"]) + (" (patches)" if len(border["blocks"]) == 1 else ""),
            f"{border['ratio']:.3f}",
            f"{border['across']:.4g}",
            f"{border['inside']:.4g}",
            border["pairs"],
        )
        for border in sorted(borders, key=lambda border: -border["ratio"])[:_MAX_BORDERS]
    ]


def _seams(grid: RegionGrid, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the map of seams and the worst borders, by name in the template."""
    return {
        "borders": _borders(results),
        "least_pairs": BORDER_PAIRS,
        "seams": seam_map(grid, results["borders"], results["limits"]["max_seam"]),
    }


def _costs(logs: Path) -> dict[str, Any]:
    """Return the rows of the table of costs and their total, by name in the template."""
    costs = rule_costs(logs)
    return {
        "costs": [_cost_row(cost) for cost in costs],
        "total": _cost_row(total_cost(costs)) if costs else (),
    }


def _cost_row(cost: RuleCost) -> tuple[Any, ...]:
    """Return (rule, jobs, wall time, CPU time, memory, bytes read, bytes written) as shown."""

    def shown(value: float | None, digits: int = 0) -> str:
        return "unknown" if value is None else f"{value:,.{digits}f}"

    return (
        cost.rule,
        cost.jobs,
        shown(cost.seconds, 1),
        shown(cost.cpu_seconds, 1),
        shown(cost.memory_mb),
        shown(cost.read_mb, 1),
        shown(cost.written_mb, 1),
    )
