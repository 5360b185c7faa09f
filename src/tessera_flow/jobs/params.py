"""What decides the result of each job, so that a changed setting reruns what it changes.

Snakemake compares these with what a file was made from: too little here, and a result is
stale; too much, and scenes are read again for nothing.
"""

from __future__ import annotations

from typing import Any

from ..config.fingerprint import content_hash
from ..geotessera.client import store_location
from ..geotessera.manifest import STORE_DIM
from ..models.published import weights_file
from ..products.provenance import tiles_location
from ..region.blocks import cache_folder, content_digest
from ..urls import public_href
from .files import RunFiles


class JobParams:
    """What decides the result of each rule's jobs, beside their input files.

    Raises:
        ConfigError, CheckpointError: the weights are neither a file nor a published name.
    """

    def __init__(self, layout: RunFiles) -> None:
        """Take the files of a configuration."""
        self._layout, self._config = layout, layout.config
        weights = layout.config.weights
        file = None if weights is None else weights_file(weights)
        cache = cache_folder(layout.config) / "weights.json"
        self._weights_digest = None if file is None else content_digest(file, cache)

    def roi(self, region: str) -> dict[str, Any]:
        """What decides a region's mask: the content of its file and the grid."""
        document = self._layout.grids[region].to_json()
        grid = {key: document[key] for key in ("crs", "transform", "shape")}
        layer = self._config.regions[region].layer
        return {"content": self._layout.roi_digests[region], "layer": layer, **grid}

    def items(self, region: str, period: str, sensor: str) -> dict[str, Any]:
        """What decides the list of items."""
        source = getattr(self._config, sensor).model_dump(mode="json")
        # Snakemake writes parameters to its records: no credentials in them.
        source["location"] = public_href(source["location"] or "")
        return {
            "source": source,
            "period": self._config.periods[period].model_dump(mode="json"),
            **self._arithmetic(sensor),
        }

    def _arithmetic(self, sensor: str) -> dict[str, str]:
        """Sentinel-1 is read the same way in both."""
        return {"preprocessing": self._config.preprocessing} if sensor == "sentinel2" else {}

    def download(self, region: str, sensor: str, block: str) -> dict[str, Any]:
        """What decides a block's daily mosaics, apart from the manifest and the mask."""
        source = getattr(self._config, sensor)
        window = self._layout.block(region, block).window
        return {
            "window": [window.y0, window.x0, window.height, window.width],
            "source": source.model_dump(mode="json", include={"provider", "item_format"}),
            **self._arithmetic(sensor),
        }

    def retile(self, region: str, block: str) -> dict[str, Any]:
        """What decides a block's patches, apart from its stacks and the mask.

        `download.on_empty_block` is not among it: it decides whether a block fails, and a block
        that did not fail need not be read again because of it.
        """
        window = self._layout.block(region, block).window
        least = self._config.model.min_observations
        needed = [s for s, n in (("sentinel2", least.s2), ("sentinel1", least.s1)) if n > 0]
        return {
            "window": [window.y0, window.x0, window.height, window.width],
            "patch_size": self._config.grid.patch_size,
            "downsample_rate": self._config.grid.downsample_rate,
            "needed": [sensor for sensor in needed if sensor in self._layout.sensors],
        }

    def import_tiles(self, region: str, period: str, block: str) -> dict[str, Any]:
        """What decides a block's patches where they come from tile folders. The folders'
        content is not among it: it is not looked at when the run is planned."""
        window = self._layout.block(region, block).window
        return {
            "location": tiles_location(self._config, region, period),
            "window": [window.y0, window.x0, window.height, window.width],
            "patch_size": self._config.grid.patch_size,
            "downsample_rate": self._config.grid.downsample_rate,
        }

    def store_tiles(self, region: str, period: str) -> dict[str, Any]:
        """What decides the list of a store's tiles. What is in the store is not among it: it is
        not looked at when the run is planned."""
        return {
            "store": self._config.geotessera.model_dump(
                mode="json", include={"version", "variant"}
            ),
            "location": store_location(self._config, region, period),
            "year": self._config.periods[period].year,
            "grid": self._layout.grids[region].to_json(),
        }

    def import_embeddings(self, region: str, period: str, block: str) -> dict[str, Any]:
        """What decides a block's embeddings where they are published ones, apart from the list
        of tiles and the mask."""
        window = self._layout.block(region, block).window
        return {
            "window": [window.y0, window.x0, window.height, window.width],
            "downsample_rate": self._config.grid.downsample_rate,
            "dtype": self._config.model.dtype,
        }

    def infer(self, region: str, block: str) -> dict[str, Any]:
        """What decides a block's embeddings, apart from its patches and the weights.

        `origin` is the (row, column) in the region's product grid of its upper left pixel.
        """
        place = self._layout.grids[region].product_window(self._layout.block(region, block))
        chosen = self._config.model.model_dump(
            mode="json",
            include={
                "dim", "dtype", "min_observations", "statistics", "heads", "seed", "repeat_times",
                "precision",
            },
        )  # fmt: skip
        return chosen | {"origin": [place.y0, place.x0]}

    def hole(self, region: str, period: str, block: str) -> dict[str, Any]:
        """What decides the file that stands for a block without embeddings."""
        published = self._config.source == "geotessera"
        place = self._layout.grids[region].product_window(self._layout.block(region, block))
        return {
            "shape": list(place.shape),
            "patch_size": self._config.grid.patch_size,
            "dim": STORE_DIM if published else self._config.model.dim,
            "dtype": self._config.model.dtype,
            "counts": not published,
        }

    def stitch(self, region: str, period: str, *keys: str) -> dict[str, Any]:
        """What decides a product beside the blocks' embeddings: everything its provenance
        states, and the named keys of `products`."""
        return {
            "configuration": content_hash(self._config, region, period),
            **self._config.products.model_dump(mode="json", include=set(keys)),
        }

    def weights(self) -> dict[str, Any]:
        """What decides the record of the weights: their name, or path and content."""
        return {
            "weights": self._config.model.weights,
            "heads": self._config.model.heads,
            "content": self._weights_digest,
        }
