"""The keys of each section of the configuration: type, default, unit and meaning.

The first sentence of each description is used alone as the comment in config.yaml. Constraints
between keys of one section are checked here, those between sections in `configuration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from .model import MinObservations
from .types import Day, NameReference, PathText, RoiText, Section, Years, key
from .years import LAST_YEAR, problem_of_years

OVERRIDES = ("sentinel2", "sentinel1", "min_observations")
"""Sections of a region or period that replace keys of the general sections."""


def _override(what: str, section: str, of: str) -> Any:
    """Return the field of a section of a region or period with keys of a general section."""
    names = {
        "Sentinel-2": "Sentinel2Override",
        "Sentinel-1": "Sentinel1Override",
        "observations": "MinObservationsOverride",
    }
    precedence = " It takes precedence over that of a region." if of == "period" else ""
    return Field(
        default_factory=lambda: globals()[names[what]](),
        description=f"Keys of `{section}` with other values for this {of}.{precedence}",
    )


class Region(Section):
    """One region of interest."""

    roi: RoiText = key(
        ...,
        "Path of the region: a vector file or a raster mask; or a box. Vector: GeoJSON, "
        "GeoPackage, shapefile, FlatGeobuf, file geodatabase, GeoParquet and other GDAL formats. "
        "Mask: GeoTIFF; pixels > 0 are inside. Box: west, south, east, north in degrees, such as "
        "`[5.1, 52.0, 5.3, 52.1]`.",
    )
    layer: str | None = key(
        None,
        "Layer to read from the vector file. Required if the file has several layers.",
        min_length=1,
    )
    crs: str = key(
        "auto",
        "CRS of the products, such as EPSG:32631, or auto. It must be projected, in metres. "
        "`auto`: for a vector file the UTM zone of its centroid (with the Norway and Svalbard "
        "exceptions), for a mask the CRS of the mask.",
        min_length=1,
    )
    align: Literal["grid", "roi"] = key(
        "grid",
        "Alignment of the output pixels. `grid`: bounds are extended to multiples of the "
        "resolution, so that 10 m pixels coincide with Sentinel-2 pixels. `roi`: the upper left "
        "corner of the region is kept, and the scenes are resampled to it.",
    )
    periods: NameReference | None = key(
        None, "Names of the periods to compute for this region. Default: all periods."
    )
    sentinel2: Sentinel2Override = _override("Sentinel-2", "sentinel2", "region")
    sentinel1: Sentinel1Override = _override("Sentinel-1", "sentinel1", "region")
    min_observations: MinObservationsOverride = _override(
        "observations", "model.min_observations", "region"
    )

    @model_validator(mode="after")
    def _layer_of_a_file(self) -> Region:
        if self.layer is not None and not isinstance(self.roi, str):
            raise ValueError("roi is a box, which has no layers; remove layer")
        return self


class Period(Section):
    """Period whose scenes contribute to one embedding per pixel. It may span two years."""

    start: Day = key(..., "First day (UTC). With `years`: month and day, by default 01-01.")
    end: Day = key(
        ...,
        "Last day (UTC), inclusive. With `years`: month and day, by default 12-31; before `start`: "
        "in the next year.",
    )
    years: Years = key(
        None,
        "Years in which the period repeats, such as 2017-2025 or [2019, 2021]. Period `summer` "
        "becomes `summer_2017`, `summer_2018`, ...; `start` and `end` are a month and a day.",
        exclude=True,
    )
    sentinel2: Sentinel2Override = _override("Sentinel-2", "sentinel2", "period")
    sentinel1: Sentinel1Override = _override("Sentinel-1", "sentinel1", "period")
    min_observations: MinObservationsOverride = _override(
        "observations", "model.min_observations", "period"
    )

    @property
    def year(self) -> int | None:
        """Return the calendar year if the period is exactly one calendar year, else None."""
        start, end = self.start, self.end
        full_years = (start.month, start.day, end.month, end.day) == (1, 1, 12, 31)
        return start.year if full_years and start.year == end.year else None

    @model_validator(mode="before")
    @classmethod
    def _years_are_expanded(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and (problem := problem_of_years(value)):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Period:
        if self.end.year > LAST_YEAR:
            raise ValueError(
                f"end {self.end} is after the year {LAST_YEAR}; set it to the last day for which "
                "scenes exist, or earlier"
            )
        if self.end < self.start:
            raise ValueError(
                f"end {self.end} is before start {self.start}; set end to the start or to a later "
                "day"
            )
        return self


MIN_RESOLUTION = 1.0
"""Metres; scenes have pixels of 10 m. Smaller numbers are usually degrees."""


class GridSettings(Section):
    """The pixel grid and its division into blocks and patches."""

    resolution: float = key(
        10.0,
        "Pixel size, in metres also if the region is in degrees. Where it is coarser than the "
        "scenes, a pixel is the mean of what it covers, and it is valid if at most a tenth of it "
        "is masked; where it is finer, scenes are interpolated.",
        "m",
        ge=MIN_RESOLUTION,
    )
    block_size: int = key(
        2000, "Edge length of a block. Jobs download, stack and embed one block each.", "px", ge=1
    )
    patch_size: int = key(
        500,
        "Edge length of a patch. A block is embedded patch by patch to limit memory use.",
        "px",
        ge=1,
    )
    downsample_rate: int = key(
        1,
        "Keep every n-th pixel in both directions. `block_size` must be a multiple of it.",
        ge=1,
    )

    @model_validator(mode="after")
    def _divisible(self) -> GridSettings:
        if self.block_size % self.downsample_rate:
            raise ValueError(
                f"block_size {self.block_size} is not a multiple of downsample_rate "
                f"{self.downsample_rate}; change one of them"
            )
        return self


STATISTICS_OF = {"mpc": "mpc", "earth-search": "aws", "opera": "aws"}
"""Value of `model.statistics` that matches the scenes of each provider or item format."""

_COLLECTION = (
    "STAC collection to search. Default: the collection of the provider (docs/sources.md)."
)


PUBLICATION_DELAY = {
    "sentinel2": {"mpc": 7, "earth-search": 7},
    "sentinel1": {"mpc": 30, "opera": 30},
}
"""Days after which a scene is usually published, by sensor and by provider or item format."""


class _Source(Section):
    sensor: ClassVar[str]
    enabled: bool = key(True, "Use this sensor.")
    # The allowed values differ by sensor; see the subclasses.
    provider: str = key("mpc", "")
    location: PathText | None = key(
        None,
        "URL or path of a local archive. `local`: URL of a STAC API, or path or URL of a static "
        "STAC catalog, an item-collection JSON file, a stac-geoparquet file or a folder of such "
        "files. Other providers: endpoint to use instead of the default one.",
        min_length=1,
    )
    item_format: str = key("mpc", "")
    collection: str | None = key(None, _COLLECTION, min_length=1)
    asset_folders: list[PathText] = key(
        [],
        "Further folders in which the files of the scenes may be. Items may name http, https and "
        "s3 URLs, and files below the folder above their list; others are refused.",
    )
    exclude: list[str] = key(
        [],
        "Ids of scenes that are not used. An id that the search does not return has a warning.",
    )

    @property
    def data_source(self) -> str:
        """Return the value of `model.statistics` that matches these scenes."""
        return STATISTICS_OF[self.item_format if self.provider == "local" else self.provider]

    @property
    def publication_delay(self) -> int:
        """Return the days after which scenes of this source are usually published."""
        name = self.item_format if self.provider == "local" else self.provider
        return PUBLICATION_DELAY[self.sensor][name]

    def problems(self) -> list[str]:
        """Return what is wrong between the keys of this section, for one region and period."""
        if self.enabled and self.provider == "local" and not self.location:
            return [
                f"{self.sensor}: provider is local, but location is missing: set it to the URL of "
                "a STAC API, or to the path of a catalog, item-collection or stac-geoparquet file."
            ]
        return []


class Sentinel2(_Source):
    """Optical scenes (Sentinel-2 L2A)."""

    sensor: ClassVar[str] = "sentinel2"
    provider: Literal["mpc", "earth-search", "local"] = key(
        "mpc",
        "Provider of the scenes. `mpc`: Microsoft Planetary Computer. `earth-search`: Earth Search "
        "on AWS. `local`: your own archive; set `location`.",
    )
    item_format: Literal["mpc", "earth-search"] = key(
        "mpc", "Format of the items of a local archive. It sets asset names and offset rules."
    )
    boa_offset: Literal["auto", "present", "removed"] = key(
        "auto",
        "Whether the pixels contain the BOA offset. ESA adds 1000 to the digital numbers since "
        "processing baseline 04.00. `auto`: as the items state, confirmed by the pixels where "
        "items contradict themselves. `present`: in all scenes except those of ESA's earlier "
        "baselines. `removed`: in no scene. Set it for an archive that states it wrongly, or "
        "whose processing baselines are not ESA's (such as 99.99).",
    )
    max_cloud: float = key(
        100.0,
        "Maximum `eo:cloud_cover` of a scene. Cloudier scenes are not used at all. 100: no limit.",
        "%",
        ge=0,
        le=100,
    )


class Sentinel1(_Source):
    """Radar scenes (Sentinel-1 RTC gamma0)."""

    sensor: ClassVar[str] = "sentinel1"
    provider: Literal["mpc", "opera", "local"] = key(
        "mpc",
        "Provider of the scenes. `mpc`: Microsoft Planetary Computer. `opera`: OPERA RTC-S1 at the "
        "Alaska Satellite Facility; requires an Earthdata token. `local`: your own archive; set "
        "`location`.",
    )
    item_format: Literal["mpc", "opera"] = key(
        "mpc", "Format of the items of a local archive. It sets asset names and resampling."
    )
    orbits: Literal["both", "ascending", "descending"] = key("both", "Orbit directions to use.")

    def problems(self) -> list[str]:
        """See `_Source.problems`."""
        name = urlsplit(self.location or "").path.rpartition("/")[2]
        other_format = name.startswith("granules.") and not name.startswith("granules.umm_json")
        if self.enabled and self.provider == "opera" and other_format:
            return [
                f"sentinel1: location ends in {name}, which does not state the orbit direction of "
                "a burst: set it to the same URL with granules.umm_json at the end."
            ]
        return super().problems()


class Sentinel2Override(Sentinel2):
    """Keys of `sentinel2` with other values for one region or period."""

    is_override: ClassVar[bool] = True


class Sentinel1Override(Sentinel1):
    """Keys of `sentinel1` with other values for one region or period."""

    is_override: ClassVar[bool] = True


class MinObservationsOverride(MinObservations):
    """Keys of `model.min_observations` with other values for one region or period."""

    is_override: ClassVar[bool] = True


Region.model_rebuild()
Period.model_rebuild()


class Download(Section):
    """Download of scenes."""

    slice_months: int = key(
        4,
        "Length of the slice of a period that one download job reads. A lower value gives more, "
        "shorter jobs.",
        "months",
        ge=1,
    )
    threads: int = key(
        16,
        "Concurrent reads in one download job. Reads mostly wait for the network, so the value may "
        "exceed the number of CPU cores.",
        ge=1,
    )
    attempts: int = key(
        5, "Maximum number of attempts per request. Applies to searches and to reads.", ge=1
    )
    timeout: float = key(
        60.0, "Timeout of a request: maximum wait for the next bytes of a response.", "s", gt=0
    )
    deadline: float = key(
        900.0,
        "Maximum time to read one file, including retries and pauses. If a service requests a "
        "longer pause (`Retry-After`), the block fails immediately. A search of scenes can take "
        "four times as long.",
        "s",
        gt=0,
    )
    max_missing_percent: float = key(
        5.0,
        "Maximum share of missing or corrupt scenes of a block in the period, and in each slice. "
        "Up to this share, scenes that are missing or corrupt at the archive are skipped "
        "and recorded; above it, the block fails. In a slice, one scene may always be missing. "
        "0: no scene may be missing.",
        "%",
        ge=0,
        le=100,
    )
    on_empty_block: Literal["fail", "nodata"] = key(
        "fail",
        "Action if no scene or published tile covers a block. `fail`: the block fails. `nodata`: "
        "the block is written without embeddings.",
    )


class Products(Section):
    """Output products. Changes rerun only the last steps (except `tiles`: docs/outputs.md)."""

    formats: list[
        Literal[
            "zarr",
            "arrays",
            "vrt",
            "cog",
            "preview",
            "counts",
            "change",
            "stac",
            "geotessera",
            "tiles",
            "report",
        ]
    ] = key(
        ["zarr", "arrays", "vrt", "preview", "counts", "change", "stac", "report"],
        "Products to write. `zarr`: Zarr v3 store. `arrays`: .npy arrays as in the reference "
        "pipeline. `vrt`: GDAL virtual raster of all dimensions over these arrays, which are "
        "then also written. `cog`: cloud-optimised GeoTIFF of all dimensions. `preview`: RGB "
        "GeoTIFF and PNG of the first three principal components. `counts`: GeoTIFF of "
        "observation counts. `change`: GeoTIFF of the cosine distance to the previous period of "
        "the region, if there is one. `stac`: STAC Collection and Items. `geotessera`: store for "
        "the geotessera client (int8, 128 dimensions). `tiles`: the time series as reference tile "
        "folders, as large as the scenes. `report`: HTML page with checks; also writes `preview`.",
        min_length=1,
    )
    zarr_chunk: int = key(
        100,
        "Maximum edge length of a Zarr chunk. A chunk holds all dimensions of its pixels.",
        "px",
        ge=1,
    )
    zarr_shards: bool = key(
        True,
        "Whether the chunks of the Zarr store are collected in shards of some hundred pixels. "
        "`false`: each chunk is a file, so that GDAL 3.12 can read the store; 10,000 x 10,000 px "
        "are then 40,000 files.",
    )
    zarr_preview: bool = key(
        True,
        "Whether the Zarr store contains the preview, at full size and reduced by factors of two, "
        "so that viewers draw a large region from a few chunks. Its colours are fitted to the "
        "period of the store, with `preview_stretch`.",
    )
    cube: bool = key(
        False,
        "Whether the Zarr stores of all periods of a region are combined in one store with an axis "
        "of time, `cube.zarr` in the folder of the region. It shares its files with them, so it "
        "needs no further disk space where hard links exist.",
    )
    cog_dtype: Literal["float32", "int8"] = key(
        "float32",
        "Content of the GeoTIFF of `cog`. `float32`: embeddings. `int8`: codes, and a second file "
        "with the scales; about a third of the size, and only for `model.dtype: int8`.",
    )
    license: str = key(
        "other",
        "Licence of the products in their STAC metadata: an SPDX identifier such as `CC-BY-4.0`, "
        "or `other`. A link to the terms of the Sentinel data is always added.",
        pattern=r"^[\w.+-]+$",
    )
    max_seam: float = key(
        1.5,
        "Maximum seam score that passes the check. The score is the median difference of "
        "neighbouring pixels across the borders of blocks and patches, divided by that near them.",
        gt=0,
    )
    max_saturated: float = key(
        10.0,
        "Maximum share of saturated int8 codes that passes the check.",
        "%",
        ge=0,
        le=100,
    )
    preview_stretch: float = key(
        2.0, "Percentile clipped at both ends of each colour of the preview.", "%", ge=0, lt=50
    )


class Tiles(Section):
    """Reference tile folders as input (`source: tiles`)."""

    location: PathText | None = key(
        None,
        "Path of the folder with the tile folders. `{region}` and `{period}` in it are replaced. "
        "The tiles must be aligned with the grid of the region, and `grid.patch_size` must be "
        "their edge length.",
        min_length=1,
    )


class Geotessera(Section):
    """Published embeddings as input (`source: geotessera`)."""

    location: PathText | None = key(
        None,
        "URL or folder of a Zarr store in the published layout, or folder of tiles in the NPY "
        "layout. `{region}` and `{period}` in it are replaced. Default: the public Zarr store of "
        "`version` and `variant`.",
        min_length=1,
    )
    version: str | None = key(
        None,
        "Version of the dataset, such as `v1.1`; another one than the store states is an error. "
        "Default: that of the store at `location`; without `location`, v1.1.",
        min_length=1,
    )
    variant: str | None = key(
        None,
        "Variant of the public dataset, such as `dclimate`. Default: the first of the version.",
        min_length=1,
    )
    fill: Literal["nodata", "compute"] = key(
        "nodata",
        "Pixels of the region for which nothing is published. `nodata`: they have no embedding. "
        "`compute`: they are computed from scenes with `model.weights`, which must be the model of "
        "the store.",
    )
    assume_same_model: bool = key(
        False,
        "State that the store was computed with `model.weights` and these settings of the model "
        "(`fill: compute`). Needed if the store does not state the SHA-256 of its weights, as the "
        "public stores; recorded in every product, with a warning.",
    )

    @model_validator(mode="after")
    def _a_folder_or_url(self) -> Geotessera:
        scheme, mark, remainder = (self.location or "").partition("://")
        if mark and scheme.lower() not in ("http", "https", "file"):
            raise ValueError(
                f"location begins with {scheme}://, but stores are read from http(s) URLs and "
                "folders only: use the https URL of the same store (of a public bucket, "
                "https://s3.REGION.amazonaws.com/BUCKET/PATH), or a copy on disk"
            )
        if remainder.partition("?")[0].rstrip("/").endswith(".icechunk") or (
            not mark and (self.location or "").rstrip("/").endswith(".icechunk")
        ):
            raise ValueError(
                "location is an Icechunk repository, which is not read: use a Zarr store"
            )
        return self
