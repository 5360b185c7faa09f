"""Reading checkpoint files: which family one is, and a model out of it.

A checkpoint is data. It is loaded with `weights_only=True`, so that loading never runs
code; the family and the sizes follow from what is inside, never from the file's name.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .v2_student import StudentSizes, V2Student, checkpoint_shapes, from_checkpoint_state

V2_STUDENT = "v2-student"
FAMILIES = {
    V2_STUDENT: "v2 student",
    "v2-teacher": "v2 teacher",
    "v1.0": "v1.0 (float)",
    "v1.0-qat": "v1.0 QAT",
    "v1.1": "v1.1",
}
REQUIRED_ARGS = ("latent_dim", "num_layers", "nhead", "dim_feedforward", "repr_dim")
_COMPILED = "_orig_mod."
_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file of a known family.

    Attributes:
        path: the file.
        family: a key of `FAMILIES`.
        state: the tensors by name, without the prefix `_orig_mod.` of compiled models.
        settings: the entry `args`, `arch` or `config`; empty where there is none.
    """

    path: Path
    family: str
    state: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file and recognise its family from what it holds.

    Raises:
        CheckpointError: the file is missing, unreadable, cut short, not a checkpoint, needs
            more than tensors and plain containers, or is of no known family.
    """
    path = Path(path)
    content = _load(path)
    if isinstance(content, Mapping):
        for weights, settings in (
            ("model", "args"),
            ("encoder_state_dict", "arch"),
            ("model_state", "config"),
            ("model_state_dict", "config"),
        ):
            state = _tensors(content.get(weights))
            family = _family(weights, state)
            if family is not None:
                known = content.get(settings)
                return Checkpoint(path, family, state, known if isinstance(known, Mapping) else {})
        held = ", ".join(f"`{key}`" for key in list(content)[:5]) or "nothing"
        detail = f"it holds {held}"
    else:
        detail = f"it holds a {type(content).__name__}"
    raise CheckpointError(
        f"{path} is not a TESSERA checkpoint ({detail}): set the weights to the file as it was "
        "published, for example ckpt/student_nano.pt of a v2 student."
    )


def load_student(path: str | Path, sha256: str | None = None) -> V2Student:
    """The v2 student in a checkpoint file, on the CPU, ready to run.

    Args:
        path: the checkpoint file.
        sha256: if given, the file's recorded SHA-256, which it must still have.

    Raises:
        CheckpointError: see `read_checkpoint`; also a checkpoint of another family, missing
            or wrong `args`, missing or unexpected tensors, shapes that contradict `args`,
            values that are not finite, or a file that is no longer the recorded one.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise CheckpointError(
            f"{path} has changed since it was recorded (SHA-256 {found[:12]}..., recorded "
            f"{sha256[:12]}...): put the recorded file back, or run the step that records the "
            "weights again."
        )
    if checkpoint.family != V2_STUDENT:
        raise CheckpointError(
            f"{path} is a checkpoint of the {FAMILIES[checkpoint.family]} family; this version "
            "runs v2 students only: set the weights to v2-nano, v2-small, v2-medium or v2-large, "
            "or to the path of such a file."
        )
    sizes = student_sizes(checkpoint)
    _check_tensors(checkpoint, sizes)
    return from_checkpoint_state(checkpoint.state, sizes)


def student_sizes(checkpoint: Checkpoint) -> StudentSizes:
    """The sizes that a v2 student's `args` state.

    `enable_qk_norm` and `matryoshka_dims` may be left out: the first shows in the names of
    the tensors, the second is then the whole embedding.

    Raises:
        CheckpointError: `args` or one of its numbers is missing or of the wrong kind.
    """
    args, path = checkpoint.settings, checkpoint.path
    missing = [name for name in REQUIRED_ARGS if name not in args]
    if missing:
        raise CheckpointError(
            f"{path}: the checkpoint's `args` do not state {', '.join(missing)}, and a model's "
            "sizes cannot be derived from its tensors alone: use the file as it was published."
        )
    for name in REQUIRED_ARGS:
        if type(args[name]) is not int or args[name] < 1:
            raise CheckpointError(
                f"{path}: `args` state {name} = {args[name]!r}, which is not a positive whole "
                "number: use the file as it was published."
            )
    qk_norm = args.get("enable_qk_norm")
    if qk_norm is None:
        qk_norm = any(key.endswith(".q_norm.weight") for key in checkpoint.state)
    sizes = StudentSizes(
        **{name: args[name] for name in REQUIRED_ARGS},
        qk_norm=bool(qk_norm),
        matryoshka_dims=_matryoshka(args.get("matryoshka_dims"), args["repr_dim"], path),
    )
    if sizes.width % sizes.nhead:
        raise CheckpointError(
            f"{path}: `args` state {sizes.nhead} heads for a width of {sizes.width}, which they "
            "do not divide: use the file as it was published."
        )
    return sizes


def _matryoshka(stated: object, repr_dim: int, path: Path) -> tuple[int, ...]:
    """Prefix lengths from "16,32,64,128" or [16, 32, 64, 128]."""
    parts: Sequence[object] = [repr_dim]
    if isinstance(stated, str):
        parts = stated.split(",")
    elif isinstance(stated, (list, tuple)):
        parts = stated
    try:
        dims = tuple(sorted({int(str(part)) for part in parts}))
    except ValueError:
        dims = ()
    if not dims or dims[0] < 1 or dims[-1] > repr_dim:
        raise CheckpointError(
            f"{path}: `args` state matryoshka_dims = {stated!r} for an embedding of {repr_dim} "
            "dimensions: use the file as it was published."
        )
    return dims


def _tensors(entry: object) -> dict[str, Tensor]:
    """The tensors of a state dict by name; empty if `entry` is none."""
    if not isinstance(entry, Mapping):
        return {}
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in entry.items()):
        return {}
    return {key.removeprefix(_COMPILED): value for key, value in entry.items()}


def _family(weights: str, state: Mapping[str, Tensor]) -> str | None:
    """Key of `FAMILIES` for a state dict found under the entry `weights`."""
    if not any(key.startswith(("s2_backbone.", "s1_backbone.")) for key in state):
        return None
    if weights == "model":
        return V2_STUDENT
    if weights == "encoder_state_dict":
        return "v2-teacher"
    if any(".attn_pool.temporal_context.gru_cell." in key for key in state):
        # Both pool with the custom cell; only v1.1 reduces with two linear maps.
        return "v1.1" if "dim_reducer.4.weight" in state else "v1.0-qat"
    if any(key.endswith(".attn_pool.temporal_context.weight_ih_l0") for key in state):
        return "v1.0"
    return None


def _check_tensors(checkpoint: Checkpoint, sizes: StudentSizes) -> None:
    path, state = checkpoint.path, checkpoint.state
    expected = checkpoint_shapes(sizes)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are missing ({_some(missing)})")
        if unexpected:
            parts.append(f"{len(unexpected)} are not part of the model ({_some(unexpected)})")
        raise CheckpointError(
            f"{path}: {' and '.join(parts)}, for a v2 student with {sizes.num_layers} layers"
            f"{' and QK norm' if sizes.qk_norm else ''} as its `args` state: use the file as it "
            "was published."
        )
    wrong = [
        f"{key} is {tuple(state[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if tuple(state[key].shape) != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: the shapes of {len(wrong)} tensors contradict its `args` "
            f"({_some(wrong, '; ')}): use the file as it was published."
        )
    bad = [key for key in expected if not bool(torch.isfinite(state[key]).all())]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} tensors hold values that are not finite ({_some(bad)}): the "
            "file is damaged, so get it again."
        )


def _some(names: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(
            f"The checkpoint {path} does not exist: check the path, or name published weights "
            "(v2-nano, v2-small, v2-medium, v2-large)."
        )
    return CheckpointError(
        f"The checkpoint {path} cannot be read ({error.strerror or error}): it must be a file "
        "that you may read."
    )


def _load(path: Path) -> object:
    try:
        with path.open("rb") as handle:
            start = handle.read(64)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not start:
        raise CheckpointError(f"The checkpoint {path} is empty: get the file again.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} needs more than tensors and plain containers to load, which could run "
                "code from the file: use the file as it was published, or save its weights and "
                "`args` as a plain dict of tensors, numbers and strings."
            ) from error
        raise CheckpointError(_damaged(path, start)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(_damaged(path, start)) from error


def _damaged(path: Path, start: bytes) -> str:
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        reason = "it is a web page, as servers send one in place of a download"
    elif start.startswith(b"version https://git-lfs"):
        reason = "it is a Git LFS pointer, not the file it points to"
    elif start.startswith(b"PK") and not zipfile.is_zipfile(path):
        reason = "its end is missing, as after an interrupted download"
    else:
        reason = "its content is damaged or of another kind"
    return f"{path} is not a readable checkpoint ({reason}): get the file again."
