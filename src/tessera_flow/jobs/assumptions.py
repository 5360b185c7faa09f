"""State what an estimate assumes before the scenes are known, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 1e9

MOST_PIXELS = 4_000_000
"""Pixels of a cell of sites and a period, as many as a block of the default size has."""


@dataclass(frozen=True)
class Sensor:
    """What is assumed of a sensor.

    Attributes:
        dates_per_year: days with a scene at middle latitudes.
        read_bytes: bytes read from the archive per pixel and date.
        stored_bytes: compressed bytes per pixel and date in a stack or in patches.
        memory_bytes: bytes per pixel and date in memory: bands and mask, or two polarisations.
        valid_share: of the dates of a pixel, those that are embedded: not cloudy, not missing.
    """

    dates_per_year: float
    read_bytes: float
    stored_bytes: float
    memory_bytes: float
    valid_share: float


SENSORS = {
    # Four bands at 10 m, six at 20 m and SCL, as compressed by the archive; half of the stored
    # pixels are cloud, which compresses to nothing.
    "sentinel2": Sensor(100.0, 7.0, 11.0, 21.0, 0.5),
    "sentinel1": Sensor(90.0, 7.0, 4.0, 4.0, 1.0),
}

PUBLISHED_BYTES = 1.25 * 133
"""Bytes to read per pixel of published embeddings: 128 codes, a scale and a mask, and a quarter
more for the parts of tiles outside a region."""
CODES_BYTES = 137.0
"""Bytes of a pixel of int8 embeddings in a file of a block: 128 codes, a scale, and masks."""
IMPORT_SECONDS = 2.0
"""Seconds per million pixels of published embeddings, without their download."""
FILL_SECONDS = 1.1
"""Seconds per million pixels to put published and computed embeddings together and compare them,
measured with random codes in all patches."""
DOWNLOAD_BYTES_PER_SECOND = 25e6
"""Of one download job; assumed, not measured."""
STACK_SECONDS = 0.12
"""Seconds per million pixels and date (benchmarks/memory.py)."""
RETILE_SECONDS = 0.28
CPU_MULTIPLICATIONS = 45e9
"""Per second and core in the encoders: two thirds of a core's matrix products in float32."""
GPU_MULTIPLICATIONS = 40e12
GPU_CLASS = "a GPU for computing with bfloat16, such as an A100 or L40S"
START_SECONDS = 5.0
"""Of an inference job: PyTorch and the checkpoint."""
LOCAL_OVERHEAD_SECONDS = 1.5
"""Of a job on one machine beyond its work: Snakemake, Python and libraries (benchmarks/scale.py
measured 1.1 on an idle machine)."""
CLUSTER_OVERHEAD_SECONDS = 30.0
"""Of a job on a cluster: the same, and the time until Snakemake sees its end; its queries of the
queue are 40 s apart and more. Assumed; 4 s were measured on a cluster of one node whose queue is
queried every 2 s."""
LIST_SECONDS = 20.0
"""To list the scenes of a year of a small region; assumed."""
WEIGHTS_SECONDS = 5.0
PRODUCT_SECONDS = {
    "stitch_zarr": 1.7,  # 1.0 of them for its preview
    "stitch_arrays": 0.45,
    "preview": 2.0,
    "counts": 0.46,
    "cog": 40.0,  # of processor time, as float32 at 2,000 px beside other work; as int8 15
    "change": 1.5,  # not measured, like the next three
    "origin": 0.3,
    "label_map": 5.0,
    "label_map_page": 0.1,
    "list_tiles": 0.0,
    "index": 0.0,
    "vrt": 0.0,
    "geotessera": 1.6,
    "cube": 0.0,
    "stac_item": 0.0,
    "stac_collection": 0.0,
    "checks": 1.0,
    "report": 0.2,
    "roi": 0.05,
    "list_skipped_blocks": 0.0,
}
"""Seconds per million pixels (benchmarks/products.py)."""
EXPORT_SECONDS = 0.28
"""Seconds per million pixels and date to write tile folders; as for retiling, not measured."""

MEASURED_SPREAD = (0.85, 1.25)
"""Range of the time of a job around that of earlier ones."""
SPREAD = {
    "download": (0.5, 3.0),
    "import_embeddings": (0.5, 3.0),
    "infer_cpu": (0.5, 1.6),
    "infer_gpu": (0.4, 4.0),
}
OTHER_SPREAD = (0.6, 1.6)
"""Range of the assumed time of a job around the assumption: lines and archives differ most."""
SMALLEST_ENCODER = 1_000_000
"""Parameters assumed for unknown weights."""


def inference_seconds(
    device: str, parameters: float, pixels: float, dates: float, threads: int
) -> float:
    """Return the assumed seconds of an inference job.

    A date passes one of the two encoders, which have about half of the parameters each, and each
    parameter takes one multiplication.

    Args:
        device: `cpu` or `gpu`.
        parameters: of both encoders.
        pixels: of the block.
        dates: of both sensors.
        threads: of the job, on CPUs.
    """
    rate = GPU_MULTIPLICATIONS if device == "gpu" else CPU_MULTIPLICATIONS * threads
    return START_SECONDS + pixels * parameters * dates / 2 / rate


def dates_in(sensor: str, days: int) -> float:
    """Return the assumed number of dates of a sensor in a period of `days` days."""
    return SENSORS[sensor].dates_per_year * days / 365.25


def memory_bytes(dates: Mapping[str, float]) -> float:
    """Return the bytes in memory of all dates of a pixel, by the number of dates of each sensor."""
    return sum(number * SENSORS[name].memory_bytes for name, number in dates.items())


YEAR_BYTES = memory_bytes({name: sensor.dates_per_year for name, sensor in SENSORS.items()})
"""Bytes in memory of a year of a pixel."""


def read_gb(pixels: float, dates: Mapping[str, float]) -> float:
    """Return the GB read from the archives for a block."""
    return sum(pixels * n * SENSORS[name].read_bytes for name, n in dates.items()) / GB


def total_dates(factor: float, dates: Mapping[str, float]) -> float:
    """Return the dates of all sensors together, times a factor."""
    return factor * sum(dates.values())


def series_gb(pixels: float, dates: dict[str, float]) -> float:
    """Return the size in GB of a block's time series as slices, as stacks or as patches."""
    return sum(pixels * n * SENSORS[name].stored_bytes for name, n in dates.items()) / GB


def block_disk_gb(pixels: float, dates: dict[str, float]) -> float:
    """Return the most disk in GB that a block in progress takes: while its series is converted,
    input and output exist side by side."""
    return 2 * series_gb(pixels, dates)


def fill_gb(pixels: float) -> float:
    """Return the disk in GB of the published and the computed embeddings of a block in progress."""
    return 2 * pixels * CODES_BYTES / GB


def inside_seconds(
    device: str, parameters: float, pixels: float, dates: Mapping[str, float], threads: int
) -> float:
    """Return the expected seconds of an inference job without its start, which a time limit does
    not rely on: only pixels of the region and valid steps are embedded.

    Args:
        device, parameters, threads: as in `inference_seconds`.
        pixels: of the region in the block.
        dates: by sensor.
    """
    steps = sum(number * SENSORS[name].valid_share for name, number in dates.items())
    return inference_seconds(device, parameters, pixels, steps, threads)
