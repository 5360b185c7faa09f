"""Find settings that have no effect in a configuration, so that none is ignored in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from pydantic import BaseModel

from .configuration import Config, runs
from .maps import OF_METHODS
from .messages import section_of

_DOWNLOAD = (
    "slice_months", "attempts", "timeout", "deadline", "max_missing_percent",
)  # fmt: skip
_SENSORS = ("preprocessing", "sentinel2", "sentinel1")
_SCENES = (*_SENSORS, *(f"download.{key}" for key in _DOWNLOAD))

UNUSED_SECTIONS: dict[str, tuple[str, ...]] = {
    "scenes": ("tiles", "geotessera"),
    "tiles": (*_SCENES, "download.threads", "geotessera"),
    "geotessera": (
        *_SENSORS,
        "download.slice_months",
        "download.max_missing_percent",
        "tiles",
        "model.cache",
        "model.statistics",
        "model.allow_statistics_mismatch",
        "model.heads",
        "model.seed",
        "model.repeat_times",
        "model.min_observations",
        "model.device",
        "model.precision",
        "model.compile",
        "model.batch_size",
        "jobs.cpu_gpu",
        "jobs.on_missing_gpu",
        "jobs.gpu_job_minutes",
        "jobs.scratch",
    ),
}
"""Keys, and sections with all their keys, that a value of `source` does not use. A path in
`model.weights` is no mistake with `geotessera`: it is often left from another run."""

_FILLED = "filled"
"""`source: geotessera` with `fill: compute`."""
_UNUSED = {**UNUSED_SECTIONS, _FILLED: ("tiles",)}

_LOCAL_RULES = {
    "scenes": ("items", "weights", "download", "site_items", "site_series"),
    "tiles": ("weights",),
    "geotessera": ("store_tiles", "import_embeddings"),
    _FILLED: ("store_tiles", "import_embeddings", "items", "weights", "download"),
}
_KEPT = {
    "scenes": ("slices", "stack", "patches"),
    "tiles": ("patches",),
    "geotessera": (),
    _FILLED: ("slices", "stack", "patches"),
}
_OF_FORMATS = {
    "zarr_chunk": ("zarr",),
    "zarr_shards": ("zarr",),
    "zarr_preview": ("zarr",),
    "cog_dtype": ("cog",),
    "license": ("stac",),
    "max_seam": ("report",),
    "max_saturated": ("report",),
    "preview_stretch": ("preview", "report", "zarr"),
}


def unused_settings(config: Config) -> list[str]:
    """Return a message for each setting that is not at its default and has no effect."""
    return list(_messages(config))


def _messages(config: Config) -> Iterator[str]:
    source = config.source
    kind = _FILLED if config.fills else source
    unused = [
        key
        for key in changed_keys(config)
        if any(key == part or key.startswith(f"{part}.") for part in _UNUSED[kind])
    ]
    if unused:
        yield f"source is {source}, which does not use these settings: {', '.join(unused)}."
    if config.geotessera.assume_same_model and source == "geotessera" and not config.fills:
        yield "geotessera.assume_same_model has no effect without geotessera.fill: compute."
    yield from _entries("jobs.local_rules", config.jobs.local_rules, _LOCAL_RULES[kind], source)
    yield from _entries("paths.keep", config.paths.keep, _KEPT[kind], source)
    changed = set(changed_keys(config.products))
    for key, formats in _OF_FORMATS.items():
        if key in changed and not set(formats) & set(config.products.formats):
            yield (
                f"products.{key} has no effect, because products.formats has no "
                f"{' or '.join(formats)}."
            )
    if config.sites.table is None and (keys := changed_keys(config.sites)):
        names = ", ".join(f"sites.{key}" for key in keys)
        yield f"{names}: no effect, because sites.table is not set."
    if config.reads_scenes:
        yield from _of_disabled_sensors(config)
        for sensor in (config.sentinel2, config.sentinel1):
            # A region or period can have another provider.
            sections = [getattr(config.for_run(*run), sensor.sensor) for run in runs(config)]
            providers = {section.provider for section in sections if section.enabled}
            if providers and "local" not in providers and "item_format" in changed_keys(sensor):
                yield (
                    f"{sensor.sensor}.item_format has no effect, because "
                    f"{sensor.sensor}.provider is {sensor.provider}: it is for local archives."
                )
    if config.weights is not None:
        yield from _of_the_model(config)
    yield from _of_maps(config)
    computed = {period for _, period in runs(config)}
    for name in config.periods:
        if name not in computed and config.sites.table is None:
            yield f"periods.{name} is not computed: no region has it in its `periods`."


def _of_the_model(config: Config) -> Iterator[str]:
    """Yield a message for each setting of the model that has no effect."""
    for name in ("batch_size", "compile"):
        if config.model.device == "cpu" and name in changed_keys(config.model):
            yield f"model.{name} has no effect, because model.device is cpu: it is for GPUs."
    weights = PurePath(config.model.weights or "")
    # Published names have neither a suffix nor a folder.
    if config.model.cache is not None and (weights.suffix or len(weights.parts) > 1):
        yield (
            "model.cache has no effect, because model.weights is the path of a file: it is for "
            "published weights, which are downloaded."
        )
    if config.model.allow_statistics_mismatch and config.model.statistics is None:
        yield "model.allow_statistics_mismatch has no effect without model.statistics."


def _of_maps(config: Config) -> Iterator[str]:
    """Yield a message for each setting of a map, or map, that has no effect."""
    for name, settings in config.maps.items():
        changed = set(changed_keys(settings))
        for method, key in OF_METHODS.items():
            if key in changed and method != settings.method:
                yield (
                    f"maps.{name}.{key} has no effect, because maps.{name}.method is "
                    f"{settings.method}."
                )
        if not any(name in config.maps_of(*run) for run in runs(config)):
            yield f"maps.{name} is not made: no region has a period of its `periods`."


def _of_disabled_sensors(config: Config) -> Iterator[str]:
    """Yield a message for each section with settings of a sensor that no run of it uses."""
    for sensor in ("sentinel2", "sentinel1"):
        used = [run for run in runs(config) if getattr(config.for_run(*run), sensor).enabled]
        general, of_sites = getattr(config, sensor), config.sites.table is not None
        places = [
            (sensor, changed_keys(general), bool(used) or (of_sites and general.enabled)),
            *(
                (f"regions.{name}.{sensor}", sorted(getattr(region, sensor).model_fields_set),
                 any(run[0] == name for run in used))
                for name, region in config.regions.items()
            ),
            *(
                (f"periods.{name}.{sensor}", sorted(getattr(period, sensor).model_fields_set),
                 any(run[1] == name for run in used))
                for name, period in config.periods.items()
            ),
        ]  # fmt: skip
        for place, keys, is_used in places:
            names = [f"{place}.{key}" for key in keys if key != "enabled"]
            if names and not is_used:
                yield (
                    f"{', '.join(names)}: no effect, because {sensor}.enabled is false there: "
                    "remove them, or enable the sensor."
                )


def _entries(key: str, given: Sequence[str], used: Sequence[str], source: str) -> Iterator[str]:
    unused = [entry for entry in given if entry not in used]
    if unused:
        yield f"{key} has {', '.join(unused)}, which source: {source} does not have."


def changed_keys(section: BaseModel, prefix: str = "") -> list[str]:
    """Return the dotted keys whose values are not the defaults, without regions and periods."""
    keys = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        inner = section_of(field.annotation)
        if inner and inner[1]:
            continue
        if inner:
            keys += changed_keys(value, f"{prefix}{name}.")
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            keys.append(f"{prefix}{name}")
    return keys
