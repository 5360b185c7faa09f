"""Fill in the locations that a configuration gives for each region and period."""

from __future__ import annotations

from .configuration import Config


def tiles_location(config: Config, region: str, period: str) -> str:
    """Return the folder of a region's and period's tile folders."""
    return _filled_in(config.tiles.location or "", region, period)


def store_location(config: Config, region: str, period: str) -> str | None:
    """Return the folder or URL of a store of published embeddings; None for the public store."""
    location = config.geotessera.location
    return None if location is None else _filled_in(location, region, period)


def _filled_in(location: str, region: str, period: str) -> str:
    return location.replace("{region}", region).replace("{period}", period)
