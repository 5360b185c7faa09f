"""Read scenes at a reduced resolution, where pixels decide what metadata do not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from ..archives.provider import Provider
from ..config.sections import Sentinel2
from ..raster.failures import MissingSceneError
from ..raster.reader import Asset, Reader
from ..scenes.manifest import SourceItem
from ..scenes.offsets import confirmed_offset
from ..sensors.sentinel2 import Preprocessing
from ..urls import is_url

log = logging.getLogger(__name__)

OWN_WITNESSES = 3
"""Assets of an item that show whether the archive refuses one object or all."""


class PixelSample:
    """Reads assets at a reduced resolution: a `scenes.copies.Sample`; thread-safe."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __call__(self, item: SourceItem, keys: Iterable[str]) -> list[NDArray[Any]] | None:
        """Return arrays of one shape; None if an asset is missing or corrupt.

        Raises:
            ReadError: an asset cannot be read now.
        """
        self._add_witnesses(item)
        stated = [(key, item.stac["assets"][key]) for key in keys]
        assets = [Asset(item.id, key, a["href"], a.get("band")) for key, a in stated]
        try:
            first = self._reader.overview(assets[0])
            return [first, *(self._reader.overview(asset, first.shape) for asset in assets[1:])]
        except MissingSceneError as error:
            log.warning("%s", error)
            return None

    def _add_witnesses(self, item: SourceItem) -> None:
        client, archive = self._reader.client, self._reader.archive
        hrefs = [asset["href"] for asset in item.stac["assets"].values()]
        urls = [href for href in hrefs if is_url(href)]
        client.witnesses = tuple(dict.fromkeys((*urls[:OWN_WITNESSES], *client.witnesses)))
        local = [href for href in hrefs if not is_url(href)]
        archive.witnesses = tuple(dict.fromkeys((*local[:OWN_WITNESSES], *archive.witnesses)))


class OffsetConfirmation:
    """Decides the offsets that could not be decided when the scenes were listed.

    The complete raster is sampled, so that all blocks decide alike.
    """

    def __init__(
        self, provider: Provider, reader: Reader, source: Sentinel2, preprocessing: Preprocessing
    ) -> None:
        self._provider = provider
        self._sample = PixelSample(reader)
        self._source = source
        self._preprocessing = preprocessing
        self._decided: dict[int, SourceItem] = {}

    def __call__(self, item: SourceItem) -> SourceItem:
        """Return the item with its offset.

        Raises:
            ReadError: its pixels cannot be read now.
        """
        if not item.boa_offset_unconfirmed:
            return item
        if id(item) not in self._decided:
            self._decided[id(item)] = confirmed_offset(
                item, self._provider, self._preprocessing, self._source.boa_offset, self._sample
            )
        return self._decided[id(item)]
