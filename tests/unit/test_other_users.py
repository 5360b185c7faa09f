"""Folders and caches that several users share. Other users are processes that root starts with
their ids, so most tests need root."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tessera_flow.atomic import write_text
from tessera_flow.errors import OutputError
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.running.shared_folders import check_snakemake_folder, umask_warning
from tessera_flow.jobs.running.work_lock import WorkLock
from tessera_flow.jobs.state.preflight import check_run, lock_work
from tessera_flow.models.weights import fetch_weights

from .hub_server import serve
from .test_run_files import layout
from .test_weights import CONTENT, NANO

ALICE, BOB, CAROL, LAB = 61_001, 61_002, 61_003, 61_000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root starts processes of other users")


def as_user(user: int, umask: int, call: Callable[[], object], group: int = LAB) -> str:
    """Call a function in a process of a user; return its result or the message of its error."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            os.umask(umask)
            try:
                text = str(call())
            except Exception as error:
                text = str(error) if isinstance(error, OutputError) else traceback.format_exc()
            os.write(writing, text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        text = file.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of the group, with its bit for new files; not below one that is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="tessera-flow-", dir="/tmp"))
    os.chown(folder, 0, LAB)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


def give(folder: Path, user: int, umask: int) -> None:
    """Make all in a folder what a user with a umask has made."""
    for path in folder.rglob("*"):
        os.chown(path, user, LAB)
        path.chmod((0o2777 if path.is_dir() else 0o666) & ~umask)


@needs_root
@pytest.mark.parametrize(("umask", "writable"), [(0o002, True), (0o022, False), (0o077, False)])
def test_a_run_in_the_folder_of_another_user(shared: Path, umask: int, writable: bool) -> None:
    """What Alice has made with a umask for groups, Bob can continue; otherwise a message names her
    file before anything is computed, and not a traceback in the middle."""
    files = layout(shared)
    block = files.grids["here"].blocks[0].id
    log = files.job_log_file("here", "then", block)

    def write() -> None:
        write_text(files.paths.weights, "{}")
        with record_job(log, "infer_cpu"):
            pass

    give(shared, ALICE, umask)
    assert as_user(ALICE, umask, write) == "None"
    message = as_user(BOB, 0o002, lambda: check_run(files, shared, replace=False))
    if writable:
        assert message == "None"
        assert as_user(BOB, 0o002, write) == "None"
        assert len(log.read_text().splitlines()) == 4
    else:
        assert message.startswith(f"{files.config.paths.work} belongs to {ALICE}")
        assert f"chmod -R g+rwX {files.config.paths.work}" in message


@needs_root
def test_a_job_log_that_cannot_be_written_is_noticed(shared: Path) -> None:
    """The job would ignore it, and its failures would not be listed."""
    files = layout(shared)
    log = files.job_log_file("here", "then", files.grids["here"].blocks[0].id)
    log.parent.mkdir(parents=True)
    log.touch()
    give(shared, ALICE, 0o002)
    log.chmod(0o644)
    message = as_user(BOB, 0o002, lambda: check_run(files, shared, replace=False))
    assert message.startswith(f"{log} belongs to {ALICE}")


@needs_root
def test_snakemakes_records_of_another_user(shared: Path) -> None:
    """Snakemake ends with a traceback there."""
    assert as_user(BOB, 0o022, lambda: check_snakemake_folder(shared)) == "None"
    (shared / ".snakemake/locks").mkdir(parents=True)
    (shared / ".snakemake").chmod(0o2777)
    (shared / ".snakemake/locks").chmod(0o755)
    message = as_user(BOB, 0o022, lambda: check_snakemake_folder(shared))
    assert message.startswith(f"{shared}/.snakemake/locks belongs to root")
    assert f"chmod -R g+rwX {shared}/.snakemake" in message
    closed = shared / "closed"
    closed.mkdir(mode=0o755)
    assert "closed belongs to root" in as_user(BOB, 0, lambda: check_snakemake_folder(closed))


@needs_root
def test_the_lock_of_another_user(shared: Path) -> None:
    """A lock that Alice's run holds, and one that her killed run has left, with a closed umask."""
    work = shared / "work"
    work.mkdir()
    work.chmod(0o2777)
    lock = WorkLock(work)

    def hold() -> str:
        lock_work(lock, shared)
        return "held"

    assert as_user(ALICE, 0o022, hold) == "held"  # the process ends without giving it back
    assert "was killed" in as_user(BOB, 0o022, lambda: lock_work(lock, shared))
    os.unlink(lock.path)
    assert as_user(ALICE, 0o077, hold) == "held"
    message = as_user(BOB, 0o022, lambda: lock_work(lock, shared))
    assert "cannot be read" in message and f"rm {lock.path}" in message


@needs_root
def test_what_a_killed_writer_of_another_user_left_is_no_error(shared: Path) -> None:
    """Its content cannot be removed; a new file does not need that."""
    import socket

    host = socket.gethostname().split(".")[0]
    stale = shared / f".a.json.{host}.{2**22 - 1}.{'0' * 16}.part"
    stale.mkdir()
    (stale / "x").touch()
    stale.chmod(0o755)
    assert as_user(BOB, 0o022, lambda: write_text(shared / "a.json", "new")) == "None"
    assert (shared / "a.json").read_text() == "new"


@needs_root
def test_weights_from_a_cache_that_only_its_owner_can_write(shared: Path) -> None:
    """As a site offers them; also without a network."""
    cache = shared / "cache"
    cache.mkdir(mode=0o755)
    with serve({NANO: CONTENT}) as hub:
        os.environ["HF_ENDPOINT"] = hub.url
        try:
            record = fetch_weights("v2-nano", str(cache))
        finally:
            del os.environ["HF_ENDPOINT"]
    for path in (cache, *cache.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    found = as_user(CAROL, 0o077, lambda: fetch_weights("v2-nano", str(cache)).sha256, CAROL)
    assert found == record.sha256


@pytest.mark.parametrize(
    ("mode", "umask", "warns"),
    [(0o2775, 0o022, True), (0o2775, 0o002, False), (0o755, 0o022, False), (0o2755, 0o077, False)],
)
def test_umask_in_the_folder_of_a_group(tmp_path: Path, mode: int, umask: int, warns: bool) -> None:
    tmp_path.chmod(mode)
    before = os.umask(umask)
    try:
        text = umask_warning(tmp_path / "work" / "later")
    finally:
        os.umask(before)
    assert (text is not None) == warns
    if text:
        assert text.startswith(f"{tmp_path} is a folder of the group") and "umask 022" in text
