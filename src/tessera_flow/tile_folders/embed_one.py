"""Embed one tile folder in memory."""

from __future__ import annotations

import os

from ..inference.embed import Embedding, InferenceOptions, embed_tile
from ..models.family import Model
from .format import folder_origin, read_tile_folder


def embed_tile_folder(
    model: Model, folder: str | os.PathLike[str], options: InferenceOptions | None = None
) -> Embedding:
    """Embed a tile folder of the reference pipeline.

    Args:
        model: see `tessera_flow.load_model`.
        folder: the tile folder; its name gives its place in the region's grid, which decides the
            random draws of v1.0.
        options: how to embed; the defaults of `InferenceOptions` if None.

    Raises:
        TileError: the folder is incomplete or inconsistent.
    """
    tile = read_tile_folder(os.fspath(folder))
    return embed_tile(tile, model, options or InferenceOptions(), folder_origin(os.fspath(folder)))
