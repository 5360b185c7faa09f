"""Tell the folders that this program has written from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def has_record(folder: Path) -> bool:
    """Return whether a folder is a Zarr or geotessera store that this program has written.

    The record of checksums identifies a store whose metadata are missing or damaged.
    """
    if "configuration" in _document(folder / "checksums.json", "settings"):
        return True
    return any(
        "configuration_sha256" in record
        for record in (
            _document(folder / "provenance.json"),
            _document(folder / "zarr.json", "attributes", "provenance"),
        )
    )


def _document(path: Path, *keys: str) -> dict[str, Any]:
    """Return a JSON object in a file; empty if there is none."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}
