"""Missing or corrupt scenes: replaced by a duplicate acquisition, or left out and recorded.

A scene is missing or corrupt if one of its objects is, while the archive answers. An outage or
refused credentials fail the block instead. Too many missing scenes also fail it, because a moved
bucket or an unmounted disk looks the same.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ReadError
from ..raster.failures import MissingSceneError
from ..scenes.manifest import SourceItem

log = logging.getLogger(__name__)

MISSING_SCENES = ("left_out", "replaced")
"""Attributes of block files with the records."""


class MissingScenes:
    """Record of the missing or corrupt scenes of a job; thread-safe."""

    def __init__(self) -> None:
        self._left_out: list[dict[str, str]] = []
        self._replaced: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the block file, in a fixed order.

        `left_out` and `replaced` are lists of items with date and reason; in `replaced`,
        `duplicate` is the item that was used instead.
        """

        def order(entry: dict[str, str]) -> tuple[str, str]:
            return entry["date"], entry["item"]

        return {
            "left_out": sorted(self._left_out, key=order),
            "replaced": sorted(self._replaced, key=order),
        }

    def add(self, item: SourceItem, used: SourceItem | None, error: MissingSceneError) -> None:
        """Record that `item` is missing or corrupt, and the duplicate used instead, if any."""
        entry = {"item": item.id, "date": item.date.isoformat(), "reason": error.reason}
        with self._lock:
            if used is None:
                log.warning("%s is left out: %s", item.id, error.reason)
                self._left_out.append(entry)
            else:
                log.warning("%s is used instead of %s: %s", used.id, item.id, error.reason)
                self._replaced.append(entry | {"duplicate": used.id})

    def check(self, scenes: int, of_period: int, limit: float) -> None:
        """Check that the missing scenes of a slice are too few to be an outage.

        One scene may be missing in a slice, however few it has; more only up to the limit. Those of
        all slices together are checked by `check_period`, and a slice that exceeds the limit of the
        period fails at once.

        Args:
            scenes: number of acquisitions of this block and slice.
            of_period: number of acquisitions of this block in the whole period.
            limit: largest share that may be missing, in percent.

        Raises:
            ReadError: more are missing.
        """
        left_out = self.attributes()["left_out"]
        if len(left_out) > max(1, math.floor(limit * scenes / 100)):
            raise _too_many(left_out, scenes, "block and slice", limit)
        check_period(left_out, of_period, limit)


def check_period(left_out: Sequence[Mapping[str, str]], scenes: int, limit: float) -> None:
    """Check that the missing scenes of a block are too few to be an outage.

    Args:
        left_out: those that are missing or corrupt, of one slice or of all.
        scenes: number of acquisitions of this block in the whole period.
        limit: largest share that may be missing, in percent.

    Raises:
        ReadError: more are missing.
    """
    if left_out and 100 * len(left_out) > limit * scenes:
        raise _too_many(left_out, scenes, "block in this period", limit)


def _too_many(
    left_out: Sequence[Mapping[str, str]], scenes: int, of_what: str, limit: float
) -> ReadError:
    count = len(left_out)
    advice = "None would remain, so the result would be empty."
    if count < scenes:
        advice = (
            "If they are permanently missing there, use another archive for them, or decide for "
            f"each scene whether to do without it and list its id in `exclude` of the sensor; "
            f"{scenes - count} would remain."
        )
    return ReadError(
        f"{count} of the {scenes} scenes of this {of_what} {'is' if count == 1 else 'are'} missing "
        f"or corrupt in the archive, more than download.max_missing_percent ({limit:g} %) allows; "
        f"the first is {left_out[0]['reason']}. This is usually an outage or a moved archive: "
        f"check it, and run again. {advice}"
    )


class Acquisition:
    """One acquisition: an item and its duplicates, of which the first readable one is used."""

    def __init__(self, item: SourceItem, missing_scenes: MissingScenes) -> None:
        self._items = [item, *item.duplicates]
        self._missing_scenes = missing_scenes

    @property
    def item(self) -> SourceItem | None:
        """The item in use; None if all are missing or corrupt."""
        return self._items[0] if self._items else None

    def discard(self, item: SourceItem, error: MissingSceneError) -> None:
        """Continue with the next duplicate, if `item` is still the one in use."""
        if self.item is item:
            del self._items[0]
            self._missing_scenes.add(item, self.item, error)


def usable(acquisitions: Sequence[Acquisition]) -> list[tuple[Acquisition, SourceItem]]:
    """Return the acquisitions with a remaining item, and that item, in their order."""
    return [(a, a.item) for a in acquisitions if a.item is not None]
