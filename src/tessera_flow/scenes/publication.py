"""Warn of scenes of a period that are not published yet."""

from __future__ import annotations

import datetime

from ..config.sections import Period

TITLES = {"sentinel2": "Sentinel-2", "sentinel1": "Sentinel-1"}


def period_warning(
    sensor: str, period: Period, delay: int, today: datetime.date, listed: bool = True
) -> str:
    """Return the warning that scenes of a period can still appear; empty if none are expected.

    Args:
        sensor: `sentinel2` or `sentinel1`.
        period: first and last day.
        delay: days after which scenes are usually published.
        today: day of the search (UTC), or the present day.
        listed: whether the scenes have been searched.
    """
    title = TITLES[sensor]
    if period.start > today:
        state = f"The period has not started: its first day, {period.start}, is in the future."
    elif period.end >= today:
        future = ", which is in the future" if period.end > today else ""
        state = f"The period is not over: it ends on {period.end}{future}."
    elif (today - period.end).days < delay:
        state = (
            f"The period ended on {period.end}, and {title} scenes can be published {delay} days "
            "late."
        )
    else:
        return ""
    made = f"was made on {today}" if listed else "is made by the first run"
    return (
        f"{state} The list of {title} scenes {made} and then kept: to include later scenes, run "
        "again with `--forcerun items`."
    )
