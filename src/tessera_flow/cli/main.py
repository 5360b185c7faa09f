"""Entry point of the command line `tessera-flow`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TesseraFlowError
from . import compare, demo, embed, export, info, maps, roi, run, sample


def parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    top = argparse.ArgumentParser(
        prog="tessera-flow",
        description="TESSERA pixel embeddings: run the workflow, look at a run, use its products.",
    )
    top.add_argument("--version", action="version", version=f"tessera-flow {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, demo, embed, info, roi, sample, export, maps, compare):
        command.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        Exit status: 0, 1 after an error with a message, or 130 (as for SIGINT in a shell)
        after an interrupt from the keyboard.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(_with_boxes_joined(words))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # It reports each error of GDAL here, at the level INFO, and raises it, too.
    logging.getLogger("rasterio").setLevel(logging.WARNING)
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


def _with_boxes_joined(words: Sequence[str]) -> list[str]:
    """Return the words with `--roi -3.1,50,-3,51` as one, and the box of `tessera-flow roi` at the
    end, after `--`: argparse takes `-3.1` for an option."""
    result: list[str] = []
    for word in words:
        if result and result[-1] == "--roi" and re.match(r"-[\d.]", word):
            result[-1] = f"--roi={word}"
        elif result and words[0] == "roi" and re.match(r"-[\d.]+,", word):
            return [*result, *words[len(result) + 1 :], "--", word]
        else:
            result.append(word)
    return result


if __name__ == "__main__":
    sys.exit(main())
