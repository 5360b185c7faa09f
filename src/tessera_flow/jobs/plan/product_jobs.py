"""Add the jobs of the products that a run has still to make to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..files import RunFiles
from ..product_files import ProductFiles
from ..resources import MAP_RATES
from ..schedule import Schedule
from .job_times import JobTimes
from .row import Row
from .simulate import Job


class Work(Protocol):
    """What of `work_left.WorkLeft` is used here."""

    files: RunFiles
    schedule: Schedule
    times: JobTimes
    rows: Sequence[Row]
    jobs: list[Job]

    def exists(self, path: str | Path) -> bool:
        """Return whether a file exists and is not made again."""

    def add(self, row: Row | None, rule: str, seconds: float, /, **more: object) -> int:
        """Add a job; return its number."""


PRIORITY = 1_000_000.0

RULES = {
    "zarr": ("stitch_zarr",),
    "arrays": ("stitch_arrays",),
    "preview": ("preview",),
    "counts": ("counts",),
    "cog": ("cog",),
    "change": ("change",),
    "origin": ("origin",),
    "vrt": ("stitch_arrays", "vrt"),
    "geotessera": ("geotessera",),
    "cube": ("cube",),
    "stac": ("stac_item",),
    "report": ("preview", "checks", "report"),
}
"""Rules that make each format, in the order in which they need each other."""
_AFTER_OTHERS = ("cube", "vrt", "stac_item", "report")
"""Rules that need the products before them."""


class ProductJobs:
    """The jobs after the blocks."""

    def __init__(self, work: Work) -> None:
        """Take the run to which the jobs are added."""
        self._work, self._names = work, ProductFiles(work.files)
        self._items: dict[str, list[int]] = {}
        self._pages: list[int] = []

    def add(
        self, region: str, period: str, row: Row, blocks: tuple[int, ...], weights: tuple[int, ...]
    ) -> None:
        """Add the products of a region and period: all of them if a block is made, else those
        that are missing."""
        formats = self._names.by_format(region, period)
        missing = set(formats) if blocks else self.missing(region, period)
        config = self._work.files.config
        if (config.products.cube or config.maps_of(region, period)) and "zarr" not in formats:
            path = self._work.files.paths.zarr.format(region=region, period=period)
            missing |= {"zarr"} if blocks or not self._work.exists(path) else set()
        if "tiles" in missing:
            self._add_tiles(row, blocks)
        rules = {rule for name in missing for rule in RULES.get(name, ())}
        before: list[int] = []
        order = dict.fromkeys(rule for several in RULES.values() for rule in several)
        for rule in sorted(order, key=lambda rule: _AFTER_OTHERS.index(rule) + 1
                           if rule in _AFTER_OTHERS else 0):  # fmt: skip
            if rule not in rules:
                continue
            needs = (*blocks, *before) if rule in _AFTER_OTHERS else blocks
            number = self._add(row, rule, (*needs, *weights))
            if rule == "stac_item":
                self._items.setdefault(region, []).append(number)
            else:
                before.append(number)
        store = [n for n in before if self._work.jobs[n].rule == "stitch_zarr"]
        self._add_maps(row, tuple(store))
        self._pages += before if "report" in rules else []
        if self._work.files.skipped_blocks(region, period):
            self._add(row, "list_skipped_blocks", blocks)

    def missing(self, region: str, period: str) -> set[str]:
        """Return the formats of which files are missing."""
        return {
            name
            for name, paths in self._names.by_format(region, period).items()
            if not all(map(self._work.exists, paths))
        }

    def _add(self, row: Row, rule: str, needs: tuple[int, ...]) -> int:
        seconds = self._work.times.of_region(rule, row.region, row.pixels)
        return self._work.add(row, rule, seconds, needs=needs, priority=PRIORITY)

    def _add_tiles(self, row: Row, blocks: tuple[int, ...]) -> None:
        """Add the export of the tile folders of each block, and their list."""
        work = self._work
        paths = self._names.tile_records(row.region, row.period)
        dates = sum(work.schedule.dates(row.region, row.period).values())
        made = []
        for index, path in enumerate(paths):
            if index < len(blocks) or not work.exists(path):
                pixels = row.pixels / row.blocks
                seconds = work.times.of_region("export_tiles", row.region, pixels, dates)
                needs = (blocks[index],) if index < len(blocks) else ()
                made.append(work.add(row, "export_tiles", seconds, needs=needs, priority=PRIORITY))
        self._add(row, "list_tiles", tuple(made))

    def _add_maps(self, row: Row, store: tuple[int, ...]) -> None:
        """Add the maps of a region and period of which files are missing, or whose store is new."""
        config, work = self._work.files.config, self._work
        for name in config.maps_of(row.region, row.period):
            paths = self._names.of_map(row.region, row.period, name)
            if store or not all(map(work.exists, paths)):
                slower = MAP_RATES["linear"] / MAP_RATES[config.maps[name].method]
                seconds = slower * work.times.of_region("label_map", row.region, row.pixels)
                number = work.add(row, "label_map", seconds, needs=store, priority=PRIORITY)
                self._add(row, "label_map_page", (number,))

    def add_last(self) -> None:
        """Add the page of all regions, and the collections of regions that lack one or have a new
        item."""
        paths = self._work.files.paths
        if self._pages:
            self._add(self._work.rows[-1], "index", tuple(self._pages))
        if "stac" not in self._work.files.config.products.formats:
            return
        for row in list({row.region: row for row in self._work.rows}.values()):
            path = paths.collection.format(region=row.region)
            needs = tuple(self._items.get(row.region, ()))
            if needs or not self._work.exists(path):
                self._add(row, "stac_collection", needs)
