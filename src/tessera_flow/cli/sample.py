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
        help="write the embeddings at points as a table",
        description=(
            "Read the embedding of the pixel that contains each point. The table has the columns "
            "of the points, then row, column, state (ok, no embedding, outside, no coordinates), "
            "observation counts and the dimensions of the embedding, e000, e001, ..."
        ),
    )
    add = parser.add_argument
    add("store", type=Path, help="embeddings.zarr of a region and period")
    add("points", type=Path, help="CSV or Parquet table, GeoPackage, GeoJSON, ...")
    add("--out", type=Path, required=True, metavar="FILE", help="table to write: .parquet or .csv")
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
    """Write the table and print the number of points with an embedding."""
    from ..atomic import check_output
    from ..errors import OutputError
    from ..products.points import read_points, write_table
    from ..products.sample import open_store, sample_store

    out: Path = arguments.out
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise OutputError(f"--out {out}: name a file that ends in .parquet or .csv.")
    check_output(out)
    if out.resolve() == arguments.points.resolve():
        raise OutputError(f"--out {out} is the table of points itself: name another file.")
    separator: str | None = arguments.separator
    if separator is not None:
        separator = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
        if len(separator) != 1:
            raise OutputError(f"--separator {separator}: give one character, or tab.")
    points = read_points(
        arguments.points,
        arguments.x,
        arguments.y,
        arguments.crs,
        encoding=arguments.encoding,
        separator=separator,
        layer=arguments.layer,
    )
    sample = sample_store(open_store(arguments.store), points)
    write_table(out, sample.columns_after(points.table))
    print(f"{out}: {int((sample.state == 'ok').sum())} of {len(sample.state)} points")
    return 0
