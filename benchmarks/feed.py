"""What this machine does for a GPU: processor time per pixel, and how full the passes are.

    python -m benchmarks.feed [--edge 500] [--patches 3] [--rounds 3]

A block of simulated patches is embedded into an int8 file by `infer_block` with a device that
costs nothing: what a GPU would do is either left out (the encoders and the fusion return at once
an output of the right shape, and the codes are noise) or done here and not counted (copies from
pinned memory, choosing observations, vectors of pixels without steps, the median image, masks of
months, quantising). What is left
is the processor time of this machine, of all threads: reading, staging, planning, starting passes,
the rest of the summary, the sample of each patch that is compared with float32, saving, writing.

Memory in place of pinned memory is kept and used again, as PyTorch keeps pinned memory, and was
used once before; patches are in the cache of the file system. The time that PyTorch needs to start
the kernels of the passes is not in it; `benchmarks.roofline` counts these. Nor is the comparison of
the sample, whose cost does not depend on the size of a patch. Each round runs in a process of its
own; the one with the least processor time counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from tessera_flow.block_file import open_block_file
from tessera_flow.inference import block, months, patch_file, runs, spot_check
from tessera_flow.inference.batching import TOKENS_PER_PIXEL
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec, PreparedModel, prepare
from tessera_flow.inference.tolerance import Comparison
from tessera_flow.inference.transfers import Event, Transfers
from tessera_flow.models.checkpoint import sha256_of
from tessera_flow.models.layers import Encoder, Reducer

from .patches import write_patches
from .tiles import write_checkpoint

PERIOD = datetime.date(2023, 1, 1), datetime.date(2023, 12, 31)
NOT_COUNTED = ("device", "pinned")
"""Kinds of work: of a GPU, and the first use of pinned memory."""


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

        noise = torch.Generator().manual_seed(0)

        def fuse(reducer: Reducer, s2: Tensor, s1: Tensor) -> Tensor:
            return torch.randn((len(s2), reducer.reduce.out_features), generator=noise)

        Encoder.forward = encode  # type: ignore[assignment]
        Reducer.forward = fuse  # type: ignore[method-assign]


class Device:
    """Memory of the device."""

    @staticmethod
    def release(run: runs.Run) -> None:
        """Release what the device has of a run: PyTorch keeps the memory of a GPU."""
        run.sensors.clear()


class Pinned:
    """Memory that is kept and used again, in place of PyTorch's pinned memory."""

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    def new(self, size: int) -> NDArray[np.uint8]:
        """Return memory that was used before."""
        return np.ones(size, np.uint8)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array; its memory is kept when nothing refers to it any more."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        memory = self._free[size].pop() if self._free[size] else self.new(size)
        used = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(used, self._free[size].append, memory)
        result: NDArray[Any] = used.view(dtype).reshape(shape)
        return result


def on_device(clock: Clock, made: list[Transfers]) -> None:
    """Measure the work of a GPU apart from that of this machine."""
    clock.measure("device", Transfers, "_copy")
    clock.measure("device", Event, "wait")  # releases memory of the device
    clock.measure("pinned", Pinned, "new")
    pinned = Pinned()
    Transfers.allocate = lambda _, shape, dtype: pinned.allocate(shape, dtype)  # type: ignore[method-assign]
    clock.measure("staging", Transfers, "_staged")
    for name in ("_start", "_vectors", "_encode_pass", "_fuse", "_results"):
        clock.measure("device", runs.Stages, name)
    create, finish = Transfers.__init__, runs.Stages.finish

    def finish_and_release(self: runs.Stages, run: runs.Run) -> runs.Output:
        output = finish(self, run)
        Device.release(run)
        return output

    runs.Stages.finish = finish_and_release  # type: ignore[method-assign]
    clock.measure("device", Device, "release")

    def remember(self: Transfers, *args: Any) -> None:
        create(self, *args)
        made.append(self)

    Transfers.__init__ = remember  # type: ignore[method-assign]


def remove_earlier(output: Path) -> None:
    """Remove the output of an earlier run, which would be replaced, and what a killed one left: its
    patches would not be computed."""
    for leftover in output.parent.glob(f"{output.name}*"):
        leftover.unlink()


def work(patches: Path, checkpoint: Path, output: Path) -> dict[str, Any]:
    """Embed a block; return what was measured."""
    clock, made = Clock(), []
    torch.set_num_threads(1)
    clock.without_models()
    block._read_ahead = lambda device: 1
    on_device(clock, made)
    clock.measure("reading", patch_file, "read_patch")
    clock.measure("summary", patch_file, "summarise")
    clock.measure("sample", spot_check.Sample, "of")
    block.check_patch = lambda *_: Comparison()
    clock.measure("results", runs.Stages, "finish")
    clock.measure("saving", block, "_encode")
    clock.measure("saving", block.Progress, "add")
    clock.measure("writing", block, "_write")
    begin = 0.0

    def prepared(*args: Any) -> PreparedModel:
        nonlocal begin
        model = prepare(*args)
        clock.passes.clear()
        with patches.open("rb", buffering=0) as file:  # disks are not measured
            while file.read(2**24):
                pass
        clock.seconds.clear()
        begin = time.process_time()
        return dataclasses.replace(model, reference=model.model)

    remove_earlier(output)
    sha256 = sha256_of(checkpoint)  # a job has it from the record of the weights
    spec = ModelSpec(checkpoint, sha256, device="cpu", precision="float32", threads=1)
    period = months.PeriodMonths.of("tiles", *PERIOD)
    infer_block(
        *(patches, output, spec, InferenceOptions(), {}),
        period=period,
        block_edge=2000,
        load=prepared,
    )
    total = time.process_time() - begin
    total -= sum(clock.seconds.pop(kind) for kind in NOT_COUNTED)
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


def report(run: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"{'us of processor time per pixel':<32}{'':>10}",
        *(
            f"{kind:<32}{run.get(kind, 0) / run['pixels'] * 1e6:>10.2f}"
            for kind in ("total", *KINDS)
        ),
        f"{'pixels a second of one core':<32}{run['pixels'] / run['total']:>10,.0f}",
    ]
    for key, name in (
        ("passes", "forward passes of encoders"),
        ("mean_pixels", "pixels per pass, mean"),
        ("median_pixels", "pixels per pass, median"),
        ("lengths", "different lengths"),
        ("shapes", "different shapes"),
    ):
        lines.append(f"{name:<32}{run[key]:>10,.0f}")
    for key, name in (("full", "steps per pass, of the limit"), ("needed", "of which needed")):
        lines.append(f"{name:<32}{run[key]:>10.1%}")
    lines.append(f"copies: {run['copies']}, of which blocking: {run['blocking']}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--edge", type=int, default=500, help="edge of a patch in pixels")
    parser.add_argument("--patches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for weights and patches")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.gettempdir()) / "tessera-flow-benchmarks"
    edge, number = arguments.edge, arguments.patches
    patches = write_patches(folder / f"needed_{edge}_{number}.zip", edge, number)
    checkpoint = write_checkpoint("v2-nano", folder)
    if arguments.round:
        print(json.dumps(work(patches, checkpoint, folder / "feed.zip")))
        return
    command = [sys.executable, "-m", "benchmarks.feed", *sys.argv[1:], "--round"]
    rounds = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for _ in range(arguments.rounds)
    ]
    print(report(min(rounds, key=lambda run: run["total"])))


if __name__ == "__main__":
    main()
