"""Combine the Zarr stores of the periods of a region into one store with an axis of time.

A chunk of time is one period, so the files of a period are those of its own store: they are linked,
not copied, where the disk can do so, and no period's files are written again when another is added.
Each change makes a new folder of links, which takes the place of the earlier one at once.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...atomic import atomic_folder, output_error
from ...errors import OutputError, TileError
from ..checksums import STORE_RECORD, Checksums, damage_message, sha256_of
from ..record import has_record

logger = logging.getLogger(__name__)

CUBE = "cube"
"""Attribute of the group with a list of the periods, in the order of the axis of time."""
LEFT_OUT = "left_out"
"""Attribute of the group with a list of the periods that do not match those in it: `period`,
`reason`, `checksums_sha256` as in `cube_periods`, and `form_sha256`, of what must match."""

_REQUIRED = ("embeddings", "scales")
_OPTIONAL = ("observation_counts", "observation_months", "origin")
_COORDINATES = ("x", "y", "band", "kind", "spatial_ref")
_PLACE = ("proj:code", "proj:wkt2", "spatial:transform", "spatial:shape")
_MODEL = ("family", "name", "sha256", "dim", "dtype", "statistics", "heads")
_METADATA = "zarr.json"
_EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True)
class _Slice:
    """A period in a store.

    Attributes:
        store: folder of a cube, or of the store of one period.
        index: on the axis of time.
        record: of the checksums of the store.
        entry: of the period in the list of the cube.
        attributes: of the group.
    """

    store: Path
    index: int
    record: Checksums
    entry: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def order(self) -> tuple[str, str, str]:
        """Where the period is on the axis of time."""
        return self.entry["start"], self.entry["end"], self.entry["period"]

    def metadata(self, array: str) -> dict[str, Any] | None:
        """Return the metadata of an array; None if the store does not have it."""
        path = self.store / array / _METADATA
        return _document(path) if f"{array}/{_METADATA}" in self.record.sizes else None

    def form(self, array: str) -> dict[str, Any] | None:
        """Return what must be equal in an array of all periods: the metadata without the length of
        time and the attributes."""
        metadata = self.metadata(array)
        if metadata is None:
            return None
        shape = metadata["shape"][1:]
        return {k: v for k, v in metadata.items() if k != "attributes"} | {"shape": shape}

    def matched(self) -> dict[str, Any]:
        """Return what must be equal in all periods, by why a period that differs is left out."""
        provenance = self.entry["provenance"]
        return {
            "it is on another grid": [self.attributes.get(key) for key in _PLACE],
            "it is of another model": [provenance["model"].get(key) for key in _MODEL],
            "its preprocessing is another one": provenance["preprocessing"],
            "its chunks are others": [self.form(name) for name in _REQUIRED],
        }

    def form_sha256(self) -> str:
        """Return a hash of what must be equal in all periods."""
        return hashlib.sha256(json.dumps(self.matched(), sort_keys=True).encode()).hexdigest()

    def files(self, array: str) -> Iterator[tuple[str, str]]:
        """Yield the names of the files of an array, and what follows the index of time in them."""
        prefix = f"{array}/c/{self.index}/"
        for name in self.record.sizes:
            if name.startswith(prefix):
                yield name, name.removeprefix(prefix)


def cube_periods(cube: Path) -> list[dict[str, Any]]:
    """Return the periods of a cube: `period`, `start`, `end`, `checksums_sha256` (of the record in
    the period's store) and `provenance`; empty if there is no cube.

    Raises:
        TileError: its metadata are damaged.
    """
    return _listed(cube, CUBE)


def periods_left_out(cube: Path) -> list[dict[str, Any]]:
    """Return the periods that a cube is without because they do not match; see `LEFT_OUT`.

    Raises:
        TileError: its metadata are damaged.
    """
    return _listed(cube, LEFT_OUT)


def _listed(cube: Path, name: str) -> list[dict[str, Any]]:
    if not (cube / _METADATA).exists():
        return []
    entries = _document(cube / _METADATA).get("attributes", {}).get(name)
    if not isinstance(entries, list):
        raise TileError(f"{cube} has no list of periods: delete it and run again.")
    return entries


def add_period(cube: Path, period: str, store: Path) -> list[str]:
    """Add a period to the cube of its region, or replace it; the other periods keep their files.

    A crash leaves the cube as it was. Periods are in the order of their first days.

    Args:
        cube: the folder, made if it does not exist.
        period: name.
        store: `embeddings.zarr` of the period.

    Returns:
        Warnings: periods, and arrays, that are now left out because they do not match.

    Raises:
        TileError: the store, or the cube, is damaged.
        OutputError: the cube cannot be written, or another process has changed it meanwhile.
    """
    before = _bytes(cube / _METADATA)
    new = _of_store(period, store)
    texts: list[str] = []
    slices, others = [new], []
    for old in _of_cube(cube, texts):
        if old.entry["period"] == period:
            continue
        if why := _difference(old, new):
            others.append((old, why))
            texts.append(_left_out_text(cube, old.entry["period"], why))
        else:
            slices.append(old)
    left_out = [*_still_left_out(cube, new), *(_left_out(old, why) for old, why in others)]
    slices.sort(key=lambda one: one.order)
    arrays = [name for name in _REQUIRED if new.form(name)]
    for name in _OPTIONAL:
        forms = [one.form(name) for one in slices]
        if all(form is not None and form == forms[0] for form in forms):
            arrays.append(name)
        elif any(forms):
            texts.append(f"{name} is left out of {cube.name}: not all periods have it alike")
    with atomic_folder(cube, has_record) as part:
        part.mkdir()
        record = _link_files(part, slices, arrays, new)
        lasting = [_left_out_text(cube, one["period"], one["reason"]) for one in left_out]
        lists: dict[str, list[Any]] = {
            LEFT_OUT: left_out,
            "warnings": list(dict.fromkeys([*lasting, *texts])),
        }
        _write_metadata(part, slices, arrays, new, lists)
        _write_record(part, record)
        if _bytes(cube / _METADATA) != before:
            raise OutputError(f"{cube} was changed by another process meanwhile: run again.")
    for text in texts:
        logger.warning("%s", text)
    return texts


def _of_store(period: str, store: Path) -> _Slice:
    record = Checksums.of_store(store)
    if faults := list(record.changed_sizes()):
        raise TileError(damage_message(store, faults))
    attributes = _document(store / _METADATA)["attributes"]
    entry = {
        "period": period,
        "start": attributes["time_coverage_start"],
        "end": attributes["time_coverage_end"],
        "checksums_sha256": sha256_of(store / STORE_RECORD),
        "provenance": attributes["provenance"],
    }
    return _Slice(store, 0, record, entry, attributes)


def _of_cube(cube: Path, texts: list[str]) -> Iterator[_Slice]:
    """Yield the periods of an existing cube, without those of which files are damaged."""
    if not cube.is_dir() or not any(cube.iterdir()):
        return
    try:
        record, entries = Checksums.of_store(cube), cube_periods(cube)
        attributes = _document(cube / _METADATA)["attributes"]
    except TileError as error:
        if not has_record(cube):
            raise
        texts.append(f"{cube.name} is made again from the period that is added: {error}")
        return
    faults = [name for name in record.sizes if record.fault(name)]
    for index, entry in enumerate(entries):
        damaged = [name for name in faults if _concerns(name, index)]
        if damaged:
            texts.append(
                f"period {entry['period']} is left out of {cube.name}, because "
                f"{record.fault(damaged[0])}"
            )
        else:
            yield _Slice(cube, index, record, entry, attributes)


def _concerns(name: str, index: int) -> bool:
    """Return whether a file is one of the arrays of a period, or describes them."""
    array, _, key = name.partition("/")
    of_period = key == _METADATA or key.startswith(f"c/{index}/")
    return name == _METADATA or (array in (*_REQUIRED, *_OPTIONAL) and of_period)


def _difference(old: _Slice, new: _Slice) -> str:
    """Return why two periods cannot be in one cube; empty if they can."""
    expected = new.matched()
    return next((why for why, value in old.matched().items() if value != expected[why]), "")


def _left_out(old: _Slice, reason: str) -> dict[str, Any]:
    same = {key: old.entry[key] for key in ("period", "checksums_sha256")}
    return {**same, "reason": reason, "form_sha256": old.form_sha256()}


def _still_left_out(cube: Path, new: _Slice) -> Iterator[dict[str, Any]]:
    """Yield the periods that were left out before and do not match the added one either."""
    try:
        before = periods_left_out(cube)
    except TileError:  # the cube is made again
        return
    form = new.form_sha256()
    for one in before:
        if one["period"] != new.entry["period"] and one["form_sha256"] != form:
            yield one


def _left_out_text(cube: Path, period: str, reason: str) -> str:
    return f"period {period} is left out of {cube.name}: {reason}"


def _link_files(
    part: Path, slices: Sequence[_Slice], arrays: Sequence[str], new: _Slice
) -> dict[str, tuple[int, str]]:
    """Link the files of all periods; return size and SHA-256 by name."""
    record: dict[str, tuple[int, str]] = {}

    def add(source: _Slice, name: str, target: str) -> None:
        _link(source.store / name, part / target)
        record[target] = source.record.sizes[name], source.record.sha256[name]

    for name in new.record.sizes:
        if name.partition("/")[0] in _COORDINATES:
            add(new, name, name)
    for index, one in enumerate(slices):
        for array in arrays:
            for name, key in one.files(array):
                add(one, name, f"{array}/c/{index}/{key}")
    return record


def _link(source: Path, target: Path) -> None:
    """Link a file; copy it where the disk has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise TileError(damage_message(source, ["a file is missing"])) from error
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise output_error(target, error) from error


def _write_metadata(
    part: Path,
    slices: Sequence[_Slice],
    arrays: Sequence[str],
    new: _Slice,
    lists: Mapping[str, list[Any]],
) -> None:
    # Imported here: the workflow reads the other functions whenever it starts.
    import numpy as np
    import zarr

    attributes = dict(new.attributes)
    entries = [dict(one.entry) for one in slices]
    names = [entry["period"] for entry in entries]
    provenance = combined_provenance(entries)
    attributes |= {
        "title": f"TESSERA embeddings of {provenance['region']}, {', '.join(names)}",
        "time_coverage_start": provenance["period_start"],
        "time_coverage_end": provenance["period_end"],
        "geoemb:source_data": _union(one.attributes["geoemb:source_data"] for one in slices),
        "provenance": provenance,
        CUBE: entries,
        **lists,
    }
    for name in arrays:
        metadata = new.metadata(name)
        assert metadata is not None
        metadata["shape"][0] = len(slices)
        if name == "observation_months":
            kept = metadata["attributes"]
            for flag in ("flag_masks", "flag_meanings"):
                kept.pop(flag, None)
            kept["comment"] = "bit n: month n of the period; bit 0 is the month of its first day"
        (part / name).mkdir(exist_ok=True)
        (part / name / _METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (part / _METADATA).write_text(json.dumps(document, indent=2), encoding="utf-8")
    group = zarr.open_group(part, mode="r+", zarr_format=3, use_consolidated=False)
    bounds = np.array([[_day(e["start"]), _day(e["end"]) + 1] for e in entries], np.int64)
    of_time: dict[str, Any] = _TIME | {"period_names": " ".join(names)}
    for name, values, dimensions, described in (
        ("time", bounds[:, 0], ("time",), of_time),
        ("time_bnds", bounds, ("time", "bound"), {}),
    ):
        array = group.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=values.dtype,
            dimension_names=dimensions, fill_value=np.iinfo(np.int64).min,
            attributes=described,
        )  # fmt: skip
        array[...] = values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(part, zarr_format=3)


_TIME = {
    "standard_name": "time",
    "long_name": "first day of the period",
    "axis": "T",
    "units": "days since 1970-01-01",
    "calendar": "proleptic_gregorian",
    "bounds": "time_bnds",
}


def combined_provenance(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one record of several periods: names, days, sources, filled stores and warnings of
    all, and a hash of their settings; the rest, such as the model, is that of the last one."""
    records = [entry["provenance"] for entry in entries]
    sources: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in records:
        for source in record["sources"]:
            key = tuple(str(source[k]) for k in ("sensor", "provider", "location", "collection"))
            if key in sources and None not in (source["items"], sources[key]["items"]):
                source = source | {"items": source["items"] + sources[key]["items"]}
            sources[key] = source
    hashes = "".join(record["configuration_sha256"] for record in records)
    fills = [record["fill"] for record in records if "fill" in record]
    return {
        **records[-1],
        **({"fill": _combined_fill(fills)} if fills else {}),
        "period": ", ".join(entry["period"] for entry in entries),
        "period_start": min(record["period_start"] for record in records),
        "period_end": max(record["period_end"] for record in records),
        "sources": list(sources.values()),
        "warnings": [
            f"{entry['period']}: {text}"
            for entry in entries
            for text in entry["provenance"].get("warnings", [])
        ],
        "configuration_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
    }


def _combined_fill(fills: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one record of the stores whose holes were computed; see `provenance.FillSource`."""
    how = {fill["same_model"] for fill in fills}
    return {
        **fills[-1],
        "dataset": ", ".join(dict.fromkeys(fill["dataset"] for fill in fills)),
        "same_model": "assumed" if "assumed" in how else fills[-1]["same_model"],
    }


def _write_record(part: Path, linked: Mapping[str, tuple[int, str]]) -> None:
    """Write the record of checksums: those of linked files are known."""
    names = [path for path in part.rglob("*") if path.is_file()]
    others = [path for path in names if path.relative_to(part).as_posix() not in linked]
    made = Checksums.of_files(others, part)
    sizes = {name: size for name, (size, _) in linked.items()} | dict(made.sizes)
    sha256 = {name: value for name, (_, value) in linked.items()} | dict(made.sha256)
    ordered = sorted(sizes)
    Checksums(
        part, {n: sizes[n] for n in ordered}, {n: sha256[n] for n in ordered}, None
    ).write(part / STORE_RECORD)  # fmt: skip


def _union(lists: Iterator[list[str]]) -> list[str]:
    return list(dict.fromkeys(text for several in lists for text in several))


def _day(text: str) -> int:
    return (datetime.date.fromisoformat(text) - _EPOCH).days


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _document(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises TileError if it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            return document
        reason = "it is no object"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise TileError(f"{path} cannot be read ({reason}): delete the store and run again.")
