"""`tessera-flow export`: write a product in another format or on another grid."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `export` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "export",
        help="write a product in another format, with other bands, or on another grid",
        description=(
            "Write the embeddings of a product, dequantised to float32, as a cloud-optimised "
            "GeoTIFF, Zarr store, NumPy array or NetCDF file: all dimensions, some of them, or "
            "principal components; its pixels, or means of N x N of them; on its grid, or on "
            "another one by nearest neighbour."
        ),
    )
    add = parser.add_argument
    add(
        "product",
        type=Path,
        help="embeddings.zarr, stitched_representation.json, or a folder with one of them",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="PATH",
        help="what to write: .tif, .zarr, .npy (with a .json) or .nc (up to 2 GB)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--bands", metavar="LIST", help="dimensions, from 0: 0,5,9 or 0-15 (default: all)"
    )
    what.add_argument("--pca", type=int, metavar="N", help="the first N principal components")
    add(
        "--coarser",
        type=int,
        default=1,
        metavar="N",
        help="means of N x N pixels; a cell needs an embedding in half of them",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--crs", help="CRS of the export, such as EPSG:4326 (nearest neighbour)")
    where.add_argument(
        "--like", type=Path, metavar="RASTER", help="use the pixels of this raster's grid"
    )
    add("--pixel", type=float, metavar="SIZE", help="edge of a pixel in units of the CRS")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the export and print its size."""
    from ..errors import OutputError
    from ..products.export.origin import origin_file
    from ..products.export.product import Request, export

    if arguments.coarser < 1:
        raise OutputError(f"--coarser {arguments.coarser}: give 1 or more.")
    if arguments.pca is not None and arguments.pca < 1:
        raise OutputError(f"--pca {arguments.pca}: give 1 or more.")
    if arguments.like is not None and arguments.pixel is not None:
        raise OutputError("--pixel has no effect with --like: leave one of them out.")
    request = Request(
        bands=_dimensions(arguments.bands),
        pca=arguments.pca or 0,
        cells=arguments.coarser,
        crs=arguments.crs,
        pixel=arguments.pixel,
        like=arguments.like,
    )
    view = export(arguments.product, arguments.out, request, threads=os.cpu_count() or 1)
    height, width = view.shape
    print(f"{arguments.out}: {len(view.names)} bands, {width} x {height} px")
    second = origin_file(arguments.out)
    if second is not None and second.exists():
        print(f"{second}: which embeddings are published (1), computed (2) or means of both (3)")
    return 0


def _dimensions(text: str | None) -> tuple[int, ...]:
    """Return the numbers of a list such as `0,5,8-11`."""
    from ..errors import OutputError

    numbers: list[int] = []
    for entry in [] if text is None else text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", entry)
        if match is None:
            raise OutputError(f"--bands {text}: write numbers and ranges, such as 0,5,8-11.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > 10_000:
            raise OutputError(f"--bands {text}: {entry.strip()} is not a range of dimensions.")
        numbers += range(first, last + 1)
    if len(set(numbers)) != len(numbers):
        raise OutputError(f"--bands {text}: a dimension is named twice.")
    return tuple(numbers)
