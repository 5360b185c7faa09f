"""Missing or corrupt scenes: replaced by a duplicate acquisition, or left out and recorded.

A scene is missing or corrupt if one of its objects is, while the archive answers. An outage or
refused credentials fail the block instead. Too many missing scenes also fail it, because a moved
bucket or an unmounted disk looks the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
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

    def check(self, scenes: int, limit: float) -> None:
        """Check that the missing scenes are too few to be an outage.

        Args:
            scenes: number of acquisitions of this block and slice.
            limit: largest share that may be missing, in percent.

        Raises:
            ReadError: more are missing.
        """
        count = len(self._left_out)
        if count == 0 or 100 * count <= limit * scenes:
            return
        first = self.attributes()["left_out"][0]
        if count < scenes:
            advice = (
                "Raise download.max_missing_percent only if they are permanently missing and the "
                f"remaining {scenes - count} are enough for this slice."
            )
        else:
            advice = "No scene of this slice remains: a higher limit would leave it empty."
        raise ReadError(
            f"{count} of the {scenes} scenes of this block and slice are missing or corrupt in the "
            f"archive, more than download.max_missing_percent ({limit:g} %) allows; the first is "
            f"{first['reason']}. This is usually an outage or a moved archive: check it, and run "
            f"again. {advice}"
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
