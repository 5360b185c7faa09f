"""Collect the warnings about the scenes or tile folders of a run: of the lists of scenes, of
periods whose scenes are not listed yet, and of tile folders and the blocks made from them."""

from __future__ import annotations

import datetime
import json
from contextlib import suppress
from pathlib import Path

from ..config.configuration import runs
from ..config.locations import tiles_location
from ..dates import utc_today
from ..errors import TileError
from ..scenes.publication import period_warning
from .files import RunFiles

_HEAD = 2**18
"""Characters of a list that contain its warnings."""

_KEY = '"warnings": '


def scene_warnings(
    files: RunFiles, today: datetime.date | None = None, of_blocks: bool = False
) -> list[str]:
    """Return the warnings about the scenes or tile folders of a run, each with its region and
    period.

    Args:
        files: the files of the run.
        today: present day (UTC), for periods whose scenes are not listed yet.
        of_blocks: for tile folders, also what the blocks that exist record, which takes some
            milliseconds for each block. Otherwise only about the folders that no block uses.
    """
    if files.config.source == "tiles":
        return _tile_warnings(files, of_blocks)
    if not files.config.reads_scenes:
        return []
    day = today or utc_today()
    lines = []
    for region, period in runs(files.config):
        if files.config.fills:
            store = Path(files.paths.store_tiles.format(region=region, period=period))
            lines += [f"{region}, {period}: {text}" for text in warnings_of_list(store) or ()]
        for sensor in files.sensors(region, period):
            path = files.paths.items.format(region=region, period=period, sensor=sensor)
            texts = warnings_of_list(Path(path))
            if texts is None:
                source = getattr(files.for_run(region, period), sensor)
                days = files.config.periods[period]
                texts = [period_warning(sensor, days, source.publication_delay, day, False)]
            lines += [f"{region}, {period}: {text}" for text in texts if text]
    return list(dict.fromkeys(lines))


def _tile_warnings(files: RunFiles, of_blocks: bool) -> list[str]:
    # Imported here: the workflow is read again in every job.
    from ..products.tile_facts import merge_facts, read_facts
    from ..tile_folders.placement import find_tiles

    lines = []
    for region, period in runs(files.config):
        facts = []
        location = Path(tiles_location(files.config, region, period))
        with suppress(TileError):  # reported by the first job that reads it
            facts += find_tiles(location, files.grids[region]).facts
        for path in map(Path, files.block_files(region, period)) if of_blocks else ():
            if path.exists():
                with suppress(TileError):  # reported by the products
                    facts += read_facts(path)
        lines += [f"{region}, {period}: {fact.text}" for fact in merge_facts(facts)]
    return lines


def warnings_of_list(path: Path) -> list[str] | None:
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
