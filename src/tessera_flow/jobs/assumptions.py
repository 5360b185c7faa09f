"""State what an estimate assumes before the scenes are known, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Sensor:
    """What is assumed of a sensor.

    Attributes:
        dates_per_year: days with a scene at middle latitudes.
        read_bytes: bytes read from the archive per pixel and date.
        stored_bytes: compressed bytes per pixel and date in a stack or in patches.
        memory_bytes: bytes per pixel and date in memory: bands and mask, or two polarisations.
    """

    dates_per_year: float
    read_bytes: float
    stored_bytes: float
    memory_bytes: float


SENSORS = {
    # Four bands at 10 m, six at 20 m and SCL, as compressed by the archive; half of the stored
    # pixels are cloud, which compresses to nothing.
    "sentinel2": Sensor(100.0, 7.0, 11.0, 21.0),
    "sentinel1": Sensor(90.0, 7.0, 4.0, 4.0),
}

PUBLISHED_BYTES = 1.25 * 133
"""Bytes to read per pixel of published embeddings: 128 codes, a scale and a mask, and a quarter
more for the parts of tiles outside a region."""
IMPORT_SECONDS = 2.0
"""Seconds per million pixels of published embeddings, without their download."""
DOWNLOAD_BYTES_PER_SECOND = 25e6
"""Of one download job; assumed, not measured."""
STACK_SECONDS = 0.12
"""Seconds per million pixels and date (benchmarks/memory.py)."""
RETILE_SECONDS = 0.28
CPU_MULTIPLICATIONS = 45e9
"""Per second and core in the encoders: two thirds of a core's matrix products in float32."""
GPU_MULTIPLICATIONS = 40e12
START_SECONDS = 5.0
"""Of a job on one machine: Python and libraries (benchmarks/scale.py)."""
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


def series_gb(pixels: float, dates: dict[str, float]) -> float:
    """Return the size in GB of a block's time series as slices, as stacks or as patches."""
    return sum(pixels * n * SENSORS[name].stored_bytes for name, n in dates.items()) / GB


def block_disk_gb(pixels: float, dates: dict[str, float]) -> float:
    """Return the most disk in GB that a block in progress takes: while its series is converted,
    input and output exist side by side."""
    return 2 * series_gb(pixels, dates)
