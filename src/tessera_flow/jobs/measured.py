"""Read from the job logs how long jobs took."""

from __future__ import annotations

from ..config.configuration import runs
from .files import RunFiles
from .journal import read_job_log

STAGES = ("download", "stack", "retile", "infer")
"""Steps of a block in order."""

CALIBRATION_BLOCKS = 200
"""Number of blocks whose job logs are read: more would not change the mean."""


def measured_seconds(files: RunFiles) -> dict[str, float]:
    """Return the seconds per pixel of a block, by rule, of finished jobs."""
    pixels: dict[str, float] = {}
    seconds: dict[str, float] = {}
    read = 0
    for region, period in runs(files.config):
        for block in files.grids[region].blocks:
            if read == CALIBRATION_BLOCKS:
                break
            records = read_job_log(files.job_log_file(region, period, block.id))
            read += bool(records)
            done = [r for r in records if r.state == "done"]
            if {r.rule.split("_")[0] for r in done} < set(STAGES):
                continue  # only finished blocks can be compared
            for rule in {r.rule for r in done}:
                pixels[rule] = pixels.get(rule, 0) + block.window.height * block.window.width
            for r in done:
                seconds[r.rule] = seconds.get(r.rule, 0) + r.seconds
    return {rule: seconds[rule] / pixels[rule] for rule in pixels}
