"""Collect the warnings about the scenes of a run: of the lists of scenes, and of periods whose
scenes are not listed yet."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ..config.configuration import runs
from ..dates import utc_today
from ..scenes.publication import period_warning
from .files import RunFiles

_HEAD = 2**18
"""Characters of a list that contain its warnings."""

_KEY = '"warnings": '


def scene_warnings(files: RunFiles, today: datetime.date | None = None) -> list[str]:
    """Return the warnings about the scenes of a run, each with its region and period.

    Args:
        files: the files of the run.
        today: present day (UTC), for periods whose scenes are not listed yet.
    """
    if files.config.source != "scenes":
        return []
    day = today or utc_today()
    lines = []
    for region, period in runs(files.config):
        for sensor in files.sensors(region, period):
            path = files.paths.items.format(region=region, period=period, sensor=sensor)
            texts = _warnings(Path(path))
            if texts is None:
                source = getattr(files.for_run(region, period), sensor)
                days = files.config.periods[period]
                texts = [period_warning(sensor, days, source.publication_delay, day, False)]
            lines += [f"{region}, {period}: {text}" for text in texts if text]
    return list(dict.fromkeys(lines))


def _warnings(path: Path) -> list[str] | None:
    """Return the warnings of a list; None if it will be made.

    This runs whenever the workflow starts, and a list can have many megabytes: only its beginning
    is read, where `Manifest.write` puts the warnings.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = file.read(_HEAD)
        key = head.index(_KEY) + len(_KEY)
        return list(json.JSONDecoder().raw_decode(head, key)[0])
    except (OSError, ValueError):
        return None
