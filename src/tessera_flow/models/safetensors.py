"""Read safetensors files: a JSON header and the bytes of the tensors after it.

The format is small and has no code in it, so it is read here instead of with a further package.
Anything that the format does not allow is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

MAX_HEADER = 100_000_000
"""Bytes; the limit of the format."""

TYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of the format that a checkpoint may contain."""

_METADATA = "__metadata__"


def is_safetensors(start: bytes) -> bool:
    """Return whether the first bytes (at least 9) of a file are those of a safetensors file."""
    return (
        len(start) > 8
        and start[8:9] == b"{"
        and 2 <= int.from_bytes(start[:8], "little") <= MAX_HEADER
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Open a safetensors file; the tensors are memory-mapped where they are aligned.

    Returns:
        The tensors by name, and the texts of its `__metadata__`.

    Raises:
        CheckpointError: the file is truncated or breaks a rule of the format.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if 8 + length > size:
            raise CheckpointError(
                f"{path} is a safetensors file whose end is missing, as after an interrupted "
                "download: get the file again."
            )
        text = handle.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict):
            raise ValueError(f"{_METADATA} is no table")
        return _tensors(path, header, 8 + length, size), metadata
    except EOFError as error:
        raise CheckpointError(
            f"{path} is a safetensors file whose end is missing (it should have {error} bytes and "
            f"has {size}), as after an interrupted download: get the file again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is a safetensors file with a wrong header ({error}): write it again, or get "
            "the file again."
        ) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _tensors(path: Path, header: Mapping[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """Return the tensors of a header; their bytes must fill the file without gap or overlap."""
    end, entries = 0, []
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        shape, kind = entry["shape"], entry["dtype"]
        if kind not in TYPES:
            raise ValueError(f"{name} has the type {kind}")
        if any(type(n) is not int or n < 0 for n in (*shape, first, last)):
            raise ValueError(f"{name} has a shape or position that is no whole number")
        count = 1
        for n in shape:
            count *= n
            if count > size:
                break
        if first != end or last - first != count * TYPES[kind].itemsize:
            raise ValueError(f"the bytes of {name} do not follow those before it")
        entries.append((name, TYPES[kind], shape, start + first, start + last))
        end = last
    if start + end > size:
        raise EOFError(start + end)
    if start + end < size:
        raise ValueError(f"{size - start - end} bytes follow the last tensor")
    data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    tensors = {}
    for name, dtype, shape, first, last in entries:
        content = data[first:last]
        if first % dtype.itemsize:
            content = content.clone()
        tensors[name] = content.view(dtype).reshape(shape)
    return tensors
