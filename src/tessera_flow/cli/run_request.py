"""Options that describe a run: region, period, weights, folder."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config.configuration import Config
    from .run_folder import RunFolder

DEFAULT_FOLDER = Path("tessera-run")
DEFAULT_WEIGHTS = "v2-medium"
_NUMBER = r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*"
_BOX = re.compile(rf"{_NUMBER}(,{_NUMBER}){{3}}")

_COLUMNS = "name the columns of the coordinates with sites.x and sites.y"
"""What a refusal of a table of sites says, whose keys are no options."""


def add_arguments(parser: argparse.ArgumentParser, new: bool = True) -> None:
    """Add the options of a run to a command.

    Args:
        parser: of the command.
        new: the command can create a run.
    """
    add = parser.add_argument
    if new:
        add("--roi", default=None, metavar="FILE|BOX",
            help="vector file, raster mask, or west,south,east,north in degrees")  # fmt: skip
        add("--layer", default=None, help="layer of a vector file that has several")
        add(
            "--by",
            default=None,
            metavar="NAME",
            help="one region for each feature, named by this attribute; or row of a CSV of boxes",
        )
        add("--sites", default=None, metavar="FILE",
            help="table of points or small polygons: id, place and, if you like, year")  # fmt: skip
        add(
            "--crs",
            default=None,
            help="CRS of the coordinates of a CSV or Parquet table of --sites (default: EPSG:4326)",
        )
        add("--year", default=None, metavar="YEARS", help="year, range (2017-2025) or list")
        add("--start", default=None, metavar="DAY",
            help="first day, YYYY-MM-DD; with --year MM-DD")  # fmt: skip
        add("--end", default=None, metavar="DAY",
            help="last day, YYYY-MM-DD; with --year MM-DD")  # fmt: skip
        add("--weights", default=None, metavar="NAME|FILE",
            help=f"published name or checkpoint file (default: {DEFAULT_WEIGHTS})")  # fmt: skip
    add("--out", type=Path, default=None, metavar="DIR",
        help=f"folder of the run (default: {DEFAULT_FOLDER}, or the run that contains the working "
        "directory)")  # fmt: skip


def run_folder_of(arguments: argparse.Namespace) -> Path:
    """Return `--out`; without it the default folder, or, if that has no run and no region is given,
    the nearest folder with a run among the working directory and those above it."""
    from .run_folder import RunFolder

    if arguments.out is not None:
        return Path(arguments.out)
    new = getattr(arguments, "roi", None) is not None
    if not new and not RunFolder(DEFAULT_FOLDER).exists:
        here = Path.cwd()
        for folder in (here, *here.parents):
            if RunFolder(folder).exists:
                return Path(".") if folder == here else folder
    return DEFAULT_FOLDER


def prepared(arguments: argparse.Namespace) -> RunFolder:
    """Return the folder of a run, with a configuration.

    A new one is written from the options. An existing one is kept; values that are given must
    agree with it.

    Raises:
        ConfigError: options are missing or wrong, or differ from an existing configuration.
        RegionError, CheckpointError: the region or the weights cannot be read.
        OutputError: a file cannot be written.
    """
    from ..config.configuration import load_config
    from ..errors import ConfigError
    from .run_folder import RunFolder, check_equal

    arguments.out = run_folder_of(arguments)
    run = RunFolder(arguments.out)
    given = _given(arguments)
    if arguments.by is not None and (run.exists or "roi" not in given):
        raise ConfigError(
            "--by divides the file of --roi into the regions of a new run: leave it out for an "
            "existing run, else give --roi."
        )
    if "crs" in given and "sites" not in given:
        raise ConfigError("--crs is that of a table of sites: give --sites, too, or leave it out.")
    present = run.load() if run.exists else None
    if present is not None and not given:
        return run
    only_sites = "sites" in given and "roi" not in given  # whose table may have years
    if present is None and not only_sites and not {"roi", "period"} <= given:
        missing = "--roi" if "roi" not in given else "--year, or --start and --end"
        raise ConfigError(
            f"{run.folder} has no run yet, and {missing} is missing: give a region and a period, "
            "such as --roi region.geojson --year 2023, or a table of sites (--sites), or name the "
            "folder of a run with --out."
        )
    document = _document(arguments, run, given)
    try:
        requested = load_config(_completed(document, arguments.layer))
    except ConfigError as error:
        text = str(error).replace("regions.region.roi", "--roi")
        raise ConfigError(text) from None
    if present is not None:
        check_equal(run, present, requested, given)
        return run
    if arguments.by is not None:
        _write_regions(arguments, run, document)
        return run
    if "roi" in given:
        _check_region(arguments.roi, arguments.layer)
        if (box := _box(arguments.roi)) is not None:
            print(place_text(box), file=sys.stderr)
    if "sites" in given:
        _check_sites(requested, Path(arguments.sites).expanduser())
    run.write(document)
    return run


def _write_regions(arguments: argparse.Namespace, run: RunFolder, document: dict[str, Any]) -> None:
    """Write a run with one region for each feature or row, after all of them have been read."""
    from ..region.features import boxes_of_table, write_features
    from ..region.roi import read_roi, region_geobox

    source = Path(arguments.roi).expanduser()
    if source.suffix.lower() == ".csv":
        boxes = boxes_of_table(source, arguments.by)
        for box in boxes.values():
            region_geobox(read_roi(box), 10.0)
        run.write({**document, "regions": {name: {"roi": box} for name, box in boxes.items()}})
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        regions = write_features(source, arguments.layer, arguments.by, folder)
        for region in regions:
            region_geobox(read_roi(folder / f"{region}.gpkg"), 10.0)
        subfolder = "config/regions"
        run.write(
            {**document, "regions": {r: {"roi": f"{subfolder}/{r}.gpkg"} for r in regions}},
            {f"{subfolder}/{r}.gpkg": folder / f"{r}.gpkg" for r in regions},
        )


def _given(arguments: argparse.Namespace) -> set[str]:
    days = (arguments.year, arguments.start, arguments.end)
    values = {
        "roi": arguments.roi,
        "sites": arguments.sites,
        "crs": arguments.crs,
        "period": next((text for text in days if text is not None), None),
        "weights": arguments.weights,
        "layer": arguments.layer,
    }
    return {name for name, value in values.items() if value is not None}


def _document(arguments: argparse.Namespace, run: RunFolder, given: set[str]) -> dict[str, Any]:
    """Return the values of a configuration that the options give."""
    from ..models.published import weights_file

    document: dict[str, Any] = {"regions": {}, "periods": {}, "model": {}}
    if "roi" in given:
        name, roi = _region(arguments.roi, run)
        layer = {"layer": arguments.layer} if arguments.layer is not None else {}
        document["regions"] = {name: {"roi": roi, **layer}}
    if "sites" in given:
        crs = {"crs": arguments.crs} if "crs" in given else {}
        document["sites"] = {"table": run.roi_text(Path(arguments.sites).expanduser()), **crs}
    if "period" in given:
        document["periods"] = periods(arguments.year, arguments.start, arguments.end)
    weights = arguments.weights or DEFAULT_WEIGHTS
    file = weights_file(weights)
    document["model"] = {"weights": weights if file is None else run.roi_text(file)}
    return document


def _completed(document: dict[str, Any], layer: str | None) -> dict[str, Any]:
    """Return a document that is valid also if a region or period is not given."""
    if "sites" in document:
        return document
    return {
        "regions": document["regions"] or {"region": {"roi": "-", "layer": layer}},
        "periods": document["periods"] or {"y": {"years": 2023}},
        "model": document["model"],
    }


def _check_sites(requested: Config, table: Path) -> None:
    """Read the table of sites, so that no run is written for one that cannot be used.

    Raises:
        RegionError: it cannot; keys of the configuration are named as options.
    """
    from ..errors import RegionError
    from ..jobs.sites.table import write_rows

    sites = requested.sites.model_copy(update={"table": str(table)})
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_rows(requested.model_copy(update={"sites": sites}), Path(folder) / "rows.arrow")
        except RegionError as error:
            text = str(error).replace("sites.crs", "--crs")
            names = "name the columns of the coordinates lon and lat, or x and y (with --crs)"
            text = text.replace(_COLUMNS, names)
            raise RegionError(text) from None


def _region(text: str, run: RunFolder) -> tuple[str, str | list[float]]:
    """Return the name of a region, and its file or box."""
    from ..errors import RegionError
    from .run_folder import region_name

    if (box := _box(text)) is not None:
        return "region", box
    path = Path(text).expanduser()
    if not path.exists():
        raise RegionError(
            f"--roi {text} is neither a file nor a box: give the path of a vector file or raster "
            "mask, or west,south,east,north in degrees, such as 5.1,52.0,5.3,52.1."
        )
    return region_name(path), run.roi_text(path)


def _check_region(text: str, layer: str | None) -> None:
    """Read the region, so that no run is written for one that cannot be used."""
    from ..region.roi import read_roi, region_geobox

    region_geobox(read_roi(_box(text) or Path(text).expanduser(), layer), 10.0)


def box_or_file(text: str) -> list[float] | Path:
    """Return the box of a text such as `5.1,52.0,5.3,52.1`, or the path that it is.

    Raises:
        RegionError: it is a box with wrong numbers.
    """
    from pydantic_core import PydanticCustomError

    from ..config.bounding_box import bounding_box
    from ..errors import RegionError

    numbers = _box(text)
    if numbers is None:
        return Path(text).expanduser()
    try:
        return bounding_box(numbers)
    except PydanticCustomError as error:
        raise RegionError(f"The region is {text}, but must be {error.message()}.") from None


def place_text(box: Sequence[float]) -> str:
    """Return where a box is, and the box that was meant if its latitudes were given first."""
    west, south, east, north = box
    text = (
        f"The box is from {_degrees(west, 'EW')} to {_degrees(east, 'EW')} and from "
        f"{_degrees(south, 'NS')} to {_degrees(north, 'NS')}."
    )
    if max(abs(west), abs(east)) <= 90:
        text += f" (With latitudes first, it would be {south:g},{west:g},{north:g},{east:g}.)"
    return text


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):g} {letters[0] if value >= 0 else letters[1]}"


def _box(text: str) -> list[float] | None:
    return [float(number) for number in text.split(",")] if _BOX.fullmatch(text) else None


def periods(years: str | None, start: str | None, end: str | None) -> dict[str, dict[str, Any]]:
    """Return the periods of `--year`, `--start` and `--end` by name.

    Raises:
        ConfigError: they are incomplete, wrong or contradict each other.
    """
    from ..config.years import year_list
    from ..errors import ConfigError

    if years is None:
        if start is None or end is None:
            missing = "--start" if start is None else "--end"
            raise ConfigError(f"{missing} is missing: give --year, or --start and --end.")
        days = {"--start": start, "--end": end}
        first, last = (_day(option, text) for option, text in days.items())
        if last < first:
            raise ConfigError(f"--end {last} is before --start {first}: swap or correct them.")
        return {f"{first}_{last}": {"start": first, "end": last}}
    try:
        listed = year_list(years)
    except ValueError as error:
        raise ConfigError(f"--year is {years}, but must be {error}.") from None
    if start is None and end is None:
        return {
            f"y{year}": {"start": datetime.date(year, 1, 1), "end": datetime.date(year, 12, 31)}
            for year in listed
        }
    for option, text in (("--start", start), ("--end", end)):
        if text is not None and not re.fullmatch(r"\d\d-\d\d", text):
            raise ConfigError(
                f"{option} is {text}, but with --year it must be a month and a day such as 03-31: "
                "write it so, or leave out --year and give --start and --end as dates."
            )
    season = {"years": listed, "start": start or "01-01", "end": end or "12-31"}
    return {"season": season}


def _day(option: str, text: str) -> datetime.date:
    from ..errors import ConfigError

    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} is {text}, but must be a date such as 2023-01-31.") from None
