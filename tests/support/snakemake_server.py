"""Run Snakemake's command line in forks of one process, which imports it and the libraries of jobs
only once.

A fork runs the same function as `python -m snakemake`, with arguments, environment, working
directory and output of its own. The scripts of its jobs run in forks of a child of it
(`job_server`), so that a run has one process group, as without a server. A workflow that is not in
this repository imports its own `tessera_flow`.

One server serves all workers of pytest-xdist. As a script, with a folder and the number of a
listening socket: for each request (a line of JSON) on a connection, it answers with the process ID
of a new fork, or the exit status of an ended one.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import marshal
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

PRELOADED = (
    *("nbformat", "pystac", "smart_open", "snakemake.cli", "snakemake.report"),
    "snakemake.storage",
)
"""Modules of Snakemake and those that reading the workflow imports, beside those of jobs."""

TIMEOUT = 600
"""Seconds until a run is killed."""

START_TIMEOUT = 300
"""Seconds until a server that does not answer is killed."""


@cache
def _folder() -> Path:
    """Return the folder of the sockets of the server and of jobs: a short path, as sockets need
    one, and the same in all workers of pytest-xdist."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    return Path(tempfile.gettempdir(), f"jobs-{run[:12]}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time start or end a server."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700, exist_ok=True)  # a server that ended has removed it
        yield


@cache
def _connection() -> socket.socket:
    """Return a connection to the server, which the first worker starts.

    The server ends when the last connection does.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(START_TIMEOUT)
    path = _folder() / "server"
    with _locked(_folder()):
        try:
            connection.connect(str(path))
        except OSError:  # none was started, or it has ended
            path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen(64)
                connection.connect(str(path))
                _start(listener.fileno())
    return connection


def _start(listener: int) -> None:
    subprocess.Popen(
        [sys.executable, __file__, str(_folder()), str(listener)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[listener],
        env={
            **os.environ,
            "OMP_WAIT_POLICY": "passive",  # threads wait for work without using a core
            "JE_ARROW_MALLOC_CONF": "background_thread:false",  # no thread that forks would lack
        },
    )  # fmt: skip


def _ask(request: Any) -> int:
    """Return the answer to a request, which is one line.

    Raises:
        ChildProcessError: the server has ended, or does not answer. The next call starts one.
    """
    answer = b""
    try:
        connection = _connection()
        connection.sendall(json.dumps(request).encode() + b"\n")
        while not answer.endswith(b"\n") and (piece := connection.recv(64)):
            answer += piece
    except OSError:
        pass
    if not answer.endswith(b"\n"):
        (_folder() / "server").unlink(missing_ok=True)
        _connection.cache_clear()
        raise ChildProcessError(f"the server of Snakemake gave no answer to {request}")
    return int(answer)


@cache
def job_socket() -> str:
    """Return the socket of a process that runs the scripts of jobs, without a Snakemake."""
    process = _ask(None)
    return f"{_folder()}/{process}"


class Run:
    """A run of Snakemake, with the interface of `subprocess.Popen`; leads a process group."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path
    ) -> None:
        """Start `python -m snakemake ARGUMENTS`; append what it writes to the file `output`."""
        self.args = list(arguments)
        self.returncode: int | None = None
        self.pid = _ask([self.args, str(cwd), dict(environment), str(output)])
        self._handle = os.pidfd_open(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            os.close(self._handle)
            self.returncode = _ask(self.pid)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None


def run_snakemake(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path
) -> int:
    """Run `python -m snakemake ARGUMENTS`; return its exit status.

    Args:
        output: file that gets what it writes to stdout and stderr.
    """
    return Run(arguments, cwd, environment, output).wait(TIMEOUT + 60)


def _script_python(jobs: str) -> types.ModuleType:
    """Return the module `sys` of Snakemake's runner of scripts, which takes its Python from it."""
    client = Path(__file__).with_name("job_client.py")
    module = types.ModuleType("sys")
    vars(module).update(vars(sys), executable=f"{sys.executable} -I -S {client} {jobs}")
    return module


def _parse_once(folder: str) -> None:
    """Keep what Snakemake's parser makes of a file of rules in `folder`, for the runs of all forks.

    Parsing takes a quarter of the time of a dry run. The result depends on the path and the content
    of the file, and the number of rules before it.
    """
    import snakemake.workflow

    parse = snakemake.workflow.parse

    def parsed(
        path: Any, workflow: Any, linemap: dict[int, int], overwrite: Any = None, rulecount: int = 0
    ) -> tuple[str, int]:
        with workflow.sourcecache.open(path) as file:
            key = repr((path.get_path_or_uri(secret_free=True), file.read(), overwrite, rulecount))
        kept = Path(folder, f"{hashlib.sha256(key.encode()).hexdigest()}.parsed")
        if not kept.exists():
            lines: dict[int, int] = {}
            code, count = parse(path, workflow, lines, overwrite, rulecount)
            new = kept.with_suffix(f".{os.getpid()}")
            new.write_bytes(marshal.dumps((code, count, lines)))
            new.replace(kept)
        code, count, lines = marshal.loads(kept.read_bytes())
        linemap.update(lines)
        return code, count

    snakemake.workflow.parse = parsed


def _serve(folder: str, listener: socket.socket) -> list[Any] | None:
    """Answer requests until the last connection ends; return those for a run in its fork."""
    end, open_until = os.pipe()
    connections: dict[socket.socket, IO[str]] = {}
    while True:
        for entry in select.select([listener, *connections], [], [])[0]:
            if entry is listener:
                connection, _ = listener.accept()
                connections[connection] = connection.makefile("r")
                continue
            line = connections[entry].readline()
            if not line:
                connections.pop(entry).close()
                entry.close()
                if not connections and _ended(Path(folder), listener):
                    return None
                continue
            request = json.loads(line)
            if isinstance(request, int):
                answer = os.waitstatus_to_exitcode(os.waitpid(request, 0)[1])
            else:
                ready, started = os.pipe()
                answer = os.fork()
                if answer == 0:
                    for other in (listener, *connections):
                        other.close()
                    for file in connections.values():
                        file.close()
                    os.close(open_until)
                    return _lead(request, folder, ready, started, end)
                os.close(started)
                os.read(ready, 1)  # ends when the child listens, or has failed
                os.close(ready)
            with suppress(OSError):  # a worker that was killed
                entry.sendall(f"{answer}\n".encode())


def _ended(folder: Path, listener: socket.socket) -> bool:
    """Remove the folder of the server, unless a worker has just connected to it."""
    with _locked(folder):
        if select.select([listener], [], [], 0)[0]:
            return False
        shutil.rmtree(folder)
        return True


def _lead(request: Any, folder: str, ready: int, started: int, end: int) -> list[Any]:
    """Lead the process group of a run in this fork, and start the process of its jobs."""
    os.setsid()
    jobs = job_server.listen(f"{folder}/{os.getpid()}")
    os.close(ready)
    os.close(started)
    if request is None:
        job_server.run(job_server.serve(jobs, end))
    end, open_until = os.pipe()
    if os.fork() == 0:
        os.close(open_until)
        job_server.run(job_server.serve(jobs, end))
    jobs.close()
    return list(request)


def _run(arguments: list[str]) -> None:
    """Run Snakemake, without the wait at its end.

    Its scheduler, which has ended, leaves timers that would keep the process for up to a second.
    """
    import snakemake.cli

    try:
        snakemake.cli.main(arguments)
    finally:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()


def _main(folder: str, listener: socket.socket) -> None:
    import snakemake.cli
    import snakemake.script

    snakemake.cli.get_argument_parser()  # loads Snakemake's plugins
    _parse_once(folder)
    gc.freeze()
    if request := _serve(folder, listener):
        arguments, cwd, variables, output = request
        if not any(a.startswith(f"{job_server.REPOSITORY}/") for a in arguments[:2]):
            job_server.forget_package()
        snakemake.script.sys = _script_python(f"{folder}/{os.getpid()}")
        signal.alarm(TIMEOUT)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(cwd)
        null = os.open(os.devnull, os.O_RDONLY)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(null, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [snakemake.cli.__file__, *arguments]
        job_server.end_quickly(lambda: _run(arguments))


if __name__ == "__main__":
    import job_server

    sys.path[0] = ""  # as with `python -m`
    job_server.preload()
    for name in PRELOADED:
        import_module(name)
    _main(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
    os._exit(0)  # as job_server.end_quickly
