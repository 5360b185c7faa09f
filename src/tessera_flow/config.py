"""Every configuration key: type, default, unit and meaning, in one place.

The JSON schema (`workflow/schemas/config.schema.json`), the reference page
(`docs/configuration.md`) and the default `config/config.yaml` are generated from these
models (`make generate`); a test fails when they differ. Unknown keys are refused, with
the nearest known name. `load_config` is the door: it checks everything at once and
speaks in sentences.

The first sentence of each description stands alone: it is the comment in config.yaml.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from .config_errors import expected, literals, refused, sentences, shown
from .errors import ConfigError
from .hrefs import public_href

_LAST_YEAR = 2200
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _day(value: Any) -> datetime.date:
    """A day from YAML (a date), from the command line (text) or from another tool (midnight)."""
    what = "a day written as 2023-01-31"
    if isinstance(value, str):
        if not re.match(r"\d{4}-\d{2}-\d{2}", value.strip()):
            raise expected(what)
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise expected(f"{what} that exists in the calendar") from None
    if isinstance(value, datetime.datetime):
        moment = value.astimezone(datetime.UTC) if value.tzinfo else value
        if moment.time() != datetime.time(0):
            raise expected("a whole day, without a time of day")
        return moment.date()
    if isinstance(value, datetime.date):
        return value
    raise expected(what)


def _name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise expected(
            "a name of letters, digits, _ and - that begins with a letter or digit (it becomes "
            "the name of a folder)"
        )
    return value


def _name_text(value: Any) -> Any:
    """A name as text: YAML reads `2023` as a number and `2023-01-01` as a date."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole or isinstance(value, datetime.date) else value


def _names_text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_name_text(name) for name in value]
    return value


def _heads(value: Any) -> Any:
    """[S2, S1] from one number, a list of one or two, or text such as `4,2`."""
    parts = value
    if isinstance(value, str):
        parts = [int(p) if p.strip().isdigit() else p for p in value.strip(" []").split(",")]
    elif isinstance(value, int) and not isinstance(value, bool):
        parts = [value]
    whole = isinstance(parts, list | tuple) and all(type(p) is int and p > 0 for p in parts)
    if not whole or len(parts) not in (1, 2):
        raise expected("one number of heads from 1, or two, as in [4, 2]: Sentinel-2, Sentinel-1")
    return [parts[0], parts[-1]]


def _shares(value: Any) -> Any:
    """[CPU, GPU] from a list, from text such as `1:4`, or `auto`."""
    parts = value
    if isinstance(value, str):
        if value.strip() == "auto":
            return "auto"
        parts = [int(p) if p.strip().isdigit() else p for p in re.split("[:,]", value.strip(" []"))]
    whole = isinstance(parts, list | tuple) and all(type(p) is int and p >= 0 for p in parts)
    if not whole or len(parts) != 2 or not any(parts):
        raise expected(
            "auto, or two whole numbers as in [1, 4]: shares of the blocks for CPUs and for GPUs, "
            "not both 0"
        )
    return list(parts)


_SHARES_SCHEMA = {
    "anyOf": [
        {"const": "auto"},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2},
        {"type": "string", "pattern": r"^\s*\d+\s*[:,]\s*\d+\s*$"},
    ]
}

_HEADS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 1,
            "maxItems": 2,
        },
        {"type": "string", "pattern": r"^\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)?$"},
    ]
}

HeadCounts = Annotated[list[int], BeforeValidator(_heads), WithJsonSchema(_HEADS_SCHEMA)]
Shares = Annotated[list[int] | str, BeforeValidator(_shares), WithJsonSchema(_SHARES_SCHEMA)]
Day = Annotated[datetime.date, BeforeValidator(_day)]
Name = Annotated[str, AfterValidator(_name)]
NameReference = Annotated[list[str], BeforeValidator(_names_text), Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        """A heading with nothing under it (YAML: null) is a section at its defaults."""
        if value is None:
            return {}
        return dict(value) if isinstance(value, Mapping) else value

    @field_validator("*", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any, info: ValidationInfo) -> Any:
        """`snakemake --config 'grid={block_size: 50}'` hands 50 over as text."""
        if not isinstance(value, str) or info.field_name is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        choices = literals(annotation)
        if annotation in (int, float, bool) or (choices and isinstance(choices[0], int)):
            try:
                plain = json.loads(value.lower())
            except ValueError:
                return value
            return plain if isinstance(plain, int | float) else value
        return value


def _key(default: Any, description: str, unit: str | None = None, **limits: Any) -> Any:
    return Field(
        default,
        description=description,
        json_schema_extra={"unit": unit} if unit else None,
        **limits,
    )


class Region(_Section):
    """One region of interest."""

    roi: str = _key(
        ...,
        "Path of the region: a vector file or a raster mask. Vector: GeoJSON, GeoPackage, "
        "shapefile, FlatGeobuf, ...; mask: GeoTIFF, value > 0 is inside. Relative to the working "
        "directory.",
        min_length=1,
    )
    layer: str | None = _key(
        None,
        "Layer of a vector file with several layers. The only layer if left out.",
        min_length=1,
    )
    crs: str = _key(
        "auto",
        "CRS of the products, such as EPSG:32631, or auto. `auto`: the UTM zone of the centroid "
        "(with the Norway and Svalbard exceptions) for a vector, the raster's own CRS for a mask.",
        min_length=1,
    )
    align: Literal["lattice", "roi"] = _key(
        "lattice",
        "Where pixels lie. `lattice`: bounds are snapped outwards to multiples of the resolution, "
        "so that pixels coincide with Sentinel-2's. `roi`: keep a raster mask's own origin, at "
        "the price of resampling.",
    )
    periods: NameReference | None = _key(
        None, "Names of the periods to compute for this region. All of them if left out."
    )


class Period(_Section):
    """One period: the days whose scenes make one embedding. It may cross a year's end."""

    start: Day = _key(..., "First day (UTC).")
    end: Day = _key(..., "Last day (UTC), included.")

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.end.year > _LAST_YEAR:
            raise ValueError(
                f"end {self.end} is beyond the year {_LAST_YEAR}; a period ends on a day with "
                "scenes, so set it to one"
            )
        if self.end < self.start:
            raise ValueError(
                f"end {self.end} is before start {self.start}; the end is the last day of the "
                "period, so set it to the start or later"
            )
        return self


class GridSettings(_Section):
    """The pixel grid and its division."""

    resolution: float = _key(10.0, "Pixel size.", "CRS unit, m for UTM", gt=0)
    block_size: int = _key(
        2000, "Edge of a block, the unit of download, stack and inference jobs.", "px", ge=1
    )
    patch_size: int = _key(500, "Edge of a patch, the unit of memory inside a block.", "px", ge=1)
    downsample_rate: int = _key(
        1,
        "Keep every n-th pixel in rows and columns. `block_size` must be a multiple of it.",
        ge=1,
    )

    @model_validator(mode="after")
    def _divisible(self) -> GridSettings:
        if self.block_size % self.downsample_rate:
            raise ValueError(
                f"block_size {self.block_size} is not a multiple of downsample_rate "
                f"{self.downsample_rate}; choose one that is"
            )
        return self


PUBLISHED_AS = {"mpc": "mpc", "earth-search": "aws", "opera": "aws"}
"""Whose statistics go with the scenes of each source, in the words of `model.statistics`."""

_COLLECTION = "Collection to search. Default: the source's own, as docs/sources.md lists them."


class _Source(_Section):
    enabled: bool = _key(True, "Use this sensor.")
    # What there is to choose from differs by sensor; see the subclasses.
    provider: str = _key("mpc", "")
    location: str | None = _key(
        None,
        "Where a local archive is: URL or path. For `local`: URL of a STAC API, or path or URL of "
        "a static STAC catalog, of an item-collection JSON file or of a stac-geoparquet file. For "
        "the others: another endpoint of the same service, if any.",
        min_length=1,
    )
    imitates: str = _key("mpc", "")
    collection: str | None = _key(None, _COLLECTION, min_length=1)

    @property
    def data_source(self) -> str:
        """Whose data the scenes are: what the statistics of a model must go with."""
        return PUBLISHED_AS[self.imitates if self.provider == "local" else self.provider]

    @model_validator(mode="after")
    def _located(self) -> _Source:
        if self.enabled and self.provider == "local" and not self.location:
            raise ValueError(
                "provider is local, so location is needed: the URL of a STAC API, or the path of "
                "a catalog, item-collection or stac-geoparquet file"
            )
        return self


class Sentinel2(_Source):
    """Optical scenes (Sentinel-2 L2A)."""

    provider: Literal["mpc", "earth-search", "local"] = _key(
        "mpc",
        "Where scenes come from. `mpc`: Microsoft Planetary Computer. `earth-search`: Earth "
        "Search on AWS. `local`: your own archive, named by `location`.",
    )
    imitates: Literal["mpc", "earth-search"] = _key(
        "mpc", "For `local`: whose asset names and offset rules the items follow."
    )
    max_cloud: float = _key(
        100.0,
        "Largest `eo:cloud_cover` of a scene; 100 is no limit. A lower limit drops scenes whole.",
        "%",
        ge=0,
        le=100,
    )


class Sentinel1(_Source):
    """Radar scenes (Sentinel-1 RTC gamma0)."""

    provider: Literal["mpc", "opera", "local"] = _key(
        "mpc",
        "Where scenes come from. `mpc`: Microsoft Planetary Computer. `opera`: OPERA RTC-S1 at "
        "the Alaska Satellite Facility; needs an Earthdata token. `local`: your own archive, "
        "named by `location`.",
    )
    imitates: Literal["mpc", "opera"] = _key(
        "mpc", "For `local`: whose asset names and pixel grid the items follow."
    )
    orbits: Literal["both", "ascending", "descending"] = _key("both", "Orbit directions to use.")


class Download(_Section):
    """Reading scenes."""

    slice_months: int = _key(
        4,
        "Months of a period that one download job reads. Fewer make more and shorter jobs.",
        "months",
        ge=1,
    )
    threads: int = _key(
        16,
        "Concurrent reads in one download job. They mostly wait for the archive, so more than "
        "there are processor cores.",
        ge=1,
    )
    attempts: int = _key(
        5, "Tries of one request, for data or for a list of scenes, before it has failed.", ge=1
    )
    timeout: float = _key(60.0, "Longest wait for an answer, or for more of it.", "s", gt=0)
    deadline: float = _key(
        900.0,
        "Longest time that reading one file may take with all tries and pauses. A service that "
        "asks to wait longer (`Retry-After`) fails the block at once.",
        "s",
        gt=0,
    )
    max_lost: float = _key(
        50.0,
        "Largest share of a block's scenes in one slice that may be missing or corrupt at the "
        "archive. They are left out and recorded; more is taken for an outage and fails the "
        "block. 0: none, 100: no limit.",
        "%",
        ge=0,
        le=100,
    )
    empty_block: Literal["error", "nodata"] = _key(
        "error",
        "What becomes of a block that no scene covers. `error` fails it, `nodata` publishes it "
        "without embeddings.",
    )


class MinObservations(_Section):
    """Observations a pixel needs to get an embedding."""

    s2: int = _key(1, "Valid Sentinel-2 steps.", ge=0)
    s1: int = _key(0, "Valid Sentinel-1 steps, both orbits together.", ge=0)


class Model(_Section):
    """The encoder and how it is run."""

    weights: str = _key(
        ...,
        "Path of a checkpoint file, or a published name. Names: `v2-nano`, `v2-small`, "
        "`v2-medium`, `v2-large`, `v2-teacher` (downloaded once from Hugging Face). Checkpoints of "
        "v1.0 and v1.1 are files of yours. The family is recognised from the content.",
        min_length=1,
    )
    cache: str | None = _key(
        None,
        "Folder for downloaded weights, shared between runs. Default: the Hugging Face cache "
        "(`HF_HOME`, or `~/.cache/huggingface`).",
        min_length=1,
    )
    statistics: Literal["mpc", "aws"] | None = _key(
        None,
        "For v1.1: source of the data that the checkpoint was trained on. Required there: there is "
        "one checkpoint for Planetary Computer (`mpc`) and one for AWS (`aws`), each with its own "
        "statistics. Other families have one set: leave it out.",
    )
    allow_statistics_mismatch: bool = _key(
        False,
        "Use the statistics of another source than the scenes come from. Such embeddings are not "
        "what the model was trained to give.",
    )
    heads: HeadCounts | None = _key(
        None,
        "Attention heads, to override what the checkpoint states. One number, or two for "
        "Sentinel-2 and Sentinel-1, as in `[4, 2]`. Default: what the checkpoint states; where it "
        "is silent 8 for v1.0 float and 4 for the others, which the log says.",
    )
    dim: Literal[16, 32, 64, 128] | None = _key(
        None,
        "Leading dimensions to keep, cut before quantising. Default: all that the family stores, "
        "128 (v2 teacher: 1024). The v2 students can be cut to 16, 32 or 64.",
    )
    dtype: Literal["int8", "float32"] = _key(
        "int8", "What is stored. int8 codes with one float32 scale per pixel, or float32."
    )
    seed: int = _key(
        0,
        "For v1.0: seed of the random draws of observations. A pixel's draws depend on the seed, "
        "on its row and column in the region's grid, and on nothing else.",
        ge=0,
    )
    repeat_times: int = _key(1, "For v1.0: number of draws that are averaged.", ge=1)
    min_observations: MinObservations = Field(
        MinObservations(), description=MinObservations.__doc__
    )
    device: Literal["auto", "cpu", "cuda", "xpu"] = _key(
        "auto",
        "Where the encoder runs. `cuda`: an NVIDIA GPU, or an AMD one under PyTorch for ROCm; "
        "`xpu`: an Intel GPU. `auto`: the GPU where there is one, else the CPU.",
    )
    precision: Literal["auto", "float32", "bf16"] = _key(
        "auto",
        "Of the factors in the encoders' matrix products; sums are float32. `bf16` is faster where "
        "the device computes in it, and codes may differ by up to 4 (docs/equivalence.md). "
        "`auto`: float32 on a CPU, bf16 on a GPU that has it.",
    )
    batch_size: int = _key(
        4096,
        "Most pixels in one forward pass on a GPU; where its memory does not suffice, half of it. "
        "A CPU takes fewer: what its cache holds.",
        "px",
        ge=1,
    )


class Products(_Section):
    """What is written at the end. Changing these keys reruns only stitching and later."""

    formats: list[
        Literal[
            "zarr", "arrays", "preview", "counts", "vrt", "stac", "geotessera", "tiles", "report"
        ]
    ] = _key(
        ["zarr", "arrays", "preview", "counts", "stac", "report"],
        "Products to write. `zarr`: Zarr v3 store. `arrays`: the reference's .npy arrays. "
        "`preview`: RGB GeoTIFF and PNG of three principal components. `counts`: GeoTIFF of "
        "observation counts. `vrt`: all dimensions for GDAL, over the arrays, which it has made. "
        "`stac`: Collection and Items. `geotessera`: store of the geotessera client (int8, 128 "
        "dimensions). `tiles`: the time series as reference tile folders; they are as large as "
        "the scenes. `report`: HTML page with checks; it has the preview made.",
        min_length=1,
    )
    zarr_chunk: int = _key(
        100,
        "Largest edge of a chunk of the Zarr store. All dimensions of a pixel lie together.",
        "px",
        ge=1,
    )
    max_seam: float = _key(
        1.5,
        "Largest seam score that passes the check. The score is the difference across block "
        "borders, divided by that beside them.",
        gt=0,
    )
    max_saturated: float = _key(
        10.0,
        "Share of int8 codes at an end of their range above which it fails.",
        "%",
        ge=0,
        le=100,
    )
    preview_stretch: float = _key(
        2.0, "Percentile cut at both ends of each preview colour.", "%", ge=0, lt=50
    )


class Tiles(_Section):
    """Reference tile folders in place of scenes (`source: tiles`)."""

    location: str | None = _key(
        None,
        "Folder that holds the tile folders; `{region}` and `{period}` in it are replaced. The "
        "tiles must lie on the region's grid, and `grid.patch_size` be their edge.",
        min_length=1,
    )


class Jobs(_Section):
    """How the work is spread over machines. No key here changes an embedding."""

    cpu_gpu: Shares = _key(
        "auto",
        "Shares of the blocks that CPUs and GPUs embed, such as [1, 4]. `[0, 1]`: all on GPUs. "
        "Blocks take turns in the order of the grid, so that the choice repeats. `auto`: as "
        "`model.device` says; where that is `auto`, GPUs if the machine that Snakemake runs on has "
        "one. On a cluster whose login node has none, write it out.",
    )
    without_gpu: Literal["error", "cpu"] = _key(
        "error",
        "What a GPU job does that finds no GPU. `error` fails it, `cpu` runs it on the CPU.",
    )
    max_disk_gb: float | None = _key(
        None,
        "Most disk for intermediate files; limits the blocks in flight. At least one block is "
        "always worked on. Default: no limit.",
        "GB",
        gt=0,
    )
    at_once: int = _key(
        100, "Jobs at once that `snakemake plan` reckons with. The run itself has `--jobs`.", ge=1
    )
    at_home: list[Literal["items", "weights", "download"]] = _key(
        [],
        "Rules that run where Snakemake itself runs. For clusters whose compute nodes have no "
        "internet and that have no partition for transfers.",
    )
    scratch: str | None = _key(
        None,
        "Folder on a node's own disk to which jobs copy large inputs before they read them. "
        "Environment variables are replaced on the node, as in `$TMPDIR`. Default: inputs are "
        "read where they are.",
        min_length=1,
    )
    failed_blocks: Literal["refuse", "hole"] = _key(
        "refuse",
        "What becomes of blocks that failed in an earlier run. `refuse`: they are computed again, "
        "and no product is written without them. `hole`: products are written now, without "
        "embeddings there; what was left out is stated in `work/<region>/<period>/holes`.",
    )


class Paths(_Section):
    """Where files go, relative to the working directory."""

    results: str = _key("results", "Products.", min_length=1)
    work: str = _key("work", "Intermediate files; may be on scratch.", min_length=1)
    logs: str = _key("logs", "Log and benchmark files.", min_length=1)
    keep: list[Literal["slices", "stack", "patches"]] = _key(
        [],
        "Intermediate files to keep. The others are deleted when no job needs them any more. Keep "
        "`patches` to try several models or settings without reading the scenes again.",
    )


class Config(_Section):
    """The whole configuration."""

    # A check that looks at two sections stands with the later one and finds the earlier in
    # `info.data`: so it is reported together with whatever else is wrong.

    regions: dict[Name, Region] = Field(..., description="Regions by name.", min_length=1)
    periods: dict[Name, Period] = Field(..., description="Periods by name.", min_length=1)
    model: Model = Field(..., description=Model.__doc__)
    source: Literal["scenes", "tiles"] = _key(
        "scenes",
        "What embeddings are made from. `scenes`: Sentinel scenes. `tiles`: reference tile folders "
        "that are there already.",
    )
    arithmetic: Literal["exact", "reference"] = _key(
        "exact",
        "Baseline offset and no data. `exact`: as they physically are. `reference`: as in the "
        "published pipeline, to reproduce it.",
    )
    grid: GridSettings = Field(GridSettings(), description=GridSettings.__doc__)
    sentinel2: Sentinel2 = Field(Sentinel2(), description=Sentinel2.__doc__)
    sentinel1: Sentinel1 = Field(Sentinel1(), description=Sentinel1.__doc__, validate_default=True)
    download: Download = Field(Download(), description=Download.__doc__)
    tiles: Tiles = Field(Tiles(), description=Tiles.__doc__, validate_default=True)
    products: Products = Field(Products(), description=Products.__doc__)
    jobs: Jobs = Field(Jobs(), description=Jobs.__doc__, validate_default=True)
    paths: Paths = Field(Paths(), description=Paths.__doc__)

    @field_validator("regions", "periods", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        named: dict[str, Any] = {}
        for given, section in value.items():
            name = _name_text(given)
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

    @field_validator("tiles", mode="after")
    @classmethod
    def _tiles_located(cls, value: Tiles, info: ValidationInfo) -> Tiles:
        if info.data.get("source") == "tiles" and not value.location:
            raise refused("source is tiles, so tiles.location is needed: the folder of the tiles.")
        return value

    @field_validator("products", mode="after")
    @classmethod
    def _products_possible(cls, value: Products, info: ValidationInfo) -> Products:
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
        if sentinel2 is None or model is None or model.allow_statistics_mismatch:
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
        if sentinel2 is None or model is None:
            return value
        least = model.min_observations
        if not (value.enabled or sentinel2.enabled):
            raise refused(
                "sentinel2.enabled and sentinel1.enabled are both false: enable at least one "
                "sensor."
            )
        for key, sensor, enabled, count in (
            ("s2", "sentinel2", sentinel2.enabled, least.s2),
            ("s1", "sentinel1", value.enabled, least.s1),
        ):
            if count and not enabled:
                raise refused(
                    f"model.min_observations.{key} is {count}, but {sensor}.enabled is false, so "
                    "no pixel would get an embedding: set it to 0."
                )
        return value

    @field_validator("jobs", mode="after")
    @classmethod
    def _gpu_share_has_a_device(cls, value: Jobs, info: ValidationInfo) -> Jobs:
        model = info.data.get("model")
        asked = value.cpu_gpu != "auto" and value.cpu_gpu[1] != 0
        if asked and model is not None and model.device == "cpu":
            raise refused(
                f"jobs.cpu_gpu is {value.cpu_gpu}, but model.device is cpu, so no block can be "
                "embedded on a GPU: set jobs.cpu_gpu to [1, 0] or auto, or model.device to auto."
            )
        return value


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


def read_config(path: str | os.PathLike[str]) -> Config:
    """Read and check the YAML file at `path`.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or one line for each problem
            in it, beginning with the path.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the configuration {path} ({error.strerror}): check the path."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML text: {reason}. Mend it there.") from error
    try:
        return load_config(document)
    except ConfigError as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from error


def runs(config: Config) -> list[tuple[str, str]]:
    """The (region, period) pairs to compute, in the order of the configuration."""
    return [
        (name, period)
        for name, region in config.regions.items()
        for period in dict.fromkeys(region.periods or config.periods)
    ]


# What changes how a run goes or what is written from its embeddings, but no embedding.
_NOT_NUMBERS: dict[str, set[str]] = {
    "download": {"slice_months", "threads", "attempts", "timeout", "deadline", "max_lost"},
    "model": {"cache", "device", "batch_size", "allow_statistics_mismatch"},
    "grid": {"block_size", "patch_size"},
}


def content_hash(config: Config, region: str, period: str) -> str:
    """SHA-256 (hex) of the settings that decide the numbers of one region and period.

    Names, paths of results, products, the division into blocks and patches, and the other
    regions and periods do not count.

    Raises:
        KeyError: no such region or period.
    """
    settings = config.model_dump(
        mode="json", exclude={"regions", "periods", "products", "jobs", "paths"}
    )
    for section, keys in _NOT_NUMBERS.items():
        settings[section] = {k: v for k, v in settings[section].items() if k not in keys}
    for sensor in ("sentinel2", "sentinel1"):
        # No collection stands for the source's own; these were the names of the first ones.
        own = {"sentinel2": "sentinel-2-l2a", "sentinel1": "sentinel-1-rtc"}[sensor]
        settings[sensor]["collection"] = settings[sensor]["collection"] or own
        # A token in an address is no setting, and must not show in a hash either.
        settings[sensor]["location"] = public_href(settings[sensor]["location"] or "") or None
    if config.source == "scenes":
        del settings["source"], settings["tiles"]
    else:
        del settings["sentinel2"], settings["sentinel1"]
    settings["region"] = config.regions[region].model_dump(mode="json", exclude={"periods"})
    settings["period"] = config.periods[period].model_dump(mode="json")
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
