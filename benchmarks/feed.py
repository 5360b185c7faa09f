"""What this machine does for a GPU: processor time per pixel, and how full the passes are.

    python -m benchmarks.feed [--edge 500] [--patches 3] [--rounds 2]

A block of simulated patches is embedded into an int8 file by `infer_block` with a device that
costs nothing: what a GPU would do is either left out (the encoders and the fusion return at once
an output of the right shape) or done here and not counted (copies from pinned memory, choosing
observations, the median image, masks of months, quantising). What is left is the processor time of
this machine, of all threads: reading, staging, planning, starting passes, the rest of the summary,
the sample of each patch that is compared with float32, saving, writing. Memory for that is
allocated before, since pinned memory is allocated once and kept, and patches are in the cache of
the file system. The time that PyTorch needs to
start the kernels of the passes is not in it; `benchmarks.roofline` counts these. Nor is the
comparison of the sample, whose cost does not depend on the size of a patch.

*before* is the code for CPUs, which was the code for GPUs too: it chooses observations on the host
and groups pixels by their number of valid steps. Its copies from memory that is not pinned are not
counted, though they take processor time on a GPU. Each way runs in its own process; the ways take
turns, and the one with the least processor time counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from tessera_flow.block_file import open_block_file
from tessera_flow.inference import (
    batching,
    block,
    embed,
    months,
    patch_file,
    runs,
    spot_check,
    tile,
)
from tessera_flow.inference.batching import TOKENS_PER_PIXEL
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.tolerance import Comparison
from tessera_flow.inference.transfers import Transfers
from tessera_flow.models.layers import Encoder, Reducer

from .patches import write_patches
from .tiles import write_checkpoint

PIXEL_MEMORY = 12_000
"""Bytes that are allocated beforehand for each pixel of a patch, for patches and results."""
PERIOD = datetime.date(2023, 1, 1), datetime.date(2023, 12, 31)
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**36),
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_ARENA_MAX": "1",
}
"""Settings with which the C library keeps memory that is released, also by threads."""

BEFORE_CHUNK_PIXELS = 131072
"""Pixels of a chunk on a GPU, before."""


class Clock:
    """Measures processor time by kind of work, in all threads, and the sizes of passes.

    Attributes:
        seconds: by kind.
        passes: pixels, steps, and steps that are needed of each forward pass.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.passes: list[tuple[int, int, int]] = []
        self._current = threading.local()

    def measure(self, kind: str, owner: Any, name: str) -> None:
        """Add the time of a function to a kind of work, and not to that of its caller."""
        function: Callable[..., Any] = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            caller, inner = getattr(self._current, "inner", None), [0.0]
            self._current.inner, start = inner, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.thread_time() - start
                self.seconds[kind] += spent - inner[0]
                self._current.inner = caller
                if caller is not None:
                    caller[0] += spent

        setattr(owner, name, measured)

    def without_models(self) -> None:
        """Let encoders and fusion return at once."""

        def encode(encoder: Encoder, values: Tensor, *_: Any, **more: Any) -> Tensor:
            pixels, steps, lengths = *values.shape[:2], more.get("lengths")
            needed = pixels * steps if lengths is None else int(lengths.sum())
            self.passes.append((pixels, steps, needed))
            return torch.zeros((1, 1)).expand(values.shape[0], encoder.codes.shape[1])

        def fuse(reducer: Reducer, s2: Tensor, s1: Tensor) -> Tensor:
            return torch.ones((1, 1)).expand(len(s2), reducer.reduce.out_features)

        Encoder.forward = encode  # type: ignore[assignment]
        Reducer.forward = fuse  # type: ignore[method-assign]


def as_before(clock: Clock) -> None:
    """Embed with the code for CPUs, in passes as large as on a GPU."""

    def embed_tiles(tiles: Any, model: Any, options: Any, transfers: Any) -> Any:
        for arrays, position in tiles:
            yield embed.embed_tile(arrays, model, options, position)

    def for_each(jobs: Any, function: Any, device: Any) -> None:
        with torch.inference_mode():
            for job in jobs:
                function(job)

    block.embed_tiles = embed_tiles
    embed.for_each = for_each
    embed.CHUNK_PIXELS = BEFORE_CHUNK_PIXELS
    batching.CPU_PASS_STEPS = sys.maxsize
    tile.read_array = lambda array, allocate: np.asarray(array[...])
    clock.measure("device", batching.PassLimit, "run")
    read = patch_file.PatchFile.read
    patch_file.PatchFile.read = lambda self, patch, allocate, **_: read(self, patch, allocate)  # type: ignore[method-assign]


def on_device(clock: Clock, made: list[Transfers]) -> None:
    """Measure the work of a GPU apart from that of this machine."""
    clock.measure("device", Transfers, "_copy")
    clock.measure("staging", Transfers, "_staged")
    for name in ("_start", "_encode_pass", "_fuse", "_results"):
        clock.measure("device", runs.Stages, name)
    create = Transfers.__init__

    def remember(self: Transfers, *args: Any) -> None:
        create(self, *args)
        made.append(self)

    Transfers.__init__ = remember  # type: ignore[method-assign]


def remove_progress(output: Path) -> None:
    """Remove what a killed run left: its patches would not be computed."""
    for leftover in output.parent.glob(f"{output.name}.*.progress"):
        leftover.unlink()


def work(way: str, patches: Path, checkpoint: Path, output: Path) -> dict[str, Any]:
    """Embed a block in one way; return what was measured."""
    clock, made = Clock(), []
    torch.set_num_threads(1)
    clock.without_models()
    block._read_ahead = lambda device: 1
    as_before(clock) if way == "before" else on_device(clock, made)
    clock.measure("reading", patch_file, "read_patch")
    clock.measure("summary", patch_file, "summarise")
    clock.measure("summary", months.StepMonths, "masks")
    clock.measure("sample", spot_check.Sample, "of")
    block.check_patch = lambda *_: Comparison()
    clock.measure("results", runs.Stages, "finish")
    clock.measure("saving", block.Progress, "add")
    clock.measure("writing", block, "_write")
    prepare, begin = block.prepare, 0.0

    def prepared(*args: Any) -> Any:
        nonlocal begin
        model = prepare(*args)
        clock.passes.clear()
        # Memory is kept when it is released, as pinned memory is: let it be allocated once.
        with open_block_file(patches) as group:
            edge = int(group.attrs["patch_size"])  # type: ignore[call-overload]
        np.ones(PIXEL_MEMORY * edge**2, np.uint8)
        with patches.open("rb", buffering=0) as file:  # disks are not measured
            while file.read(2**24):
                pass
        clock.seconds.clear()
        begin = time.process_time()
        return dataclasses.replace(model, reference=model.model)

    block.prepare = prepared
    remove_progress(output)
    spec = ModelSpec(checkpoint, device="cpu", precision="float32", threads=1)
    period = months.PeriodMonths.of("tiles", *PERIOD)
    infer_block(patches, output, spec, InferenceOptions(), {}, period=period, block_edge=2000)
    total = time.process_time() - begin - clock.seconds.pop("device")
    passes = [one for one in clock.passes if one[0] > 1]
    limit = InferenceOptions().batch_size * TOKENS_PER_PIXEL
    with open_block_file(output) as group:
        scales = group["scales"]
        assert isinstance(scales, zarr.Array)
        embedded = int(np.isfinite(np.asarray(scales[...])).sum())
    return {
        "pixels": embedded,
        "total": total,
        **clock.seconds,
        "other": total - sum(clock.seconds.values()),
        "passes": len(passes),
        "mean_pixels": statistics.mean(pixels for pixels, _, _ in passes),
        "median_pixels": statistics.median(pixels for pixels, _, _ in passes),
        "full": statistics.mean(pixels * steps for pixels, steps, _ in passes) / limit,
        "needed": statistics.mean(needed for _, _, needed in passes) / limit,
        "lengths": len({steps for _, steps, _ in passes}),
        "shapes": len({(pixels, steps) for pixels, steps, _ in passes}),
        "copies": sum(t.copies for t in made),
        "blocking": sum(t.blocking for t in made),
    }


KINDS = ("reading", "summary", "sample", "staging", "results", "saving", "writing", "other")


def report(best: dict[str, dict[str, Any]]) -> str:
    """Return the table."""
    lines = [
        f"{'us of processor time per pixel':<32}{'before':>10}{'now':>10}",
        *(
            f"{kind:<32}"
            + "".join(f"{run.get(kind, 0) / run['pixels'] * 1e6:>10.2f}" for run in best.values())
            for kind in ("total", *KINDS)
        ),
        f"{'pixels a second of one core':<32}"
        + "".join(f"{run['pixels'] / run['total']:>10,.0f}" for run in best.values()),
    ]
    for key, name in (
        ("passes", "forward passes of encoders"),
        ("mean_pixels", "pixels per pass, mean"),
        ("median_pixels", "pixels per pass, median"),
        ("lengths", "different lengths"),
        ("shapes", "different shapes"),
    ):
        lines.append(f"{name:<32}" + "".join(f"{run[key]:>10,.0f}" for run in best.values()))
    for key, name in (("full", "steps per pass, of the limit"), ("needed", "of which needed")):
        lines.append(f"{name:<32}" + "".join(f"{run[key]:>10.1%}" for run in best.values()))
    now = best["now"]
    lines.append(f"copies: {now['copies']}, of which blocking: {now['blocking']}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--edge", type=int, default=500, help="edge of a patch in pixels")
    parser.add_argument("--patches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="folder for weights and patches")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.gettempdir()) / "tessera-flow-benchmarks"
    edge, number = arguments.edge, arguments.patches
    patches = write_patches(folder / f"patches_{edge}_{number}.zip", edge, number)
    checkpoint = write_checkpoint("v2-nano", folder)
    if arguments.way:
        print(json.dumps(work(arguments.way, patches, checkpoint, folder / "feed.zip")))
        return
    results: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    for _ in range(arguments.rounds):
        for way, measured in results.items():
            command = [sys.executable, "-m", "benchmarks.feed", *sys.argv[1:], "--way", way]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | KEEP_MEMORY
            )
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    best = {way: min(runs, key=lambda run: run["total"]) for way, runs in results.items()}
    print(report(best))


if __name__ == "__main__":
    main()
