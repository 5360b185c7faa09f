"""`tessera-flow sample`: write the embeddings at points as a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `sample` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "sample",
        help="write the embeddings at points or in polygons as a table",
        description=(
            "Read the embedding of the pixel that contains each point, or the mean over the pixels "
            "whose centres are in each polygon. The table has the columns of the points, then row "
            "and column (polygons: pixels and pixels_inside), state, observation counts and the "
            "dimensions of the embedding, e000, e001, ... With several stores it has a row for "
            "each feature and store, with the columns region and period."
        ),
    )
    add = parser.add_argument
    add(
        "store",
        type=Path,
        nargs="+",
        help="embeddings.zarr, or a folder of results with one or more of them",
    )
    add("points", type=Path, help="CSV or Parquet table, GeoPackage, GeoJSON, ...")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="table to write: .parquet, .csv or .gpkg",
    )
    add("--x", metavar="COLUMN", help="x column of a table (default: lon, longitude, x, ...)")
    add("--y", metavar="COLUMN", help="y column of a table (default: lat, latitude, y, ...)")
    add("--crs", help="CRS of the coordinates of a table (default: EPSG:4326)")
    add(
        "--encoding",
        help="encoding of the text of a CSV or shapefile (default: as it states, UTF-8)",
    )
    add(
        "--separator",
        metavar="TEXT",
        help="between the columns of a CSV (default: as in its header)",
    )
    add("--layer", metavar="NAME", help="layer of a vector file that has several")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the table and print the number of features with an embedding."""
    from ..atomic import check_output
    from ..errors import OutputError
    from ..products.reading.find import find_stores, open_stores
    from ..products.reading.sample_table import sample_table, write_sample
    from ..products.tables.points import read_features

    out: Path = arguments.out
    if out.suffix.lower() not in (".csv", ".parquet", ".gpkg"):
        raise OutputError(f"--out {out}: name a file that ends in .parquet, .csv or .gpkg.")
    check_output(out)
    if out.resolve() == arguments.points.resolve():
        raise OutputError(f"--out {out} is the table of points itself: name another file.")
    separator: str | None = arguments.separator
    if separator is not None:
        separator = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
        if len(separator) != 1:
            raise OutputError(f"--separator {separator}: give one character, or tab.")
    features = read_features(
        arguments.points,
        arguments.x,
        arguments.y,
        arguments.crs,
        encoding=arguments.encoding,
        separator=separator,
        layer=arguments.layer,
    )
    result = sample_table(open_stores(find_stores(arguments.store)), features)
    write_sample(out, result, features)
    print(f"{out}: {result.complete} of {len(result.table)} {result.rows}")
    return 0
