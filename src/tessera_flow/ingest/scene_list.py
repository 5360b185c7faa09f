"""List the scenes of a region, period and sensor; pixels decide where metadata cannot."""

from __future__ import annotations

from odc.geo.geobox import GeoBox

from ..archives.places import archive_folders
from ..archives.providers import find_provider
from ..config.sections import Download, Period, Sentinel1, Sentinel2
from ..raster.reader import Reader
from ..raster.retry import RetryPolicy
from ..scenes.manifest import Manifest
from ..scenes.search import list_items
from ..sensors.sentinel2 import Preprocessing
from .pixel_sample import PixelSample


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
    folders = archive_folders(source)
    with Reader(provider.access, policy, gdal, download.threads, folders) as reader:
        return list_items(
            source,
            region,
            geobox,
            period,
            preprocessing,
            download,
            required,
            sample=PixelSample(reader),
        )
