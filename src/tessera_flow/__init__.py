"""10 m maps of TESSERA pixel embeddings from Sentinel-1 and Sentinel-2.

The packages, in the order of the pipeline: `region` (grid and blocks), `archives` and `scenes`
(search), `raster`, `sensors` and `ingest` (scenes to time series), `models` and `inference` (time
series to embeddings), `products` (embeddings to files). `tile_folders` and `geotessera` are other
inputs, `jobs` plans the workflow, `config` describes it, `cli` is the command line, `demo` makes
synthetic input. docs/design.md has more.

Public names are imported when they are first used, so that `import tessera_flow` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.embed import Embedding, InferenceOptions, embed_tile
    from .inference.model import load_model
    from .inference.tile import TileArrays
    from .products.reading.open import open_product, sample_points
    from .tile_folders.embed import embed_tile_folder
    from .tile_folders.format import read_tile_folder

__version__ = "0.1.0"

__all__ = [
    "Embedding",
    "InferenceOptions",
    "TileArrays",
    "embed_tile",
    "embed_tile_folder",
    "load_model",
    "open_product",
    "read_tile_folder",
    "sample_points",
]


def __getattr__(name: str) -> Any:
    if name in ("Embedding", "InferenceOptions", "embed_tile"):
        from .inference import embed

        return getattr(embed, name)
    if name == "load_model":
        from .inference import model

        return model.load_model
    if name == "TileArrays":
        from .inference import tile

        return tile.TileArrays
    if name in ("open_product", "sample_points"):
        from .products.reading import open as products

        return getattr(products, name)
    if name == "embed_tile_folder":
        from .tile_folders import embed as embed_tiles

        return embed_tiles.embed_tile_folder
    if name == "read_tile_folder":
        from .tile_folders import format as tile_format

        return tile_format.read_tile_folder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
