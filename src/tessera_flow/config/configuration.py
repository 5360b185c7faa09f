"""The whole configuration: its sections, what they demand of one another, and how it is loaded.

The keys of the sections are in `config_sections`. The JSON schema
(`workflow/schemas/config.schema.json`), the reference page (`docs/configuration.md`) and the
default `config/config.yaml` are generated from these models (`make generate`); a test fails when
they differ. Unknown keys are refused, with the nearest known name. `load_config` is the door: it
checks everything at once and speaks in sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ..errors import ConfigError
from .messages import refused, sentences, shown
from .sections import (
    Download,
    Geotessera,
    GridSettings,
    Jobs,
    Model,
    Paths,
    Period,
    Products,
    Region,
    Sentinel1,
    Sentinel2,
    Tiles,
)
from .types import Name, Section, key, name_text


class Config(Section):
    """The whole configuration."""

    # A check that looks at two sections stands with the later one and finds the earlier in
    # `info.data`: so it is reported together with whatever else is wrong.

    regions: dict[Name, Region] = Field(..., description="Regions by name.", min_length=1)
    periods: dict[Name, Period] = Field(..., description="Periods by name.", min_length=1)
    model: Model = Field(Model(), description=Model.__doc__)
    source: Literal["scenes", "tiles", "geotessera"] = key(
        "scenes",
        "What embeddings are made from. `scenes`: Sentinel scenes. `tiles`: reference tile folders "
        "that are there already. `geotessera`: nothing, as published embeddings are taken.",
        validate_default=True,
    )
    preprocessing: Literal["corrected", "as_published"] = key(
        "corrected",
        "Baseline offset and no data. `corrected`: as they physically are. `as_published`: as in the "
        "published pipeline, to reproduce it.",
    )
    grid: GridSettings = Field(GridSettings(), description=GridSettings.__doc__)
    sentinel2: Sentinel2 = Field(Sentinel2(), description=Sentinel2.__doc__)
    sentinel1: Sentinel1 = Field(Sentinel1(), description=Sentinel1.__doc__, validate_default=True)
    download: Download = Field(Download(), description=Download.__doc__)
    tiles: Tiles = Field(Tiles(), description=Tiles.__doc__, validate_default=True)
    geotessera: Geotessera = Field(
        Geotessera(), description=Geotessera.__doc__, validate_default=True
    )
    products: Products = Field(Products(), description=Products.__doc__, validate_default=True)
    jobs: Jobs = Field(Jobs(), description=Jobs.__doc__, validate_default=True)
    paths: Paths = Field(Paths(), description=Paths.__doc__)

    @field_validator("regions", "periods", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        named: dict[str, Any] = {}
        for given, section in value.items():
            name = name_text(given)
            if not isinstance(name, str):
                raise refused(
                    f"{info.field_name} has the name {shown(given)}: put quotes around it, so "
                    "that YAML reads it as text."
                )
            if name in named:
                raise refused(f"{info.field_name}.{name} stands there twice: rename one of them.")
            named[name] = section
        return named

    @field_validator("periods", mode="after")
    @classmethod
    def _periods_known(cls, value: dict[str, Period], info: ValidationInfo) -> dict[str, Period]:
        unknown = [
            f"regions.{name}.periods names {shown(period)}, which is not under periods: use "
            f"{' or '.join(value)}, or add it there."
            for name, region in info.data.get("regions", {}).items()
            for period in region.periods or ()
            if period not in value
        ]
        if unknown:
            raise refused("\n".join(unknown))
        return value

    @property
    def weights(self) -> str | None:
        """The weights in use: none where embeddings are published ones."""
        return None if self.source == "geotessera" else self.model.weights

    @field_validator("source", mode="after")
    @classmethod
    def _weights_given(cls, value: str, info: ValidationInfo) -> str:
        model = info.data.get("model")
        if value != "geotessera" and model is not None and model.weights is None:
            raise refused(
                "model.weights is missing and has no default: set it (path of a checkpoint file, "
                "or a published name)."
            )
        return value

    @field_validator("geotessera", mode="after")
    @classmethod
    def _store_has_it(cls, value: Geotessera, info: ValidationInfo) -> Geotessera:
        if info.data.get("source") != "geotessera":
            return value
        lines = [
            f"source is geotessera, whose embeddings are of calendar years, but periods.{name} is "
            f"{period.start} to {period.end}: set it to {period.start.year}-01-01 to "
            f"{period.start.year}-12-31, or to another year."
            for name, period in info.data.get("periods", {}).items()
            if period.year is None
        ]
        model = info.data.get("model")
        if model is not None and model.dim not in (None, 128):
            lines.append(
                f"source is geotessera, whose embeddings have 128 dimensions, but model.dim is "
                f"{model.dim}: leave it out."
            )
        if lines:
            raise refused("\n".join(lines))
        return value

    @field_validator("tiles", mode="after")
    @classmethod
    def _tiles_located(cls, value: Tiles, info: ValidationInfo) -> Tiles:
        if info.data.get("source") == "tiles" and not value.location:
            raise refused("source is tiles, so tiles.location is needed: the folder of the tiles.")
        return value

    @field_validator("products", mode="after")
    @classmethod
    def _products_possible(cls, value: Products, info: ValidationInfo) -> Products:
        if info.data.get("source") == "geotessera":
            value = _of_published(value)
        main = ("zarr", "arrays", "vrt", "geotessera")
        if "stac" in value.formats and not set(main) & set(value.formats):
            raise refused(
                f"products.formats has stac but none of {', '.join(main)}: add one of them, as the "
                "STAC Item must have an asset that holds the embeddings."
            )
        model = info.data.get("model")
        readable = model is None or (model.dtype == "int8" and model.dim in (None, 128))
        if "geotessera" in value.formats and not readable:
            raise refused(
                "products.formats has geotessera, whose client reads int8 with 128 dimensions: "
                "take it out, or set model.dtype to int8 and model.dim to 128."
            )
        return value

    @field_validator("sentinel1", mode="after")
    @classmethod
    def _statistics_of_the_source(cls, value: Sentinel1, info: ValidationInfo) -> Sentinel1:
        sentinel2, model = info.data.get("sentinel2"), info.data.get("model")
        if sentinel2 is None or model is None or info.data.get("source") != "scenes":
            return value
        if model.allow_statistics_mismatch:
            return value
        for sensor, source in (("sentinel2", sentinel2), ("sentinel1", value)):
            if source.enabled and model.statistics not in (None, source.data_source):
                raise refused(
                    f"model.statistics is {model.statistics}, but {sensor} comes from "
                    f"{source.data_source}, and a checkpoint gives nonsense with data of another "
                    f"source: use the {source.data_source} checkpoint and its statistics, or set "
                    "model.allow_statistics_mismatch to true if you mean it."
                )
        return value

    @field_validator("sentinel1", mode="after")
    @classmethod
    def _enough_sensors(cls, value: Sentinel1, info: ValidationInfo) -> Sentinel1:
        sentinel2, model = info.data.get("sentinel2"), info.data.get("model")
        if sentinel2 is None or model is None or info.data.get("source") != "scenes":
            return value
        least = model.min_observations
        if not (value.enabled or sentinel2.enabled):
            raise refused(
                "sentinel2.enabled and sentinel1.enabled are both false: enable at least one "
                "sensor."
            )
        for stream, sensor, enabled, count in (
            ("s2", "sentinel2", sentinel2.enabled, least.s2),
            ("s1", "sentinel1", value.enabled, least.s1),
        ):
            if count and not enabled:
                raise refused(
                    f"model.min_observations.{stream} is {count}, but {sensor}.enabled is "
                    "false, so no pixel would get an embedding: set it to 0."
                )
        return value

    @field_validator("jobs", mode="after")
    @classmethod
    def _gpu_share_has_a_device(cls, value: Jobs, info: ValidationInfo) -> Jobs:
        model = info.data.get("model")
        asked = value.cpu_gpu != "auto" and value.cpu_gpu[1] != 0
        if info.data.get("source") == "geotessera":
            return value
        if asked and model is not None and model.device == "cpu":
            raise refused(
                f"jobs.cpu_gpu is {value.cpu_gpu}, but model.device is cpu, so no block can be "
                "embedded on a GPU: set jobs.cpu_gpu to [1, 0] or auto, or model.device to auto."
            )
        return value


def _of_published(products: Products) -> Products:
    """The products of published embeddings: those that need what a store does not tell are
    refused where they are asked for, and not among the default ones."""
    unknown = {"counts": "observation counts", "tiles": "time series"}
    if "formats" not in products.model_fields_set:
        formats = [name for name in products.formats if name not in unknown]
        return products.model_copy(update={"formats": formats})
    for name in products.formats:
        if name in unknown:
            raise refused(
                f"products.formats has {name}, but source is geotessera, and published embeddings "
                f"come without {unknown[name]}: take it out."
            )
    return products


def load_config(document: Mapping[str, Any]) -> Config:
    """Check a configuration document (from YAML, or Snakemake's `config`).

    Raises:
        ConfigError: one line for each problem found.
    """
    if not isinstance(document, Mapping) or not document:
        raise ConfigError(
            f"The configuration is {shown(document)}, but must be a mapping with the keys regions, "
            "periods and model: see docs/configuration.md."
        )
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error, Config))) from error


def runs(config: Config) -> list[tuple[str, str]]:
    """The (region, period) pairs to compute, in the order of the configuration."""
    return [
        (name, period)
        for name, region in config.regions.items()
        for period in dict.fromkeys(region.periods or config.periods)
    ]
