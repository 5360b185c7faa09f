"""`tessera-flow demo`: write a small simulated archive to run the workflow on."""

from __future__ import annotations

import argparse
import shlex
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
            "untrained weights and a configuration, for tessera-flow run. Does nothing if they "
            "already exist."
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
    """Write the demo; print that its data are simulated, and the next command."""
    from ..demo.build import DemoPaths, make_demo
    from .run_folder import RunFolder

    if not DemoPaths(arguments.out).marker.exists():
        print("Simulating scenes (about half a minute) ...", flush=True)
    paths = make_demo(arguments.out)
    RunFolder(paths.folder).write_workflow()
    print(f"{paths.config}: the scenes are simulated and the weights untrained.")
    print(f"Next: tessera-flow run --out {shlex.quote(str(arguments.out))}")
    return 0
