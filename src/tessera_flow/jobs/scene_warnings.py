"""Collect the warnings about the scenes of a run, from the lists of scenes that exist."""

from __future__ import annotations

import json
from pathlib import Path

from ..config.configuration import runs
from .files import RunFiles


def scene_warnings(files: RunFiles) -> list[str]:
    """Return the warnings of the lists of scenes, each with its region and period.

    Lists that do not exist yet have none.
    """
    lines = []
    for region, period in runs(files.config):
        for path in map(Path, files.manifests(region, period)):
            lines += [f"{region}, {period}: {text}" for text in _warnings(path)]
    return list(dict.fromkeys(lines))


def _warnings(path: Path) -> list[str]:
    """Return the warnings of a list. It is read as JSON, since this runs at each start."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8")).get("warnings", ()))
    except (OSError, ValueError, AttributeError):
        return []  # it does not exist, or will be made again
