"""What a run will need, before anything is known of its scenes: assumptions, as data."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Sensor:
    """What is assumed of a sensor.

    Attributes:
        dates_per_year: days with a scene over a place in middle latitudes.
        read_bytes: bytes read from the archive for a pixel and a date.
        stored_bytes: bytes of a pixel and a date in a stack or in patches, as compressed.
    """

    dates_per_year: float
    read_bytes: float
    stored_bytes: float


SENSORS = {
    # Four bands at 10 m, six at 20 m and SCL, as compressed by the archive; half of what is kept
    # is cloud, which compresses to nothing.
    "sentinel2": Sensor(100.0, 7.0, 11.0),
    "sentinel1": Sensor(90.0, 7.0, 4.0),
}

PUBLISHED_BYTES = 1.25 * 133
"""To read of a store of published embeddings for a pixel: 128 codes, a scale and a mask, and a
quarter more for the parts of tiles that lie outside a region."""
IMPORT_SECONDS = 2.0
"""For a million pixels of published embeddings, beside their download."""
DOWNLOAD_BYTES_PER_SECOND = 25e6
"""Of one download job with eight threads."""
STACK_SECONDS = 0.12
"""For a million pixels and a date (benchmarks/memory.py)."""
RETILE_SECONDS = 0.28
CPU_MULTIPLICATIONS = 45e9
"""A second and core in the encoders: two thirds of a core's matrix products in float32."""
GPU_MULTIPLICATIONS = 40e12
START_SECONDS = 5.0
"""Of a job on one machine: Python and libraries; `benchmarks/scale.py`."""


def dates(sensor: str, days: int) -> float:
    """Dates of a sensor in a period of so many days."""
    return SENSORS[sensor].dates_per_year * days / 365.25


def series_gb(pixels: float, dates_of: dict[str, float]) -> float:
    """Size of a block's time series in one of its forms (slices, stack or patches), in GB."""
    return sum(pixels * n * SENSORS[name].stored_bytes for name, n in dates_of.items()) / GB


def block_disk_gb(pixels: float, dates_of: dict[str, float]) -> float:
    """Most disk that a block in flight takes: while its series are put into another form, both
    are there."""
    return 2 * series_gb(pixels, dates_of)
