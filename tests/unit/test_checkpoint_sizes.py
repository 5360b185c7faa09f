"""Checkpoints that claim more than they have, and a lack of memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tessera_flow.errors import CheckpointError
from tessera_flow.models.checkpoint import inspect_checkpoint

from .test_checkpoint_forms import content, saved

BIG = 2**38
"""Numbers of a tensor of 1 TiB."""


def repeated(path: Path) -> Path:
    """A tensor of 1 TiB in which one number is repeated."""
    changed = content()
    name = next(iter(changed["model"]))
    changed["model"][name] = torch.zeros(1).expand(BIG)
    return saved(path, changed)


def bomb(path: Path) -> Path:
    """A member of 300 MB in a file of 300 kB."""
    saved(path, content())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/bomb", bytes(300_000_000))
    return path


def old_format(path: Path) -> Path:
    """A storage of 1 TiB in the format before zip archives."""
    torch.save({"model": {"a": torch.zeros(77)}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    claimed = b"\x8a\x06" + BIG.to_bytes(6, "little")
    assert data.count(b"cpuq\x08KM") == 1
    path.write_bytes(data.replace(b"cpuq\x08KM", b"cpuq\x08" + claimed))
    return path


def sizes(path: Path) -> Path:
    changed = content()
    changed["args"]["num_layers"] = 10**9
    return saved(path, changed)


def safetensors(path: Path) -> Path:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**20] * 1000,
                               "data_offsets": [0, 4]}}).encode()  # fmt: skip
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return path


CLAIMS: dict[Callable[[Path], Path], str] = {
    repeated: "because they repeat the same numbers",
    bomb: "torch.save does not compress them",
    old_format: "claims a tensor of 274877906944 numbers",
    sizes: "num_layers = 1000000000, which is not a positive whole number up to",
    safetensors: "do not follow those before it",
}


@pytest.mark.parametrize(("write", "words"), CLAIMS.items(), ids=lambda value: str(value)[:20])
def test_file_that_claims_more_than_it_has(
    tmp_path: Path, write: Callable[[Path], Path], words: str
) -> None:
    path = write(tmp_path / "weights.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"{grown} kB"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipe_or_device_is_no_checkpoint(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="a device, pipe or socket"):
        inspect_checkpoint(tmp_path / "weights.pt")


LIMITED = """
import resource, sys
from tessera_flow.models.checkpoint import inspect_checkpoint
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
for path in sys.argv[1:]:
    try:
        inspect_checkpoint(path)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_lack_of_memory_is_not_a_damaged_file(tmp_path: Path) -> None:
    """Each file has 64 MiB, and the process may take 16 MiB more."""
    padded = content() | {"optimizer": torch.ones(2**24)}
    paths = [tmp_path / "zipped.pt", tmp_path / "old.pt"]
    for path, zipped in zip(paths, (True, False), strict=True):
        torch.save(padded, path, _use_new_zipfile_serialization=zipped)
        inspect_checkpoint(path)
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, paths)], text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    for line, path in zip(lines, paths, strict=True):
        start = f"CheckpointError The memory of this job is not enough to load {path}"
        assert line.startswith(start), done.stdout + done.stderr
