"""Entry point of the command line `tessera-flow`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TesseraFlowError
from . import demo, embed, info, roi, sample


def parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    top = argparse.ArgumentParser(
        prog="tessera-flow",
        description="Tools for TESSERA pixel embeddings. Run the workflow itself with snakemake.",
    )
    top.add_argument("--version", action="version", version=f"tessera-flow {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, embed, info, roi, sample):
        command.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        Exit status: 0, 1 after an error with a message, or 130 (as for SIGINT in a shell)
        after an interrupt from the keyboard.
    """
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        status: int = arguments.func(arguments) or 0
    except TesseraFlowError as error:
        print(f"tessera-flow: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        outcome = getattr(arguments, "when_interrupted", "no partial files are left")
        print(f"tessera-flow: interrupted; {outcome}", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
