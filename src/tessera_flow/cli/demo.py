"""`tessera-flow demo`: write a small simulated archive to run the workflow on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `demo` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "demo",
        help="write a small simulated archive and a configuration for it",
        description=(
            "Write simulated Sentinel-1 and Sentinel-2 scenes of a small landscape, a region, "
            "untrained weights and a configuration. Does nothing if they already exist."
        ),
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder to write (default: %(default)s)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the demo, and print that its data are simulated."""
    from ..demo.build import make_demo

    paths = make_demo(arguments.out)
    print(f"{paths.config}: the scenes are simulated and the weights untrained.")
    return 0
