"""Report the results of the checks on the terminal."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...config.configuration import runs
from ..files import RunFiles

_MESSAGES, _LINES = 4, 40


def check_lines(files: RunFiles, written: Collection[str] | None = None) -> list[str]:
    """Return the headline of the checks of each region and period, with the first messages of
    those that do not pass, and the numbers of sites by state.

    Args:
        files: the files of the run.
        written: report only these files of results; if None, all that exist.
    """
    lines = []
    for region, period in runs(files.config):
        path = files.paths.checks.format(region=region, period=period)
        if (written is None or path in written) and Path(path).exists():
            try:
                lines += _lines(f"{region}, {period}", json.loads(Path(path).read_bytes()))
            except (OSError, LookupError, ValueError, TypeError):
                lines.append(
                    f"Checks of {region}, {period}: {path} cannot be read: delete it and run again."
                )
    lines += _site_lines(files.paths.sites_record, files.paths.sites, written)
    more = len(lines) - _LINES
    return lines[:_LINES] + ([f"and {more} more lines: see the reports"] if more > 0 else [])


def _lines(name: str, results: dict[str, Any]) -> list[str]:
    shown = sorted(results["checks"], key=lambda check: check["state"] != "fail")
    messages = [f"  {check['state']}: {text}" for check in shown for text in check["messages"]]
    more = len(messages) - _MESSAGES
    more_lines = [f"  and {more} more: see report.html"] if more > 0 else []
    head = f"Checks of {name}: {results['state'].upper()}. {results['headline']}"
    return [head, *messages[:_MESSAGES], *more_lines]


def _site_lines(record: str, table: str, written: Collection[str] | None) -> list[str]:
    if (written is not None and record not in written) or not Path(record).exists():
        return []
    from ...region.sites import OK  # slow

    try:
        document = json.loads(Path(record).read_bytes())
        rows, states = int(document["rows"]), dict(document["states"])
        number = int(states.pop(OK, 0))
        others = ", ".join(f"{state}: {count}" for state, count in states.items())
        without = f" ({others}; column reason of {table})" if others else ""
        return [f"Sites: {number} of {rows} have embeddings{without}."]
    except (OSError, LookupError, ValueError, TypeError):
        return [f"{record} cannot be read: delete it and run again."]
