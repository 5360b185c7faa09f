"""Where every file of a run lies, which files each job reads, and what decides its result.

The rules ask this module and hold no logic of their own. `settings_*` return exactly what
decides a job's result, so a changed setting reruns the steps it changes and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from .admission import Admission
from .atomic import check_folder
from .config import Config, content_hash, runs
from .dates import Slice, period_slices
from .errors import OutputError, TileError
from .estimates import block_disk_gb, dates
from .grid import Block, RegionGrid
from .hrefs import public_href
from .models.published import PUBLISHED, weights_file
from .plan import content_digest, load_plan, plan_folder
from .products.description import read_record
from .provenance import tiles_location
from .resources import NEEDS, memory_mb, runtime_minutes
from .sharing import gpu_blocks, pattern, shares
from .verdicts import Verdict, not_done, read_verdicts, verdict_path

SENSORS = ("sentinel2", "sentinel1")
ANY_BLOCK = r"b\d+_\d+"

# Products that a STAC Item does not name: itself, what tells of the run, what was there before.
_NOT_DESCRIBED = ("stac", "report", "tiles")

STAGES = ("download", "stack", "retile", "infer")
"""Steps of a block, first to last: a later one goes first, so that its inputs can be deleted."""


@dataclass(frozen=True)
class Patterns:
    """Path patterns with Snakemake's wildcards in braces."""

    roi: str
    items: str
    slices: str
    stack: str
    patches: str
    weights: str
    embeddings: str
    hole: str
    holes: str
    zarr: str
    arrays: str
    scales: str
    counts: str
    arrays_provenance: str
    preview: str
    preview_png: str
    counts_cog: str
    vrt: str
    vrt_codes: str
    geotessera: str
    tiles: str
    item: str
    collection: str
    checks: str
    report: str

    @classmethod
    def below(cls, work: str, results: str) -> Patterns:
        """The patterns for a working and a results folder."""
        run = f"{work}/{{region}}/{{period}}"
        products = f"{results}/{{region}}/{{period}}"
        return cls(
            roi=f"{work}/{{region}}/roi.tif",
            items=f"{run}/items/{{sensor}}.json",
            slices=f"{run}/slices/{{sensor}}/{{slice}}/{{block}}.zip",
            stack=f"{run}/stack/{{sensor}}/{{block}}.zip",
            patches=f"{run}/patches/{{block}}.zip",
            weights=f"{work}/weights.json",
            embeddings=f"{run}/embeddings/{{block}}.zip",
            hole=f"{run}/holes/{{block}}.zip",
            holes=f"{products}/holes.json",
            zarr=f"{products}/embeddings.zarr",
            arrays=f"{products}/stitched_representation.npy",
            scales=f"{products}/stitched_representation_scales.npy",
            counts=f"{products}/stitched_representation_counts.npy",
            arrays_provenance=f"{products}/stitched_representation.json",
            preview=f"{products}/preview.tif",
            preview_png=f"{products}/preview.png",
            counts_cog=f"{products}/counts.tif",
            vrt=f"{products}/embeddings.vrt",
            vrt_codes=f"{products}/embeddings_codes.vrt",
            geotessera=f"{products}/geotessera",
            tiles=f"{products}/tiles/{{block}}.json",
            item=f"{products}/item.json",
            checks=f"{products}/checks.json",
            report=f"{products}/report.html",
            collection=f"{results}/{{region}}/collection.json",
        )


def _settings_of(product: Path) -> str | None:
    """The hash of settings that a product states; None where it states none."""
    try:
        return str(read_record(product)["configuration_sha256"])
    except TileError:
        return None


class Layout:
    """The files and jobs of one configuration.

    Raises:
        RegionError: a region cannot be read or used.
        ConfigError, CheckpointError: the weights are neither a file nor a published name.
        OutputError: a folder of `paths` cannot be written to.
    """

    def __init__(self, config: Config, one_job: bool = False) -> None:
        """Take the configuration.

        Args:
            config: the whole of it.
            one_job: this is the process of one job, which was told which rule it is; the
                division between CPUs and GPUs is not to be made again on another machine.
        """
        self.config = config
        self._one_job = one_job
        for folder in (config.paths.results, config.paths.work, config.paths.logs):
            check_folder(folder)
        self.paths = Patterns.below(config.paths.work, config.paths.results)
        plans = {name: load_plan(config, name) for name in config.regions}
        self.grids: dict[str, RegionGrid] = {name: plan[0] for name, plan in plans.items()}
        self._digests = {name: plan[1] for name, plan in plans.items()}
        file = weights_file(config.model.weights)
        self._weights_digest = (
            None if file is None else content_digest(file, plan_folder(config) / "weights.json")
        )
        self._blocks = {
            name: {block.id: block for block in grid.blocks} for name, grid in self.grids.items()
        }
        self.weights_bytes = self._size_of_weights()
        # All blocks in their order; a name that is in several regions stands once.
        names = {block.id for grid in self.grids.values() for block in grid.blocks}
        self._turns = {name: number for number, name in enumerate(sorted(names))}
        self._holes: dict[tuple[str, str], dict[str, str]] = {}
        cpu, gpu = shares(config.jobs.cpu_gpu, config.model.device)
        self._on_gpu = frozenset(gpu_blocks(list(self._turns), cpu, gpu))
        self._admission = Admission(self.most_in_flight())

    @property
    def sensors(self) -> list[str]:
        """The sensors in use."""
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
            files["tiles"] = [
                self.paths.tiles.format(**places, block=block.id)
                for block in self.grids[region].blocks
            ]
        return files

    def products(self, region: str, period: str) -> list[str]:
        """Product files asked for, of one region and period."""
        files = self.product_files(region, period).values()
        return [path for some in files for path in some] + self.hole_lists(region, period)

    def hole_lists(self, region: str, period: str) -> list[str]:
        """The list of holes of a region and period, where there are any."""
        found = self.holes(region, period)
        return [self.paths.holes.format(region=region, period=period)] if found else []

    def drop_old_hole_lists(self) -> None:
        """Delete `holes.json` where every product was made anew, without holes, since."""
        for region, period in runs(self.config):
            listed = Path(self.paths.holes.format(region=region, period=period))
            if self.holes(region, period) or not listed.exists():
                continue
            written = listed.stat().st_mtime
            files = self.product_files(region, period)
            files.pop("tiles", None)  # made from the time series, with or without embeddings
            made = [Path(path) for some in files.values() for path in some]
            if all(path.exists() and path.stat().st_mtime > written for path in made):
                listed.unlink()

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

    def refuse_replacing(self) -> None:
        """Refuse to replace products that were made with other settings.

        Products without a record (see `products.description`) are not looked at.

        Raises:
            OutputError: there are such products; one is named for each region and period.
        """
        sentences = []
        for region, period in runs(self.config):
            wanted = content_hash(self.config, region, period)
            found = [
                path
                for path in map(Path, self.products(region, period))
                if path.exists() and _settings_of(path) not in (None, wanted)
            ]
            if found:
                sentences.append(
                    f"{found[0]} was made with other settings than those for region {region} and "
                    f"period {period}: choose another paths.results, or run with --force to "
                    "replace it" + (f" and {len(found) - 1} more." if found[1:] else ".")
                )
        if sentences:
            raise OutputError("\n".join(sentences))

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
        """Named output patterns of the reference arrays; float32 has no scales."""
        files = {
            "representation": self.paths.arrays,
            "counts": self.paths.counts,
            "provenance": self.paths.arrays_provenance,
        }
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

    def manifests(self, region: str, period: str) -> list[str]:
        """The lists of items of the sensors in use; tile folders have none."""
        if self.config.source == "tiles":
            return []
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
            (self.paths.hole if block.id in holes else self.paths.embeddings).format(
                region=region, period=period, block=block.id
            )
            for block in self.grids[region].blocks
        ]

    def embeddings_file(self, region: str, period: str, block: str) -> Path:
        """The embeddings of one block."""
        return Path(self.paths.embeddings.format(region=region, period=period, block=block))

    def verdict_file(self, *names: str) -> Path:
        """The verdicts of a block (region, period, block), or of jobs of all blocks."""
        return verdict_path(self.config.paths.work, *names)

    def failures(self, *names: str) -> list[Verdict]:
        """Jobs of a block (region, period, block), or of all blocks, that did not end well."""
        return not_done(read_verdicts(self.verdict_file(*names)))

    def holes(self, region: str, period: str) -> dict[str, str]:
        """Blocks that products are made without, with the reason: where the configuration
        allows holes, those that an earlier run failed at."""
        if self.config.jobs.failed_blocks == "refuse":
            return {}
        if (region, period) not in self._holes:
            self._holes[region, period] = {
                block.id: failures[-1].why().strip().splitlines()[-1]
                for block in self.grids[region].blocks
                if not self.embeddings_file(region, period, block.id).exists()
                and (failures := self.failures(region, period, block.id))
            }
        return self._holes[region, period]

    def kind(self, block: str) -> str:
        """Whether `cpu` or `gpu` embeds a block."""
        return "gpu" if block in self._on_gpu else "cpu"

    def blocks_on(self, kind: str) -> str:
        """Regular expression of the names of the blocks that `cpu` or `gpu` embeds."""
        chosen = [name for name in self._turns if self.kind(name) == kind]
        everything = self._one_job or len(chosen) == len(self._turns)
        return ANY_BLOCK if everything else pattern(chosen)

    def priority(self, stage: str, block: str) -> int:
        """What a job goes before others by: its step, and the place of its block.

        So a block that is begun is finished before others are, and few are in flight.
        """
        return STAGES.index(stage) * len(self._turns) + len(self._turns) - self._turns[block]

    def dates(self, period: str) -> dict[str, float]:
        """How many dates a period is assumed to have, by sensor in use."""
        chosen = self.config.periods[period]
        return {name: dates(name, (chosen.end - chosen.start).days + 1) for name in self.sensors}

    def most_in_flight(self) -> int:
        """How many blocks may be in flight, by `jobs.max_disk_gb`: at least 1."""
        limit = self.config.jobs.max_disk_gb
        if limit is None:
            return len(self._turns) * len(self.config.periods)
        pixels = self.config.grid.block_size**2
        largest = max(block_disk_gb(pixels, self.dates(name)) for name in self.config.periods)
        return max(1, int(limit / largest))

    @property
    def claim(self) -> int | Callable[[Any], int]:
        """What a download of a block claims of the disk: a number, or a function of its
        wildcards; see `admission`. A function costs time for every job of a dry run."""
        if self._one_job or self.config.jobs.max_disk_gb is None:
            return 1

        def claim(wildcards: Any) -> int:
            block = (wildcards.region, wildcards.period, wildcards.block)
            return self._admission.claim(block, self.embeddings_file(*block))

        return claim

    def memory_mb(self, rule: str, attempt: int) -> int:
        """Memory for a job of a rule, in MB."""
        grid = self.config.grid
        weights = self.weights_bytes if rule.startswith("infer") or rule == "weights" else 0
        return memory_mb(rule, attempt, grid.block_size, grid.patch_size, weights)

    def runtime(self, rule: str, attempt: int) -> int:
        """Time for a job of a rule, in minutes."""
        return runtime_minutes(rule, attempt, self.config.grid.block_size)

    def threads(self, rule: str) -> int:
        """Cores for a job of a rule."""
        return NEEDS[rule].threads

    def block_state(self, region: str, period: str, block: str) -> str:
        """`done`, `failed`, or what is to embed it: `cpu` or `gpu`."""
        if self.embeddings_file(region, period, block).exists():
            return "done"
        return "failed" if self.failures(region, period, block) else self.kind(block)

    def settings_roi(self, region: str) -> dict[str, Any]:
        """What decides a region's mask: the content of its file and the grid."""
        document = self.grids[region].to_json()
        grid = {key: document[key] for key in ("crs", "transform", "shape")}
        layer = self.config.regions[region].layer
        return {"content": self._digests[region], "layer": layer, **grid}

    def settings_items(self, region: str, period: str, sensor: str) -> dict[str, Any]:
        """What decides the list of items."""
        source = getattr(self.config, sensor).model_dump(mode="json")
        # Snakemake writes parameters to its records: no credentials in them.
        source["location"] = public_href(source["location"] or "")
        return {
            "source": source,
            "period": self.config.periods[period].model_dump(mode="json"),
            **self._arithmetic(sensor),
        }

    def _arithmetic(self, sensor: str) -> dict[str, str]:
        """Sentinel-1 is read the same way in both."""
        return {"arithmetic": self.config.arithmetic} if sensor == "sentinel2" else {}

    def settings_download(self, region: str, sensor: str, block: str) -> dict[str, Any]:
        """What decides a block's daily mosaics, apart from the manifest and the mask."""
        source = getattr(self.config, sensor)
        window = self.block(region, block).window
        return {
            "window": [window.y0, window.x0, window.height, window.width],
            "source": source.model_dump(mode="json", include={"provider", "imitates"}),
            **self._arithmetic(sensor),
        }

    def settings_retile(self, region: str, block: str) -> dict[str, Any]:
        """What decides a block's patches, apart from its stacks and the mask.

        `download.empty_block` is not among it: it decides whether a block fails, and a block
        that did not fail need not be read again because of it.
        """
        window = self.block(region, block).window
        least = self.config.model.min_observations
        needed = [s for s, n in (("sentinel2", least.s2), ("sentinel1", least.s1)) if n > 0]
        return {
            "window": [window.y0, window.x0, window.height, window.width],
            "patch_size": self.config.grid.patch_size,
            "downsample_rate": self.config.grid.downsample_rate,
            "needed": [sensor for sensor in needed if sensor in self.sensors],
        }

    def settings_import(self, region: str, period: str, block: str) -> dict[str, Any]:
        """What decides a block's patches where they come from tile folders. The folders'
        content is not among it: it is not looked at when the run is planned."""
        window = self.block(region, block).window
        return {
            "location": tiles_location(self.config, region, period),
            "window": [window.y0, window.x0, window.height, window.width],
            "patch_size": self.config.grid.patch_size,
            "downsample_rate": self.config.grid.downsample_rate,
        }

    def settings_infer(self, region: str, block: str) -> dict[str, Any]:
        """What decides a block's embeddings, apart from its patches and the weights.

        `origin` is the (row, column) in the region's product grid of its upper left pixel.
        """
        place = self.grids[region].product_window(self.block(region, block))
        chosen = self.config.model.model_dump(
            mode="json",
            include={
                "dim", "dtype", "min_observations", "statistics", "heads", "seed", "repeat_times",
                "precision",
            },
        )  # fmt: skip
        return chosen | {"origin": [place.y0, place.x0]}

    def settings_hole(self, region: str, period: str, block: str) -> dict[str, Any]:
        """What decides the file that stands for a block without embeddings."""
        place = self.grids[region].product_window(self.block(region, block))
        return {
            "shape": list(place.shape),
            "patch_size": self.config.grid.patch_size,
            "dim": self.config.model.dim,
            "dtype": self.config.model.dtype,
        }

    def _size_of_weights(self) -> int:
        """Bytes of the checkpoint, before it is downloaded as well."""
        file = weights_file(self.config.model.weights)
        published = PUBLISHED.get(self.config.model.weights)
        return 4 * published.parameters if published else file.stat().st_size if file else 0

    def settings_stitch(self, region: str, period: str, *keys: str) -> dict[str, Any]:
        """What decides a product beside the blocks' embeddings: everything its provenance
        states, and the named keys of `products`."""
        return {
            "configuration": content_hash(self.config, region, period),
            **self.config.products.model_dump(mode="json", include=set(keys)),
        }

    def settings_weights(self) -> dict[str, Any]:
        """What decides the record of the weights: their name, or path and content."""
        return {
            "weights": self.config.model.weights,
            "heads": self.config.model.heads,
            "content": self._weights_digest,
        }
