"""Files of a run that are empty, damaged or locked: a message that names them, and no hang."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.block_file import create_array, create_block_file, get_array, open_block_file
from tessera_flow.concurrency import lock_for
from tessera_flow.errors import TesseraFlowError
from tessera_flow.jobs import journal
from tessera_flow.jobs.journal import read_job_log, record_job
from tessera_flow.models.weights_record import read_weights_record
from tessera_flow.products.checks.embeddings import read_checks
from tessera_flow.products.report.summary import skipped_blocks
from tessera_flow.region.grid import Window
from tessera_flow.region.mask import mask_geobox, read_mask
from tessera_flow.scenes.manifest import Manifest

READERS: dict[str, Callable[[Path], object]] = {
    "items.json": Manifest.read,
    "roi.tif": mask_geobox,
    "roi window": lambda path: read_mask(path, Window(0, 0, 1, 1)),
    "checks.json": read_checks,
    "skipped_blocks.json": skipped_blocks,
    "weights.json": read_weights_record,
}
CONTENTS = [b"", b"\0" * 300, b"[]", b"{}", b'{"items": 5}', b"null", b"\xff\xfe{\0}\0"]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TesseraFlowError, match=f"{path} .*delete it and run again"):
        READERS[name](path)


def test_damaged_array_of_a_block_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with create_block_file(path, {}) as group:
        create_array(group, "a", (50, 50), (50, 50), np.uint16)[:] = np.arange(2500).reshape(50, 50)
    data = bytearray(path.read_bytes())
    place = data.index(b"a/c/0/0") + 100
    data[place : place + 9] = b"damaged!!"
    path.write_bytes(data)
    with pytest.raises(TesseraFlowError, match="is damaged"), open_block_file(path) as group:
        get_array(group, "a")[:]


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "a") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    time.sleep(60)
"""


def test_locked_job_log_does_not_hold_up_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "all.jsonl"
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.2)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        start = time.monotonic()
        with path.open("a") as file, pytest.raises(OSError):
            lock_for(file, 0.1)
        with record_job(path, "roi"):
            pass
        assert time.monotonic() - start < 10
        holder.kill()
    (job,) = read_job_log(path)
    assert (job.job, job.state) == ("roi", "done")
    with path.open("a") as file:
        lock_for(file, 0.1, fcntl.flock)
