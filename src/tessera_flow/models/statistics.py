"""Means and standard deviations that each model family was trained with.

The values belong to a family and to named channels; they are looked up by name, so the
order of an array's channels is stated once, by whoever holds the array. Source: the
statistics published with the models (TESSERA v2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EPSILON = np.float32(1e-9)


@dataclass(frozen=True)
class ChannelStatistics:
    """(mean, standard deviation) of each named channel, in stored units.

    The units are those of a reference tile: reflectance times 10,000 for Sentinel-2,
    (dB + 50) times 200 for Sentinel-1.
    """

    channels: Mapping[str, tuple[float, float]]

    def in_order(self, names: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and divisor (std + 1e-9) of the channels `names`, each (C,) float32.

        Raises:
            KeyError: a channel has no statistics.
        """
        mean = np.array([self.channels[name][0] for name in names], dtype=np.float32)
        std = np.array([self.channels[name][1] for name in names], dtype=np.float32)
        return mean, std + EPSILON


@dataclass(frozen=True)
class Statistics:
    """The statistics of a family whose two orbit directions each have their own.

    Attributes:
        sentinel2: of the ten bands.
        ascending: of vv and vh seen from ascending orbits.
        descending: of vv and vh seen from descending orbits.
    """

    sentinel2: ChannelStatistics
    ascending: ChannelStatistics
    descending: ChannelStatistics


V2_STUDENT = Statistics(
    sentinel2=ChannelStatistics(
        {
            "B04": (1633.0042, 1999.4603),
            "B02": (1341.1090, 2014.7549),
            "B03": (1539.5536, 1929.2201),
            "B08": (3054.8269, 1754.2493),
            "B8A": (3117.4658, 1649.9807),
            "B05": (2004.1648, 1936.8988),
            "B06": (2694.7275, 1748.6041),
            "B07": (2945.1504, 1708.6991),
            "B11": (2266.6079, 1207.5250),
            "B12": (1657.3094, 1108.6046),
        }
    ),
    ascending=ChannelStatistics({"vv": (5909.3921, 1507.1750), "vh": (3405.0322, 1531.2615)}),
    descending=ChannelStatistics({"vv": (5816.1382, 1554.6475), "vh": (3277.7576, 1546.4733)}),
)


def standardize(
    values: NDArray[np.integer] | NDArray[np.floating],
    mean: NDArray[np.float32],
    divisor: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(values - mean) / divisor in float32; `divisor` is std + 1e-9.

    Args:
        values: (..., C) in stored units.
        mean: (C,) or any shape that broadcasts to `values`.
        divisor: likewise.

    Returns:
        (..., C) float32.
    """
    result = values.astype(np.float32)
    result -= mean
    result /= divisor
    return result
