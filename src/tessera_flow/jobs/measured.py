"""Read from the job logs how long jobs took."""

from __future__ import annotations

from ..config.configuration import runs
from .assumptions import PRODUCT_SECONDS, dates_in
from .files import RunFiles
from .journal import read_job_log

STAGES = ("download", "stack", "retile", "infer")
"""Steps of a block in order."""

CALIBRATION_BLOCKS = 200
"""Number of blocks whose job logs are read: more would not change the mean."""


OF_REGION = frozenset(PRODUCT_SECONDS) | {"items", "store_tiles"}
"""Rules whose jobs belong to a region and period."""


def assumed_dates(files: RunFiles, region: str, period: str) -> dict[str, float]:
    """Return the assumed number of dates of a region and period, by sensor in use."""
    days = files.config.periods[period]
    number = (days.end - days.start).days + 1
    return {name: dates_in(name, number) for name in files.sensors(region, period)}


def scale(files: RunFiles, region: str, period: str) -> float:
    """Return what the time of a pixel is proportional to: the dates; 1 without any."""
    return sum(assumed_dates(files, region, period).values()) or 1.0


def measured_seconds(files: RunFiles) -> dict[str, float]:
    """Return the seconds per pixel of a block and unit of `scale`, by rule, of all jobs of the
    rule together, of finished blocks."""
    work: dict[str, float] = {}
    seconds: dict[str, float] = {}
    read = 0
    for region, period in runs(files.config):
        unit = scale(files, region, period)
        for block in files.grids[region].blocks:
            if read == CALIBRATION_BLOCKS:
                break
            records = read_job_log(files.job_log_file(region, period, block.id))
            read += bool(records)
            done = [r for r in records if r.state == "done"]
            if {r.rule.split("_")[0] for r in done} < set(STAGES):
                continue  # only finished blocks can be compared
            for rule in {r.rule for r in done}:
                pixels = block.window.height * block.window.width
                work[rule] = work.get(rule, 0) + pixels * unit
            for r in done:
                seconds[r.rule] = seconds.get(r.rule, 0) + r.seconds
    return {rule: seconds[rule] / work[rule] for rule in work}


def measured_products(files: RunFiles) -> dict[tuple[str, str], float]:
    """Return the mean seconds of finished jobs by (region, rule), of all its periods."""
    seconds: dict[tuple[str, str], list[float]] = {}
    logs = [(region,) for region in files.grids] + list(runs(files.config))
    for names in logs:
        for record in read_job_log(files.job_log_file(*names)):
            if record.state == "done" and record.rule in OF_REGION:
                seconds.setdefault((names[0], record.rule), []).append(record.seconds)
    return {key: sum(values) / len(values) for key, values in seconds.items()}
