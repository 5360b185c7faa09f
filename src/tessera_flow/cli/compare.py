"""`tessera-flow compare`: compare two products, or a product and published embeddings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..analysis.compare import Comparison
    from ..analysis.compared import Embeddings
    from ..analysis.diagnosis import Finding

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `compare` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "compare",
        help="compare two products, or a product and published embeddings",
        description=(
            "Compare the embeddings of two products pixel by pixel where their grids overlap, and "
            "name what may explain a difference. The grids must be aligned: nothing is resampled."
        ),
    )
    add = parser.add_argument
    what = (
        "embeddings.zarr, stitched_representation.npy, a folder with one of them, a tile of the "
        "geotessera layout (grid_<lon>_<lat>.npy), or the folder or URL of a published Zarr store"
    )
    add("a", metavar="A", help=what)
    add("b", metavar="B", help="the same; one of both can be a store")
    add("--year", type=int, help="of a published Zarr store (default: that of the other side)")
    add("--html", type=Path, metavar="FILE", help="write a page with maps, histogram and diagnosis")
    add("--json", action="store_true", help="print everything as JSON")
    add("--map", type=Path, metavar="FILE", help="write 1 - cosine of each pixel as a GeoTIFF")
    add("--neighbours", type=int, default=10, metavar="K",
        help="nearest neighbours of a pixel (default: 10)")  # fmt: skip
    add("--sample", type=int, default=2000, metavar="N",
        help="pixels among which neighbours are searched (default: 2000)")  # fmt: skip
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print the result.

    Raises:
        ConfigError: a number is out of range, or the year of a store is not known.
        RegionError: the grids differ or do not overlap.
        TileError, ItemError, ReadError: there are no embeddings, or they cannot be read.
        OutputError: the map or the page cannot be written.
    """
    from ..analysis.compare_page import check_page
    from ..analysis.published import opened_pair
    from ..errors import ConfigError

    if arguments.neighbours < 1 or not arguments.neighbours < arguments.sample <= 20_000:
        raise ConfigError(
            f"--neighbours {arguments.neighbours} and --sample {arguments.sample} do not fit: "
            "take at least 1 neighbour, and more pixels than neighbours, up to 20000."
        )
    if arguments.html is not None:
        check_page(arguments.html)
    with opened_pair(arguments.a, arguments.b, arguments.year) as (a, b):
        if arguments.map is not None and a.dim != b.dim:
            raise ConfigError(
                f"A has {a.dim} dimensions and B {b.dim}: there is no cosine for --map; leave it "
                "out."
            )
        _compare(arguments, a, b)
    return 0


def _compare(arguments: argparse.Namespace, a: Embeddings, b: Embeddings) -> None:
    from ..analysis.compare import compare, overlap
    from ..analysis.compare_page import write_comparison
    from ..analysis.compared import SAME_PRODUCT, same_product
    from ..analysis.diagnosis import diagnose
    from ..analysis.difference_cells import DifferenceCells

    cells = DifferenceCells(overlap(a.place, b.place)[0].shape)
    result = compare(
        a,
        b,
        neighbours=arguments.neighbours,
        sample=arguments.sample,
        difference=arguments.map,
        cells=cells,
    )
    findings = diagnose(a, b, result)
    lines = list(_measured(result))
    if arguments.html is not None:
        write_comparison(arguments.html, a, b, result, findings, lines, cells)
    if arguments.json:
        document = {
            "a": a.name,
            "b": b.name,
            "same_product": same_product(a, b),
            **result.to_json(),
            "diagnosis": [vars(finding) for finding in findings],
        }
        print(json.dumps(document, indent=2))
    else:
        print(f"A  {a.name}\nB  {b.name}\n")
        if same_product(a, b):
            print(f"{SAME_PRODUCT}: this compares it with itself.\n")
        print("\n".join(f"{name:<22} {text}" for name, text in lines))
        print("\n".join(["", *_diagnosed(findings)]))
        if written := [str(path) for path in (arguments.html, arguments.map) if path is not None]:
            print(f"\nWritten: {', '.join(written)}")


def _measured(result: Comparison) -> Iterator[tuple[str, str]]:
    """Yield the numbers as name and text; the name of a continued one is empty."""
    cover = result.coverage

    def line(name: str, text: str) -> tuple[str, str]:
        return name, text

    yield line("overlap", f"{cover.overlap:,} pixels, of {cover.grid_a:,} in A and "
               f"{cover.grid_b:,} in B")  # fmt: skip
    yield line("with an embedding", f"{cover.in_both:,} in both, {cover.in_a - cover.in_both:,} "
               f"in A only, {cover.in_b - cover.in_both:,} in B only")  # fmt: skip
    if not cover.in_both:
        yield line("", "nothing else is measured")
        return
    if (cosines := result.cosines) is None:
        yield line("cosine", "not compared: the numbers of dimensions differ")
    else:
        shown = ", ".join(f"{cosines.percentiles[p]:.4f} ({p} %)" for p in (1, 5, 50, 95))
        yield line("cosine", f"mean {cosines.mean:.6f}, lowest {cosines.lowest:.4f}")
        yield line("", f"percentiles {shown}")
        yield line("length, B over A", f"{cosines.length_ratio:.4f}")
        if cosines.without:
            yield line("", f"{cosines.without:,} pixels with an embedding of zeros have no cosine")
    if result.codes is not None:
        codes = result.codes
        yield line("equal codes", f"{100 * codes.equal:.2f} %; {100 * codes.within_one:.2f} % "
                   f"differ by at most 1; largest difference {codes.largest}")  # fmt: skip
        yield line("", f"all codes equal at {100 * codes.pixels:.2f} % of the pixels")
    if result.neighbour_overlap is not None:
        yield line(f"{result.neighbours} neighbours", f"{100 * result.neighbour_overlap:.1f} % in "
                   f"common, among {result.sample:,} pixels (by chance "
                   f"{100 * result.neighbours / (result.sample - 1):.1f} %)")  # fmt: skip
    if result.rank_a is not None and result.rank_b is not None:
        yield line("effective rank", f"{result.rank_a:.1f} in A, {result.rank_b:.1f} in B")


def _diagnosed(findings: list[Finding]) -> Iterator[str]:
    """Yield the findings as lines of text: what differs, what is not known, what is the same."""
    different = [finding for finding in findings if finding.state == "different"]
    yield "Differences of the records:" if different else "The records state no difference."
    for finding in different:
        yield f"  {finding.name}: {finding.a} in A, {finding.b} in B. {finding.meaning}".rstrip()
    for finding in findings:
        if finding.state == "unknown" and finding.meaning:
            yield f"  {finding.name}: {finding.meaning}"
    for state, title in (("unknown", "Not known of both"), ("same", "The same")):
        if names := [finding.name for finding in findings if finding.state == state]:
            yield f"{title}: {', '.join(names)}."
