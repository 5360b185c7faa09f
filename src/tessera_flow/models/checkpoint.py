"""Read checkpoint files: recognise the family, check the content, build the model.

Checkpoints are loaded with `weights_only=True`, so that loading never runs code. The family
and the sizes follow from the content, never from the file name. PyTorch ignores the checksums
of the members of a zip archive, so they are checked here: of the tensors that are used, and of
all members that are not tensors.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, TesseraFlowError
from .family import Checkpoint, Family, Heads, Model
from .layers import day_codes
from .v1 import V1_0, V1_0_QAT, V1_1
from .v2_student import V2_STUDENT
from .v2_teacher import V2_TEACHER

FAMILIES: dict[str, Family] = {
    family.key: family for family in (V1_0, V1_0_QAT, V1_1, V2_STUDENT, V2_TEACHER)
}
"""The families by key."""

WEIGHTS_ENTRIES = ("model", "encoder_state_dict", "model_state", "model_state_dict")
SETTINGS_ENTRIES = ("args", "arch", "config")
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPILED = "_orig_mod."
_SHOWN = 3
_TENSOR_MEMBER = re.compile(r"[^/]+/data/\d+")
_ARCHIVE = b"PK\x03\x04"  # PyTorch recognises a zip archive by these bytes.
_CHUNK = 2**20


@dataclass(frozen=True)
class Inspection:
    """A checkpoint that is valid and of a known family.

    Attributes:
        checkpoint: its content.
        family: its family.
        sizes: the family's dataclass of sizes.
        parameters: number of parameters of the encoder.
    """

    checkpoint: Checkpoint
    family: Family
    sizes: Any
    parameters: int


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_checkpoint(path: str | Path) -> tuple[Checkpoint, Family]:
    """Read a checkpoint file and recognise its family from the names of its tensors.

    Weights are in one of `WEIGHTS_ENTRIES`, sizes in one of `SETTINGS_ENTRIES`; other entries
    (the state of an optimiser, counters) are ignored.

    Raises:
        CheckpointError: the file is missing, unreadable, truncated, not a checkpoint, needs
            more than tensors and plain containers, or is of an unknown family.
    """
    path = Path(path)
    content = _load(path)
    if isinstance(content, Mapping):
        for weights in WEIGHTS_ENTRIES:
            state = _tensors(content.get(weights), path)
            for family in FAMILIES.values():
                if state and family.recognises(state):
                    return _checkpoint(path, state, content, family), family
        entries = ", ".join(f"`{key}`" for key in list(content)[:5]) or "nothing"
        detail = f"it contains {entries}"
    else:
        detail = f"it contains a {type(content).__name__}"
    raise CheckpointError(
        f"{path} is not a TESSERA checkpoint ({detail}): set the weights to the file as it was "
        "published, for example ckpt/student_nano.pt of a v2 student."
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
        sizes, shapes = _sizes(checkpoint, family, heads)
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
    _check_sums(checkpoint, shapes)
    bad = [k for k in shapes if not bool(torch.isfinite(checkpoint.state[k].float()).all())]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} tensors contain values that are not finite ({_listed(bad)}): the "
            "file is damaged, so get it again."
        )
    parameters = sum(checkpoint.state[key].numel() for key in shapes)
    return Inspection(checkpoint, family, sizes, parameters)


def _sizes(
    checkpoint: Checkpoint, family: Family, heads: Heads | None
) -> tuple[Any, dict[str, tuple[int, ...]]]:
    sizes = family.read_sizes(checkpoint, heads)
    for sensor, stack in (("Sentinel-2", sizes.s2), ("Sentinel-1", sizes.s1)):
        if stack.width % stack.nhead:
            raise CheckpointError(
                f"{checkpoint.path}: {stack.nhead} heads for a width of {stack.width} ({sensor}), "
                "which is not a multiple: use the file as it was published, or correct "
                "model.heads (--heads) if that is set."
            )
    return sizes, family.shapes(sizes)


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
    model = _build(inspection)
    model.family, model.statistics = family, model_statistics
    return model


def _build(inspection: Inspection) -> Model:
    """Build the model with copies of the checkpoint's tensors: the file may be removed."""
    state = inspection.checkpoint.state
    parameters = {}
    for name, tensor_names in inspection.family.names(inspection.sizes).items():
        tensors = [state[tensor_name].float() for tensor_name in tensor_names]
        parameters[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0].clone()
    with torch.device("meta"):
        model = inspection.family.create(inspection.sizes)
    for encoder in (model.s2, model.s1):
        encoder.codes = day_codes(encoder.codes.shape[1])
    model.load_state_dict(parameters, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _checkpoint(
    path: Path, state: Mapping[str, Tensor], content: Mapping[str, Any], family: Family
) -> Checkpoint:
    encoder = {k: v for k, v in state.items() if not k.startswith(family.training_only)}
    for name in SETTINGS_ENTRIES:
        settings = content.get(name)
        if isinstance(settings, Mapping):
            return Checkpoint(path, encoder, settings, name)
    return Checkpoint(path, encoder, {})


def _tensors(entry: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name; empty if `entry` is not a state dict.

    Raises:
        CheckpointError: two names differ only by the prefix of compiled models.
    """
    if not isinstance(entry, Mapping):
        return {}
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in entry.items()):
        return {}
    tensors = {key.replace(_COMPILED, ""): value for key, value in entry.items()}
    if len(tensors) < len(entry):
        raise CheckpointError(
            f"{path} contains tensors with and without the prefix {_COMPILED} of compiled models, "
            "which is ambiguous: use the file as it was published."
        )
    return tensors


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


def _wrong_type(tensor: Tensor) -> str | None:
    """Return the type of a tensor that is not of plain floating-point numbers, else None."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return "sparse or nested"
    if tensor.device.type != "cpu":
        return "without data"
    return None if tensor.dtype in WEIGHT_TYPES else str(tensor.dtype).removeprefix("torch.")


def _check_sums(checkpoint: Checkpoint, used: Iterable[str]) -> None:
    """Check the data of the tensors that are used against the checksums of the archive.

    Checksums are computed from the mapped data, so that unused tensors are not read. A file in
    PyTorch's format before zip archives has no checksums and is not checked.

    Raises:
        CheckpointError: data differ from what was written.
    """
    path = checkpoint.path
    with path.open("rb") as handle:
        if handle.read(len(_ARCHIVE)) != _ARCHIVE:
            return
    with zipfile.ZipFile(path) as archive:
        written = {
            (member.CRC, member.file_size)
            for member in archive.infolist()
            if _TENSOR_MEMBER.fullmatch(member.filename)
        }
    checked: set[int] = set()
    for key in used:
        storage = checkpoint.state[key].untyped_storage()
        if not storage.nbytes() or storage.data_ptr() in checked:
            continue
        checked.add(storage.data_ptr())
        data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        if (zlib.crc32(data.data), storage.nbytes()) not in written:
            # Reading the members names the damaged one. None is damaged if PyTorch swapped the
            # bytes of a file from a machine of the other byte order.
            _check_members(path, tensors=True)
            return


def _check_members(path: Path, tensors: bool) -> None:
    """Check the checksums of the archive's tensors, or of all its other members.

    Raises:
        CheckpointError: one is wrong.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if bool(_TENSOR_MEMBER.fullmatch(member.filename)) is not tensors:
                continue
            try:
                with archive.open(member) as handle:
                    while handle.read(_CHUNK):
                        pass
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
                raise CheckpointError(
                    f"{path} is damaged (its member {member.filename} has a wrong checksum): get "
                    "the file again."
                ) from error


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(
            f"The checkpoint {path} does not exist: check the path, or name published weights "
            "(v2-nano, v2-small, v2-medium, v2-large, v2-teacher)."
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
    archive = start.startswith(_ARCHIVE)
    try:
        if archive:
            _check_members(path, tensors=False)
        # Memory-mapped, so that unused tensors (of an optimiser, of projectors) are not read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if archive or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path} needs more than tensors and plain containers to load, which could run "
                "code from the file: use the file as it was published, or save its weights and "
                "`args` as a plain dict of tensors, numbers and strings."
            ) from error
        raise CheckpointError(_damaged(path, start)) from error
    except Exception as error:  # Errors of unpickling damaged bytes have no common base class.
        raise CheckpointError(_damaged(path, start)) from error


def _damaged(path: Path, start: bytes) -> str:
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        reason = "it is a web page, which some servers send instead of a file"
    elif start.startswith(b"version https://git-lfs"):
        reason = "it is a Git LFS pointer, not the file it points to"
    elif start.startswith(b"PK") and not _has_end(path):
        reason = "its end is missing, as after an interrupted download"
    else:
        reason = "its content is damaged or of another type"
    return f"{path} is not a readable checkpoint ({reason}): get the file again."


def _has_end(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # It has an end, which is damaged.
        return True
