"""Write an archive as a static STAC catalog: files linked to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tessera_flow.demo.cog import write_if_different
from tessera_flow.demo.documents import link


def write_static_catalog(folder: Path, items: Iterable[Mapping[str, Any]]) -> Path:
    """Write a static STAC catalog: one collection per item collection, one file per item.

    Links, and asset hrefs that are paths, are relative to their file, so the folder (with its
    scenes, if they are in it) can be moved. The items are not changed otherwise (pystac would
    rewrite `proj:epsg`).

    Returns:
        `{folder}/catalog.json`.

    Raises:
        OutputError: a file cannot be written.
    """
    by_collection: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        by_collection.setdefault(item["collection"], []).append(item)
    for name, members in by_collection.items():
        for item in members:
            directory = folder / name / item["id"]
            _write_json(directory / f"{item['id']}.json", _relative(item, directory))
        _write_json(folder / name / "collection.json", _collection(name, members))
    catalog = folder / "catalog.json"
    _write_json(catalog, {
        "type": "Catalog",
        "id": "archive",
        "stac_version": "1.0.0",
        "description": "Scenes in the format of Planetary Computer.",
        "links": [
            link("root", "./catalog.json"),
            *(link("child", f"./{name}/collection.json") for name in by_collection),
        ],
    })  # fmt: skip
    return catalog


def _collection(name: str, members: list[Mapping[str, Any]]) -> dict[str, Any]:
    boxes = np.array([item["bbox"] for item in members])
    times = sorted(item["properties"]["datetime"] for item in members)
    box = [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]
    return {
        "type": "Collection",
        "id": name,
        "stac_version": "1.0.0",
        "description": f"Scenes in the format of {name} of Planetary Computer.",
        "license": "proprietary",
        "extent": {
            "spatial": {"bbox": [box]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        "links": [
            link("root", "../catalog.json"),
            link("parent", "../catalog.json"),
            *(link("item", f"./{item['id']}/{item['id']}.json") for item in members),
        ],
    }


def _relative(item: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the item for a file in `directory`, with relative links and paths."""
    assets = {}
    for key, asset in item["assets"].items():
        href = asset["href"]
        if "://" not in href:
            href = Path(os.path.relpath(href, directory)).as_posix()
        assets[key] = asset | {"href": href}
    links = [
        link("root", "../../catalog.json"),
        link("parent", "../collection.json"),
        link("collection", "../collection.json"),
    ]
    return {**item, "assets": assets, "links": links}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_if_different(path, (json.dumps(document, indent=1) + "\n").encode())
