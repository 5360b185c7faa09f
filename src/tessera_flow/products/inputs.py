"""What every product is made from: the grid, the blocks' files and the provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import Config
from ..items import Manifest
from ..plan import load_plan
from ..provenance import build_provenance
from ..weights import read_weights_record


def product_inputs(
    config: Config,
    region: str,
    period: str,
    blocks: Iterable[Path],
    weights: Path,
    manifests: Iterable[Path],
) -> dict[str, Any]:
    """The keyword arguments `grid`, `blocks` and `provenance` of the product writers.

    Args:
        config: the whole configuration.
        region, period: names in `config`.
        blocks: embeddings files, named after their blocks.
        weights: the weights record.
        manifests: lists of items of the sensors in use.
    """
    grid, roi_sha256 = load_plan(config, region)
    read = [Manifest.read(path) for path in manifests]
    return {
        "grid": grid,
        "blocks": {path.stem: path for path in blocks},
        "provenance": build_provenance(
            grid,
            config,
            region,
            period,
            asdict(read_weights_record(weights)),
            item_counts={manifest.sensor: len(manifest.items) for manifest in read},
            roi_sha256=roi_sha256,
        ),
    }
