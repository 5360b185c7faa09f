"""The report of a region and period: one HTML page that needs nothing beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import write_text
from ...geotessera.manifest import StoreManifest, resampled
from ...region.grid import RegionGrid
from ...scenes.manifest import Manifest
from ..provenance import Provenance, pixel_text
from .figures import (
    EMBEDDED,
    INSIDE,
    OUTSIDE,
    bars,
    classes_png,
    data_uri,
    legend,
    map_png,
    rectangles,
    thinned_mask,
)
from .summary import (
    MissingScene,
    Observations,
    RuleCost,
    days_per_month,
    left_out,
    lost_scenes,
    months_of,
    rule_costs,
    survey_counts,
    warnings_of,
)
from .text import CITATIONS, STYLE, methods, opening

_MOST_LOST = 100
_LONG = 20
_KINDS = {
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
    holes: Path | None = None,
    store: StoreManifest | None = None,
) -> None:
    """Write the page.

    Args:
        output: the HTML file.
        grid: the region's grid.
        blocks: embeddings file of every block, by block id.
        provenance: of the products.
        checks: JSON file of `checks.write_checks`.
        preview: the PNG of the preview.
        manifests: the lists of scenes; none for tile folders and published embeddings.
        products: names of the files of each product, to say how they are opened.
        logs: folder of the logs and benchmark files of the region and period.
        mask: the region's mask on its full grid (`roi.tif`), for the map of blocks.
        holes: JSON file of `holes.write_skip_list`; None where no block is a hole.
        store: the tiles of published embeddings.

    Raises:
        TileError: a block is missing, damaged or inconsistent; it is named.
        OutputError: the file cannot be written.
    """
    found = json.loads(checks.read_text(encoding="utf-8"))
    observations = survey_counts(grid, blocks, provenance)
    lost = lost_scenes(grid, blocks, provenance)
    missing = _holes(holes)
    sections = {
        "Summary": _summary(provenance, found, manifests, store, lost, missing),
        "Checks": _checks(found),
        "Blocks": _blocks(grid, found, observations, mask, missing),
        "Preview": _preview(preview),
        "Observations per pixel": _observations(observations),
        "Days with scenes": _months(provenance, manifests),
        **({} if store is None else {"Tiles of the store": _tiles(grid, store)}),
        "Left out": _left_out(manifests, lost, missing, logs),
        "Seams": _seams(found),
        "Time, memory and bytes": _costs(rule_costs(logs)),
        "Methods": f"<p>{escape(methods(provenance, manifests, store))}</p>",
        "Citations": _list(CITATIONS),
        "How to open the products": _opening(provenance, products),
        "Software and settings": _software(provenance),
    }
    title = f"{provenance.region}, {provenance.period}"
    body = "".join(
        f'<section id="{name.split()[0].lower()}"><h2>{name}</h2>{content}</section>'
        for name, content in sections.items()
    )
    write_text(
        output,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>TESSERA embeddings: '
        f'{escape(title)}</title><meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body><h1>TESSERA embeddings: {escape(title)}</h1>"
        f"{body}</body></html>\n",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], style: str = "") -> str:
    """A table; in the style `wide` long words of its last column are taken apart."""

    def cells(kind: str, row: Sequence[Any]) -> str:
        return "".join(f"<{kind}>{escape(str(value))}</{kind}>" for value in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>"
    return f'<table class="{style}">{top}<tbody>{body}</tbody></table>'


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _holes(path: Path | None) -> dict[str, str]:
    """Reasons of the blocks that are holes."""
    if path is None:
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {hole["block"]: hole["reason"] for hole in document["skipped_blocks"]}


def _summary(
    provenance: Provenance,
    found: Mapping[str, Any],
    manifests: Sequence[Manifest],
    store: StoreManifest | None,
    lost: Sequence[MissingScene],
    holes: Mapping[str, str],
) -> str:
    model, blocks = provenance.model, found["blocks"]
    height, width = provenance.shape
    pixels = sum(block["pixels"] for block in blocks)
    share = found["embedded"] / pixels if pixels else 0.0
    scenes = ", ".join(f"{len(m.items)} of {m.sensor}" for m in manifests) or "tile folders"
    source = ("Scenes", scenes)
    if store is not None:
        told = f"published embeddings of dataset {store.dataset}: {len(store.tiles)} tiles"
        source = ("Source", f"{told} from {store.location}")
    rows = [
        ("Period", f"{provenance.period_start} to {provenance.period_end}"),
        (
            "Grid",
            f"{width} x {height} px of {pixel_text(provenance.crs, provenance.transform[0])} in "
            f"{provenance.crs}",
        ),
        ("Blocks", len(blocks)),
        ("Pixels with an embedding", f"{found['embedded']:,} ({share:.1%} of the blocks)"),
        ("Model", f"{model.name} ({model.family}), {model.dim} dimensions, {model.dtype}"),
        source,
    ]
    if lost:
        gone = sum(not scene.copy for scene in lost)
        rows.append(
            (
                "Scenes lost at the archive",
                f"left out: {gone}, replaced by another copy: {len(lost) - gone}",
            )
        )
    verdict = (
        '<p class="bad">Checks failed: see below.</p>'
        if found["failures"]
        else '<p class="good">All checks passed.</p>'
    )
    if holes:
        verdict += (
            f'<p class="bad">Blocks without embeddings because they failed: {len(holes)}.</p>'
        )
    return verdict + _table(("", ""), rows)


def _checks(found: Mapping[str, Any]) -> str:
    limits = found["limits"]
    saturated, seam = found["saturated_percent"], found["seam_score"]
    rows = [
        ("Pixels with values that are not finite", found["non_finite"], "0"),
        ("Pixels with an embedding of zeros", found["all_zero"], "0"),
        ("Dimensions that are the same everywhere", len(found["constant"]), "0"),
        (
            "Codes at an end of their range",
            "does not apply" if saturated is None else f"{saturated:.2f} %",
            f"{limits['max_saturated']:g} %",
        ),
        (
            "Seam score",
            "one block" if seam is None else f"{seam:.3f}",
            f"{limits['max_seam']:g}",
        ),
    ]
    failures = ""
    if found["failures"]:
        failures = f'<div class="bad">{_list(found["failures"])}</div>'
    return failures + _table(("check", "found", "at most"), rows)


def _blocks(
    grid: RegionGrid,
    found: Mapping[str, Any],
    observations: Observations,
    mask: Path | None,
    holes: Mapping[str, str],
) -> str:
    states = {block["id"]: block for block in found["blocks"]}
    cells = []
    for block in grid.blocks:
        place, state = grid.product_window(block), states[block.id]
        kind = "none" if not state["embedded"] else "part"
        counted = state["observed"] is not None
        most = state["observed"] if counted else state["pixels"]
        if state["embedded"] == most and state["embedded"]:
            kind = "full"
        text = f"{block.id}: {state['embedded']:,} of {state['pixels']:,} px with an embedding"
        if counted:
            text += f", {state['observed']:,} observed"
        if block.id in holes:
            kind, text = "hole", f"{block.id}: left out. {holes[block.id]}"
        cells.append((place.y0, place.x0, place.height, place.width, kind, text))
    height, width = (int(n) for n in grid.product_geobox.shape)
    picture = np.where(observations.embedded, EMBEDDED, OUTSIDE)
    if mask is not None:
        inside = thinned_mask(mask, observations.step * grid.downsample_rate)
        picture[inside & (picture == OUTSIDE)] = INSIDE
    outline = classes_png(picture)
    full, part = "every observed pixel has an embedding", "some have too few observations"
    if not observations.maps:
        full, part = "every pixel has an embedding", "some have none"
    return (
        f"<figure>{rectangles((height, width), cells, outline)}<figcaption>Pixels: "
        '<span class="key embedded"></span> with an embedding '
        '<span class="key inside"></span> of the region, without one '
        '<span class="key outside"></span> outside it. Frames of blocks: '
        f'<span class="key full"></span> {full} '
        f'<span class="key part"></span> {part} '
        '<span class="key none"></span> none has one '
        '<span class="key hole"></span> hole: the block failed. North is up. Point at a block '
        "for its numbers.</figcaption></figure>"
    )


def _preview(path: Path) -> str:
    return (
        f'<figure><img alt="Preview" src="{data_uri(path.read_bytes())}"><figcaption>The first '
        "three principal components as red, green and blue, fitted on this region and period "
        "alone; colours of two reports cannot be compared.</figcaption></figure>"
    )


def _observations(found: Observations) -> str:
    if not found.maps:
        return (
            "<p>Not known: the store of published embeddings does not say how many observations "
            "a pixel's embedding was made from.</p>"
        )
    parts = []
    for kind, name in _KINDS.items():
        starts, pixels = found.histograms[kind]
        top = float(max(starts[-1], 1))
        mean = found.means[kind]
        told = "none" if math.isnan(mean) else f"{mean:.1f} on average"
        chart = bars([str(start) for start in starts], {"pixels": pixels}, "pixels, by count")
        parts.append(
            f"<figure><h3>{name}: {told}</h3><img class='map' alt='Map of {name}' src='"
            f"{data_uri(map_png(found.maps[kind], top))}'>{legend(top)}{chart}</figure>"
        )
    return (
        "<p>Steps that an embedding is made from, for pixels that have one.</p>"
        f'<div class="row">{"".join(parts)}</div>'
    )


def _months(provenance: Provenance, manifests: Sequence[Manifest]) -> str:
    if not manifests:
        source = "tile folders" if provenance.counted else "published embeddings"
        return f"<p>The source is {source}, which do not name scenes.</p>"
    months = months_of(provenance)
    series = {
        sensor: [float(n) for n in days]
        for sensor, days in days_per_month(manifests, months).items()
    }
    return (
        "<p>Days of each month on which a scene of the list touches the region. Clouds come on "
        f"top: see the counts.</p>{bars(months, series, 'days')}"
    )


def _tiles(grid: RegionGrid, store: StoreManifest) -> str:
    rows = [
        (tile.name, tile.crs if len(tile.crs) < _LONG else "its own",
         "copied" if tile.is_aligned(grid) else "nearest")
        for tile in store.tiles
    ]  # fmt: skip
    nearest = resampled(store.tiles, grid)
    told = (
        f"{nearest} of them lie in another UTM zone or beside the region's grid: each pixel is "
        "the nearest of the tile's, its codes and its scale together."
        if nearest
        else "All of them lie on the region's grid, so that their pixels are copied."
    )
    return (
        f"<p>{len(rows)} tiles touch a block of the region. {told}</p><details><summary>The tiles"
        f"</summary>{_table(('tile', 'CRS', 'pixels'), rows)}</details>"
    )


def _left_out(
    manifests: Sequence[Manifest],
    lost: Sequence[MissingScene],
    holes: Mapping[str, str],
    logs: Path,
) -> str:
    rows = [(sensor, n, why, one) for sensor, why, n, one in left_out(manifests)]
    none = "None." if manifests else "There is no list of scenes."
    scenes = _table(("sensor", "scenes", "why", "one of them"), rows) if rows else f"<p>{none}</p>"
    parts = [f"<h3>Scenes that were found, but not put on the list</h3>{scenes}"]
    parts.append(f"<h3>Scenes of the list that the archive had lost</h3>{_lost(lost)}")
    missing = _table(("block", "why"), holes.items(), "wide") if holes else "<p>None.</p>"
    parts.append(f"<h3>Blocks</h3>{missing}")
    told = warnings_of(logs, [scene.reason for scene in lost])
    parts.append(f"<h3>Warnings of the run</h3>{_list(told)}" if told else "")
    return "".join(parts)


def _lost(lost: Sequence[MissingScene]) -> str:
    if not lost:
        return "<p>None.</p>"
    rows = [
        (
            scene.sensor,
            scene.date,
            scene.blocks,
            f"{scene.item} is {f'replaced by {scene.copy}' if scene.copy else 'left out'}: "
            + scene.reason.replace(f" of item {scene.item}", ""),
        )
        for scene in lost[:_MOST_LOST]
    ]
    more = len(lost) - len(rows)
    head = ("sensor", "date", "blocks", "scene, and why")
    return _table(head, rows, "wide") + (
        f"<p>and {more} more, in the attribute `missing_scenes` of the blocks' files.</p>"
        if more
        else ""
    )


def _seams(found: Mapping[str, Any]) -> str:
    borders = [border for border in found["borders"] if border["ratio"] is not None]
    if not borders:
        return "<p>No two blocks meet, so there can be no seam.</p>"
    worst = sorted(borders, key=lambda border: -border["ratio"])[:10]
    rows = [
        (
            " | ".join(border["blocks"]),
            f"{border['ratio']:.3f}",
            f"{border['across']:.4g}",
            f"{border['inside']:.4g}",
            border["pairs"],
        )
        for border in worst
    ]
    return (
        "<p>Mean absolute difference between the two pixels that meet at a border of blocks, "
        "against that between neighbours on either side of it. 1 is no seam; a single border "
        "strays from 1 where it runs along a field's edge. The borders that stray most:</p>"
        + _table(("blocks", "ratio", "across", "inside", "pairs"), rows)
    )


def _costs(costs: Sequence[RuleCost]) -> str:
    if not costs:
        return "<p>There are no benchmark files.</p>"

    def shown(value: float | None, digits: int = 0) -> str:
        return "unknown" if value is None else f"{value:,.{digits}f}"

    rows = [
        (
            cost.rule,
            cost.jobs,
            shown(cost.seconds, 1),
            shown(cost.cpu_seconds, 1),
            shown(cost.memory_mb),
            shown(cost.read_mb, 1),
            shown(cost.written_mb, 1),
        )
        for cost in costs
    ]
    head = ("rule", "jobs", "time, s", "processor, s", "most memory, MB", "read, MB", "written, MB")
    return (
        "<p>From the benchmark files of the last run of each job; times and bytes are sums over "
        "the jobs. Bytes are those of disks, not of the network or a cache.</p>"
        + _table(head, rows)
    )


def _opening(provenance: Provenance, products: Mapping[str, Sequence[str]]) -> str:
    return "".join(
        f"<h3>{escape(', '.join(products[name]))}</h3><pre>{escape(code)}</pre>"
        for name, code in opening(provenance)
        if name in products
    )


def _software(provenance: Provenance) -> str:
    record = json.dumps(provenance.to_json(), indent=1)
    return (
        _table(("software", "version"), provenance.software.items())
        + f"<details><summary>The whole record</summary><pre>{escape(record)}</pre></details>"
    )
