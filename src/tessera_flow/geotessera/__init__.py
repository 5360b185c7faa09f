"""Read published embeddings: the list of what a region takes, and its import into blocks."""

from __future__ import annotations

STORE_DIM = 128
"""Dimensions of published embeddings."""


def tile_name(lon: int, lat: int) -> str:
    """Return the name of a tile of the NPY layout: `grid_<lon>_<lat>`, degrees with two decimals.

    Args:
        lon, lat: hundredths of a degree of its centre.
    """
    return f"grid_{lon / 100:.2f}_{lat / 100:.2f}"


def zone_name(zone: int) -> str:
    """Return the name of a UTM zone (1 to 60) in the Zarr layout: `utm01`."""
    return f"utm{zone:02d}"
