"""Read checkpoint files: recognise the family, check the content, build the model.

The family and the sizes follow from the content, never from the file name. The file is opened by
`checkpoint_file`, and the weights are found in it by `state_dict`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, TesseraFlowError
from ..input_files import check_input
from .checkpoint_file import check_sums, lack_of_memory_named, load_content, unreadable
from .checkpoint_sizes import check_tensors
from .family import Checkpoint, Family, Heads, Model
from .layers import day_codes
from .state_dict import find_settings, find_weights
from .v1 import V1_0, V1_0_QAT, V1_1
from .v2_student import V2_STUDENT
from .v2_teacher import V2_TEACHER

logger = logging.getLogger(__name__)

FAMILIES: dict[str, Family] = {
    family.key: family for family in (V1_0, V1_0_QAT, V1_1, V2_STUDENT, V2_TEACHER)
}
"""The families by key."""

WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 3


@dataclass(frozen=True)
class Inspection:
    """A checkpoint that is valid and of a known family.

    Attributes:
        checkpoint: its content.
        family: its family.
        sizes: the family's dataclass of sizes.
        parameters: number of parameters of the encoder.
        model: a model of these sizes without values.
    """

    checkpoint: Checkpoint
    family: Family
    sizes: Any
    parameters: int
    model: Model


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    check_input(path, CheckpointError)
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def read_checkpoint(path: str | Path) -> tuple[Checkpoint, Family]:
    """Read a checkpoint file and recognise its family from the names of its tensors.

    Weights and sizes are found as in `state_dict`; other entries (the state of an optimiser,
    counters) are ignored.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated, not a checkpoint, needs
            more than tensors and plain containers, has several models, or is of an unknown family.
    """
    path = Path(path)
    content = load_content(path)
    state = find_weights(content, path)
    settings, name = find_settings(content)
    for family in FAMILIES.values():
        if family.recognises(state):
            encoder = {k: v for k, v in state.items() if not k.startswith(family.training_only)}
            return Checkpoint(path, encoder, settings, name), family
    raise CheckpointError(
        f"{path} contains the weights of no known family ({_listed(list(state))}): set the weights "
        "to the file as it was published, for example ckpt/student_nano.pt of a v2 student."
    )


def inspect_checkpoint(path: str | Path, heads: Heads | None = None) -> Inspection:
    """Read a checkpoint file and check it against the model of its family and sizes.

    Args:
        path: the checkpoint file.
        heads: attention heads; overrides those of the file and the family.

    Raises:
        CheckpointError: see `read_checkpoint`; also wrong settings, missing or unexpected
            tensors, tensors that are not floating-point numbers, shapes that contradict the
            settings, data that fail their checksum, or values that are not finite.
    """
    checkpoint, family = read_checkpoint(path)
    try:
        sizes = _sizes(checkpoint, family, heads)
        model = family.without_values(sizes)
        shapes = family.shapes(sizes, model)
    except TesseraFlowError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"{path}: its `{checkpoint.settings_name}` and its tensors do not give the sizes of a "
            f"{family.title} ({type(error).__name__}: {error}): use the file as it was published."
        ) from error
    _check_tensors(checkpoint, family, shapes)
    with lack_of_memory_named(checkpoint.path):
        check_sums(checkpoint.path, [checkpoint.state[key] for key in shapes])
        bad = [k for k in shapes if not bool(torch.isfinite(checkpoint.state[k].float()).all())]
    _warn_of_precision(checkpoint, shapes)
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} tensors contain values that are not finite ({_listed(bad)}): the "
            "file is damaged, so get it again."
        )
    parameters = sum(checkpoint.state[key].numel() for key in shapes)
    return Inspection(checkpoint, family, sizes, parameters, model)


def _sizes(checkpoint: Checkpoint, family: Family, heads: Heads | None) -> Any:
    sizes = family.read_sizes(checkpoint, heads)
    for sensor, stack in (("Sentinel-2", sizes.s2), ("Sentinel-1", sizes.s1)):
        if stack.width % stack.nhead:
            raise CheckpointError(
                f"{checkpoint.path}: {stack.nhead} heads for a width of {stack.width} ({sensor}), "
                "which is not a multiple: use the file as it was published, or correct "
                "model.heads (--heads) if that is set."
            )
    return sizes


def load_model(
    path: str | Path,
    sha256: str | None = None,
    heads: Heads | None = None,
    statistics: str | None = None,
) -> Model:
    """Load the model of a checkpoint file, in float32 on the CPU.

    Args:
        path: the checkpoint file.
        sha256: recorded SHA-256 of the file, which it must have; not checked if None.
        heads: attention heads; overrides those of the file and the family.
        statistics: the source of the data that the checkpoint was trained on, for a family
            that has statistics for several; else None.

    Raises:
        CheckpointError: see `inspect_checkpoint`; also a file that differs from the recorded
            one.
        ConfigError: see `Family.choose_statistics`.
    """
    path = Path(path)
    inspection = inspect_checkpoint(path, heads)
    if sha256 is not None and (current := sha256_of(path)) != sha256:
        raise CheckpointError(
            f"{path} has changed since it was recorded (SHA-256 {current[:12]}..., recorded "
            f"{sha256[:12]}...): put the recorded file back, or run the step that records the "
            "weights again."
        )
    family = inspection.family
    model_statistics = family.choose_statistics(statistics, path)
    with lack_of_memory_named(path):
        model = _build(inspection)
    model.family, model.statistics = family, model_statistics
    return model


def _build(inspection: Inspection) -> Model:
    """Give the model copies of the checkpoint's tensors: the file may be removed."""
    state = inspection.checkpoint.state
    parameters = {}
    for name, tensor_names in inspection.family.names(inspection.sizes).items():
        tensors = [state[tensor_name].float() for tensor_name in tensor_names]
        parameters[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0].clone()
    model = inspection.model
    for encoder in (model.s2, model.s1):
        encoder.codes = day_codes(encoder.codes.shape[1])
    model.load_state_dict(parameters, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _check_tensors(
    checkpoint: Checkpoint, family: Family, expected: Mapping[str, tuple[int, ...]]
) -> None:
    path, state, settings = checkpoint.path, checkpoint.state, checkpoint.settings_name
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        problems = []
        if missing:
            problems.append(f"{len(missing)} tensors are missing ({_listed(missing)})")
        if unexpected:
            problems.append(f"{len(unexpected)} are not part of the model ({_listed(unexpected)})")
        raise CheckpointError(
            f"{path}: {' and '.join(problems)}, for a {family.title} of the sizes that its "
            f"`{settings}` or its tensors state: use the file as it was published."
        )
    types = {key: name for key in expected if (name := _wrong_type(state[key])) is not None}
    if types:
        listed = _listed([f"{key} is {name}" for key, name in types.items()])
        raise CheckpointError(
            f"{path}: weights must be plain floating-point numbers, but {len(types)} tensors are "
            f"not ({listed}): use the file as it was published."
        )
    check_tensors(path, [state[key] for key in expected])
    wrong = [
        f"{key} is {tuple(state[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if tuple(state[key].shape) != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: the shapes of {len(wrong)} tensors contradict its `{settings}`, the number "
            f"of heads or one another ({_listed(wrong, '; ')}): use the file as it was published."
        )


def _warn_of_precision(checkpoint: Checkpoint, used: Iterable[str]) -> None:
    """Warn of weights that were rounded when they were saved: their embeddings differ slightly."""
    halves = {checkpoint.state[key].dtype for key in used} & {torch.float16, torch.bfloat16}
    if halves:
        logger.warning(
            "%s contains weights in half precision (%s): embeddings differ slightly from those of "
            "the published file, whose weights are float32",
            checkpoint.path.name,
            ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in halves)),
        )


def _wrong_type(tensor: Tensor) -> str | None:
    """Return the type of a tensor that is not of plain floating-point numbers, else None."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return "sparse or nested"
    if tensor.device.type != "cpu":
        return "without data"
    return None if tensor.dtype in WEIGHT_TYPES else str(tensor.dtype).removeprefix("torch.")


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."
