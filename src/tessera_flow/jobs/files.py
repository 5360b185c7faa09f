"""Which files the jobs of a configuration read and make.

The rules ask this module and hold no logic of their own.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from ..atomic import check_folder
from ..config.configuration import Config, runs
from ..dates import Slice, period_slices
from ..region.blocks import load_region_grid
from ..region.grid import Block, RegionGrid
from .journal import JobRecord, job_log_path, read_job_log, unfinished
from .paths import SENSORS, Patterns

# Products that a STAC Item does not name: itself, what tells of the run, what was there before.
_NOT_DESCRIBED = ("stac", "report", "tiles")


class RunFiles:
    """The files of one configuration.

    Attributes:
        config: the configuration.
        paths: patterns of all files.
        grids: the grid and blocks of each region.
        roi_digests: SHA-256 of the content of each region's file.

    Raises:
        RegionError: a region cannot be read or used.
        OutputError: a folder of `paths` cannot be written to.
    """

    def __init__(self, config: Config) -> None:
        """Take the configuration."""
        self.config = config
        for folder in (config.paths.results, config.paths.work, config.paths.logs):
            check_folder(folder)
        self.paths = Patterns.below(config.paths.work, config.paths.results)
        plans = {name: load_region_grid(config, name) for name in config.regions}
        self.grids: dict[str, RegionGrid] = {name: plan[0] for name, plan in plans.items()}
        self.roi_digests = {name: plan[1] for name, plan in plans.items()}
        self._blocks = {
            name: {block.id: block for block in grid.blocks} for name, grid in self.grids.items()
        }
        self._holes: dict[tuple[str, str], dict[str, str]] = {}

    @property
    def sensors(self) -> list[str]:
        """The sensors in use; published embeddings need none."""
        if self.config.source == "geotessera":
            return []
        return [sensor for sensor in SENSORS if getattr(self.config, sensor).enabled]

    def slices(self, period: str) -> list[Slice]:
        """The slices of a period."""
        chosen = self.config.periods[period]
        return period_slices(chosen.start, chosen.end, self.config.download.slice_months)

    def block(self, region: str, block: str) -> Block:
        """A block by its name."""
        return self._blocks[region][block]

    def product_files(self, region: str, period: str) -> dict[str, list[str]]:
        """Files of each product asked for, of one region and period."""
        patterns = {
            "zarr": [self.paths.zarr],
            "arrays": list(self.array_files().values()),
            "preview": [self.paths.preview, self.paths.preview_png],
            "counts": [self.paths.counts_cog],
            "vrt": list(self.vrt_files().values()),
            "geotessera": [self.paths.geotessera],
            "stac": [self.paths.item, self.paths.collection],
            "report": [self.paths.report, self.paths.checks],
        }
        places = {"region": region, "period": period}
        files: dict[str, list[str]] = {
            product: [path.format(**places) for path in patterns[product]]
            for product in self.config.products.formats
            if product in patterns
        }
        if "tiles" in self.config.products.formats:
            holes = self.holes(region, period)  # what failed there would fail again
            files["tiles"] = [
                self.paths.tiles.format(**places, block=block.id)
                for block in self.grids[region].blocks
                if block.id not in holes
            ]
        return files

    def products(self, region: str, period: str) -> list[str]:
        """Product files asked for, of one region and period."""
        files = self.product_files(region, period).values()
        return [path for some in files for path in some] + self.skip_lists(region, period)

    def skip_lists(self, region: str, period: str) -> list[str]:
        """The list of holes of a region and period, where there are any."""
        found = self.holes(region, period)
        return [self.paths.skip_list.format(region=region, period=period)] if found else []

    def described_files(self, region: str, period: str) -> list[str]:
        """The products that a STAC Item describes; it is written after them."""
        files = self.product_files(region, period)
        return [path for name in files if name not in _NOT_DESCRIBED for path in files[name]]

    def product_names(self, region: str, period: str) -> dict[str, list[str]]:
        """Names of the files of each product that a STAC Item describes."""
        files = self.product_files(region, period)
        return {
            product: [PurePath(path).name for path in files[product]]
            for product in files
            if product not in _NOT_DESCRIBED
        }

    def openable(self, region: str, period: str) -> dict[str, list[str]]:
        """Names of the products of which the report says how they are opened."""
        names = self.product_names(region, period)
        if "stac" in self.config.products.formats:
            names["stac"] = [PurePath(self.paths.item).name]
        if "tiles" in self.config.products.formats:
            names["tiles"] = ["tiles"]
        return names

    def items_of(self, region: str) -> list[str]:
        """The STAC Items of a region's periods."""
        return [
            self.paths.item.format(region=region, period=period)
            for name, period in runs(self.config)
            if name == region
        ]

    def all_products(self) -> list[str]:
        """Every product file of the run."""
        return list(
            dict.fromkeys(
                path
                for region, period in runs(self.config)
                for path in self.products(region, period)
            )
        )

    def all_manifests(self) -> list[str]:
        """Every list of items of the run."""
        return [path for run in runs(self.config) for path in self.manifests(*run)]

    @property
    def plan_folder(self) -> str:
        """Where `snakemake plan` writes."""
        return f"{self.config.paths.results}/plan"

    def array_files(self) -> dict[str, str]:
        """Named output patterns of the reference arrays; float32 has no scales, published
        embeddings have no counts."""
        files = {"representation": self.paths.arrays, "provenance": self.paths.arrays_provenance}
        if self.config.source != "geotessera":
            files["counts"] = self.paths.counts
        if self.config.model.dtype == "int8":
            files["scales"] = self.paths.scales
        return files

    def vrt_files(self) -> dict[str, str]:
        """Named output patterns of the VRT; float32 has no codes."""
        files = {"vrt": self.paths.vrt}
        if self.config.model.dtype == "int8":
            files["codes"] = self.paths.vrt_codes
        return files

    def vrt_inputs(self) -> dict[str, str]:
        """Named patterns of the arrays that the VRT reads."""
        files = self.array_files()
        return {name: files[name] for name in ("representation", "scales") if name in files}

    def weights_record(self) -> str | list[str]:
        """The record of the weights; published embeddings have none."""
        return [] if self.config.weights is None else self.paths.weights

    def manifests(self, region: str, period: str) -> list[str]:
        """The lists of items of the sensors in use, or that of a store's tiles; tile folders have
        none."""
        if self.config.source == "tiles":
            return []
        if self.config.source == "geotessera":
            return [self.paths.store_tiles.format(region=region, period=period)]
        return [
            self.paths.items.format(region=region, period=period, sensor=sensor)
            for sensor in self.sensors
        ]

    def slice_files(self, region: str, period: str, sensor: str, block: str) -> list[str]:
        """The slices that a stack joins, in order of time."""
        return [
            self.paths.slices.format(
                region=region, period=period, sensor=sensor, slice=part.name, block=block
            )
            for part in self.slices(period)
        ]

    def stack_files(self, region: str, period: str, block: str) -> dict[str, str]:
        """The stacks that retiling reads, by sensor."""
        return {
            sensor: self.paths.stack.format(
                region=region, period=period, sensor=sensor, block=block
            )
            for sensor in self.sensors
        }

    def block_files(self, region: str, period: str) -> list[str]:
        """The embeddings of all blocks, in the order of the region's grid; for a hole what
        stands in its place."""
        holes = self.holes(region, period)
        return [
            (self.paths.skipped if block.id in holes else self.paths.embeddings).format(
                region=region, period=period, block=block.id
            )
            for block in self.grids[region].blocks
        ]

    def embeddings_file(self, region: str, period: str, block: str) -> Path:
        """The embeddings of one block."""
        return Path(self.paths.embeddings.format(region=region, period=period, block=block))

    def job_log_file(self, *names: str) -> Path:
        """The verdicts of a block (region, period, block), or of jobs of all blocks."""
        return job_log_path(self.config.paths.work, *names)

    def failures(self, *names: str, over: bool = False) -> list[JobRecord]:
        """Jobs of a block (region, period, block), or of all blocks, that did not end well;
        `over` as in `verdicts.unfinished`."""
        return unfinished(read_job_log(self.job_log_file(*names)), over)

    def holes(self, region: str, period: str) -> dict[str, str]:
        """Blocks that products are made without, with the reason: where the configuration
        allows holes, those that an earlier run failed at. A block at which it was interrupted
        has not failed."""
        if self.config.jobs.on_failed_block == "fail":
            return {}
        if (region, period) not in self._holes:
            # A run looks at this before it begins, and one at a time runs.
            failed = {
                block.id: [
                    verdict
                    for verdict in self.failures(region, period, block.id, over=True)
                    if verdict.state != "interrupted"
                ]
                for block in self.grids[region].blocks
                if not self.embeddings_file(region, period, block.id).exists()
            }
            self._holes[region, period] = {
                name: found[-1].why().strip().splitlines()[-1]
                for name, found in failed.items()
                if found
            }
        return self._holes[region, period]
