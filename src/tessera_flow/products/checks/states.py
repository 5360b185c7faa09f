"""Decide the state of each check: pass, warn or fail. The headline is the worst of all.

`fail` means that embeddings are wrong or missing, or that the period is not covered; `warn` that
they can be used, with what the message states in mind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...scenes.publication import TITLES
from ..inference_record import InferenceRecord
from .seams import Border
from .values import Values

PASS, WARN, FAIL = "pass", "warn", "fail"

REGION_WARN, REGION_FAIL = 99.0, 50.0
"""Least per cent of the region with an embedding."""

FEW_STEPS = 15
"""Least 5th percentile of the valid Sentinel-2 steps; others discard pixels with fewer."""

EMPTY_MONTH = 1.0
"""Per cent of the embeddings below which a month counts as without an observation."""

EMPTY_MONTHS_FAIL = 0.5
"""Share of the complete months without a Sentinel-2 observation from which on the check fails."""

WITHOUT_SENSOR = 1.0
"""Most per cent of the embeddings without an observation of a sensor that others have."""

SEAM_OF_BORDER, BORDER_PAIRS = 2.0, 100
"""Highest ratio of a single border, if it has at least so many pixel pairs."""

_MOST_MESSAGES = 20


@dataclass
class Check:
    """One check.

    Attributes:
        name: what is checked.
        state: `pass`, `warn` or `fail`.
        result: what was found, as text.
        limit: what passes, as text; empty where nothing is compared.
        messages: complete sentences, if it does not pass.
    """

    name: str
    state: str
    result: str
    limit: str = ""
    messages: list[str] = field(default_factory=list)


@dataclass
class MonthCoverage:
    """Coverage of one month by one sensor.

    Attributes:
        month: `YYYY-MM`.
        complete: whether all days of the month are in the period.
        scene_days: days with a listed scene; None without lists of scenes.
        pixels_percent: share of the embeddings with a valid step in this month; None if unknown.
    """

    month: str
    complete: bool
    scene_days: int | None
    pixels_percent: float | None

    @property
    def empty(self) -> bool:
        """Whether there is no scene, or no observation of nearly all pixels."""
        percent = self.pixels_percent
        return self.scene_days == 0 or (percent is not None and percent < EMPTY_MONTH)

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self.scene_days is not None or self.pixels_percent is not None


@dataclass
class SensorSteps:
    """Valid steps of one sensor, over the pixels with an embedding.

    Attributes:
        median, percentile_5: of the number of valid steps; None without embeddings.
        fewer_percent: per cent of these pixels with fewer than `FEW_STEPS`.
        none_percent: per cent without any.
        median_months: median number of months with a valid step; None if unknown.
    """

    median: int | None
    percentile_5: int | None
    fewer_percent: float
    none_percent: float
    median_months: int | None


@dataclass
class Facts:
    """Everything that is checked, apart from the pixels.

    Attributes:
        sensors: sensors in use; others are disabled.
        steps: valid steps by sensor; empty if they are not known.
        months: coverage by sensor.
        seam_score: see `seams`.
        jumps: messages about Sentinel-2 days at another level.
        inference: in which precision and on which device the blocks were computed.
        skipped: names of blocks without embeddings because they failed.
        left_out: listed scenes that were left out because they were missing or corrupt.
        outside_period: time steps outside the period.
        warnings: number of warnings about the scenes.
        limits: `max_seam` and `max_saturated` of the configuration.
        other_folders: folders beside the exported tile folders that are none of this run; None
            without such an export.
    """

    sensors: Sequence[str]
    steps: Mapping[str, SensorSteps]
    months: Mapping[str, Sequence[MonthCoverage]]
    seam_score: float | None
    jumps: Sequence[str]
    inference: InferenceRecord
    skipped: Sequence[str]
    left_out: int
    outside_period: int
    warnings: int
    limits: Mapping[str, float]
    other_folders: Sequence[str] | None = None


def worst(states: Iterable[str]) -> str:
    """Return the worst of some states."""
    return max(states, key=(PASS, WARN, FAIL).index, default=PASS)


def headline(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the result of all checks as a sentence.

    Args:
        checks: each with its `state`, as in `checks.json`.
    """
    states = [check["state"] for check in checks]
    failed, warned = states.count(FAIL), states.count(WARN)
    if not failed and not warned:
        return "All checks passed."
    parts = [f"{failed} failed"] if failed else []
    parts += [f"{warned} with a warning" if warned == 1 else f"{warned} with warnings"]
    return f"Of {len(checks)} checks, {' and '.join(parts[: len(parts) if warned else 1])}."


def decide(values: Values, facts: Facts) -> list[Check]:
    """Return all checks that apply."""
    return [
        _region(values),
        _skipped(facts),
        *_sensors(facts),
        *_steps(facts),
        *_months(values, facts),
        _outside(facts),
        _none("Listed scenes left out because they were missing or corrupt", facts.left_out, WARN,
              f"{facts.left_out} listed scenes were missing or corrupt and left out."),
        _none("Warnings about the scenes or tiles", facts.warnings, WARN),
        _none("Sentinel-2 days that are 1000 off the days around them", len(facts.jumps), FAIL,
              *facts.jumps[:_MOST_MESSAGES],
              *([f"and {len(facts.jumps) - _MOST_MESSAGES} more days (checks.json)."]
                if len(facts.jumps) > _MOST_MESSAGES else [])),
        *_other_folders(facts),
        _precision(facts),
        _none("Pixels with values that are not finite", values.non_finite, FAIL,
              f"{values.non_finite} pixels have a value that is not finite."),
        _none("Pixels with an embedding of zeros", values.all_zero, FAIL,
              f"{values.all_zero} pixels have an embedding of zeros."),
        _constant(values),
        *_saturated(values, facts.limits["max_saturated"]),
        *_seams(values.borders, facts.seam_score, facts.limits["max_seam"]),
    ]  # fmt: skip


def _none(name: str, number: int, state: str, *messages: str) -> Check:
    """Return a check that passes if a number is 0."""
    return Check(name, state, str(number), "0", list(messages)) if number else Check(
        name, PASS, "0", "0"
    )  # fmt: skip


def percent_text(part: int, total: int) -> str:
    """Return a share in per cent with one decimal, rounded down: 99.99 % is not all."""
    return f"{1000 * part // total / 10 if total else 0:.1f} %"


def _region(values: Values) -> Check:
    percent = 100 * values.embedded / values.inside if values.inside else 0.0
    name = "Share of the region with an embedding"
    result, limit = percent_text(values.embedded, values.inside), f"at least {REGION_WARN:g} %"
    if not values.embedded:
        return Check(name, FAIL, result, limit, ["No pixel has an embedding."])
    if percent >= REGION_WARN:
        return Check(name, PASS, result, limit)
    missing = values.inside - values.embedded
    message = f"{missing:,} of the {values.inside:,} pixels of the region have no embedding."
    return Check(name, WARN if percent >= REGION_FAIL else FAIL, result, limit, [message])


def _skipped(facts: Facts) -> Check:
    names = ", ".join(facts.skipped[:_MOST_MESSAGES])
    more = ", ..." if len(facts.skipped) > _MOST_MESSAGES else ""
    return _none("Blocks without embeddings because they failed", len(facts.skipped), FAIL,
                 f"Blocks without embeddings because they failed: {names}{more}.")  # fmt: skip


def _sensors(facts: Facts) -> Iterator[Check]:
    """Yield whether each sensor contributes to the embeddings."""
    if not facts.steps:
        return
    for sensor, title in TITLES.items():
        name, limit = f"Embeddings without {title}", f"at most {WITHOUT_SENSOR:g} %"
        steps = facts.steps[sensor]
        if sensor not in facts.sensors:
            message = f"The embeddings are computed without {title} ({sensor}.enabled: false)."
            yield Check(name, WARN, "disabled", limit, [message])
        elif steps.median is None:
            continue
        elif steps.none_percent == 100:
            message = f"No embedding is computed from a {title} observation."
            yield Check(name, WARN, "all", limit, [message])
        else:
            percent = steps.none_percent
            message = (
                f"{percent:.1f} % of the embeddings are computed without a {title} observation: "
                "they cannot be compared with the others."
            )
            passed = percent <= WITHOUT_SENSOR
            state, messages = (PASS, []) if passed else (WARN, [message])
            yield Check(name, state, f"{percent:.1f} %", limit, messages)


def _observing(facts: Facts) -> list[str]:
    """Return the sensors with an observation, as far as is known."""
    return [
        sensor
        for sensor in facts.sensors
        if sensor not in facts.steps or facts.steps[sensor].none_percent < 100
    ]


def _steps(facts: Facts) -> Iterator[Check]:
    for sensor in _observing(facts):
        steps = facts.steps.get(sensor)
        if steps is None or steps.median is None or steps.percentile_5 is None:
            continue
        check = Check(
            f"Valid {TITLES[sensor]} observations of an embedding",
            PASS,
            f"median {steps.median}, 5th percentile {steps.percentile_5}",
        )
        if sensor == "sentinel2":
            check.limit = f"5th percentile at least {FEW_STEPS}"
            if steps.percentile_5 < FEW_STEPS:
                check.state = WARN
                check.messages = [
                    f"{steps.fewer_percent:.1f} % of the embeddings are computed from fewer than "
                    f"{FEW_STEPS} valid Sentinel-2 observations. Set a higher "
                    "model.min_observations to leave such pixels without an embedding."
                ]
        yield check


def _months(values: Values, facts: Facts) -> Iterator[Check]:
    """Yield the check of the complete months of each sensor that is not missing altogether."""
    for sensor in _observing(facts) if values.embedded else []:
        months = [month for month in facts.months.get(sensor, ()) if month.complete]
        if months:
            yield _empty_months(sensor, months)


def _empty_months(sensor: str, months: Sequence[MonthCoverage]) -> Check:
    title = TITLES[sensor]
    name = f"Months without a scene or a clear observation of {title}"
    if sensor == "sentinel1":
        name = f"Months without a scene or an observation of {title}"
    if not any(month.known for month in months):
        message = f"The months of the {title} observations are not known."
        return Check(name, WARN, "not known", f"0 of {len(months)}", [message])
    empty = [month for month in months if month.empty]
    result, limit = f"{len(empty)} of {len(months)}", "0"
    if not empty:
        return Check(name, PASS, result, limit)
    parts = []
    for texts, chosen in (
        (f"no {title} scene", [m.month for m in empty if m.scene_days == 0]),
        (f"scenes but no valid {title} observation", [m.month for m in empty if m.scene_days != 0]),
    ):
        if chosen:
            parts.append(f"{texts} in {', '.join(chosen)}")
    message = f"{len(empty)} of {len(months)} months are without: {'; '.join(parts)}."
    fails = sensor == "sentinel2" and len(empty) >= EMPTY_MONTHS_FAIL * len(months)
    return Check(name, FAIL if fails else WARN, result, limit, [message])


def _outside(facts: Facts) -> Check:
    return _none("Time steps outside the period", facts.outside_period, WARN,
                 f"Up to {facts.outside_period} time steps of a block are outside the period.",
                 )  # fmt: skip


def _other_folders(facts: Facts) -> Iterator[Check]:
    if facts.other_folders is not None:
        names = facts.other_folders
        more = ", ..." if len(names) > _MOST_MESSAGES else ""
        message = (
            f"The folder tiles has {len(names)} folders that are no tiles of this run: "
            f"{', '.join(names[:_MOST_MESSAGES])}{more}. Move them away before the tiles are used."
        )
        yield _none("Folders beside the tiles that are none of this run", len(names), WARN, message)


def _precision(facts: Facts) -> Check:
    names = sorted({name or "not recorded" for name in facts.inference.precisions})
    messages = facts.inference.warnings
    return Check("Precision of the inference", WARN if messages else PASS, ", ".join(names), "one",
                 messages)  # fmt: skip


def _constant(values: Values) -> Check:
    number = len(values.constant) if values.embedded > 1 else 0
    return _none("Dimensions that are the same everywhere", number, FAIL,
                 f"{number} dimensions are the same everywhere: "
                 f"{', '.join(map(str, values.constant[:10]))}.")  # fmt: skip


def _saturated(values: Values, limit: float) -> Iterator[Check]:
    percent = values.saturated_percent
    if percent is None:
        return
    message = f"{percent:.1f} % of the codes are at an end of their range, more than {limit:g} %."
    failed = percent > limit
    yield Check("Saturated codes", FAIL if failed else PASS, f"{percent:.2f} %",
                f"at most {limit:g} %", [message] if failed else [])  # fmt: skip


def _seams(borders: Sequence[Border], score: float | None, limit: float) -> Iterator[Check]:
    """Yield the score of all edges, and the edge with the largest ratio."""
    if score is None:
        return
    highest = max(borders, key=lambda border: border.ratio if border.pairs else 0.0)
    where = _place(highest)
    failed = score > limit
    yield Check("Seam score", FAIL if failed else PASS, f"{score:.3f}", f"at most {limit:g}", [
        f"The seam score is {score:.2f}, above {limit:g}; the worst border is {where}."
    ] if failed else [])  # fmt: skip
    counted = [border for border in borders if border.pairs >= BORDER_PAIRS]
    if not counted:
        return
    highest = max(counted, key=lambda border: border.ratio)
    seam = highest.ratio > SEAM_OF_BORDER
    yield Check("Highest ratio at one border", WARN if seam else PASS, f"{highest.ratio:.3f}",
                f"at most {SEAM_OF_BORDER:g}", [
        f"The difference across {_place(highest)} is {highest.ratio:.2f} times that beside it."
    ] if seam else [])  # fmt: skip


def _place(border: Border) -> str:
    if len(border.blocks) == 1:
        return f"that of the patches of {border.blocks[0]}"
    return f"that of {' and '.join(border.blocks)}"
