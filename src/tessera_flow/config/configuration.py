"""Define the configuration, check constraints between its sections, and load it.

The keys of each section are in `sections`. The JSON schema
(`workflow/schemas/config.schema.json`), the reference page (`docs/configuration.md`) and the
default `config/config.yaml` are generated from these models (`make generate`); a test fails when
they differ. Unknown keys are errors, with a suggestion. `load_config` checks a document and
reports all problems at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ..errors import ConfigError
from .maps import Map
from .messages import error_messages, refused, shown
from .model import Model
from .overrides import inherited_archives, overridden, sections_of_run, sensor_problems
from .run_sections import Jobs, Paths
from .sections import (
    Download,
    Geotessera,
    GridSettings,
    Period,
    Products,
    Region,
    Sentinel1,
    Sentinel2,
    Tiles,
)
from .sites import Sites
from .types import Name, Section, key, name_text
from .years import with_years_expanded

_EMPTY = "{} is an empty section, but must be filled: at least one entry is required."
SITES = "sites"
"""Folder of sites beside those of regions."""


class Config(Section):
    """Configuration of a run."""

    # A check of two sections is a validator of the later one, which reads the earlier one from
    # `info.data`. So its message is reported together with all other problems.

    regions: dict[Name, Region] = Field(..., description="Regions by name.")
    periods: dict[Name, Period] = Field(..., description="Periods by name.")
    model: Model = Field(Model(), description=Model.__doc__)
    source: Literal["scenes", "tiles", "geotessera"] = key(
        "scenes",
        "Input of the workflow. `scenes`: Sentinel scenes. `tiles`: existing reference tile "
        "folders. `geotessera`: published embeddings; no model is run, unless "
        "`geotessera.fill` is `compute`.",
        validate_default=True,
    )
    preprocessing: Literal["corrected", "as_published"] = key(
        "corrected",
        "Treatment of the Sentinel-2 baseline offset and of no data. `corrected`: follows the "
        "metadata of the scenes. `as_published`: reproduces the published pipeline.",
    )
    grid: GridSettings = Field(GridSettings(), description=GridSettings.__doc__)
    sentinel2: Sentinel2 = Field(Sentinel2(), description=Sentinel2.__doc__)
    sentinel1: Sentinel1 = Field(Sentinel1(), description=Sentinel1.__doc__, validate_default=True)
    download: Download = Field(Download(), description=Download.__doc__)
    tiles: Tiles = Field(Tiles(), description=Tiles.__doc__, validate_default=True)
    geotessera: Geotessera = Field(
        Geotessera(), description=Geotessera.__doc__, validate_default=True
    )
    sites: Sites = Field(Sites(), description=Sites.__doc__, validate_default=True)
    products: Products = Field(Products(), description=Products.__doc__, validate_default=True)
    maps: dict[Name, Map] = Field(
        {},
        description="Maps of a class or a number by name, learned from labels (docs/outputs.md). "
        "Each is made of every region and period.",
    )
    jobs: Jobs = Field(Jobs(), description=Jobs.__doc__, validate_default=True)
    paths: Paths = Field(Paths(), description=Paths.__doc__)

    @field_validator("maps", mode="before")
    @classmethod
    def _no_maps(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("regions", "periods", "maps", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        named: dict[str, Any] = {}
        for key_, section in value.items():
            name = name_text(key_)
            if not isinstance(name, str):
                raise refused(
                    f"{info.field_name} has the name {shown(key_)}: put quotes around it, so "
                    "that YAML reads it as text."
                )
            if name in named:
                raise refused(f"{info.field_name}.{name} is defined twice: rename one of them.")
            named[name] = section
        return named

    @field_validator("periods", mode="after")
    @classmethod
    def _periods_known(cls, value: dict[str, Period], info: ValidationInfo) -> dict[str, Period]:
        unknown = [
            f"regions.{name}.periods has {shown(period)}, which is not defined under periods: use "
            f"{' or '.join(value)}, or add it to periods."
            for name, region in info.data.get("regions", {}).items()
            for period in region.periods or ()
            if period not in value
        ]
        if unknown:
            raise refused("\n".join(unknown))
        return value

    @field_validator("maps", mode="after")
    @classmethod
    def _regions_and_periods_of_maps(
        cls, value: dict[str, Map], info: ValidationInfo
    ) -> dict[str, Map]:
        lines = [
            f"maps.{name}.{kind} has {shown(entry)}, which is not defined under {kind}: use "
            f"{' or '.join(info.data[kind])}, or add it to {kind}."
            for name, settings in value.items()
            for kind in ("regions", "periods")
            if kind in info.data
            for entry in getattr(settings, kind) or ()
            if entry not in info.data[kind]
        ]
        if lines:
            raise refused("\n".join(lines))
        return value

    def maps_of(self, region: str, period: str) -> list[str]:
        """Return the names of the maps of a region and period."""
        return [
            name
            for name, settings in self.maps.items()
            if (settings.regions is None or region in settings.regions)
            and (settings.periods is None or period in settings.periods)
        ]

    @property
    def fills(self) -> bool:
        """Whether holes of published embeddings are computed."""
        return self.source == "geotessera" and self.geotessera.fill == "compute"

    @property
    def reads_scenes(self) -> bool:
        """Whether embeddings, all or some, are computed from scenes."""
        return self.source == "scenes" or self.fills

    @property
    def all_values(self) -> bool:
        """Whether files of patches have values that no embedding depends on: if they are kept or
        exported. Not a parameter of jobs: no finished embedding changes with it."""
        return "patches" in self.paths.keep or "tiles" in self.products.formats

    @property
    def weights(self) -> str | None:
        """Return `model.weights`; None if all embeddings are published ones."""
        return self.model.weights if self.source != "geotessera" or self.fills else None

    def for_run(self, region: str, period: str) -> Config:
        """Return the configuration of one region and period: `sentinel2`, `sentinel1` and
        `model.min_observations` with the keys that the region and the period override.

        Raises:
            KeyError: the region or period does not exist.
        """
        places = (self.regions[region], self.periods[period])
        if not any(overridden(place) for place in places):
            return self
        sections = {name: getattr(self, name) for name in ("sentinel2", "sentinel1", "model")}
        sentinel2, sentinel1, model = sections_of_run(sections, *places)
        return self.model_copy(
            update={"sentinel2": sentinel2, "sentinel1": sentinel1, "model": model}
        )

    def required(self, sensor: str) -> str:
        """Return why scenes of a sensor are required and what to do without; empty if optional.

        Applies to a configuration from `for_run`.

        Args:
            sensor: `sentinel2` or `sentinel1`.
        """
        check = f"check the region, the period and `{sensor}.collection`"
        stream, other = ("s2", "sentinel1") if sensor == "sentinel2" else ("s1", "sentinel2")
        if not getattr(self, other).enabled:
            return f"{sensor} is the only sensor in use: {check}"
        count = getattr(self.model.min_observations, stream)
        if count == 0:
            return ""
        return (
            f"model.min_observations.{stream} is {count}: {check}, or set it to 0 (for one region "
            f"or period: `min_observations` there) to compute embeddings without {sensor}"
        )

    @field_validator("source", mode="after")
    @classmethod
    def _weights_are_set(cls, value: str, info: ValidationInfo) -> str:
        model = info.data.get("model")
        if value != "geotessera" and model is not None and model.weights is None:
            raise refused(
                "model.weights is missing and has no default: set it (path of a checkpoint file, "
                "or a published name)."
            )
        return value

    @field_validator("geotessera", mode="after")
    @classmethod
    def _published_years_and_dimensions(cls, value: Geotessera, info: ValidationInfo) -> Geotessera:
        if info.data.get("source") != "geotessera":
            return value
        lines = [
            "source is geotessera, which has embeddings of calendar years only, but "
            f"periods.{name} is {period.start} to {period.end}: set it to "
            f"{period.start.year}-01-01 to {period.start.year}-12-31, or to another calendar year."
            for name, period in info.data.get("periods", {}).items()
            if period.year is None
        ]
        model = info.data.get("model")
        if model is not None and model.dim not in (None, 128):
            lines.append(
                f"source is geotessera, which has embeddings of 128 dimensions, but model.dim is "
                f"{model.dim}: remove model.dim."
            )
        lines += fill_problems(value, model)
        if {"regions", "periods", "sentinel2", "sentinel1", "model"} <= set(info.data):
            lines += _sensor_lines(info.data, computes=value.fill == "compute")
        if lines:
            raise refused("\n".join(dict.fromkeys(lines)))
        return value

    @field_validator("tiles", mode="after")
    @classmethod
    def _tiles_location_is_set(cls, value: Tiles, info: ValidationInfo) -> Tiles:
        if info.data.get("source") == "tiles" and not value.location:
            raise refused(
                "source is tiles, but tiles.location is missing: set it to the folder of the tiles."
            )
        periods = info.data.get("periods", {})
        if info.data.get("source") == "tiles" and len(periods) > 1:
            _one_folder_per_period(value.location or "", info.data.get("regions", {}), periods)
        return value

    @field_validator("sites", mode="after")
    @classmethod
    def _something_to_compute(cls, value: Sites, info: ValidationInfo) -> Sites:
        lines = [
            _EMPTY.format(name)
            for name in ("regions", "periods")
            if info.data.get(name) == {} and value.table is None
        ]
        if value.table is not None:
            lines += _problems_of_sites(value, info.data)
        if lines:
            raise refused("\n".join(lines))
        return value

    @field_validator("products", mode="after")
    @classmethod
    def _products_are_compatible(cls, value: Products, info: ValidationInfo) -> Products:
        if info.data.get("source") == "geotessera":
            value = _published_products(value)
        assets = ("zarr", "arrays", "cog", "vrt", "geotessera")
        if "stac" in value.formats and not set(assets) & set(value.formats):
            raise refused(
                f"products.formats has stac but none of {', '.join(assets)}: add one of them, "
                "because a STAC Item needs an asset with the embeddings."
            )
        model = info.data.get("model")
        if model is not None and (value.cog_dtype, model.dtype) == ("int8", "float32"):
            raise refused(
                "products.cog_dtype is int8, but model.dtype is float32: set both to the same."
            )
        readable = model is None or (model.dtype == "int8" and model.dim in (None, 128))
        if "geotessera" in value.formats and not readable:
            raise refused(
                "products.formats has geotessera, but the geotessera client reads only int8 with "
                "128 dimensions: remove it, or set model.dtype to int8 and model.dim to 128."
            )
        return value

    @field_validator("sentinel1", mode="after")
    @classmethod
    def _sensors_of_every_run(cls, value: Sentinel1, info: ValidationInfo) -> Sentinel1:
        data = info.data
        if not {"model", "source", "sentinel2"} <= set(data) or data["source"] == "geotessera":
            return value  # another message explains why, or `fill` decides
        computes = data["source"] == "scenes"
        lines = []
        if {"regions", "periods"} <= set(data):
            lines = _sensor_lines({**data, "sentinel1": value}, computes)
        elif computes:
            sections = {"sentinel2": data["sentinel2"], "sentinel1": value, "model": data["model"]}
            lines = sensor_problems(**sections, preprocessing=data.get("preprocessing"))
        if lines:
            raise refused("\n".join(dict.fromkeys(lines)))
        return value

    @field_validator("jobs", mode="after")
    @classmethod
    def _gpu_share_has_a_device(cls, value: Jobs, info: ValidationInfo) -> Jobs:
        model = info.data.get("model")
        uses_gpus = value.cpu_gpu != "auto" and value.cpu_gpu[1] != 0
        store = info.data.get("geotessera")
        if info.data.get("source") == "geotessera" and (store is None or store.fill == "nodata"):
            return value
        if uses_gpus and model is not None and model.device == "cpu":
            raise refused(
                f"jobs.cpu_gpu is {value.cpu_gpu}, but model.device is cpu, so no block can be "
                "embedded on a GPU: set jobs.cpu_gpu to [1, 0] or auto, or model.device to auto."
            )
        return value


def _problems_of_sites(sites: Sites, data: Mapping[str, Any]) -> list[str]:
    """Return what other sections do not allow with `sites`, as complete messages."""
    lines = []
    if data.get("source", "scenes") != "scenes":
        lines.append(
            f"sites.table is set, but source is {data['source']}: sites are read from scenes only. "
            "Remove sites, or set source to scenes."
        )
    grid = data.get("grid")
    if grid is not None and grid.downsample_rate != 1:
        lines.append(
            f"sites.table is set, but grid.downsample_rate is {grid.downsample_rate}: pixels of "
            "sites are not left out. Set it to 1."
        )
    model = data.get("model")
    if sites.values == "codes" and model is not None and model.dtype != "int8":
        lines.append(
            f"sites.values is codes, but model.dtype is {model.dtype}, which has no codes: remove "
            "sites.values, or set model.dtype to int8."
        )
    if SITES in data.get("regions", {}):
        lines.append(
            f"regions.{SITES} has the name of the folder of sites: rename the region, because "
            "sites.table is set."
        )
    if data.get("regions") and not data.get("periods"):
        lines.append(_EMPTY.format("periods"))
    return lines


def _problems_of_runs(
    sections: Mapping[str, Any],
    regions: Mapping[str, Region],
    periods: Mapping[str, Period],
    preprocessing: str | None,
) -> list[str]:
    """Return what is wrong with the sensors of each region and period, as complete messages."""
    lines = []
    for name, period in run_names(regions, periods):
        both = (regions[name], periods[period])
        differs = any(overridden(section) for section in both)
        where = f"Region {name}, period {period}: " if differs else ""
        run = sections_of_run(sections, *both)
        texts = sensor_problems(*run, preprocessing)
        for sensor in ("sentinel2", "sentinel1"):
            texts += inherited_archives(
                sections[sensor], *(getattr(section, sensor) for section in both)
            )
        lines += [f"{where}{text}" for text in texts]
    return lines


def _sensor_lines(data: Mapping[str, Any], computes: bool) -> list[str]:
    """Return what is wrong with the sensors of all regions and periods, as complete messages.

    Args:
        data: the sections.
        computes: whether scenes are read.
    """
    lines = _unused_overrides(data, computes)
    if computes:
        sections = {name: data[name] for name in ("sentinel2", "sentinel1", "model")}
        places = (data["regions"], data["periods"])
        lines += _problems_of_runs(sections, *places, data.get("preprocessing"))
    return lines


def _unused_overrides(data: Mapping[str, Any], computes: bool) -> list[str]:
    """Return messages about keys of regions and periods that the source does not use."""
    unused = {
        "scenes": (),
        "tiles": ("sentinel2.", "sentinel1."),
        "geotessera": () if computes else ("sentinel2.", "sentinel1.", "min_observations."),
    }[data["source"]]
    return [
        f"{kind}.{name}.{key} is set, but source is {data['source']}, which does not use it: "
        "remove it."
        for kind in ("regions", "periods")
        for name, place in data[kind].items()
        for key in overridden(place)
        if key.startswith(unused)
    ]


def _one_folder_per_period(
    location: str, regions: Mapping[str, Region], periods: Mapping[str, Period]
) -> None:
    """Refuse a folder of tiles that several periods would read."""
    for name, region in regions.items():
        computed = list(dict.fromkeys(region.periods or periods))
        if len(computed) > 1 and "{period}" not in location:
            raise refused(
                f"tiles.location is {shown(location)}, but region {name} has {len(computed)} "
                f"periods ({', '.join(computed)}), which would all be made from the same tiles: "
                "put {period} into it, and name the folders accordingly."
            )


def fill_problems(store: Geotessera, model: Model | None) -> list[str]:
    """Return what the settings of the model do not allow with `geotessera.fill: compute`."""
    if store.fill != "compute" or model is None:
        return []
    lines = []
    if model.weights is None:
        lines.append(
            "geotessera.fill is compute, but model.weights is missing: set it to the checkpoint "
            "with which the store was computed."
        )
    if model.dtype != "int8":
        lines.append(
            f"geotessera.fill is compute, but model.dtype is {model.dtype}: published embeddings "
            "are int8 codes, so computed ones must be, too. Remove model.dtype."
        )
    return lines


def _published_products(products: Products) -> Products:
    """Return the products that published embeddings allow.

    A store has no observation counts and no time series. Products that need them are removed
    from the default formats, and are an error if the user lists them.
    """
    unavailable = {"counts": "observation counts", "tiles": "time series"}
    if "formats" not in products.model_fields_set:
        formats = [name for name in products.formats if name not in unavailable]
        return products.model_copy(update={"formats": formats})
    for name in products.formats:
        if name in unavailable:
            raise refused(
                f"products.formats has {name}, but source is geotessera, and published embeddings "
                f"have no {unavailable[name]}: remove it."
            )
    return products


def load_config(document: Mapping[str, Any]) -> Config:
    """Return the validated configuration of a document (from YAML, or Snakemake's `config`).

    Raises:
        ConfigError: the document is invalid; one line per problem.
    """
    if not isinstance(document, Mapping) or not document:
        raise ConfigError(
            f"The configuration is {shown(document)}, but must be a mapping with the keys regions, "
            "periods and model: see docs/configuration.md."
        )
    try:
        return Config.model_validate(with_years_expanded(_with_empty_regions(document)))
    except ValidationError as error:
        raise ConfigError("\n".join(error_messages(error, Config))) from error


def _with_empty_regions(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a document that has `regions` and `periods`, if it has a table of sites."""
    sites = document.get("sites")
    if not isinstance(sites, Mapping) or sites.get("table") is None:
        return document
    given = {key: value for key, value in document.items() if value is not None}
    return {"regions": {}, "periods": {}, **given}


def runs(config: Config) -> list[tuple[str, str]]:
    """Return the (region, period) pairs to compute, in the order of the configuration."""
    return run_names(config.regions, config.periods)


def run_names(
    regions: Mapping[str, Region], periods: Mapping[str, Period]
) -> list[tuple[str, str]]:
    """Return the (region, period) pairs of sections by name, in their order."""
    return [
        (name, period)
        for name, region in regions.items()
        for period in dict.fromkeys(region.periods or periods)
    ]
