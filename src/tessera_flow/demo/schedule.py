"""List the passes of the simulated satellites over the demo region, with their weather."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

FIRST_DAY = dt.date(2021, 7, 1)
LAST_DAY = dt.date(2022, 6, 30)
OFFSET_DAY = dt.date(2022, 1, 25)
"""From this day on ESA's baseline 04.00 adds 1000 to digital numbers."""

NORTH, SOUTH = "31UCU", "31UCT"
"""The two tiles; they overlap in the middle of the region."""


@dataclass(frozen=True)
class OpticalPass:
    """One Sentinel-2 pass.

    Attributes:
        day: UTC date.
        relative_orbit: 94, or 137, whose swath ends inside the region.
        cover: share of clouds, 0..1.
        tiles: the tiles published for it.
        cirrus: thin high clouds.
        snow: snow on the ground.
    """

    day: dt.date
    relative_orbit: int
    cover: float
    tiles: tuple[str, ...] = (NORTH, SOUTH)
    cirrus: bool = False
    snow: bool = False

    @property
    def sensed(self) -> dt.datetime:
        """Start of the datatake."""
        minute, second = (6, 21) if self.relative_orbit == 94 else (16, 19)
        return dt.datetime(
            self.day.year, self.day.month, self.day.day, 11, minute, second, 24000, tzinfo=dt.UTC
        )

    @property
    def platform(self) -> str:
        """Name of the satellite; the two alternate every five days."""
        first = dt.date(2021, 7, 4) if self.relative_orbit == 94 else dt.date(2021, 7, 6)
        return "Sentinel-2A" if (self.day - first).days // 5 % 2 == 0 else "Sentinel-2B"

    @property
    def baseline(self) -> str:
        """Processing baseline in force on the day."""
        return "04.00" if self.day >= OFFSET_DAY else "03.01"


@dataclass(frozen=True)
class RadarPass:
    """One Sentinel-1 pass.

    Attributes:
        day: UTC date.
        orbit: `ascending` or `descending`.
        platform: name in the item.
        vh: False if the scene was published without its second channel.
        slices: 1, or 2 overlapping scenes, one after the other along the flight.
        gap: the swath ends inside the region.
    """

    day: dt.date
    orbit: str
    platform: str = "SENTINEL-1A"
    vh: bool = True
    slices: int = 1
    gap: bool = False


def _optical(date: str, orbit: int, cover: float, *tiles: str, **kind: bool) -> OpticalPass:
    return OpticalPass(dt.date.fromisoformat(date), orbit, cover, tiles or (NORTH, SOUTH), **kind)


OPTICAL: tuple[OpticalPass, ...] = (
    _optical("2021-07-04", 94, 0.0),
    _optical("2021-07-21", 137, 0.2),
    _optical("2021-07-24", 94, 0.35),
    _optical("2021-08-03", 94, 0.85, SOUTH),
    _optical("2021-08-28", 94, 0.05),
    _optical("2021-09-04", 137, 0.7),
    _optical("2021-09-12", 94, 0.0),
    _optical("2021-09-22", 94, 0.6),
    _optical("2021-10-07", 94, 0.25, NORTH),
    _optical("2021-10-19", 137, 0.1),
    _optical("2021-10-22", 94, 1.0),
    _optical("2021-11-11", 94, 0.5),
    _optical("2021-12-18", 137, 0.4),
    _optical("2021-12-21", 94, 0.75),
    _optical("2022-01-10", 94, 0.0, snow=True),
    _optical("2022-01-25", 94, 0.3),
    _optical("2022-02-09", 94, 0.9),
    _optical("2022-02-21", 137, 0.8),
    _optical("2022-03-11", 94, 0.0),
    _optical("2022-03-26", 94, 0.1, SOUTH),
    _optical("2022-04-10", 94, 0.65),
    _optical("2022-04-17", 137, 0.0),
    _optical("2022-04-25", 94, 0.0),
    _optical("2022-05-10", 94, 0.45, NORTH),
    _optical("2022-05-25", 94, 0.15),
    _optical("2022-06-01", 137, 0.3),
    _optical("2022-06-09", 94, 0.0, cirrus=True),
    _optical("2022-06-24", 94, 0.55),
)

REPROCESSED = (dt.date(2021, 9, 12), SOUTH, "05.00", dt.datetime(2023, 2, 6, 3, 12, 45))
"""One acquisition was published again: its day, tile, new baseline and processing time."""


def _radar() -> tuple[RadarPass, ...]:
    """Return a pass per orbit every 24 days, and one per orbit of the second satellite."""
    passes = []
    for repeat in range(15):
        passes.append(
            RadarPass(
                dt.date(2021, 7, 5) + dt.timedelta(24 * repeat), "ascending",
                slices=2 if repeat == 7 else 1,
            )
        )  # fmt: skip
        passes.append(
            RadarPass(
                dt.date(2021, 7, 9) + dt.timedelta(24 * repeat), "descending",
                vh=repeat != 4, gap=repeat == 9,
            )
        )  # fmt: skip
    passes.append(RadarPass(dt.date(2021, 9, 21), "ascending", "SENTINEL-1B"))
    passes.append(RadarPass(dt.date(2021, 11, 12), "descending", "SENTINEL-1B"))
    return tuple(sorted(passes, key=lambda one: (one.day, one.orbit)))


RADAR: tuple[RadarPass, ...] = _radar()
