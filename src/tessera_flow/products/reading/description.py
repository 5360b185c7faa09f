"""Read and print the provenance record of any product."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioError

from ...errors import TileError
from ..checksums import FOLDER
from ..geotiff.writer import open_raster
from ..provenance import pixel_text
from .sample import open_store

_NO_PRODUCTS = ("tiles", "tiles_earlier", FOLDER)
_RASTERS = (".tif", ".tiff", ".vrt")
_NAMES = ("stitched_representation.json", "item.json", "embeddings.parquet")


def find_products(path: Path) -> list[Path]:
    """Return the products at `path`: itself, or those in a folder of results.

    Raises:
        TileError: there are none.
    """
    if not path.exists():
        raise TileError(f"{path} does not exist: check the path.")
    if _is_product(path):
        return [path]
    products = sorted(p for p in _walk(path, depth=5) if _is_product(p)) if path.is_dir() else []
    if not products:
        raise TileError(
            f"There is no product in {path}: name a product, or the folder of a region and period "
            "in paths.results."
        )
    return products


def _walk(path: Path, depth: int) -> Iterator[Path]:
    for child in sorted(path.iterdir()):
        if _is_product(child):
            yield child
        elif child.is_dir() and depth > 1 and child.name not in _NO_PRODUCTS:
            yield from _walk(child, depth - 1)


def _is_product(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return path.suffix == ".zarr" or (path / "provenance.json").exists()
    return path.suffix in _RASTERS or path.name in _NAMES


def read_record(path: Path) -> dict[str, Any]:
    """Read the record (see `provenance`) of a product.

    Raises:
        TileError: it has none, or cannot be read.
    """
    record: Any = None
    try:
        if path.is_dir() and path.suffix == ".zarr":
            record = open_store(path, cube=True).attrs.get("provenance")
        elif path.is_dir():
            record = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            record = _record_of_table(path)
        elif path.suffix == ".json":
            record = json.loads(path.read_text(encoding="utf-8"))
            record = record.get("properties", record).get("provenance", record)
        else:
            with open_raster(path) as raster:
                record = json.loads(raster.tags().get("PROVENANCE", "null"))
    except (OSError, ValueError, AttributeError, RasterioError) as error:
        raise TileError(f"{path} cannot be read ({error}): delete it and run again.") from error
    if not isinstance(record, dict) or "configuration_sha256" not in record:
        raise TileError(
            f"{path} has no record, so it is not a product of tessera-flow: give the path of one "
            "(docs/outputs.md)."
        )
    record.pop("arrays", None)  # only in stitched_representation.json
    return record


def _record_of_table(path: Path) -> Any:
    # Imported here: most commands read no Parquet file.
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(b"tessera_flow", b"null"))


def describe(paths: list[Path]) -> str:
    """Return the records of products as lines of text, products with the same record together.

    Raises:
        TileError: see `read_record`; or a record is of an earlier version.
    """
    records: dict[str, list[Path]] = {}
    for path in paths:
        records.setdefault(json.dumps(read_record(path), sort_keys=True), []).append(path)
    return "\n".join(_lines(group, json.loads(text)) for text, group in records.items())


def _items(source: dict[str, Any]) -> str:
    if source["items"] is None:
        return ""
    if source["provider"] != "geotessera":
        return f", {source['items']} scenes"
    nearest = source["resampled"]
    return f", {source['items']} parts" + (f" ({nearest} resampled)" if nearest else "")


def _lines(paths: list[Path], record: dict[str, Any]) -> str:
    if "preprocessing" not in record:
        raise TileError(
            f"{paths[0]} was written by an earlier version of tessera-flow: write it again."
        )
    if "table_sha256" in record:
        return "\n".join([*map(str, paths), *_lines_of_sites(record)])
    a, _, c, _, e, f = record["transform"]
    height, width = record["shape"]
    lines = [
        *map(str, paths),
        f"  region, period  {record['region']}, {record['period']} "
        f"({record['period_start']} to {record['period_end']})",
        f"  grid            {width} x {height} px of {pixel_text(record['crs'], a)} in "
        f"{record['crs']}, x {c:.10g} to {c + a * width:.10g}, y {f + e * height:.10g} to {f:.10g}",
        *_lines_of_model(record),
        *(f"  warning         {text}" for text in record.get("warnings", [])),
        _written_by(record),
    ]
    return "\n".join(lines)


def _lines_of_sites(record: dict[str, Any]) -> list[str]:
    return [
        f"  sites           of a table with SHA-256 {record['table_sha256'][:12]}, pixels of "
        f"{record['resolution']:g} m",
        *_lines_of_model(record),
        _written_by(record),
    ]


def _lines_of_model(record: dict[str, Any]) -> list[str]:
    model = record["model"]
    return [
        f"  model           {model['name']} ({model['family']}), {model['dim']} dimensions, "
        f"{model['dtype']}, weights {(model['sha256'] or 'unknown')[:12]}",
        *(
            f"  source          {s['sensor']}: {s['location']} {s['collection']}" + _items(s)
            for s in record["sources"]
        ),
        f"  preprocessing   {record['preprocessing']}",
    ]


def _written_by(record: dict[str, Any]) -> str:
    return (
        f"  written by      tessera-flow {record['software']['tessera-flow']}, settings "
        f"{record['configuration_sha256'][:12]}"
    )
