"""What a job and its worker send to each other, besides tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import Stopped, TesseraFlowError


@dataclass(frozen=True)
class Setup:
    """The first message to a worker.

    Attributes:
        kind, device, on_missing_gpu: see `device.job_device`.
        log, log_format: file that its messages are appended to, and their format.
    """

    kind: str
    device: Any
    on_missing_gpu: str
    log: str
    log_format: str


@dataclass(frozen=True)
class Finished:
    """A block is embedded.

    Attributes:
        seconds: of the block.
        peak_mb: of the worker so far.
    """

    seconds: float
    peak_mb: int


@dataclass(frozen=True)
class Failed:
    """A block, or the start of the worker, failed.

    Attributes:
        error: what the user can fix, or that it was stopped; None for an internal error.
        text: traceback of an internal error.
    """

    error: TesseraFlowError | Stopped | None
    text: str
