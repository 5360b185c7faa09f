"""The command line `tessera-flow`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TesseraFlowError
from . import demo, embed, info, roi, sample


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    top = argparse.ArgumentParser(
        prog="tessera-flow",
        description="TESSERA pixel embeddings. The workflow itself is run with snakemake.",
    )
    top.add_argument("--version", action="version", version=f"tessera-flow {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, embed, info, roi, sample):
        command.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        Exit status: 0, 1 after an error that one sentence explains, or 130 (that of
        SIGINT in a shell) after an interrupt from the keyboard.
    """
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        status: int = arguments.func(arguments) or 0
    except TesseraFlowError as error:
        print(f"tessera-flow: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = getattr(arguments, "when_interrupted", "nothing half-written is left")
        print(f"tessera-flow: interrupted; {kept}", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
