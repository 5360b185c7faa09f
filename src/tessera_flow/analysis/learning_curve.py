"""Lay out the chart of a learning curve; `map.html.j2` turns it into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 20, 24, 34


@dataclass(frozen=True)
class CurveDot:
    """A point: position, ends of its bar, and text shown on hovering."""

    x: float
    y: float
    low: float
    high: float
    label: str
    text: str


@dataclass(frozen=True)
class CurveChart:
    """A chart; lengths in SVG units.

    Attributes:
        width, height: of the chart.
        left, base: position of the axes.
        title: of the vertical axis.
        dots: of increasing numbers of labels.
        line: points of the line through the dots.
        ticks: (y, text) of the vertical axis.
    """

    width: int
    height: int
    left: int
    base: int
    title: str
    dots: tuple[CurveDot, ...]
    line: str
    ticks: tuple[tuple[float, str], ...]


def curve_chart(points: Sequence[tuple[int, float, float, float]], title: str) -> CurveChart:
    """Lay out a learning curve.

    Args:
        points: (labels, mean, lowest, highest score), at least one.
        title: name of the score.
    """
    base = _HEIGHT - _BOTTOM
    lowest = min(low for *_, low, _ in points)
    step = 0.1 if lowest > 0.45 else 0.2
    bottom = max(-1.0, step * math.floor(round(lowest / step, 6)))
    first, last = (math.log(points[k][0]) for k in (0, -1))

    def x(labels: int) -> float:
        share = 0.5 if last == first else (math.log(labels) - first) / (last - first)
        return _LEFT + 20 + share * (_WIDTH - _LEFT - _RIGHT - 20)

    def y(score: float) -> float:
        share = (max(score, bottom) - bottom) / (1 - bottom)
        return base - share * (base - _TOP)

    dots = tuple(
        CurveDot(
            round(x(n), 1), round(y(mean), 1), round(y(low), 1), round(y(high), 1), str(n),
            f"{n} labels: {mean:.3f} ({low:.3f} to {high:.3f})",
        )
        for n, mean, low, high in points
    )  # fmt: skip
    number = round((1 - bottom) / step)
    ticks = tuple(
        (round(y(bottom + k * step), 1), f"{bottom + k * step:.1f}") for k in range(number + 1)
    )
    line = " ".join(f"{dot.x},{dot.y}" for dot in dots)
    return CurveChart(_WIDTH, _HEIGHT, _LEFT, base, title, dots, line, ticks)
