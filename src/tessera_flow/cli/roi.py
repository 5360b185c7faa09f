"""`tessera-flow roi`: write the mask of a region, to check it before a run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `roi` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "roi",
        help="write the mask of a region as a GeoTIFF",
        description=(
            "Rasterise a region (any vector format, or a raster mask) on the 10 m grid that a run "
            "would use: a uint8 GeoTIFF, 1 = inside. For a vector, also write its convex hull."
        ),
    )
    add = parser.add_argument
    add("region", help="GeoJSON, GeoPackage, shapefile, FlatGeobuf, ..., a GeoTIFF, or a box "
        "west,south,east,north in degrees")  # fmt: skip
    add("--out", type=Path, required=True, metavar="TIF", help="mask to write")
    add("--hull", type=Path, default=None, metavar="TIF",
        help="convex hull to write (default: <out>_convex_hull.tif)")  # fmt: skip
    add("--layer", default=None, help="layer to read, if the file has several")
    add("--crs", default="auto", help="CRS such as EPSG:32631 (default: the UTM zone)")
    add("--resolution", type=_resolution, default=10.0,
        help="pixel size in metres, at least 1 (default: %(default)s)")  # fmt: skip
    add("--align", choices=("grid", "roi"), default="grid",
        help="snap to multiples of the resolution, or keep the region's corner")  # fmt: skip
    parser.set_defaults(func=run)


def _resolution(text: str) -> float:
    from ..config.sections import MIN_RESOLUTION

    value = float(text)
    if not MIN_RESOLUTION <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text} is not a pixel size: give metres (not degrees), at least {MIN_RESOLUTION:g}"
        )
    return value


def run(arguments: argparse.Namespace) -> int:
    """Write the mask and the hull, and print their sizes."""
    from ..atomic import check_output
    from ..errors import RegionError
    from ..region.mask import write_mask
    from ..region.roi import VectorRoi, convex_hull, read_roi, region_geobox
    from ..region.roi_files import roi_files
    from .run_request import box_or_file

    check_output(arguments.out)
    hull = arguments.hull
    if hull is None:
        hull = arguments.out.with_name(f"{arguments.out.stem}_convex_hull.tif")
    check_output(hull)
    source = box_or_file(arguments.region)
    files = [source, *roi_files(source)] if isinstance(source, Path) else []
    region = {file.resolve() for file in files}
    for name, path in (("out", arguments.out), ("hull", hull)):
        if path.resolve() in region:
            raise RegionError(f"--{name} {path} is the region itself: name another file.")
    if hull.resolve() == arguments.out.resolve():
        raise RegionError(f"--hull {hull} is the same file as --out: name another file.")
    roi = read_roi(source, arguments.layer)
    geobox = region_geobox(roi, arguments.resolution, arguments.crs, arguments.align)
    inside = write_mask(roi, geobox, arguments.out)
    height, width = geobox.shape
    print(
        f"{arguments.out}: {width} x {height} px of {arguments.resolution:g} in {geobox.crs}, "
        f"{inside} inside ({inside / (width * height):.1%})"
    )
    if isinstance(roi, VectorRoi):
        print(f"{hull}: the convex hull, {write_mask(convex_hull(roi), geobox, hull)} px inside")
    return 0
