"""Scenes that the archive has lost: the acquisition's other copy, or a record of its absence.

A scene is lost when its object is missing or corrupt while the archive answers. An outage
or refused credentials are no loss: they fail the block. So does a loss of too many scenes,
which a moved bucket or an unmounted disk looks like.
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
"""Attributes of block files that hold the record."""


class MissingScenes:
    """What one job could not use. Filled by several threads; told in an order of its own."""

    def __init__(self) -> None:
        self._left_out: list[dict[str, str]] = []
        self._replaced: list[dict[str, str]] = []
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Scenes left out so far."""
        return len(self._left_out)

    def attributes(self) -> dict[str, Any]:
        """`left_out` and `replaced`: lists of items, each with date and reason, and the copy
        used instead; for the block file."""

        def order(entry: dict[str, str]) -> tuple[str, str]:
            return entry["date"], entry["item"]

        return {
            "left_out": sorted(self._left_out, key=order),
            "replaced": sorted(self._replaced, key=order),
        }

    def add(self, item: SourceItem, used: SourceItem | None, error: MissingSceneError) -> None:
        """Record that `item` is lost, and the copy used in its place, if any."""
        entry = {"item": item.id, "date": item.date.isoformat(), "reason": error.reason}
        with self._lock:
            if used is None:
                log.warning("%s is left out: %s", item.id, error.reason)
                self._left_out.append(entry)
            else:
                log.warning("%s is used in place of %s: %s", used.id, item.id, error.reason)
                self._replaced.append(entry | {"copy": used.id})

    def check(self, scenes: int, most: float) -> None:
        """Refuse missing_scenes that look like an outage.

        Args:
            scenes: acquisitions of this block and slice.
            most: largest share that may be lost, in percent.

        Raises:
            ReadError: more are.
        """
        count = len(self._left_out)
        if count == 0 or 100 * count <= most * scenes:
            return
        first = self.attributes()["left_out"][0]
        raise ReadError(
            f"{count} of the {scenes} scenes of this block and slice are missing or corrupt at "
            f"the archive, more than download.max_missing_percent ({most:g} %) allows; the first is "
            f"{first['reason']}. If the archive is complete again, run again; if these scenes are "
            "gone for good, raise download.max_missing_percent."
        )


class Acquisition:
    """One scene of a day and its other copies, of which the first readable one is used."""

    def __init__(self, item: SourceItem, missing_scenes: MissingScenes) -> None:
        self._versions = [item, *item.duplicates]
        self._losses = missing_scenes

    @property
    def item(self) -> SourceItem | None:
        """The copy in use; None when all are lost."""
        return self._versions[0] if self._versions else None

    @property
    def others(self) -> tuple[SourceItem, ...]:
        """The copies that are left beside the one in use."""
        return tuple(self._versions[1:])

    def lose(self, item: SourceItem, error: MissingSceneError) -> None:
        """Go on to the next copy, if `item` is still the one in use."""
        if self.item is item:
            del self._versions[0]
            self._losses.add(item, self.item, error)


def standing(acquisitions: Sequence[Acquisition]) -> list[tuple[Acquisition, SourceItem]]:
    """The acquisitions of which a copy is left, in their order."""
    return [(p, p.item) for p in acquisitions if p.item is not None]
