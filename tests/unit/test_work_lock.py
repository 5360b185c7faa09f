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

from tessera_flow.errors import ConfigError, OutputError
from tessera_flow.jobs.running.work_lock import LAST_RUN, LOCK, NO_LOCK, Holder, WorkLock
from tessera_flow.jobs.state.preflight import check_run, lock_work, locked_message

from .test_run_files import layout

HOLD = """
import sys
from pathlib import Path
from tessera_flow.jobs.running.work_lock import WorkLock
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


NUMBER_AS_TEXT = json.dumps(asdict(Holder("f", "w", "u", socket.gethostname(), 1, 1, "t")))
NUMBER_AS_TEXT = NUMBER_AS_TEXT.replace('"process": 1', '"process": "1"')


@pytest.mark.parametrize("content", ["", "{", '{"folder": 1}', "\udcff", NUMBER_AS_TEXT])
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


def test_a_holder_that_proc_hides_keeps_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid, /proc shows no process of another user."""
    holder = start_holder(tmp_path / "work", tmp_path / "first")
    lock = WorkLock(tmp_path / "work")
    monkeypatch.setattr("tessera_flow.jobs.processes.PROC", tmp_path / "hidden")
    with pytest.raises(OutputError, match=rf"cannot be seen from .*rm {lock.path}"):
        lock_work(lock, tmp_path / "second")
    assert "cannot be seen from" in str(locked_message(lock, tmp_path / "first", ["snakemake"]))
    holder.kill()
    holder.wait()
    assert "was killed" in str(lock_work(lock, tmp_path / "second"))
    lock.release()


def test_a_holder_of_unknown_start_keeps_its_lock(tmp_path: Path) -> None:
    lock = WorkLock(tmp_path)
    other = replace(Holder.this_run(tmp_path, tmp_path), process=os.getppid(), started=0)
    lock.path.write_text(json.dumps(asdict(other)))
    with pytest.raises(OutputError, match="cannot be seen from"):
        lock.acquire(tmp_path)


def test_a_lock_that_cannot_be_kept_as_a_record_is_removed(tmp_path: Path) -> None:
    """In a folder with the sticky bit, the record of another user cannot be replaced."""
    lock = WorkLock(tmp_path)
    lock.acquire(tmp_path)
    (tmp_path / LAST_RUN).mkdir()  # cannot be replaced either
    lock.release()
    assert not lock.path.exists()


def test_a_lock_that_cannot_be_read_does_not_fail_a_complete_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = WorkLock(tmp_path)
    lock.acquire(tmp_path)
    lock.path.unlink()
    lock.path.mkdir()
    lock.release()
    assert f"{lock.path} remains, although its run has ended" in caplog.text
    assert lock.path.exists()  # it may be of another run


def test_a_link_that_was_made_but_reported_as_existing_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS, a request that is sent again after its answer was lost fails with EEXIST."""
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr("os.link", link_twice)
    lock = WorkLock(tmp_path)
    assert lock.acquire(tmp_path) is None
    assert lock.path.exists()
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [LAST_RUN]


def test_the_lock_and_the_check_of_the_queue_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not the checks that protect products."""
    slurm(tmp_path, monkeypatch, f"echo '7|tessera-flow_x|{tmp_path}|'")
    files = layout(tmp_path)
    lock = WorkLock(files.config.paths.work)
    other = replace(Holder.this_run(tmp_path, lock.path.parent), host="node7")
    lock.path.parent.mkdir(parents=True, exist_ok=True)
    lock.path.write_text(json.dumps(asdict(other)))
    with pytest.raises(OutputError, match=f"set {NO_LOCK}=1 in the environment"):
        lock_work(lock, tmp_path)
    with pytest.raises(OutputError, match=f"scancel 7.*set {NO_LOCK}=1 in the environment"):
        check_run(files, tmp_path, replace=False)
    monkeypatch.setenv(NO_LOCK, "1")
    assert f"{NO_LOCK} is set" in str(lock_work(lock, tmp_path))
    check_run(files, tmp_path, replace=False)
    lock.release()
    assert lock.holder() == other
    store = Path(files.paths.zarr.format(region="here", period="then"))
    store.mkdir(parents=True)
    (store / "notes.txt").touch()
    with pytest.raises(OutputError):
        check_run(files, tmp_path, replace=False)
    monkeypatch.setenv(NO_LOCK, "yes")
    with pytest.raises(ConfigError, match=f"{NO_LOCK} is 'yes'"):
        lock_work(lock, tmp_path)


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, squeue: str) -> None:
    """Put a `squeue` and the `scontrol` of the cluster `alps` on the PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name, body in (("squeue", squeue), ("scontrol", "echo 'ClusterName             = alps'")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("squeue", "changes", "taken"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", {}, True),
        ("exit 0", {}, True),
        ("echo TIMEOUT", {}, True),
        ("echo CANCELLED", {}, True),
        ("echo PENDING", {}, True),  # requeued
        ("echo RUNNING", {}, False),
        ("[ $SQUEUE_PARTITION ] || echo RUNNING", {}, False),  # a filter of the user
        ("echo COMPLETING", {}, False),
        ("echo COMPLETED; echo RUNNING", {}, False),  # tasks of an array
        ("echo 'Unable to contact slurm controller' >&2; exit 1", {}, False),
        ("echo 'Unable to contact slurm controller' >&2", {}, False),
        ("exit 0", {"user": "another"}, False),  # its jobs can be hidden
        ("exit 0", {"cluster": "andes"}, False),
        ("exit 0", {"cluster": "", "job": ""}, False),
    ],
)
def test_the_lock_of_a_slurm_job_on_another_host_is_taken_once_it_has_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    squeue: str,
    changes: dict[str, str],
    taken: bool,
) -> None:
    slurm(tmp_path, monkeypatch, squeue)
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "alps")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    other = replace(Holder.this_run(tmp_path / "first", tmp_path), host="node7", process=1)
    assert (other.cluster, other.job) == ("alps", "12")
    other = replace(other, **changes)
    lock = WorkLock(tmp_path)
    lock.path.write_text(json.dumps(asdict(other)))
    if taken:
        assert lock.acquire(tmp_path) == other
        lock.release()
    else:
        with pytest.raises(OutputError, match="on node7"):
            lock.acquire(tmp_path)
        assert lock.holder() == other


def test_the_shell_of_salloc_on_a_login_node_is_in_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the variables of the job, but can outlive it."""
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "alps")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    assert Holder.this_run(tmp_path, tmp_path).job == ""
