"""Read published embeddings: the client, the list of tiles, and their import into blocks."""

from __future__ import annotations

STORE_DIM = 128
"""Dimensions of published embeddings."""


def tile_name(lon: int, lat: int) -> str:
    """Return the client's name of a tile: `grid_<lon>_<lat>`, degrees with two decimals.

    Args:
        lon, lat: hundredths of a degree of its centre.
    """
    return f"grid_{lon / 100:.2f}_{lat / 100:.2f}"
