"""Run encoders through PyTorch's compiler, which fuses sums, norms and casts into few kernels.

Only used on GPUs for CUDA, where Triton and a C compiler are there. Shapes are symbolic: a graph of
each encoder serves all passes, one more the passes of several lengths, one the recurrent cell.
Whatever goes wrong, when the compiler starts, in the check against plain PyTorch or later, plain
PyTorch continues, and the reason is recorded.

CUDA graphs are not used: at the size of a pass, starting its kernels takes this machine less time
than computing takes the GPU (docs/performance.md).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.family import Model
from ..models.layers import Encoder, GatedPool, RepeatedSteps

logger = logging.getLogger(__name__)

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Variable with the folder in which the compiler keeps code for later jobs."""
MAX_GRAPHS = 16
"""Most graphs of one function; more are an error, since shapes would not be symbolic."""
SMALLEST_CAPABILITY = (7, 0)

LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest length of the difference of a vector to that of plain PyTorch, relative to its length."""

_CHECKED_PIXELS = 24
_CHECKED_STEPS = 16


class Compilation:
    """The compiled functions of a model.

    Attributes:
        reason: why plain PyTorch is used instead; None if it is not.
    """

    def __init__(self, model: Model, backend: str, reason: str | None = None) -> None:
        """Replace functions of a model by compiled ones, which are compiled when first used, if
        there is no reason against it."""
        self.reason = reason
        self._backend, self._plain = backend, False
        self._encoders = [model.s2, model.s1]
        if reason is not None:
            logger.warning("the compiler of PyTorch is not used: %s", reason)
            return
        for encoder in self._encoders:
            encoder.compiled = self._compiled(_body(encoder))
            if isinstance(encoder.pool, GatedPool):
                encoder.pool.compiled = self._compiled(encoder.pool.cell)

    def _compiled(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        function: Any = None

        def call(*arguments: Any) -> Tensor:
            nonlocal function
            # A single pixel or step would be compiled for itself.
            if self._plain or self.reason is not None or min(arguments[0].shape[:-1]) < 2:
                return plain(*arguments)
            try:
                if function is None:
                    function = torch.compile(
                        plain, fullgraph=True, dynamic=True, backend=self._backend
                    )
                result: Tensor = function(*arguments)
                return result
            except torch.OutOfMemoryError:
                raise  # passes are halved
            except Exception as error:
                self.give_up(f"{type(error).__name__}: {_first_line(error)}")
                return plain(*arguments)

        return call

    def give_up(self, reason: str) -> None:
        """Use plain PyTorch from now on."""
        self.reason = reason
        for encoder in self._encoders:
            encoder.compiled = None
            if isinstance(encoder.pool, GatedPool):
                encoder.pool.compiled = None
        logger.warning("continuing without the compiler of PyTorch. %s", reason)

    def check(self) -> None:
        """Compare the vectors of simulated steps with those of plain PyTorch, and give up if they
        differ."""
        for encoder in self._encoders:
            for lengths in (None, [8, _CHECKED_STEPS]):
                if self.reason is None:
                    self._check(encoder, lengths)

    @torch.inference_mode()
    def _check(self, encoder: Encoder, lengths: list[int] | None) -> None:
        device, generator = encoder.codes.device, torch.Generator().manual_seed(0)
        shape = (_CHECKED_PIXELS, _CHECKED_STEPS)
        values = torch.randn((*shape, encoder.channels), generator=generator).to(device)
        days = torch.randint(1, 366, shape, generator=generator).to(device)
        known = None
        if lengths is not None:
            known = torch.tensor(lengths * (_CHECKED_PIXELS // len(lengths)), device=device)
        result = encoder(values, days, lengths=known).double()
        self._plain = True
        expected = encoder(values, days, lengths=known).double()
        self._plain = False
        off = (result - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-12)
        largest = float(off.max())
        if not largest <= LARGEST_DIFFERENCE[encoder.stream]:
            self.give_up(f"Its vectors of simulated pixels differ by {largest:.1e}")


def _body(encoder: Encoder) -> Callable[..., Tensor]:
    def body(values: Tensor, days: Tensor, log_counts: Tensor | None) -> Tensor:
        repeated = None if log_counts is None else RepeatedSteps(None, log_counts)
        return encoder.body(values, days, repeated)

    return body


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"


def missing(device: torch.device) -> str | None:
    """Return why the compiler cannot be used on a device; None if it can."""
    if device.type != "cuda":
        return "it is used on GPUs for CUDA only"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    if not any(name and shutil.which(name) for name in compilers):
        return "there is no C compiler (cc, gcc or clang)"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < SMALLEST_CAPABILITY:
            return f"it needs capability 7.0, and this GPU has {capability[0]}.{capability[1]}"
    return None


def compile_encoders(
    model: Model, folder: str | os.PathLike[str] | None, backend: str = "inductor"
) -> Compilation | None:
    """Let the compiler run the encoders of a model from now on, if it does so correctly.

    Args:
        model: the packed model, on its device.
        folder: for compiled code that concurrent and later jobs share, unless the environment
            names one (`CACHE`); None: the compiler is not used.
        backend: of `torch.compile`; other backends than the default run on any device.

    Returns:
        What became of it; None if it was not requested.
    """
    if folder is None:
        return None
    reason = missing(model.device) if backend == "inductor" else None
    if reason is None:
        try:
            _set_up(Path(folder))
        except Exception as error:  # private parts of PyTorch
            reason = f"{type(error).__name__}: {_first_line(error)}"
    compilation = Compilation(model, backend, reason)
    if reason is None:
        compilation.check()
    return compilation


def _set_up(folder: Path) -> None:
    os.environ.setdefault(CACHE, os.fspath(folder.absolute()))
    # Imported here: it takes seconds, and only GPU jobs need it.
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = MAX_GRAPHS
    # Processes of its own could outlive a job that is killed.
    torch._inductor.config.compile_threads = 1
