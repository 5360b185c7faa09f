"""Computed limits of inference on GPUs: nothing here runs on one.

    python -m benchmarks.roofline [--models v2-nano,v2-medium]

The forward passes of the code for GPUs are followed operation by operation on tensors without
memory (PyTorch's `meta` device), in the precision that a GPU has. Each operation that is not a
view counts as one kernel, with its arithmetic operations (two for each multiplication and
addition of a matrix product) and the bytes of its factors and results. Attention counts as one
kernel that does not store its scores, and the recurrent layer of v1.0 as one kernel per step.

The limit of a kernel on a GPU is the longer of two times: operations at its stated rate, bytes at
its stated bandwidth. The limit in the table, in pixels a second, is that of their sum over the
kernels of a pixel, so it assumes that every kernel reaches its limit and that starting kernels and
copies costs nothing; in parentheses the share of the rate of matrix products. Operations and bytes
are per pixel, passes and kernels per 1000 pixels. A year of patches.py is assumed: sequences of
`STEPS` steps of each sensor (v1.0: 40).

*Compiled* kernels are counted by a rule, not by the compiler, which makes code for GPUs only where
it finds one: inside the encoders, what follows one another without a matrix product or attention
between becomes one kernel, which reads and writes only what others need. *Graphs* are what this
machine would start if CUDA graphs replayed the encoders: one for each pass, and what is around
them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tessera_flow.inference.batching import TOKENS_PER_PIXEL, TokenLimit
from tessera_flow.inference.embedding import InferenceOptions
from tessera_flow.inference.inputs import DeviceSteps
from tessera_flow.inference.runs import PixelPass, Sensor, Stages
from tessera_flow.models import layers
from tessera_flow.models.checkpoint import FAMILIES
from tessera_flow.models.family import Model
from tessera_flow.models.on_device import Choices, DeviceStream
from tessera_flow.models.sampling import BIN_STEP, LARGEST_BIN

from .patches import DATES, RADAR_DATES
from .tiles import MODELS

PATCH = 500 * 500
STEPS = 56
"""Length of the sequences of both sensors: about the mean of a year in `patches.py`."""


DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "float32"}

GATHERS = ("index", "index_select", "gather", "index_copy_")


@dataclass(frozen=True)
class Gpu:
    """Stated rates of a GPU.

    Attributes:
        matrix: operations a second of matrix products, dense, in `dtype`, with sums in float32.
        plain: operations a second in float32.
        bandwidth: bytes a second of its memory.
        dtype: bfloat16 if the GPU has it, else float16.
    """

    matrix: float
    plain: float
    bandwidth: float
    dtype: torch.dtype = torch.bfloat16


GPUS = {
    "H100 SXM": Gpu(989e12, 67e12, 3350e9),
    "A100 SXM 80 GB": Gpu(312e12, 19.5e12, 2039e9),
    "L40S": Gpu(362e12, 91.6e12, 864e9),
    "V100 SXM2": Gpu(125e12, 15.7e12, 900e9, torch.float16),
    "T4": Gpu(65e12, 8.1e12, 320e9, torch.float16),
}


@dataclass(frozen=True)
class Kernel:
    """One operation.

    Attributes:
        name: of PyTorch.
        operations: arithmetic operations.
        bytes: read and written.
        plain: the operations are in float32.
        inside: it is part of an encoder.
        reads: storages that it reads, with their bytes.
        writes: storage that it writes, with its bytes.
    """

    name: str
    operations: int
    bytes: int
    plain: bool
    inside: bool = False
    reads: tuple[tuple[int, int], ...] = ()
    writes: tuple[int, int] = (0, 0)

    def seconds(self, gpu: Gpu) -> float:
        """Return the shortest time on a GPU."""
        rate = gpu.plain if self.plain else gpu.matrix
        return max(self.operations / rate, self.bytes / gpu.bandwidth)


VIEWS = re.compile(
    "(new_)?empty(_like|_strided)?|(_unsafe_)?view|reshape|flatten|t|numpy_T|transpose|permute|"
    "expand|slice|select|(un)?squeeze|alias|detach|split|unbind|lift_fresh|as_strided"
)


class Kernels(TorchDispatchMode):
    """Record the kernels that would run."""

    def __init__(self) -> None:
        super().__init__()
        self.list: list[Kernel] = []
        self.inside = False
        self.kept: list[Any] = []  # storages have their numbers as long as they live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        name = str(packet).removeprefix("aten.")
        if not VIEWS.fullmatch(name) and not func.is_view:
            count = flop_registry.get(packet)
            done = count(*args, **(kwargs or {}), out_val=result) if count else 0
            if name in ("linear", "_addmm_activation"):
                done = 2 * result.numel() * args[1].shape[1]
            self.add(name, done, [*_tensors(args), *_tensors((kwargs or {}).values()), result])
        return result

    def add(self, name: str, operations: int, tensors: Any) -> None:
        tensors = list(_tensors(tensors))
        size = sum(t.numel() * t.element_size() for t in tensors)
        if name in GATHERS:  # only what is gathered is read
            moved = tensors[-2] if name == "index_copy_" else tensors[-1]
            size = 2 * moved.numel() * moved.element_size()
        plain = any(t.dtype == torch.float32 for t in tensors[:2])
        self.kept += tensors
        storages = [(t.untyped_storage()._cdata, t.numel() * t.element_size()) for t in tensors]
        reads, writes = tuple(storages[:-1]), storages[-1]
        self.list.append(Kernel(name, operations, size, plain, self.inside, reads, writes))


ALONE = ("attention", "gru", "mm", "addmm", "bmm", "linear", "_addmm_activation")
"""Operations that the compiler does not fuse with others."""


def fused(kernels: list[Kernel]) -> list[Kernel]:
    """Return what is left of the kernels if the encoders are compiled, by the rule above."""
    last_read = {storage: n for n, kernel in enumerate(kernels) for storage, _ in kernel.reads}
    result: list[Kernel] = []
    group: list[int] = []

    def end() -> None:
        if not group:
            return
        members = [kernels[n] for n in group]
        made = {kernel.writes[0] for kernel in members}
        read = dict(pair for kernel in members for pair in kernel.reads if pair[0] not in made)
        written = {
            storage: size
            for storage, size in (kernel.writes for kernel in members)
            if last_read.get(storage, len(kernels)) > group[-1]
        }
        size = sum(read.values()) + sum(written.values())
        size = min(size, sum(kernel.bytes for kernel in members))
        result.append(Kernel("fused", sum(k.operations for k in members), size, True, True))
        group.clear()

    for number, kernel in enumerate(kernels):
        if kernel.inside and kernel.name not in ALONE:
            group.append(number)
        else:
            end()
            result.append(kernel)
    end()
    return result


def _tensors(values: Any) -> list[Tensor]:
    result = []
    for value in values:
        if isinstance(value, Tensor):
            result.append(value)
        elif isinstance(value, (list, tuple)):
            result += _tensors(value)
    return result


@dataclass(frozen=True)
class Pass:
    """A forward pass: its pixels, and its kernels."""

    pixels: int
    kernels: list[Kernel]


def passes_of(model: Model) -> list[Pass]:
    """Return a full pass of each encoder and of the fusion, as `runs.Stages` starts them."""
    rule, options = model.family.rule, InferenceOptions()
    stages = Stages.__new__(Stages)
    stages.dim, stages._rule, stages._model = model.sizes.dims[-1], rule, model
    limit = TokenLimit(options.batch_size * TOKENS_PER_PIXEL)
    length = rule.size or STEPS
    vectors = [empty(PATCH, model.s2.codes.shape[1]) for _ in range(2)]
    result = []
    for number, (encoder, dates) in enumerate(((model.s2, DATES), (model.s1, 2 * RADAR_DATES))):
        pixels = PixelPass(empty(limit.size(length), dtype=torch.int64))
        channels = (dates, encoder.channels)
        sensor = Sensor(
            number,
            encoder,
            DeviceSteps(
                empty(dates, PATCH, encoder.channels, dtype=torch.int16),
                number == 0,
                empty(dates, dtype=torch.int64),
                empty(*channels),
                empty(*channels),
            ),
            Choices(empty(dates, PATCH, dtype=torch.int16), empty(PATCH, dtype=torch.int64)),
            empty(dates + 1, LARGEST_BIN, dtype=torch.int16),
            empty(PATCH, dtype=torch.int64),
            empty(0),
        )
        places = empty(PATCH, dtype=torch.int64)
        stream = DeviceStream(0, places, places)
        arguments = (sensor, stream, length, vectors[number], False, pixels)
        result.append(Pass(len(pixels), _record(stages._encode_pass, *arguments)))
    pixels = PixelPass(empty(limit.size(BIN_STEP), dtype=torch.int64))
    outputs = [empty(PATCH, stages.dim, dtype=torch.int8), empty(PATCH)]
    result.append(Pass(len(pixels), _record(stages._fuse, vectors, None, outputs, pixels)))
    return result


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def _record(function: Callable[..., Any], *arguments: Any) -> list[Kernel]:
    kernels = Kernels()

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None) -> Tensor:
        pixels, heads, steps, width = q.shape
        result = torch.empty(q.shape, dtype=q.dtype, device="meta")
        kernels.add("attention", 4 * pixels * heads * steps * steps * width, [q, k, v, result])
        return result

    def gru(module: nn.GRU, x: Tensor) -> tuple[Tensor, None]:
        pixels, steps, width = x.shape
        result = torch.empty_like(x)
        for weights in (module.weight_ih_l0, *[module.weight_hh_l0] * steps):
            rows = steps if weights is module.weight_ih_l0 else 1
            operations = 2 * 3 * pixels * rows * width * width
            kernels.add("gru", operations, [weights, x[:, :rows], result[:, :rows]])
        return result, None

    def encode(encoder: layers.Encoder, *arguments: Any) -> Tensor:
        kernels.inside = True
        try:
            return body(encoder, *arguments)
        finally:
            kernels.inside = False

    def states(pool: layers.GatedPool, from_input: Tensor) -> Tensor:
        kernels.inside = True
        try:
            return recur(pool, from_input)
        finally:
            kernels.inside = False

    body, recur = layers.Encoder.body, layers.GatedPool.states
    layers.Encoder.body = encode  # type: ignore[method-assign,assignment]
    layers.GatedPool.states = states  # type: ignore[method-assign]
    saved = F.scaled_dot_product_attention, nn.GRU.forward
    layers.F.scaled_dot_product_attention = attention  # type: ignore[attr-defined]
    nn.GRU.forward = gru  # type: ignore[assignment]
    try:
        with kernels, torch.inference_mode():
            function(*arguments)
    finally:
        layers.F.scaled_dot_product_attention, nn.GRU.forward = saved  # type: ignore[attr-defined]
        layers.Encoder.body, layers.GatedPool.states = body, recur  # type: ignore[method-assign]
    return kernels.list


def create(name: str, dtype: torch.dtype) -> Model:
    """Return a model without memory, packed as on a GPU."""
    key, sizes = MODELS[name]
    family = FAMILIES[key]
    with torch.device("meta"):
        model = family.create(sizes)
    model.family = family
    return model.to("meta").eval().requires_grad_(False).pack(dtype)


def report(names: list[str], compiled: bool) -> str:
    """Return the table, in Markdown."""
    columns = ["model", "precision", "MFLOP", "kB", "passes", "kernels", *GPUS]
    lines = [" | ".join(columns), "|".join("---" for _ in columns)]
    for name in names:
        for dtype, title in DTYPES.items():
            passes = passes_of(create(name, dtype))
            if compiled:
                passes = [Pass(p.pixels, fused(p.kernels)) for p in passes]
            kernels = [(p.pixels, kernel) for p in passes for kernel in p.kernels]
            operations = sum(kernel.operations / pixels for pixels, kernel in kernels)
            cells = []
            for gpu in GPUS.values():
                seconds = sum(kernel.seconds(gpu) / pixels for pixels, kernel in kernels)
                rate = gpu.plain if dtype == torch.float32 else gpu.matrix
                share = operations / seconds / rate
                shown = dtype in (gpu.dtype, torch.float32)
                cells.append(f"{1 / seconds:,.0f} ({share:.0%})" if shown else "")
            numbers = (
                f"{operations / 1e6:,.0f}",
                f"{sum(kernel.bytes / pixels for pixels, kernel in kernels) / 1e3:,.0f}",
                f"{sum(1000 / p.pixels for p in passes):.2f}",
                f"{sum(1000 / pixels for pixels, _ in kernels):.0f}",
            )
            lines.append(" | ".join([name, title, *numbers, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


START_US = 5.0
"""Assumed time of this machine to start a kernel."""


def starts(names: list[str]) -> str:
    """Return the table of what this machine starts, in Markdown; times per pixel in us."""
    columns = ["model", "plain", "compiled", "graphs", "us to start plain", "us on an H100"]
    lines = [" | ".join(columns), "|".join("---" for _ in columns)]
    for name in names:
        passes = passes_of(create(name, torch.bfloat16))
        pairs = [
            (p.pixels, len(p.kernels), len(fused(p.kernels)), any(k.inside for k in p.kernels))
            for p in passes
        ]
        outside = [sum(not k.inside for k in p.kernels) for p in passes]
        plain, compiled, graphs = (
            sum(1000 * number / p.pixels for p, number in zip(passes, numbers, strict=True))
            for numbers in (
                [pair[1] for pair in pairs],
                [pair[2] for pair in pairs],
                [n + pair[3] for n, pair in zip(outside, pairs, strict=True)],
            )
        )
        gpu = GPUS["H100 SXM"]
        seconds = sum(k.seconds(gpu) / p.pixels for p in passes for k in p.kernels)
        cells = (f"{plain:.0f}", f"{compiled:.0f}", f"{graphs:.0f}",
                 f"{plain * START_US / 1000:.2f}", f"{seconds * 1e6:.2f}")  # fmt: skip
        lines.append(" | ".join([name, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--compiled", action="store_true", help="limits of compiled encoders")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    print(report(names, arguments.compiled))
    print(starts(names))


if __name__ == "__main__":
    main()
