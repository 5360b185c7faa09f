"""`tessera-flow info`: print the provenance record of products."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `info` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "info",
        help="print the provenance record of products",
        description=(
            "Print the record in a product: region, period, grid, model, sources, versions. A "
            "folder is searched for products."
        ),
    )
    parser.add_argument("product", type=Path, nargs="+", help="a product, or a folder of products")
    parser.add_argument("--json", action="store_true", help="print the complete record as JSON")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all files and compare them with their recorded SHA-256; status 1 if any differs",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the records, or verify the files.

    Raises:
        TileError: a product has no record, or its files have changed.
    """
    if arguments.verify:
        _verify(arguments.product)
        return 0
    from ..products.reading.description import describe, find_products, read_record

    paths = [path for product in arguments.product for path in find_products(product)]
    if arguments.json:
        print(json.dumps({str(path): read_record(path) for path in paths}, indent=2))
    else:
        print(describe(paths))
    return 0


def _verify(products: list[Path]) -> None:
    from ..errors import TileError
    from ..products.reading.verify import verify

    faults = 0
    for product in products:
        for result in verify(product):
            print(result.line())
            faults += len(result.faults)
    if faults:
        raise TileError(
            f"{faults} files are damaged, or have no record: run the workflow again, which writes "
            "what is missing or shortened; delete what has changed before."
        )
