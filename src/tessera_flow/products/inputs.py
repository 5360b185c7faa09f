"""Collect the inputs of the product writers: grid, block files and provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import shapely

from ..config.configuration import Config
from ..geotessera.manifest import StoreManifest
from ..models.weights_record import read_weights_record
from ..region.blocks import lasting_warnings, load_region_grid, read_region
from ..scenes.manifest import Manifest
from .provenance import build_provenance
from .tile_facts import merge_facts, read_facts


def product_inputs(
    config: Config,
    region: str,
    period: str,
    blocks: Iterable[Path],
    weights: Path | None,
    manifests: Iterable[Path],
    tile_blocks: Iterable[Path] = (),
) -> dict[str, Any]:
    """Return the keyword arguments `grid`, `blocks` and `provenance` of the product writers.

    Args:
        config: the complete configuration.
        region, period: names in `config`.
        blocks: embeddings files, named after their blocks.
        weights: the weights record; None for published embeddings.
        manifests: lists of scenes of the sensors in use, or the list of a store's tiles.
        tile_blocks: the embeddings files again if they were made from tile folders.

    Raises:
        TileError: a file of `tile_blocks` is missing or damaged.
    """
    grid, roi_sha256 = load_region_grid(config, region)
    lists = source_lists(config, manifests)
    warnings = [text for scenes in lists["manifests"] for text in scenes.warnings]
    return {
        "grid": grid,
        "blocks": {path.stem: path for path in blocks},
        "provenance": build_provenance(
            grid,
            config,
            region,
            period,
            None if weights is None else asdict(read_weights_record(weights)),
            store=lists["store"],
            item_counts={scenes.sensor: len(scenes.items) for scenes in lists["manifests"]},
            warnings=[
                *lasting_warnings(config, region),
                *warnings,
                *(lists["store"].warnings if lists["store"] is not None else ()),
                *tile_warnings(tile_blocks),
            ],
            roi_sha256=roi_sha256,
        ),
    }


def region_outline(config: Config, region: str) -> shapely.Geometry | None:
    """Return the outline of a region in degrees; None for a raster mask."""
    from ..region.crs import to_lonlat
    from ..region.roi import VectorRoi

    roi = read_region(config, region)
    return to_lonlat(roi.geometry, roi.crs) if isinstance(roi, VectorRoi) else None


def tile_warnings(blocks: Iterable[Path]) -> list[str]:
    """Return the warnings about the tile folders of a region, one of each kind.

    Args:
        blocks: embeddings files of the region.

    Raises:
        TileError: a file is missing or damaged.
    """
    facts = merge_facts(fact for path in blocks for fact in read_facts(path))
    return [fact.text for fact in facts]


def source_lists(config: Config, paths: Iterable[Path]) -> dict[str, Any]:
    """Read the lists of sources: `manifests`, one list of scenes per sensor in use, and `store`,
    the tiles of published embeddings, or None."""
    lists = list(paths)
    store = StoreManifest.read(lists.pop(0)) if config.source == "geotessera" else None
    return {"manifests": [Manifest.read(path) for path in lists], "store": store}
