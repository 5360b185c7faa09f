"""`tessera-flow embed`: embeddings of reference tile folders."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

logger = logging.getLogger(__name__)


def _at_least(smallest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(
                f"{number} is below {smallest}: give {smallest} or more"
            )
        return number

    convert.__name__ = "whole number"
    return convert


def _heads(text: str) -> tuple[int, int]:
    """`4` or `4,2`: heads of the Sentinel-2 and of the Sentinel-1 encoder."""
    counts = [_at_least(1)(part) for part in text.split(",")]
    if len(counts) > 2:
        raise argparse.ArgumentTypeError(
            f"{text} is more than two numbers: give one, or two as in 4,2"
        )
    return counts[0], counts[-1]


_heads.__name__ = "number of heads"


def register(subparsers: Subparsers) -> None:
    """Add `embed` to the command line; its `func` takes the parsed arguments."""
    parser = subparsers.add_parser(
        "embed",
        help="embed reference tile folders",
        description=(
            "Embed tile folders of the reference layout (bands.npy, masks.npy, doys.npy, "
            "sar_ascending.npy, ...; roi.tiff is optional). Each tile becomes <tile>.npy of shape "
            "(H, W, K), for int8 also <tile>_scales.npy, and <tile>.json with the settings. A tile "
            "is not embedded again while its files and the settings stay the same."
        ),
    )
    _add_files(parser)
    _add_results(parser)
    _add_model(parser)
    _add_running(parser)
    parser.set_defaults(func=run, when_interrupted="finished tiles are kept")


def _add_files(parser: argparse.ArgumentParser) -> None:
    """What is read and where results go."""
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        metavar="CKPT",
        help=(
            "checkpoint file of any family (v1.0, v1.0 QAT, v1.1, v2 student or teacher), or "
            "v2-nano, v2-small, v2-medium, v2-large, v2-teacher"
        ),
    )
    add("--tiles", required=True, metavar="DIR", help="a tile folder, or a folder of tile folders")
    add("--out", required=True, metavar="DIR", help="folder for the results")


def _add_results(parser: argparse.ArgumentParser) -> None:
    """What is stored."""
    add = parser.add_argument
    add(
        "--dim",
        type=_at_least(1),
        default=None,
        metavar="K",
        help="leading dimensions to keep, such as 16, 32 or 64 of a v2 student (default: all)",
    )
    add(
        "--format",
        choices=("float32", "int8"),
        default=None,
        help="what to store (default: float32 for v1.0 float and the v2 teacher, else int8)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    """How the model is to be understood, and which pixels it embeds."""
    add = parser.add_argument
    add(
        "--statistics",
        choices=("mpc", "aws"),
        default=None,
        help="for v1.1, required: source of the data that the checkpoint was trained on",
    )
    add(
        "--heads",
        type=_heads,
        default=None,
        metavar="N[,N]",
        help=(
            "attention heads, or those for Sentinel-2 and Sentinel-1 (default: as the checkpoint "
            "states; where it is silent 8 for v1.0 float, else 4)"
        ),
    )
    _add_number(
        parser,
        "--seed",
        "for v1.0: seed of the random draws of observations (default: %(default)s)",
        default=0,
        least=0,
    )
    _add_number(
        parser,
        "--repeat-times",
        "for v1.0: number of draws to average (default: %(default)s)",
        default=1,
        least=1,
    )
    _add_number(
        parser,
        "--min-s2",
        "valid Sentinel-2 steps a pixel needs (default: %(default)s)",
        default=1,
        least=0,
    )
    _add_number(
        parser,
        "--min-s1",
        "valid Sentinel-1 steps a pixel needs (default: %(default)s)",
        default=0,
        least=0,
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    """Where and how it runs."""
    add = parser.add_argument
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "xpu"),
        default="auto",
        help="where to run; auto is the GPU if there is one (default: %(default)s)",
    )
    add(
        "--precision",
        choices=("auto", "float32", "bf16"),
        default="auto",
        help=(
            "of matrix products; auto is float32 on a CPU, bf16 on a GPU that has it "
            "(default: %(default)s)"
        ),
    )
    _add_number(
        parser,
        "--batch-size",
        "most pixels in one forward pass on a GPU (default: %(default)s)",
        default=4096,
        least=1,
    )
    _add_number(
        parser, "--threads", "CPU threads (default: PyTorch's choice)", default=None, least=1
    )
    add(
        "--cache",
        default=None,
        metavar="DIR",
        help="folder for weights downloaded by name (default: the Hugging Face cache)",
    )
    add("--overwrite", action="store_true", help="embed finished tiles again")


def _add_number(
    parser: argparse.ArgumentParser, flag: str, meaning: str, *, default: int | None, least: int
) -> None:
    """Add an option that takes a whole number, `least` or more."""
    parser.add_argument(flag, type=_at_least(least), default=default, metavar="N", help=meaning)


def run(arguments: argparse.Namespace) -> int:
    """Embed the tiles; 0 when all of them are done.

    Raises:
        TesseraFlowError: what was wrong and what to do; broken tiles are named after the
            others are done.
    """
    # PyTorch takes seconds to import: not for the sake of `tessera-flow --help`.
    from ..inference.embed import InferenceOptions
    from ..inference.model import ModelSpec
    from ..models.weights import check_choices, fetch_weights
    from ..tile_folders.embed import embed_folders

    record = fetch_weights(arguments.weights, arguments.cache, arguments.heads)
    check_choices(record, arguments.dim, arguments.statistics)
    embedded, finished = embed_folders(
        arguments.tiles,
        arguments.out,
        record,
        ModelSpec(
            checkpoint=record.path,
            sha256=record.sha256,
            heads=arguments.heads,
            statistics=arguments.statistics,
            device=arguments.device,
            precision=arguments.precision,
            threads=arguments.threads,
        ),
        InferenceOptions(
            dim=arguments.dim,
            dtype=arguments.format or record.dtype,
            min_s2=arguments.min_s2,
            min_s1=arguments.min_s1,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            repeat_times=arguments.repeat_times,
        ),
        overwrite=arguments.overwrite,
    )
    logger.info("%d tiles embedded into %s, %d finished before", embedded, arguments.out, finished)
    return 0
