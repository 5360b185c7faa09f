"""One run at a time in a working folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tessera_flow.errors import OutputError
from tessera_flow.jobs.preflight import lock_work, locked_message
from tessera_flow.jobs.work_lock import LAST_RUN, LOCK, Holder, WorkLock

HOLD = """
import sys
from pathlib import Path
from tessera_flow.jobs.work_lock import WorkLock
WorkLock(sys.argv[1]).acquire(Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def start_holder(work: Path, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(work), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_running_holder_is_named(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "work", tmp_path / "first")
    lock = WorkLock(tmp_path / "work")
    with pytest.raises(OutputError) as caught:
        lock_work(lock, tmp_path / "second")
    message = str(caught.value)
    assert f"the run in {tmp_path / 'first'} (user " in message
    assert f"kill -INT {holder.pid}" in message and "set another paths.work" in message
    assert "which is running" in str(locked_message(lock, tmp_path / "first", ["snakemake"]))
    assert locked_message(lock, tmp_path / "second", ["snakemake"]) is None
    holder.communicate("")  # it ends
    assert not lock.path.exists()
    assert lock_work(lock, tmp_path / "second") is None
    lock.release()
    assert [path.name for path in (tmp_path / "work").iterdir()] == [LAST_RUN]
    assert lock.last_folder() == tmp_path / "second"


def test_the_lock_of_a_killed_run_is_taken(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "work", tmp_path / "first")
    holder.kill()
    holder.wait()
    lock = WorkLock(tmp_path / "work")
    command = ["/bin/snakemake", "--cores", "2", "--configfile", "c.yaml"]
    message = str(locked_message(lock, tmp_path / "first", command))
    assert "That run was killed." in message
    assert message.endswith("snakemake --cores 2 --configfile c.yaml --unlock")
    taken = lock_work(lock, tmp_path / "second")
    assert f"the run in {tmp_path / 'first'}" in str(taken) and "was killed" in str(taken)
    assert json.loads(lock.path.read_text())["process"] == os.getpid()
    lock.release()


def test_a_process_that_got_the_number_of_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    lock = WorkLock(tmp_path)
    other = replace(Holder.this_run(tmp_path, tmp_path), started=1)
    lock.path.write_text(json.dumps(asdict(other)))
    assert lock.acquire(tmp_path) == other
    lock.release()


def test_a_holder_on_another_host_is_named(tmp_path: Path) -> None:
    lock = WorkLock(tmp_path)
    other = replace(Holder.this_run(tmp_path, tmp_path), host="node7")
    lock.path.write_text(json.dumps(asdict(other)))
    with pytest.raises(OutputError, match=rf"on node7.*cannot be seen from {socket.gethostname()}"):
        lock_work(lock, tmp_path)
    with pytest.raises(OutputError, match=rf"rm {lock.path}"):
        lock.acquire(tmp_path)
    assert "on node7" in str(locked_message(lock, tmp_path, ["snakemake"]))


@pytest.mark.parametrize("content", ["", "{", '{"folder": 1}', "\udcff"])
def test_a_damaged_lock_is_not_removed(tmp_path: Path, content: str) -> None:
    lock = WorkLock(tmp_path)
    lock.path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(OutputError, match=f"{LOCK} cannot be read.*rm "):
        lock_work(lock, tmp_path)
    assert lock.path.exists()
    assert locked_message(lock, tmp_path, ["snakemake"]) is None


def test_one_of_many_runs_takes_the_lock_of_a_killed_one(tmp_path: Path) -> None:
    for attempt in range(5):
        work = tmp_path / str(attempt)
        work.mkdir()
        dead = replace(Holder.this_run(tmp_path, tmp_path), started=1)
        (work / LOCK).write_text(json.dumps(asdict(dead)))
        program = HOLD.replace(
            "WorkLock(sys.argv[1]).acquire", "sys.stdin.readline()\nWorkLock(sys.argv[1]).acquire"
        )
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(work), str(tmp_path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for _ in range(3)
        ]  # fmt: skip
        for run in runs:
            assert run.stdin is not None
            run.stdin.write("start\n")
            run.stdin.flush()
        with ThreadPoolExecutor(3) as pool:
            outputs = list(pool.map(lambda run: run.stdout.readline(), runs))
        assert outputs.count("held\n") == 1
        for run in runs:
            run.communicate("")
        assert [path.name for path in work.iterdir()] == [LAST_RUN]


def test_a_child_process_does_not_give_back_the_lock(tmp_path: Path) -> None:
    lock = WorkLock(tmp_path)
    lock.acquire(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock.path.exists()
    lock.release()
    assert not lock.path.exists()
