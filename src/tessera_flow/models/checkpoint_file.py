"""Open the file of a checkpoint, or name what the file is instead.

A file is called damaged only if it is: a complete file of another kind is named for what it is.
Nothing in a file is run: PyTorch files are loaded with `weights_only=True`, and safetensors files
are read by `safetensors.read_safetensors`. PyTorch ignores the checksums of the members of a zip
archive, so they are checked here.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..input_files import check_input
from ..memory_errors import ran_out_of_memory
from .checkpoint_sizes import check_members, check_storages
from .safetensors import is_safetensors, read_safetensors

_ARCHIVE = b"PK\x03\x04"  # PyTorch recognises a zip archive by these bytes.
_CHUNK = 2**20
_START = 512
_TENSOR_MEMBER = re.compile(r"[^/]+/data/\d+")
_CLASS = re.compile(r"GLOBAL ([\w.]+)")

_PACKED = {
    b"\x1f\x8b": "a gzip file: unpack it with gunzip",
    b"BZh": "a bzip2 file: unpack it with bunzip2",
    b"\xfd7zXZ": "an xz file: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file: unpack it with unzstd",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
}
_OTHER = {
    b"GGUF": "a GGUF file (quantised weights for other programs)",
    b"\x89HDF": "an HDF5 file, as of Keras",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "an image",
    b"II*\0": "a TIFF raster",
    b"MM\0*": "a TIFF raster",
}
_WANTED = "set the weights to a PyTorch checkpoint (.pt, .pth, .ckpt) or a safetensors file"


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a checkpoint file that the system cannot read."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(
            f"The checkpoint {path} does not exist: check the path, or name published weights "
            "(v2-nano, v2-small, v2-medium, v2-large, v2-teacher)."
        )
    if isinstance(error, IsADirectoryError):
        return CheckpointError(_folder(path))
    return CheckpointError(
        f"The checkpoint {path} cannot be read ({error.strerror or error}): it must be a file "
        "that you may read."
    )


def out_of_memory(path: Path) -> CheckpointError:
    """Return the error for a checkpoint that does not fit into memory."""
    return CheckpointError(
        f"The memory of this job is not enough to load {path}: give it more, or use a smaller "
        "model. The file is not known to be damaged."
    )


@contextmanager
def lack_of_memory_named(path: Path) -> Iterator[None]:
    """Raise `out_of_memory` in place of the errors by which PyTorch reports it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if ran_out_of_memory(error):
            raise out_of_memory(path) from error
        raise


def load_content(path: Path) -> object:
    """Return the content of a checkpoint file: usually a dict, with memory-mapped tensors.

    The texts of the metadata of a safetensors file are added to its tensors if they are JSON
    tables, such as `args`.

    Raises:
        CheckpointError: the file cannot be read, is damaged, needs more than tensors and plain
            containers, or is of another kind.
    """
    check_input(path, CheckpointError)
    try:
        with path.open("rb") as handle:
            start = handle.read(_START)
        if not start:
            raise CheckpointError(f"The checkpoint {path} is empty: get the file again.")
        if is_safetensors(start):
            tensors, metadata = read_safetensors(path)
            return _settings(metadata) | tensors
    except OSError as error:
        raise unreadable(path, error) from error
    archive = start.startswith(_ARCHIVE)
    if (kind := _other_kind(path, start, archive)) is not None:
        raise CheckpointError(f"{path} is {kind}.")
    return _load(path, start, archive)


def _load(path: Path, start: bytes, archive: bool) -> object:
    try:
        if archive:
            check_members(path)
            _check_members(path, tensors=False)
        else:
            _check_storages(path)
        # Memory-mapped, so that unused tensors (of an optimiser, of projectors) are not read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except CheckpointError:
        raise
    except OSError as error:
        if ran_out_of_memory(error):
            raise out_of_memory(path) from error
        raise unreadable(path, error) from error
    except pickle.UnpicklingError as error:
        if archive or "GLOBAL" in str(error):
            raise CheckpointError(_needs_code(path, str(error))) from error
        raise CheckpointError(_not_readable(path, start, archive)) from error
    except Exception as error:  # Errors of unpickling damaged bytes have no common base class.
        if ran_out_of_memory(error):
            raise out_of_memory(path) from error
        raise CheckpointError(_not_readable(path, start, archive)) from error


def _check_storages(path: Path) -> None:
    try:
        check_storages(path)
    except CheckpointError:
        raise
    except Exception:  # Errors of damaged bytes have no common base class; torch.load finds them.
        pass


def _not_readable(path: Path, start: bytes, archive: bool) -> str:
    if not archive and _is_pickle(path):
        return (
            f"{path} is a Python pickle that torch.save did not write: load it where it was made, "
            "and save its weights with torch.save as a plain dict of tensors."
        )
    return _damaged(path, start)


def _needs_code(path: Path, reason: str) -> str:
    name = _CLASS.search(reason)
    what = f", such as {name[1]}," if name is not None else ""
    return (
        f"{path} needs more than tensors and plain containers to load{what} which could run code "
        "from the file: use the file as it was published, or load it where it was made and save "
        "it again with torch.save({'model': model.state_dict(), 'args': vars(args)}, 'new.pt'), "
        "with numbers and strings only in `args`."
    )


def _settings(metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the texts of the metadata that are JSON tables."""
    settings: dict[str, object] = {}
    for name, text in metadata.items():
        try:
            value = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            continue
        if isinstance(value, dict):
            settings[name] = value
    return settings


def _folder(path: Path) -> str:
    names = {child.name for child in path.iterdir()} if path.is_dir() else set()
    if "data.pkl" in names:
        return (
            f"{path} is the unpacked archive of a PyTorch checkpoint: set the weights to the "
            "file that it was unpacked from."
        )
    files = sorted(
        name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".safetensors"))
    )
    if len(files) == 1:
        return f"{path} cannot be read as a checkpoint (it is a folder): name {path / files[0]}."
    detail = f" with {', '.join(files[:3])}" if files else ""
    shards = " Put a checkpoint of several parts together first." if len(files) > 1 else ""
    return f"{path} cannot be read as a checkpoint (it is a folder{detail}): name the file.{shards}"


def _other_kind(path: Path, start: bytes, archive: bool) -> str | None:
    """Return what a file is that is no checkpoint, with what to do; None if it may be one."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, kind in _PACKED.items():
        if start.startswith(magic):
            return f"{kind}, and set the weights to the file inside"
    for magic, kind in _OTHER.items():
        if start.startswith(magic):
            return f"{kind}, not a checkpoint: {_WANTED}"
    if start[257:262] == b"ustar":
        return _tar(path)
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page, which some servers send instead of a file: get the file again"
    if text.startswith(b"<?xml"):
        return "an XML document, which some servers send instead of a file: get the file again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to: get the file with git lfs pull"
    if text.startswith(b"{"):
        return _json(path)
    if start[:1] == b"\x08" and (b"pytorch" in start or b"onnx" in start.lower()):
        return f"an ONNX model, which this software cannot run: {_WANTED}"
    return _archive(path) if archive else None


def _tar(path: Path) -> str:
    with path.open("rb") as handle:
        content = handle.read(_CHUNK)
    if b"sys_info" in content and b"storages" in content:
        return (
            "a checkpoint in the tar format of PyTorch before 0.1.10: load it with an old version "
            "of PyTorch and save it again with torch.save"
        )
    return "a tar archive: unpack it, and set the weights to the file inside"


def _json(path: Path) -> str:
    if path.name.endswith(".index.json"):
        return (
            "the index of a checkpoint in several parts, not the weights: put the parts together, "
            "and set the weights to that file"
        )
    return f"a JSON document, not a checkpoint: {_WANTED}"


def _archive(path: Path) -> str | None:
    """Return what a zip archive is if it is no checkpoint of PyTorch."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # reported as damaged
    leaves = {name.partition("/")[2] for name in names}
    if "constants.pkl" in leaves or any(leaf.startswith("code/") for leaf in leaves):
        return (
            "a TorchScript archive, which contains code: load it with torch.jit.load where it was "
            "made, and save its state_dict() with torch.save"
        )
    if "data.pkl" in leaves:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive (.npz), not a checkpoint: {_WANTED}"
    shown = ", ".join([name for name in names if not name.endswith("/")][:3]) or "nothing"
    return f"a zip archive with {shown}: unpack it, and set the weights to the file inside"


def check_sums(path: Path, tensors: Iterable[Tensor]) -> None:
    """Check the data of the tensors that are used against the checksums of the archive.

    Checksums are computed from the mapped data, so that unused tensors are not read. A file in
    PyTorch's format before zip archives, or a safetensors file, has no checksums and is not
    checked.

    Raises:
        CheckpointError: data differ from what was written.
    """
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
    for tensor in tensors:
        storage = tensor.untyped_storage()
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


def _is_pickle(path: Path) -> bool:
    """Return whether a file is one complete pickle, without running it."""
    import pickletools

    try:
        with path.open("rb") as handle:
            for _ in pickletools.genops(handle):
                pass
            return not handle.read(1)
    except Exception:  # Errors of damaged bytes have no common base class.
        return False


def _damaged(path: Path, start: bytes) -> str:
    if start.startswith(b"PK") and not _has_end(path):
        reason = "its end is missing, as after an interrupted download"
    elif start.startswith((_ARCHIVE, b"\x80")):
        reason = "its content is damaged"
    else:
        return (
            f"{path} is not a readable checkpoint (its content is damaged or of another type): "
            f"{_WANTED}, or get the file again."
        )
    return f"{path} is not a readable checkpoint ({reason}): get the file again."


def _has_end(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # It has an end, which is damaged.
        return True
