"""Replace keys of the general sections by those of a region and of a period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from .model import Model
from .sections import OVERRIDES, Period, Region, Sentinel1, Sentinel2
from .types import Section

S = TypeVar("S", bound=Section)


def merged(section: S, *overrides: Section) -> S:
    """Return a section with the keys that are set in `overrides`; later ones take precedence."""
    update = {name: getattr(other, name) for other in overrides for name in other.model_fields_set}
    return section.model_copy(update=update) if update else section


def overridden(place: Region | Period) -> list[str]:
    """Return the dotted keys that a region or period overrides, such as `sentinel1.enabled`."""
    return [
        f"{name}.{key}"
        for name in OVERRIDES
        for key in sorted(getattr(place, name).model_fields_set)
    ]


def sections_of_run(
    sections: Mapping[str, Section], region: Region, period: Period
) -> tuple[Sentinel2, Sentinel1, Model]:
    """Return the sections of both sensors and of the model for one region and period.

    Args:
        sections: the general sections `sentinel2`, `sentinel1` and `model`.
        region: section of the region.
        period: section of the period, which takes precedence over that of the region.
    """
    sentinel2, sentinel1, model = (sections[name] for name in ("sentinel2", "sentinel1", "model"))
    assert isinstance(sentinel2, Sentinel2)
    assert isinstance(sentinel1, Sentinel1)
    assert isinstance(model, Model)
    least = merged(model.min_observations, region.min_observations, period.min_observations)
    return (
        merged(sentinel2, region.sentinel2, period.sentinel2),
        merged(sentinel1, region.sentinel1, period.sentinel1),
        model.model_copy(update={"min_observations": least}),
    )


def inherited_archives(section: Sentinel2 | Sentinel1, *overrides: Section) -> list[str]:
    """Return messages about a location or collection that belongs to another provider.

    Args:
        section: general section of a sensor.
        overrides: those of a region and a period, which takes precedence.
    """
    provider = str(section.provider)
    owner = dict.fromkeys(("location", "collection"), provider)
    for other in overrides:
        provider = getattr(other, "provider", "") if _sets(other, "provider") else provider
        owner |= {key: provider for key in owner if _sets(other, key)}
    run = merged(section, *overrides)
    return [
        f"{section.sensor}.provider is {provider}, but {section.sensor}.{key} is that of provider "
        f"{of}: set {key} beside this provider, or to null for its default."
        for key, of in owner.items()
        if run.enabled and of != provider and getattr(run, key) is not None
    ]


def _sets(section: Section, key: str) -> bool:
    return key in section.model_fields_set


def sensor_problems(
    sentinel2: Sentinel2, sentinel1: Sentinel1, model: Model, preprocessing: str | None
) -> list[str]:
    """Return what is wrong with the sections of one region and period, as complete messages."""
    lines = [*sentinel2.problems(), *sentinel1.problems()]
    if preprocessing == "as_published" and sentinel2.boa_offset != "auto":
        lines.append(
            f"sentinel2.boa_offset is {sentinel2.boa_offset}, but with preprocessing: as_published "
            "the date of a scene decides its offset: remove sentinel2.boa_offset, or set "
            "preprocessing to corrected."
        )
    if not (sentinel1.enabled or sentinel2.enabled):
        lines.append(
            "sentinel2.enabled and sentinel1.enabled are both false: enable at least one sensor."
        )
        return lines
    least = model.min_observations
    for stream, source, count in (("s2", sentinel2, least.s2), ("s1", sentinel1, least.s1)):
        if count and not source.enabled:
            lines.append(
                f"model.min_observations.{stream} is {count}, but {source.sensor}.enabled is "
                "false, so no pixel would get an embedding: set it to 0, or enable the sensor."
            )
    mismatch = [
        source
        for source in (sentinel2, sentinel1)
        if source.enabled and model.statistics not in (None, source.data_source)
    ]
    if mismatch and not model.allow_statistics_mismatch:
        source = mismatch[0]
        lines.append(
            f"model.statistics is {model.statistics}, but the {source.sensor} scenes need "
            f"{source.data_source}; with other statistics the embeddings are invalid: use "
            f"the {source.data_source} checkpoint and its statistics, or set "
            "model.allow_statistics_mismatch to true to run anyway."
        )
    return lines
