"""Whether a process has ended."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tessera_flow.jobs.processes import process_start, process_state


def of_another_user(process: int) -> str:
    """Return the state of a process of root, as seen by a user who is not root."""
    if os.getuid():
        return process_state(process, 5)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os.write(writing, process_state(process, 5).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as handle:
        return handle.read()


def test_a_process_is_known_by_its_start() -> None:
    this = os.getpid()
    started = process_start(this)
    assert started
    assert process_state(this, started) == "running"
    assert process_state(this, started + 1) == "ended"
    assert process_state(this, 0) == "unknown"
    assert process_state(0, 0) == process_state(-1, 0) == process_state(10**20, 0) == "ended"


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = process_start(child.pid)
    assert started and process_state(child.pid, started) == "running"
    child.kill()
    deadline = time.monotonic() + 10
    while process_state(child.pid, started) != "ended" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_state(child.pid, started) == "ended"
    child.wait()
    assert process_state(child.pid, 0) == "ended"


def test_a_process_that_proc_hides_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera_flow.jobs.processes.PROC", tmp_path)
    assert process_state(os.getppid(), 5) == "unknown"
    assert of_another_user(1) == "unknown"
    child = subprocess.Popen(["true"])
    child.wait()
    assert process_state(child.pid, 5) == "ended"
