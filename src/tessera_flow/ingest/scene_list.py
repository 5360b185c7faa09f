"""List the scenes of a region, period and sensor; pixels decide where metadata cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from ..archives.providers import find_provider
from ..config.sections import Download, Period, Sentinel1, Sentinel2
from ..raster.failures import MissingSceneError
from ..raster.reader import Asset, Reader
from ..raster.retry import RetryPolicy
from ..scenes.manifest import Manifest, SourceItem
from ..scenes.search import list_items
from ..sensors.sentinel2 import Preprocessing

log = logging.getLogger(__name__)


def list_scenes(
    source: Sentinel2 | Sentinel1,
    region: str,
    geobox: GeoBox,
    period: Period,
    preprocessing: Preprocessing,
    download: Download,
    required: str = "",
) -> Manifest:
    """Return the manifest of a region and period; arguments and errors as in `list_items`.

    The assets of items whose metadata contradict each other are read at a reduced resolution.
    """
    provider = find_provider(source.provider, source.item_format)
    policy = RetryPolicy(download.attempts, download.timeout, download.deadline)
    gdal = {option.name: option.value for option in provider.gdal_options}
    with Reader(provider.access, policy, gdal, download.threads) as reader:

        def sample(item: SourceItem, keys: Iterable[str]) -> list[NDArray[Any]] | None:
            stated = [(key, item.stac["assets"][key]) for key in keys]
            assets = [Asset(item.id, key, a["href"], a.get("band")) for key, a in stated]
            try:
                first = reader.overview(assets[0])
                return [first, *(reader.overview(asset, first.shape) for asset in assets[1:])]
            except MissingSceneError as error:
                log.warning("%s", error)
                return None

        return list_items(
            source, region, geobox, period, preprocessing, download, required, sample=sample
        )
