"""`tessera-flow embed`: compute embeddings of tile folders of the published pipeline."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

logger = logging.getLogger(__name__)


def _at_least(minimum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{number} is below {minimum}: give {minimum} or more")
        return number

    convert.__name__ = "whole number"
    return convert


def _heads(text: str) -> tuple[int, int]:
    """Parse `4` or `4,2`: heads of the Sentinel-2 and of the Sentinel-1 encoder."""
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
        help="compute embeddings of tile folders",
        description=(
            "Compute embeddings of tile folders in the layout of the published pipeline "
            "(bands.npy, masks.npy, doys.npy, sar_ascending.npy, ...; roi.tiff is optional). Each "
            "tile becomes <tile>.npy of shape (H, W, K), for int8 also <tile>_scales.npy, and "
            "<tile>.json with the settings. Tiles are skipped if their files and the settings "
            "have not changed."
        ),
    )
    _add_paths(parser)
    _add_output_format(parser)
    _add_model(parser)
    _add_device(parser)
    parser.set_defaults(func=run, when_interrupted="finished tiles are kept")


def _add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the options for input and output paths."""
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


def _add_output_format(parser: argparse.ArgumentParser) -> None:
    """Add the options for what is stored."""
    add = parser.add_argument
    add(
        "--dim",
        type=_at_least(1),
        default=None,
        metavar="K",
        help="leading dimensions to store, such as 16, 32 or 64 of a v2 student (default: all)",
    )
    add(
        "--format",
        choices=("float32", "int8"),
        default=None,
        help="data type to store (default: float32 for v1.0 float and the v2 teacher, else int8)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model and for the pixels that are embedded."""
    add = parser.add_argument
    add(
        "--statistics",
        choices=("mpc", "aws"),
        default=None,
        help="required for v1.1: source of the data that the checkpoint was trained on",
    )
    add(
        "--heads",
        type=_heads,
        default=None,
        metavar="N[,N]",
        help=(
            "attention heads, one number or one each for Sentinel-2 and Sentinel-1 (default: from "
            "the checkpoint; if it does not state them 8 for v1.0 float, else 4)"
        ),
    )
    _add_number(
        parser,
        "--seed",
        "for v1.0: seed of the random draws of observations (default: %(default)s)",
        default=0,
        minimum=0,
    )
    _add_number(
        parser,
        "--repeat-times",
        "for v1.0: number of random draws to average (default: %(default)s)",
        default=1,
        minimum=1,
    )
    _add_number(
        parser,
        "--min-s2",
        "minimum of valid Sentinel-2 time steps of a pixel (default: %(default)s)",
        default=1,
        minimum=0,
    )
    _add_number(
        parser,
        "--min-s1",
        "minimum of valid Sentinel-1 time steps of a pixel (default: %(default)s)",
        default=0,
        minimum=0,
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options for the device and the run."""
    add = parser.add_argument
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "xpu"),
        default="auto",
        help="device to run on; auto uses a GPU if there is one (default: %(default)s)",
    )
    add(
        "--precision",
        choices=("auto", "float32", "bf16", "fp16"),
        default="auto",
        help=(
            "precision of matrix products; auto is float32 on a CPU, bf16 or else fp16 on a GPU "
            "(default: %(default)s)"
        ),
    )
    _add_number(
        parser,
        "--batch-size",
        "size of a forward pass on a GPU in pixels of 64 steps (default: %(default)s)",
        default=4096,
        minimum=1,
    )
    _add_number(
        parser, "--threads", "CPU threads (default: PyTorch's choice)", default=None, minimum=1
    )
    add(
        "--cache",
        default=None,
        metavar="DIR",
        help="folder for weights downloaded by name (default: the Hugging Face cache)",
    )
    add("--overwrite", action="store_true", help="embed finished tiles again")


def _add_number(
    parser: argparse.ArgumentParser, flag: str, meaning: str, *, default: int | None, minimum: int
) -> None:
    """Add an option that takes a whole number of at least `minimum`."""
    parser.add_argument(flag, type=_at_least(minimum), default=default, metavar="N", help=meaning)


def run(arguments: argparse.Namespace) -> int:
    """Embed the tiles; return 0 if all of them are done.

    Raises:
        TesseraFlowError: broken tiles are reported after the others are done.
    """
    # Imported here because PyTorch takes seconds, which `tessera-flow --help` does not need.
    from ..inference.embed import InferenceOptions
    from ..inference.model import ModelSpec
    from ..models.weights import check_choices, fetch_weights
    from ..tile_folders.embed import embed_folders

    record = fetch_weights(arguments.weights, arguments.cache, arguments.heads)
    check_choices(
        record, arguments.dim, arguments.statistics, arguments.seed, arguments.repeat_times
    )
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
    logger.info(
        "%d tiles embedded into %s, %d were already finished", embedded, arguments.out, finished
    )
    return 0
