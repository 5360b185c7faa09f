"""Describe in warnings what a list of scenes lacks: a sensor, a direction, months, the end of the
period."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ..config.sections import Period
from ..sensors.sentinel1 import ORBITS
from .manifest import SourceItem
from .publication import TITLES, period_warning

_REASONS = 3


def coverage_warnings(
    sensor: str,
    items: Sequence[SourceItem],
    left_out: Sequence[tuple[str, str]],
    collection: str,
    elsewhere: str,
    period: Period,
    orbits: str,
    delay: int,
    today: datetime.date,
) -> list[str]:
    """Return the warnings about a list of scenes.

    Args:
        sensor: `sentinel2` or `sentinel1`.
        items: scenes of the list.
        left_out: (id, reason) of the scenes of region and period that are not used.
        collection: name of the collection that was searched.
        elsewhere: what the search found besides, as text.
        period: first and last day.
        orbits: Sentinel-1: directions to use (`both`, `ascending`, `descending`).
        delay: days after which scenes are usually published.
        today: day of the search (UTC).
    """
    warnings = [period_warning(sensor, period, delay, today)]
    if not items:
        warnings.append(_none(sensor, left_out, collection, elsewhere))
    else:
        warnings.append(_one_direction(items, orbits) if sensor == "sentinel1" else "")
        warnings.append(_empty_months(sensor, items, period, today))
    return [text for text in warnings if text]


def reasons(left_out: Sequence[tuple[str, str]]) -> str:
    """Return the first reasons in alphabetical order, each once."""
    distinct = sorted({reason for _, reason in left_out})
    return "; ".join([*distinct[:_REASONS], *(["..."] if len(distinct) > _REASONS else [])])


def _none(sensor: str, left_out: Sequence[tuple[str, str]], collection: str, elsewhere: str) -> str:
    """Return the warning about an empty list."""
    title = TITLES[sensor]
    if left_out:
        text = (
            f"No {title} scene can be used: all {len(left_out)} of the region and period were left "
            f"out ({reasons(left_out)})"
        )
    else:
        text = (
            f"No {title} scene of the region and period exists in collection {collection} "
            f"({elsewhere})"
        )
    return f"{text}. The embeddings are computed without {title}."


def _one_direction(items: Sequence[SourceItem], orbits: str) -> str:
    present = {item.orbit for item in items}
    if orbits != "both" or len(present) > 1:
        return ""
    missing = next(orbit for orbit in ORBITS if orbit not in present)
    return f"All Sentinel-1 scenes ({len(items)}) are {present.pop()}: none is {missing}."


def _empty_months(
    sensor: str, items: Sequence[SourceItem], period: Period, today: datetime.date
) -> str:
    """Return the warning about complete months of the period without a scene."""
    with_scenes = {(item.date.year, item.date.month) for item in items}
    months = _complete_months(period.start, min(period.end, today - datetime.timedelta(days=1)))
    spans: list[list[tuple[int, int]]] = []
    for index, month in enumerate(months):
        if month in with_scenes:
            continue
        if spans and index and spans[-1][-1] == months[index - 1]:
            spans[-1].append(month)
        else:
            spans.append([month])
    if not spans:
        return ""
    names = [_name(span[0]) + (f" to {_name(span[-1])}" if len(span) > 1 else "") for span in spans]
    return f"There is no {TITLES[sensor]} scene in {', '.join(names)}."


def _complete_months(start: datetime.date, end: datetime.date) -> list[tuple[int, int]]:
    """Return the (year, month) that are completely between two days, both inclusive."""
    months = []
    year, month = start.year, start.month
    while (first := datetime.date(year, month, 1)) <= end:
        year, month = year + month // 12, month % 12 + 1
        last = datetime.date(year, month, 1) - datetime.timedelta(days=1)
        if start <= first and last <= end:
            months.append((first.year, first.month))
    return months


def _name(month: tuple[int, int]) -> str:
    return f"{month[0]}-{month[1]:02d}"
