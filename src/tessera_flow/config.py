"""Every configuration key: type, default, unit and meaning, in one place.

The JSON schema (`workflow/schemas/config.schema.json`) and the reference page
(`docs/configuration.md`) are generated from these models; a test fails when they
differ. Unknown keys are refused, with the nearest known name.
"""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import ConfigError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
MATRYOSHKA = (16, 32, 64, 128)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
        "Path of the region: a vector file (GeoJSON, GeoPackage, shapefile, FlatGeobuf, ...) or "
        "a raster mask (GeoTIFF; value > 0 is inside). Relative to the working directory.",
    )
    layer: str | None = _key(
        None, "Layer of a vector file with several layers; the only layer otherwise."
    )
    crs: str = _key(
        "auto",
        "CRS of the products, such as `EPSG:32631`. `auto`: the UTM zone of the centroid (with "
        "the Norway and Svalbard exceptions) for a vector, the raster's own CRS for a mask.",
    )
    align: Literal["lattice", "roi"] = _key(
        "lattice",
        "`lattice`: bounds are snapped outwards to multiples of the resolution, so that pixels "
        "coincide with Sentinel-2's. `roi`: keep a raster mask's own origin, at the price of "
        "resampling.",
    )
    periods: list[str] | None = _key(
        None, "Names of the periods to compute for this region; all of them if left out."
    )


class Period(_Section):
    """One period: the days whose scenes make one embedding."""

    start: datetime.date = _key(..., "First day (UTC).", strict=False)
    end: datetime.date = _key(..., "Last day (UTC), included.", strict=False)

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.end < self.start:
            raise ValueError(
                f"end {self.end} is before start {self.start}: the end is the last day of the "
                "period"
            )
        return self


class GridSettings(_Section):
    """The pixel grid and its division."""

    resolution: float = _key(10.0, "Pixel size.", "units of the CRS (m for UTM)", gt=0)
    block_size: int = _key(
        2000, "Edge of a block, the unit of download, stack and inference jobs.", "px", ge=1
    )
    patch_size: int = _key(
        500, "Edge of a patch, the unit of memory inside a block.", "px", ge=1
    )
    downsample_rate: int = _key(
        1, "Keep every n-th pixel in rows and columns; block_size must be a multiple of it.", ge=1
    )

    @model_validator(mode="after")
    def _divisible(self) -> GridSettings:
        if self.block_size % self.downsample_rate:
            raise ValueError(
                f"block_size {self.block_size} is not a multiple of downsample_rate "
                f"{self.downsample_rate}: choose one that is"
            )
        return self


class _Source(_Section):
    enabled: bool = _key(True, "Use this sensor.")
    provider: Literal["mpc", "local"] = _key(
        "mpc",
        "Where scenes come from. `mpc`: Microsoft Planetary Computer. `local`: your own archive, "
        "named by `location`.",
    )
    location: str | None = _key(
        None,
        "For `local`: URL of a STAC API, or path or URL of a static STAC catalog or of an "
        "item-collection JSON file. For `mpc`: another endpoint of the same API, if any.",
    )
    imitates: Literal["mpc"] = _key(
        "mpc", "For `local`: whose asset names and offset rules the items follow."
    )

    @model_validator(mode="after")
    def _located(self) -> _Source:
        if self.enabled and self.provider == "local" and not self.location:
            raise ValueError(
                "provider is local, so location is needed: the URL of a STAC API, or the path of "
                "a catalog or item-collection file"
            )
        return self


class Sentinel2(_Source):
    """Optical scenes (Sentinel-2 L2A)."""

    collection: str = _key("sentinel-2-l2a", "STAC collection.")
    max_cloud: float = _key(
        100.0,
        "Largest `eo:cloud_cover` of a scene; 100 is no limit. A lower one drops scenes whole.",
        "%",
        ge=0,
        le=100,
    )


class Sentinel1(_Source):
    """Radar scenes (Sentinel-1 RTC gamma0)."""

    collection: str = _key("sentinel-1-rtc", "STAC collection.")
    orbits: Literal["both", "ascending", "descending"] = _key("both", "Orbit directions to use.")


class Download(_Section):
    """Reading scenes."""

    slice_months: int = _key(
        2, "Months of a period that one download job reads.", "months", ge=1
    )
    threads: int = _key(8, "Concurrent reads in one download job.", ge=1)
    attempts: int = _key(5, "Tries of one read or one search request.", ge=1)
    timeout: float = _key(60.0, "Longest wait for one request.", "s", gt=0)
    empty_block: Literal["error", "nodata"] = _key(
        "error",
        "A block that no scene covers: `error` fails it, `nodata` publishes it without "
        "embeddings.",
    )


class MinObservations(_Section):
    """Observations a pixel needs to get an embedding."""

    s2: int = _key(1, "Valid Sentinel-2 steps.", ge=0)
    s1: int = _key(0, "Valid Sentinel-1 steps, both orbits together.", ge=0)


class Model(_Section):
    """The encoder and how it is run."""

    weights: str = _key(
        ...,
        "Path of a checkpoint file, or a published name: `v2-nano`, `v2-small`, `v2-medium`, "
        "`v2-large` (downloaded once from Hugging Face).",
    )
    cache: str | None = _key(
        None,
        "Folder for downloaded weights, shared between runs. Default: the Hugging Face cache "
        "(`HF_HOME`, or `~/.cache/huggingface`).",
    )
    dim: Literal[16, 32, 64, 128] = _key(
        128, "Leading dimensions to keep (Matryoshka prefix), cut before quantising."
    )
    dtype: Literal["int8", "float32"] = _key(
        "int8", "What is stored: int8 codes with one float32 scale per pixel, or float32."
    )
    min_observations: MinObservations = Field(
        MinObservations(), description="Observations a pixel needs to get an embedding."
    )
    device: Literal["auto", "cpu", "cuda"] = _key(
        "auto", "`auto`: the GPU where there is one, else the CPU."
    )
    batch_size: int = _key(1024, "Pixels in one forward pass.", "px", ge=1)


class Products(_Section):
    """What is written at the end. Changing these keys reruns only stitching and later."""

    formats: list[Literal["zarr", "arrays", "preview"]] = _key(
        ["zarr", "arrays", "preview"],
        "`zarr`: Zarr v3 store. `arrays`: the reference's .npy arrays. `preview`: RGB GeoTIFF "
        "and PNG of three principal components.",
        min_length=1,
    )
    zarr_chunk: int = _key(
        100, "Largest edge of a chunk of the Zarr store (all dimensions of a pixel lie together).",
        "px", ge=1,
    )
    preview_stretch: float = _key(
        2.0, "Percentile cut at both ends of each preview colour.", "%", ge=0, lt=50
    )


class Paths(_Section):
    """Where files go, relative to the working directory."""

    results: str = _key("results", "Products.")
    work: str = _key("work", "Intermediate files; may be on scratch.")
    logs: str = _key("logs", "Log and benchmark files.")


class Config(_Section):
    """The whole configuration."""

    regions: dict[str, Region] = Field(..., description="Regions by name.", min_length=1)
    periods: dict[str, Period] = Field(..., description="Periods by name.", min_length=1)
    model: Model = Field(..., description=Model.__doc__)
    arithmetic: Literal["exact", "reference"] = _key(
        "exact",
        "`exact`: baseline offset and no data as they physically are. `reference`: as in the "
        "published pipeline, to reproduce it.",
    )
    grid: GridSettings = Field(GridSettings(), description=GridSettings.__doc__)
    sentinel2: Sentinel2 = Field(Sentinel2(), description=Sentinel2.__doc__)
    sentinel1: Sentinel1 = Field(Sentinel1(), description=Sentinel1.__doc__)
    download: Download = Field(Download(), description=Download.__doc__)
    products: Products = Field(Products(), description=Products.__doc__)
    paths: Paths = Field(Paths(), description=Paths.__doc__)
