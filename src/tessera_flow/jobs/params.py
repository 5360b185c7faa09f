"""Collect the parameters that decide the result of each job.

Snakemake compares them with those a file was made from. With too few a result becomes stale;
with too many, scenes are read again for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..analysis.label_files import labels_sha256
from ..config.configuration import Config
from ..config.fingerprint import content_hash
from ..config.locations import store_location, tiles_location
from ..config.maps import OF_METHODS
from ..config.sections import OVERRIDES
from ..dates import mask_months
from ..geotessera import STORE_DIM
from ..models.published import weights_file
from ..region.blocks import cache_folder, content_digest
from ..urls import public_href
from .files import RunFiles

PRODUCT_KEYS = {
    "zarr": {"zarr_chunk", "zarr_shards", "zarr_preview", "preview_stretch"},
    "cog": {"cog_dtype"},
    "item": {"license"},
    "preview": {"preview_stretch"},
    "checks": {"max_seam", "max_saturated"},
}
"""Keys of `products` that decide the content of a product."""

MODEL_KEYS = {
    "dim", "dtype", "min_observations", "statistics", "heads", "seed", "repeat_times", "precision",
}  # fmt: skip
OF_PIXELS = {"min_observations", "precision"}
"""Those that do not make another model: which pixels have an embedding, and how it is rounded."""


class JobParams:
    """The parameters of each rule's jobs, apart from the content of their input files.

    Raises:
        ConfigError, CheckpointError: the weights are neither a file nor a published name.
        LabelError: the labels of a map cannot be read.
    """

    def __init__(self, files: RunFiles) -> None:
        """Take the files of a configuration; hash the weights, if they are a file, and the labels
        of maps."""
        self._files, self._config = files, files.config
        weights = files.config.weights
        file = None if weights is None else weights_file(weights)
        cache = cache_folder(files.config) / "weights.json"
        self._labels = {name: labels_sha256(m.labels) for name, m in files.config.maps.items()}
        self._weights_digest = None if file is None else content_digest(file, cache)

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights, if they are a file."""
        return self._weights_digest

    def roi(self, region: str) -> dict[str, Any]:
        """Return the fingerprint of the region's geometry, and the grid."""
        document = self._files.grids[region].to_json()
        grid = {key: document[key] for key in ("crs", "transform", "shape")}
        return {"geometry": self._files.roi_fingerprints[region], **grid}

    def items(self, region: str, period: str, sensor: str) -> dict[str, Any]:
        """Return the sensor's settings and the period."""
        config = self._files.for_run(region, period)
        days = config.periods[period].model_dump(mode="json", exclude=set(OVERRIDES))
        found = self.search(config, sensor)
        return {"source": found.pop("source"), "period": days, **found}

    def search(self, config: Config, sensor: str) -> dict[str, Any]:
        """Return the settings of a search that do not depend on region and period."""
        source = getattr(config, sensor).model_dump(mode="json")
        # Snakemake writes parameters to its records: no credentials in them.
        source["location"] = public_href(source["location"] or "")
        return {"source": source, **self._preprocessing(sensor)}

    def download(self, region: str, period: str, sensor: str, block: str) -> dict[str, Any]:
        """Return the block's window and how the sensor's scenes are read."""
        source = getattr(self._files.for_run(region, period), sensor)
        return {
            "window": self._window(region, block),
            "source": source.model_dump(mode="json", include={"provider", "item_format"}),
            **self._preprocessing(sensor),
        }

    def retile(self, region: str, period: str, block: str) -> dict[str, Any]:
        """Return the block's window, the patch size and the sensors that are required.

        `download.on_empty_block` is not included: it decides whether a block fails, and a block
        that did not fail need not be read again because of it.
        """
        least = self._files.for_run(region, period).model.min_observations
        used = self._files.sensors(region, period)
        needed = [s for s, n in (("sentinel2", least.s2), ("sentinel1", least.s1)) if n > 0]
        return {
            "window": self._window(region, block),
            "patch_size": self._config.grid.patch_size,
            "downsample_rate": self._config.grid.downsample_rate,
            "needed": [sensor for sensor in needed if sensor in used],
        }

    def import_tiles(self, region: str, period: str, block: str) -> dict[str, Any]:
        """Return the block's window and the location of the tile folders; their content is not
        read when the run is planned."""
        return {
            "location": tiles_location(self._config, region, period),
            "window": self._window(region, block),
            "patch_size": self._config.grid.patch_size,
            "downsample_rate": self._config.grid.downsample_rate,
        }

    def store_tiles(self, region: str, period: str) -> dict[str, Any]:
        """Return the store's location, the year and the grid; the content of the store is not
        read when the run is planned."""
        settings = {
            "store": self._config.geotessera.model_dump(
                mode="json", include={"version", "variant"}
            ),
            "location": store_location(self._config, region, period),
            "year": self._config.periods[period].year,
            "grid": self._files.grids[region].to_json(),
        }
        if not self._config.fills:
            return settings
        # What decides whether the store's model is that of this run.
        model = self._config.model.model_dump(mode="json", include=MODEL_KEYS - OF_PIXELS)
        assumed = self._config.geotessera.assume_same_model
        preprocessing = self._config.preprocessing
        return settings | {
            "fill": {"model": model, "preprocessing": preprocessing, "assumed": assumed}
        }

    def import_embeddings(self, region: str, block: str) -> dict[str, Any]:
        """Return the block's window and the data type."""
        return {
            "window": self._window(region, block),
            "downsample_rate": self._config.grid.downsample_rate,
            "dtype": self._config.model.dtype,
            **({"holes": True} if self._config.fills else {}),
        }

    def infer(self, region: str, period: str, block: str) -> dict[str, Any]:
        """Return the model's settings, and as `origin` the (row, column) of the block's upper
        left pixel in the region's product grid; the days of the period, on which the masks of
        months depend."""
        window = self._files.grids[region].product_window(self._files.block(region, block))
        model = self._files.for_run(region, period).model
        settings = model.model_dump(mode="json", include=MODEL_KEYS)
        days = self._config.periods[period]
        return settings | {
            "origin": [window.y0, window.x0],
            "period": [days.start.isoformat(), days.end.isoformat()],
        }

    def skip_block(self, region: str, period: str, block: str) -> dict[str, Any]:
        """Return the shape and type of the file that replaces a skipped block."""
        days = self._config.periods[period]
        published = self._config.source == "geotessera"
        window = self._files.grids[region].product_window(self._files.block(region, block))
        return {
            "shape": list(window.shape),
            "patch_size": self._config.grid.patch_size,
            "dim": STORE_DIM if published else self._config.model.dim,
            "dtype": self._config.model.dtype,
            "counts": not published,
            "months": len(mask_months(self._config.source, days.start, days.end)),
            **({"origin": True} if self._config.fills else {}),
        }

    def product(self, name: str) -> Callable[[str, str], dict[str, Any]]:
        """Return a function of region and period: everything that the provenance of a product
        states, as a hash, and the keys of `products` that this product depends on."""
        keys = PRODUCT_KEYS.get(name, set())

        def settings(region: str, period: str) -> dict[str, Any]:
            return {
                "configuration": content_hash(self._config, region, period),
                **self._config.products.model_dump(mode="json", include=keys),
            }

        return settings

    def map(self, region: str, period: str, map: str) -> dict[str, Any]:
        """Return the hash of the labels of a map, what it is learned with, and what the provenance
        of its embeddings states. The path of the labels is not included."""
        settings = self._config.maps[map]
        others = {key for method, key in OF_METHODS.items() if method != settings.method}
        unused = {"labels", "regions", "periods", *others}
        return {
            "configuration": content_hash(self._config, region, period),
            "labels": self._labels[map],
            "map": settings.model_dump(mode="json", exclude=unused),
        }

    def of_record(self, name: str, region: str, period: str) -> dict[str, Any]:
        """Return the settings that the record of checksums of a product states.

        Args:
            name: as in `ProductFiles.records`.
            region, period: of the product.
        """
        product, _, map_name = name.partition("/")[0].partition(" ")
        if map_name:
            return self.map(region, period, map_name)
        return self.product(product)(region, period)

    def weights(self) -> dict[str, Any]:
        """Return the weights' name or path, the hash of their content, and settings that not
        every family has, so that they are checked again."""
        model = self._config.model
        draws = {"draws": [model.seed, model.repeat_times]}
        return {
            "weights": model.weights,
            "heads": model.heads,
            "sha256": model.sha256,
            "content": self._weights_digest,
            **(draws if draws["draws"] != [0, 1] else {}),
        }

    def _preprocessing(self, sensor: str) -> dict[str, str]:
        # Sentinel-1 is the same in both modes.
        return {"preprocessing": self._config.preprocessing} if sensor == "sentinel2" else {}

    def _window(self, region: str, block: str) -> list[int]:
        window = self._files.block(region, block).window
        return [window.y0, window.x0, window.height, window.width]
