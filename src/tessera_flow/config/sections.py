"""The keys of each section of the configuration: type, default, unit and meaning.

The first sentence of each description stands alone: it is the comment in config.yaml. What
takes two keys of one section to see is checked here, what takes two sections in `config`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .messages import expected
from .types import Day, HeadCounts, NameReference, Section, Shares, key

_LAST_YEAR = 2200


class Region(Section):
    """One region of interest."""

    roi: str = key(
        ...,
        "Path of the region: a vector file or a raster mask. Vector: GeoJSON, GeoPackage, "
        "shapefile, FlatGeobuf, ...; mask: GeoTIFF, value > 0 is inside. Relative to the working "
        "directory.",
        min_length=1,
    )
    layer: str | None = key(
        None,
        "Layer of a vector file with several layers. The only layer if left out.",
        min_length=1,
    )
    crs: str = key(
        "auto",
        "CRS of the products, such as EPSG:32631, or auto. `auto`: the UTM zone of the centroid "
        "(with the Norway and Svalbard exceptions) for a vector, the raster's own CRS for a mask.",
        min_length=1,
    )
    align: Literal["grid", "roi"] = key(
        "grid",
        "Where pixels lie. `grid`: bounds are snapped outwards to multiples of the resolution, "
        "so that pixels coincide with Sentinel-2's. `roi`: keep a raster mask's own origin, at "
        "the price of resampling.",
    )
    periods: NameReference | None = key(
        None, "Names of the periods to compute for this region. All of them if left out."
    )


class Period(Section):
    """One period: the days whose scenes make one embedding. It may cross a year's end."""

    start: Day = key(..., "First day (UTC).")
    end: Day = key(..., "Last day (UTC), included.")

    @property
    def year(self) -> int | None:
        """The calendar year that it is, if it is one."""
        start, end = self.start, self.end
        whole = (start.month, start.day, end.month, end.day) == (1, 1, 12, 31)
        return start.year if whole and start.year == end.year else None

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


class GridSettings(Section):
    """The pixel grid and its division."""

    resolution: float = key(10.0, "Pixel size.", "CRS unit, m for UTM", gt=0)
    block_size: int = key(
        2000, "Edge of a block, the unit of download, stack and inference jobs.", "px", ge=1
    )
    patch_size: int = key(500, "Edge of a patch, the unit of memory inside a block.", "px", ge=1)
    downsample_rate: int = key(
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


class _Source(Section):
    enabled: bool = key(True, "Use this sensor.")
    # What there is to choose from differs by sensor; see the subclasses.
    provider: str = key("mpc", "")
    location: str | None = key(
        None,
        "Where a local archive is: URL or path. For `local`: URL of a STAC API, or path or URL of "
        "a static STAC catalog, of an item-collection JSON file or of a stac-geoparquet file. For "
        "the others: another endpoint of the same service, if any.",
        min_length=1,
    )
    item_format: str = key("mpc", "")
    collection: str | None = key(None, _COLLECTION, min_length=1)

    @property
    def data_source(self) -> str:
        """Whose data the scenes are: what the statistics of a model must go with."""
        return PUBLISHED_AS[self.item_format if self.provider == "local" else self.provider]

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

    provider: Literal["mpc", "earth-search", "local"] = key(
        "mpc",
        "Where scenes come from. `mpc`: Microsoft Planetary Computer. `earth-search`: Earth "
        "Search on AWS. `local`: your own archive, named by `location`.",
    )
    item_format: Literal["mpc", "earth-search"] = key(
        "mpc", "For `local`: whose asset names and offset rules the items follow."
    )
    max_cloud: float = key(
        100.0,
        "Largest `eo:cloud_cover` of a scene; 100 is no limit. A lower limit drops scenes whole.",
        "%",
        ge=0,
        le=100,
    )


class Sentinel1(_Source):
    """Radar scenes (Sentinel-1 RTC gamma0)."""

    provider: Literal["mpc", "opera", "local"] = key(
        "mpc",
        "Where scenes come from. `mpc`: Microsoft Planetary Computer. `opera`: OPERA RTC-S1 at "
        "the Alaska Satellite Facility; needs an Earthdata token. `local`: your own archive, "
        "named by `location`.",
    )
    item_format: Literal["mpc", "opera"] = key(
        "mpc", "For `local`: whose asset names and pixel grid the items follow."
    )
    orbits: Literal["both", "ascending", "descending"] = key("both", "Orbit directions to use.")


class Download(Section):
    """Reading scenes."""

    slice_months: int = key(
        4,
        "Months of a period that one download job reads. Fewer make more and shorter jobs.",
        "months",
        ge=1,
    )
    threads: int = key(
        16,
        "Concurrent reads in one download job. They mostly wait for the archive, so more than "
        "there are processor cores.",
        ge=1,
    )
    attempts: int = key(
        5, "Attempts of one request, for data or for a list of scenes, before it has failed.", ge=1
    )
    timeout: float = key(60.0, "Longest wait for an answer, or for more of it.", "s", gt=0)
    deadline: float = key(
        900.0,
        "Longest time that reading one file may take with all attempts and pauses. A service that "
        "asks to wait longer (`Retry-After`) fails the block at once.",
        "s",
        gt=0,
    )
    max_missing_percent: float = key(
        50.0,
        "Largest share of a block's scenes in one slice that may be missing or corrupt at the "
        "archive. They are left out and recorded; more is taken for an outage and fails the "
        "block. 0: none, 100: no limit.",
        "%",
        ge=0,
        le=100,
    )
    on_empty_block: Literal["fail", "nodata"] = key(
        "fail",
        "What to do with a block that no scene, or no published tile, covers. `fail`: the block "
        "fails. `nodata`: it is published without embeddings.",
    )


class MinObservations(Section):
    """Observations a pixel needs to get an embedding."""

    s2: int = key(1, "Valid Sentinel-2 steps.", ge=0)
    s1: int = key(0, "Valid Sentinel-1 steps, both orbits together.", ge=0)


class Model(Section):
    """The encoder and how it is run."""

    weights: str | None = key(
        None,
        "Path of a checkpoint file, or a published name. Names: `v2-nano`, `v2-small`, "
        "`v2-medium`, `v2-large`, `v2-teacher` (downloaded once from Hugging Face). Checkpoints of "
        "v1.0 and v1.1 are files of yours. The family is recognised from the content. Must be set, "
        "unless `source` is `geotessera`.",
        min_length=1,
    )
    cache: str | None = key(
        None,
        "Folder for downloaded weights, shared between runs. Default: the Hugging Face cache "
        "(`HF_HOME`, or `~/.cache/huggingface`).",
        min_length=1,
    )
    statistics: Literal["mpc", "aws"] | None = key(
        None,
        "For v1.1: source of the data that the checkpoint was trained on. Required there: there is "
        "one checkpoint for Planetary Computer (`mpc`) and one for AWS (`aws`), each with its own "
        "statistics. Other families have one set: leave it out.",
    )
    allow_statistics_mismatch: bool = key(
        False,
        "Use the statistics of another source than the scenes come from. Such embeddings are not "
        "what the model was trained to give.",
    )
    heads: HeadCounts | None = key(
        None,
        "Attention heads, to override what the checkpoint states. One number, or two for "
        "Sentinel-2 and Sentinel-1, as in `[4, 2]`. Default: what the checkpoint states; where it "
        "is silent 8 for v1.0 float and 4 for the others, which the log says.",
    )
    dim: Literal[16, 32, 64, 128] | None = key(
        None,
        "Leading dimensions to keep, cut before quantising. Default: all that the family stores, "
        "128 (v2 teacher: 1024). The v2 students can be cut to 16, 32 or 64.",
    )
    dtype: Literal["int8", "float32"] = key(
        "int8", "What is stored. int8 codes with one float32 scale per pixel, or float32."
    )
    seed: int = key(
        0,
        "For v1.0: seed of the random draws of observations. A pixel's draws depend on the seed, "
        "on its row and column in the region's grid, and on nothing else.",
        ge=0,
    )
    repeat_times: int = key(1, "For v1.0: number of draws that are averaged.", ge=1)
    min_observations: MinObservations = Field(
        default=MinObservations(), description=MinObservations.__doc__
    )
    device: Literal["auto", "cpu", "cuda", "xpu"] = key(
        "auto",
        "Where the encoder runs. `cuda`: an NVIDIA GPU, or an AMD one under PyTorch for ROCm; "
        "`xpu`: an Intel GPU. `auto`: the GPU where there is one, else the CPU.",
    )
    precision: Literal["auto", "float32", "bf16"] = key(
        "auto",
        "Of the factors in the encoders' matrix products; sums are float32. `bf16` is faster where "
        "the device computes in it, and codes may differ by up to 4 (docs/equivalence.md). "
        "`auto`: float32 on a CPU, bf16 on a GPU that has it.",
    )
    batch_size: int = key(
        4096,
        "Most pixels in one forward pass on a GPU; where its memory does not suffice, half of it. "
        "A CPU takes fewer: what its cache holds.",
        "px",
        ge=1,
    )


class Products(Section):
    """What is written at the end. Changes rerun only stitching (but `tiles`: docs/outputs.md)."""

    formats: list[
        Literal[
            "zarr", "arrays", "preview", "counts", "vrt", "stac", "geotessera", "tiles", "report"
        ]
    ] = key(
        ["zarr", "arrays", "preview", "counts", "stac", "report"],
        "Products to write. `zarr`: Zarr v3 store. `arrays`: the reference's .npy arrays. "
        "`preview`: RGB GeoTIFF and PNG of three principal components. `counts`: GeoTIFF of "
        "observation counts. `vrt`: all dimensions for GDAL, over the arrays, which it has made. "
        "`stac`: Collection and Items. `geotessera`: store of the geotessera client (int8, 128 "
        "dimensions). `tiles`: the time series as reference tile folders; they are as large as "
        "the scenes. `report`: HTML page with checks; it has the preview made.",
        min_length=1,
    )
    zarr_chunk: int = key(
        100,
        "Largest edge of a chunk of the Zarr store. All dimensions of a pixel lie together.",
        "px",
        ge=1,
    )
    max_seam: float = key(
        1.5,
        "Largest seam score that passes the check. The score is the difference across block "
        "borders, divided by that beside them.",
        gt=0,
    )
    max_saturated: float = key(
        10.0,
        "Share of int8 codes at an end of their range above which it fails.",
        "%",
        ge=0,
        le=100,
    )
    preview_stretch: float = key(
        2.0, "Percentile cut at both ends of each preview colour.", "%", ge=0, lt=50
    )


class Tiles(Section):
    """Reference tile folders in place of scenes (`source: tiles`)."""

    location: str | None = key(
        None,
        "Folder that holds the tile folders; `{region}` and `{period}` in it are replaced. The "
        "tiles must lie on the region's grid, and `grid.patch_size` be their edge.",
        min_length=1,
    )


class Geotessera(Section):
    """Published embeddings in place of scenes (`source: geotessera`)."""

    location: str | None = key(
        None,
        "Folder of a store that the geotessera client reads; `{region}` and `{period}` in it are "
        "replaced. Default: the public store.",
        min_length=1,
    )
    version: str = key("v1", "Version of the dataset, in the client's words.", min_length=1)
    variant: str | None = key(
        None, "Variant of the dataset, for clients from 0.11 on. Default: the client's.",
        min_length=1,
    )  # fmt: skip
    cache: str | None = key(
        None,
        "Folder that keeps downloaded tiles; runs can share it. Default: `geotessera` in "
        "`paths.work`.",
        min_length=1,
    )

    @model_validator(mode="after")
    def _a_folder(self) -> Geotessera:
        if self.location is not None and "://" in self.location:
            raise ValueError(
                "location must be a folder, as the client reads folders and its own public store: "
                "mount or copy the store, or leave location out for the public one"
            )
        return self


class Jobs(Section):
    """How the work is spread over machines. No key here changes an embedding."""

    cpu_gpu: Shares = key(
        "auto",
        "Shares of the blocks that CPUs and GPUs embed, such as [1, 4]. `[0, 1]`: all on GPUs. "
        "Blocks take turns in the order of the grid, so that the choice repeats. `auto`: as "
        "`model.device` says; where that is `auto`, GPUs if the machine that Snakemake runs on has "
        "one. On a cluster whose login node has none, write it out.",
    )
    on_missing_gpu: Literal["fail", "cpu"] = key(
        "fail",
        "What a GPU job does when it finds no GPU. `fail`: it fails. `cpu`: it runs on the CPU.",
    )
    max_disk_gb: float | None = key(
        None,
        "Most disk for intermediate files; limits the blocks in flight. At least one block is "
        "always worked on. Default: no limit.",
        "GB",
        gt=0,
    )
    concurrent_jobs: int = key(
        100, "Concurrent jobs that `snakemake plan` assumes. The run itself uses `--jobs`.", ge=1
    )
    local_rules: list[
        Literal["items", "weights", "download", "store_tiles", "import_embeddings"]
    ] = key(
        [],
        "Rules that run where Snakemake runs. For clusters whose compute nodes have no "
        "internet and that have no partition for transfers.",
    )
    scratch: str | None = key(
        None,
        "Folder on a node's own disk to which jobs copy large inputs before they read them. "
        "Environment variables are replaced on the node, as in `$TMPDIR`. Default: inputs are "
        "read where they are.",
        min_length=1,
    )
    on_failed_block: Literal["fail", "skip"] = key(
        "fail",
        "What to do with blocks that failed in an earlier run. `fail`: compute them again, and "
        "write no product without them. `skip`: write the products without embeddings there, and "
        "list the skipped blocks in `results/<region>/<period>/skipped_blocks.json`.",
    )


class Paths(Section):
    """Where files go, relative to the working directory."""

    results: str = key("results", "Products.", min_length=1)
    work: str = key("work", "Intermediate files; may be on scratch.", min_length=1)
    logs: str = key("logs", "Log and benchmark files.", min_length=1)
    keep: list[Literal["slices", "stack", "patches"]] = key(
        [],
        "Intermediate files to keep. The others are deleted when no job needs them any more. Keep "
        "`patches` to try several models or settings without reading the scenes again.",
    )

    @field_validator("results", "work", "logs", mode="after")
    @classmethod
    def _no_wildcards(cls, value: str) -> str:
        if "{" in value or "}" in value:
            raise expected(
                "a path without braces, which Snakemake takes for wildcards (folders for each "
                "region and period are made in it)"
            )
        return value
