"""Fixtures of several test folders."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import job_server, workflow
from tests.support.shared_folder import made_once

real_fsync = os.fsync
LONG = Path(__file__).with_name("long.txt")

# Commands in the background of a script start with SIGINT ignored, and so would the runs of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the modules of `long.txt` first, dealt to the workers of pytest-xdist.

    With `--dist worksteal` each worker gets an equal part of the list, and takes tests from the end
    of another's part when it has none left.
    """
    lines = [line for line in LONG.read_text().splitlines() if not line.startswith("#")]
    order = {f"tests/{path}": number for number, path in enumerate(lines)}
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    long = sorted(modules.keys() & order.keys(), key=order.__getitem__)
    for number, name in enumerate(long):
        parts[number % workers] += modules.pop(name)
    for tests in modules.values():
        min(parts, key=len).extend(tests)
    items[:] = [item for part in parts for item in part]


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_disks() -> Iterator[None]:
    """As `job_server.no_wait_for_disks`, in the process of the tests.

    `test_atomic.py` uses the real call.
    """
    job_server.no_wait_for_disks()
    yield
    os.fsync = real_fsync


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `workflow.four_blocks` with all intermediate files kept.

    Made once, also when pytest-xdist runs several workers. Do not change it: copy it.
    """

    def make(folder: Path) -> None:
        workflow.four_blocks(folder)
        workflow.change(folder, {"paths.keep": ["slices", "stack", "patches"]})
        workflow.run(folder)

    return made_once(tmp_path_factory, "finished-run", make)


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` to change; times of files are copied, too."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: for small tensors a second one costs more than it saves."""
    import torch  # takes seconds, and most tests do not need it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
