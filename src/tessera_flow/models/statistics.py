"""Means and standard deviations of the training data of each model family.

Values are looked up by channel name, so that only the code with the array defines the order
of its channels. Source: the statistics published with the models (TESSERA v1.0, v1.1 and v2).
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
        """Return mean and divisor (std + 1e-9) of the channels `names`, each (C,) float32.

        Raises:
            KeyError: a channel has no statistics.
        """
        mean = np.array([self.channels[name][0] for name in names], dtype=np.float32)
        std = np.array([self.channels[name][1] for name in names], dtype=np.float32)
        return mean, std + EPSILON


@dataclass(frozen=True)
class Statistics:
    """The statistics of a family; both orbit directions can have the same.

    Attributes:
        sentinel2: of the ten bands.
        ascending: of vv and vh seen from ascending orbits.
        descending: of vv and vh seen from descending orbits.
    """

    sentinel2: ChannelStatistics
    ascending: ChannelStatistics
    descending: ChannelStatistics


_V1_0_BANDS = ChannelStatistics(
    {
        "B04": (1711.0938, 1926.1026),
        "B02": (1308.8511, 1862.9751),
        "B03": (1546.4543, 1803.1792),
        "B08": (3010.1293, 1741.7837),
        "B8A": (3106.5083, 1677.4543),
        "B05": (2068.3044, 1888.7862),
        "B06": (2685.0845, 1736.3090),
        "B07": (2931.5889, 1715.8104),
        "B11": (2514.6928, 1514.5199),
        "B12": (1899.4922, 1398.4779),
    }
)
_V1_1_MPC_BANDS = ChannelStatistics(
    {
        "B04": (2683.4553, 2739.5217),
        "B02": (2223.3630, 2846.2993),
        "B03": (2432.0950, 2690.8250),
        "B08": (3633.1970, 2290.0439),
        "B8A": (3602.1755, 2088.8970),
        "B05": (3006.4324, 2673.1106),
        "B06": (3400.2710, 2381.4521),
        "B07": (3515.6392, 2229.5225),
        "B11": (2456.9163, 1601.0942),
        "B12": (1983.8783, 1495.3545),
    }
)
_V1_1_AWS_BANDS = ChannelStatistics(
    {
        "B04": (2793.6589, 2810.0093),
        "B02": (2356.7776, 2933.8835),
        "B03": (2551.0496, 2755.6360),
        "B08": (3741.9229, 2344.5027),
        "B8A": (3713.7844, 2145.7986),
        "B05": (3120.1997, 2743.9019),
        "B06": (3516.3342, 2438.8601),
        "B07": (3637.0342, 2286.5977),
        "B11": (2501.0283, 1680.7367),
        "B12": (2038.1504, 1585.5529),
    }
)
_V2_BANDS = ChannelStatistics(
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
)


def _pooled(bands: ChannelStatistics, radar: ChannelStatistics) -> Statistics:
    """Return statistics with one set for both orbit directions."""
    return Statistics(bands, ascending=radar, descending=radar)


V1_0 = _pooled(
    _V1_0_BANDS,
    ChannelStatistics({"vv": (5484.0407, 1871.2334), "vh": (3003.7812, 1726.0670)}),
)
V1_1_MPC = Statistics(
    _V1_1_MPC_BANDS,
    ascending=ChannelStatistics({"vv": (5588.3291, 1713.4646), "vh": (3025.6270, 1693.0471)}),
    descending=ChannelStatistics({"vv": (5552.9683, 1685.5857), "vh": (2955.0520, 1677.6414)}),
)
V1_1_AWS = Statistics(
    _V1_1_AWS_BANDS,
    ascending=ChannelStatistics({"vv": (5697.0859, 1671.3737), "vh": (2838.6687, 1789.4116)}),
    descending=ChannelStatistics({"vv": (5759.1367, 1583.2858), "vh": (2873.2854, 1747.8390)}),
)
V2_STUDENT = Statistics(
    _V2_BANDS,
    ascending=ChannelStatistics({"vv": (5909.3921, 1507.1750), "vh": (3405.0322, 1531.2615)}),
    descending=ChannelStatistics({"vv": (5816.1382, 1554.6475), "vh": (3277.7576, 1546.4733)}),
)
V2_TEACHER = _pooled(
    _V2_BANDS,
    ChannelStatistics({"vv": (5862.7652, 1531.8051), "vh": (3341.3949, 1540.2014)}),
)
