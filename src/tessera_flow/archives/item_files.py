"""Read items from a folder of files, or from one file that is not a catalog."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ItemError
from ..input_files import check_input
from .documents import links_of, read_document
from .places import CATALOGS
from .stac_geoparquet import is_parquet, read_items
from .static_catalog import check_complete

_PARQUET = (".parquet", ".geoparquet")
_JSON = (".json", ".geojson", ".ndjson", ".jsonl", ".geojsonl")


def find_catalog(folder: Path) -> Path | None:
    """Return the catalog or collection of a folder that links to items; None without one."""
    for name in CATALOGS:
        path = folder / name
        if not path.is_file():
            continue
        document = json.loads(read_document(str(path)))
        if any(link.get("rel") in ("child", "item") for link in links_of(document)):
            return path
    return None


def folder_items(folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the items of all files of a folder and its subfolders, each with its file.

    The files are stac-geoparquet, or JSON: items, item collections, one item per line.

    Raises:
        ItemError: the folder has no items, files of both kinds, or a file that has no items.
    """
    files = sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, onerror=_raise)
        for name in names
        if not name.startswith((".", "_"))
    )
    for path in files:
        check_input(path, ItemError)
    tables = [path for path in files if path.suffix.lower() in _PARQUET or is_parquet(path)]
    texts = [path for path in files if path.suffix.lower() in _JSON and path not in tables]
    if tables:
        texts = [path for path in texts if path.name not in CATALOGS]
    advice = "set `location` to one file, or to a folder with the files of the items only"
    if tables and texts:
        raise ItemError(
            f"The folder {folder} has Parquet files ({tables[0].name}) and JSON files "
            f"({texts[0].name}), so its list of items is ambiguous: {advice}."
        )
    if not tables and not texts:
        raise ItemError(
            f"The folder {folder} has no catalog.json, no Parquet file and no JSON file of items: "
            "set `location` to the folder or file that has the items."
        )
    for path in tables:
        try:
            for item in read_items(path):
                yield item, str(path)
        except (ValueError, OSError) as error:
            raise ItemError(
                f"{path} is not a stac-geoparquet file ({str(error).splitlines()[0]}): {advice}."
            ) from error
    yield from _text_items(texts, advice)


def _raise(error: OSError) -> None:
    """Fail if a folder cannot be read: `os.walk` would omit it."""
    raise error


def _text_items(paths: list[Path], advice: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the items of JSON files, which can be the pages of one search."""
    pages = []
    ids = set()
    for path in paths:
        try:
            document = read_json(read_document(str(path)))
        except ValueError as error:
            raise ItemError(f"{path} is not JSON ({error}): {advice}.") from error
        if isinstance(document, dict) and document.get("type") in ("Catalog", "Collection"):
            continue
        items = items_of(document)
        if items is None:
            raise ItemError(f"{path} is neither a STAC item nor an item collection: {advice}.")
        if isinstance(document, dict) and document.get("type") == "FeatureCollection":
            pages.append((document, path))
        for item in items:
            ids.add(str(item.get("id")))
            yield item, str(path)
    with_next = [page for page in pages if _has_next(page[0])]
    for document, path in pages:
        check_complete(document, str(path), len(ids), last=len(with_next) == len(pages))


def _has_next(document: dict[str, Any]) -> bool:
    return any(link.get("rel") == "next" for link in links_of(document))


def read_json(text: str) -> Any:
    """Return the document of a JSON text; an item collection if there is one item per line.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        try:
            features = [json.loads(line) for line in lines]
        except ValueError:
            features = []
        if not features or not all(map(_is_item, features)):
            raise
        return {"type": "FeatureCollection", "features": features}


def items_of(document: Any) -> list[dict[str, Any]] | None:
    """Return the items of a JSON document; None if it is no list of items."""
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        items = document.get("features")
        return items if isinstance(items, list) and all(map(_is_item, items)) else None
    if _is_item(document):
        return [document]
    if isinstance(document, list) and document and all(map(_is_item, document)):
        return document
    return None


def _is_item(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and document.get("type", "Feature") == "Feature"
        and "id" in document
        and "assets" in document
    )
