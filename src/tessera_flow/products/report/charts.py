"""Lay out the charts over the days of a period: the calendar of observations, and time series."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...dates import period_months
from .series import PixelSeries

_WIDTH, _LEFT, _RIGHT = 760, 44, 6
_STRIP, _GAP = 62, 36
_PLOT, _TOP, _BOTTOM = 190, 18, 22

Tick = tuple[float, str]

STREAM_NAMES = {
    "sentinel2": "Sentinel-2",
    "ascending": "Sentinel-1 ascending",
    "descending": "Sentinel-1 descending",
}


@dataclass(frozen=True)
class DayBar:
    """A day of the calendar: position and height in SVG units, text shown on hovering; `empty`
    for a day without a valid pixel."""

    x: float
    y: float
    height: float
    text: str
    empty: bool


@dataclass(frozen=True)
class Strip:
    """The days of one series: its name with a summary, the CSS class of its bars, its base line
    and its days."""

    name: str
    style: str
    base: float
    bars: tuple[DayBar, ...]


@dataclass(frozen=True)
class Calendar:
    """The days with an observation, one strip below the other; lengths in SVG units."""

    width: int
    height: float
    left: int
    bar: float
    strip: int
    strips: tuple[Strip, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Line:
    """The series of a pixel: its number, a path through the points, and the points with text."""

    number: int
    path: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class TimePlot:
    """Series of a few pixels; lengths in SVG units.

    Attributes:
        title: quantity and unit.
        levels: (y, text) of the horizontal lines.
        ticks: (x, text) of the months.
    """

    title: str
    width: int
    height: int
    left: int
    levels: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def calendar(
    start: datetime.date,
    end: datetime.date,
    days: Mapping[str, Mapping[datetime.date, float]],
    listed: Iterable[datetime.date] = (),
) -> Calendar:
    """Lay out the calendar of observations.

    Args:
        start, end: first and last day of the period.
        days: share of the region that is valid, by stream and date; a stream without a date is
            left out.
        listed: days with a listed Sentinel-2 scene; those without any valid pixel are shown too.
    """
    position = _positions(start, end)
    shown = {stream: dict(shares) for stream, shares in days.items() if shares}
    if "sentinel2" in shown:
        shown["sentinel2"] |= {d: 0.0 for d in listed if d not in shown["sentinel2"]}
    strips = []
    for number, (stream, shares) in enumerate(shown.items()):
        base = 16.0 + _STRIP + number * (_STRIP + _GAP)
        dates = sorted(day for day in shares if start <= day <= end)
        half = sum(shares[day] >= 0.5 for day in dates)
        bars = tuple(
            DayBar(
                position(day),
                base - max(_STRIP * shares[day], 2.0),
                max(_STRIP * shares[day], 2.0),
                f"{STREAM_NAMES[stream]}, {day.isoformat()}: {100 * shares[day]:.0f} % valid",
                shares[day] == 0,
            )
            for day in dates
        )
        name = f"{STREAM_NAMES[stream]}: {len(dates)} days, {half} with at least 50 % valid"
        style = f"s{list(STREAM_NAMES).index(stream)}"
        strips.append(Strip(name, style, base, bars))
    width = max(1.0, min(4.0, (_WIDTH - _LEFT - _RIGHT) / ((end - start).days + 1) * 0.9))
    height = 16.0 + len(strips) * (_STRIP + _GAP)
    return Calendar(
        _WIDTH, height, _LEFT, width, _STRIP, tuple(strips), _month_ticks(start, end, position)
    )


def time_plot(
    title: str,
    start: datetime.date,
    end: datetime.date,
    pixels: Sequence[PixelSeries],
    streams: Sequence[str],
    limits: tuple[float, float] | None = None,
) -> TimePlot | None:
    """Lay out the series of a few pixels; None if there is no value.

    Args:
        title: quantity and unit.
        start, end: first and last day of the period.
        pixels: the pixels.
        streams: whose values are shown; each is a line of its own.
        limits: of the vertical axis, widened if values are outside.
    """
    values = [v for pixel in pixels for stream in streams for _, v in pixel.values[stream]]
    if not values:
        return None
    low, high = min(values), max(values)
    if limits is not None:
        low, high = min(low, limits[0]), max(high, limits[1])
    step = _round_step(high - low)
    first, last = int(low // step), int(-(-high // step))
    base, scale = _PLOT - _BOTTOM, (_PLOT - _TOP - _BOTTOM) / (max(1, last - first) * step)
    position = _positions(start, end)
    lines = []
    for number, pixel in enumerate(pixels):
        for stream in streams:
            points = tuple(
                (
                    position(day),
                    base - (value - first * step) * scale,
                    f"{number + 1}, {STREAM_NAMES[stream]}, {day.isoformat()}: {value:.2f}",
                )
                for day, value in pixel.values[stream]
                if start <= day <= end
            )
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
            lines.append(Line(number, path, points))
    levels = tuple(
        (base - (n - first) * step * scale, f"{n * step:g}")
        for n in range(first, max(last, first + 1) + 1)
    )
    ticks = _month_ticks(start, end, position)
    return TimePlot(title, _WIDTH, _PLOT, _LEFT, levels, ticks, tuple(lines))


def _positions(start: datetime.date, end: datetime.date) -> Callable[[datetime.date], float]:
    length = (end - start).days + 1
    return lambda day: _LEFT + (_WIDTH - _LEFT - _RIGHT) * ((day - start).days + 0.5) / length


def _month_ticks(
    start: datetime.date, end: datetime.date, position: Callable[[datetime.date], float]
) -> tuple[Tick, ...]:
    """Return the position of the first day of at most 13 months, and its name."""
    months = period_months(start, end)
    every = -(-len(months) // 13)
    firsts = [(max(start, datetime.date.fromisoformat(f"{month}-01")), month) for month in months]
    return tuple((position(day), month) for day, month in firsts[::every])


def _round_step(span: float) -> float:
    """Return 1, 2 or 5 times a power of ten so that 3 to 8 steps cover `span`."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if span <= 6 * step * factor:
                return step * factor
        step *= 10
