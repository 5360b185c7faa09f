"""Compare what a checkpoint file claims to contain with its size, before memory is taken for it."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError

SMALL = 2**20
"""Bytes that members may have more than the file: small ones can be compressed."""

_SECTIONS = 4
"""Pickles before the tensors in the format before zip archives: magic number, version, system,
content."""


def check_members(path: Path) -> None:
    """Check that the members of a zip archive are not larger than the file.

    PyTorch does not compress them, and takes memory for the size that they claim.

    Raises:
        CheckpointError: they are.
        zipfile.BadZipFile: it is no archive.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > size + SMALL:
        raise CheckpointError(
            f"{path} has {size} bytes, but its members would have {claimed} bytes when unpacked; "
            "torch.save does not compress them. Get the file again, or, if you compressed it, "
            "unpack it and save its weights with torch.save."
        )


def check_storages(path: Path) -> None:
    """Check that the tensors of a file in the format before zip archives fit into it.

    Raises:
        CheckpointError: one does not.
        Exception: it is not such a file.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        for _ in range(_SECTIONS):
            elements = 0
            for operation, argument, _ in pickletools.genops(handle):
                if isinstance(argument, int) and operation.name not in ("BINPUT", "LONG_BINPUT"):
                    elements = argument
                if operation.name == "BINPERSID" and elements > size:
                    raise CheckpointError(
                        f"{path} has {size} bytes, but claims a tensor of {elements} numbers: it "
                        "is damaged, so get the file again."
                    )


def check_tensors(path: Path, tensors: Iterable[Tensor]) -> None:
    """Check that tensors do not repeat the data of the file to fill memory.

    Raises:
        CheckpointError: one has more numbers than the file has for it, or all together do.
    """
    size, total = path.stat().st_size, 0
    for tensor in tensors:
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > tensor.untyped_storage().nbytes() or total > 2 * size + SMALL:
            raise CheckpointError(
                f"{path} has {size} bytes, but its tensors claim {max(claimed, total)} bytes, "
                "because they repeat the same numbers: use the file as it was published."
            )
