"""Name the product files of a configuration."""

from __future__ import annotations

from pathlib import PurePath

from ..config.configuration import runs
from ..products.checksums import FOLDER, TILES
from .files import RunFiles

STORES = ("zarr", "geotessera")
"""Products that are folders, with their record of checksums inside."""

SKIPPED = "skipped_blocks"
"""The list of skipped blocks, which is no product format."""

# Not described by a STAC Item: itself, the report of the run, and files that tools cannot open
# as one raster.
_NOT_DESCRIBED = ("stac", "report", "tiles", "cube")


def is_record(path: str) -> bool:
    """Return whether a product file is the record of checksums of others."""
    return PurePath(path).parent.name == FOLDER


class ProductFiles:
    """The product files of one configuration."""

    def __init__(self, files: RunFiles) -> None:
        """Take the files of the run."""
        self._files, self._config, self._paths = files, files.config, files.paths

    def by_format(self, region: str, period: str) -> dict[str, list[str]]:
        """Return the files of each requested format, of one region and period, and `origin` if
        holes of published embeddings are filled."""
        patterns = {
            "zarr": [self._paths.zarr],
            "arrays": list(self.array_files().values()),
            "preview": [
                self._paths.preview,
                self._paths.preview_png,
                self._paths.preview_checksums,
            ],
            "counts": [
                self._paths.counts_cog,
                self._paths.counts_style,
                self._paths.counts_checksums,
            ],
            "cog": list(self.cog_files().values()),
            "change": [self._paths.change, self._paths.change_checksums],
            "origin": [self._paths.origin, self._paths.origin_checksums],
            "vrt": list(self.vrt_files().values()),
            "geotessera": [self._paths.geotessera],
            "stac": [
                self._paths.item,
                *self.scene_tables().values(),
                self._paths.item_checksums,
                self._paths.collection,
                self._paths.collection_items,
                self._paths.collection_checksums,
            ],
            "report": [
                self._paths.report,
                self._paths.report_checksums,
                self._paths.checks,
                self._paths.checks_checksums,
                self._paths.index,
                self._paths.index_checksums,
            ],
        }
        if self._files.previous_period(region, period) is None:
            del patterns["change"]
        names = {"region": region, "period": period}
        files: dict[str, list[str]] = {
            product: [path.format(**names) for path in patterns[product]]
            for product in (*self._config.products.formats, *(["origin"] * self._config.fills))
            if product in patterns
        }
        if self._config.products.cube:
            files["cube"] = [self._paths.cube_record.format(**names)]
        if "tiles" in self._config.products.formats:
            files["tiles"] = [
                *self.tile_records(region, period),
                self._paths.tile_list_checksums.format(**names),
                self._paths.tile_list.format(**names),
            ]
        return files

    def of_maps(self, region: str, period: str) -> list[str]:
        """Return the files of all maps of one region and period."""
        names = self._config.maps_of(region, period)
        return [path for name in names for path in self.of_map(region, period, name)]

    def of_map(self, region: str, period: str, name: str) -> list[str]:
        """Return the files of a map of one region and period."""
        patterns = (
            self._paths.map_file,
            self._paths.map_names,
            self._paths.map_uncertainty,
            self._paths.map_labels,
            self._paths.map_record,
            self._paths.map_checksums,
            self._paths.map_page,
            self._paths.map_item,
            self._paths.map_page_checksums,
        )
        return [path.format(region=region, period=period, map=name) for path in patterns]

    def tile_records(self, region: str, period: str) -> list[str]:
        """Return the record of the tile folders of each block."""
        # Of a skipped block the time series would fail again.
        skipped = self._files.skipped_blocks(region, period)
        return [
            self._paths.tiles.format(region=region, period=period, block=block.id)
            for block in self._files.grids[region].blocks
            if block.id not in skipped
        ]

    def tile_lists(self, region: str, period: str) -> list[str]:
        """Return the list of the tile folders, if they are a product."""
        return self.by_format(region, period).get("tiles", [])[-1:]

    def of_run(self, region: str, period: str) -> list[str]:
        """Return all product files of one region and period, and the list of skipped blocks."""
        files = [path for paths in self.by_format(region, period).values() for path in paths]
        files += self.of_maps(region, period)
        return files + self._files.skip_lists(region, period) + self._skip_records(region, period)

    def _skip_records(self, region: str, period: str) -> list[str]:
        """Return the record of checksums of the list of skipped blocks, if there are any."""
        if not self._files.skipped_blocks(region, period):
            return []
        return [self._paths.skip_list_checksums.format(region=region, period=period)]

    def all(self) -> list[str]:
        """Return the product files of all regions and periods, each once."""
        files = (path for run in runs(self._config) for path in self.of_run(*run))
        return list(dict.fromkeys(files))

    def records(self, region: str, period: str) -> dict[str, str]:
        """Return what has a record of checksums: the path of each store, and of the record of the
        other products, by the name that `JobParams.of_record` has for it."""
        named = {}
        for product, paths in self.by_format(region, period).items():
            if product in STORES:
                named[product] = paths[0]
            else:
                named |= {PurePath(path).stem: path for path in paths if is_record(path)}
        if "tiles" in named:
            records = self.tile_records(region, period)
            named |= {f"{TILES}/{PurePath(path).stem}": path for path in records}
        for path in self._skip_records(region, period):
            named[SKIPPED] = path
        for path in filter(is_record, self.of_maps(region, period)):
            named[f"{PurePath(path).stem} {PurePath(path).parents[1].name}"] = path
        return named

    def described(self, region: str, period: str) -> list[str]:
        """Return the files that a STAC Item describes; it is written after them."""
        files = self.by_format(region, period)
        return [path for name in files if name not in _NOT_DESCRIBED for path in files[name]]

    def described_names(self, region: str, period: str) -> dict[str, list[str]]:
        """Return the file names of each format that a STAC Item describes."""
        files = self.by_format(region, period)
        return {
            product: [PurePath(path).name for path in files[product] if not is_record(path)]
            for product in files
            if product not in _NOT_DESCRIBED
        }

    def openable(self, region: str, period: str) -> dict[str, list[str]]:
        """Return the file names of each format for which the report says how to open it."""
        names = self.described_names(region, period)
        if "stac" in self._config.products.formats:
            names["stac"] = [PurePath(self._paths.item).name]
        if "tiles" in self._config.products.formats:
            names["tiles"] = ["tiles"]
        if maps := self._config.maps_of(region, period):
            names["maps"] = [f"maps/{name}/map.html" for name in maps]
        return names

    def change(self, region: str, period: str) -> list[str]:
        """Return the map of change of a region and period, if it is made."""
        return self.by_format(region, period).get("change", [])[:1]

    def index_inputs(self) -> dict[str, list[str]]:
        """Return the files of all regions and periods that the index page shows or links."""
        return {
            name: [
                pattern.format(region=region, period=period)
                for region, period in runs(self._config)
            ]
            for name, pattern in (
                ("pages", self._paths.report),
                ("checks", self._paths.checks),
                ("previews", self._paths.preview_png),
            )
        }

    def runs(self) -> list[tuple[str, str]]:
        """Return the (region, period) pairs in the order of `index_inputs`."""
        return runs(self._config)

    def stac_items(self, region: str) -> list[str]:
        """Return the STAC Items of a region's periods."""
        return [
            self._paths.item.format(region=region, period=period)
            for name, period in runs(self._config)
            if name == region
        ]

    def cube(self, region: str) -> str:
        """Return the store of all periods of a region, if it is made; else an empty text."""
        made = self._config.products.cube
        return self._paths.cube.format(region=region) if made else ""

    def cube_records(self, region: str) -> list[str]:
        """Return the records that the periods of a region are in its cube, if it is made."""
        if not self._config.products.cube:
            return []
        return [
            self._paths.cube_record.format(region=name, period=period)
            for name, period in runs(self._config)
            if name == region
        ]

    def array_files(self) -> dict[str, str]:
        """Return named output patterns of the reference arrays; float32 has no scales, published
        embeddings have no counts."""
        files = {
            "representation": self._paths.arrays,
            "provenance": self._paths.arrays_provenance,
            "checksums": self._paths.arrays_checksums,
        }
        if self._config.source != "geotessera":
            files["counts"] = self._paths.counts
        if self._config.model.dtype == "int8":
            files["scales"] = self._paths.scales
        return files

    def scene_tables(self) -> dict[str, str]:
        """Return the named output pattern of the table of scenes beside the STAC Item, if there are
        lists of scenes."""
        return {"scenes": self._paths.scenes} if self._config.reads_scenes else {}

    def cog_files(self) -> dict[str, str]:
        """Return named output patterns of the GeoTIFFs of all dimensions."""
        if self._config.products.cog_dtype == "int8":
            files = {"cog": self._paths.cog_codes, "scales": self._paths.cog_scales}
        else:
            files = {"cog": self._paths.cog}
        return files | {"checksums": self._paths.cog_checksums}

    def vrt_files(self) -> dict[str, str]:
        """Return named output patterns of the VRT; float32 has no codes."""
        files = {"vrt": self._paths.vrt, "checksums": self._paths.vrt_checksums}
        if self._config.model.dtype == "int8":
            files["codes"] = self._paths.vrt_codes
        return files

    def vrt_inputs(self) -> dict[str, str]:
        """Return named patterns of the arrays that the VRT reads."""
        files = self.array_files()
        return {name: files[name] for name in ("representation", "scales") if name in files}
