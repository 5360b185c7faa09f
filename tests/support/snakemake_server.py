"""Run Snakemake's command line in forks of one process, which imports it and the libraries of jobs
only once.

A fork runs the same function as `python -m snakemake`, with arguments, environment, working
directory and output of its own. The scripts of its jobs run in forks of a child of it
(`job_server`), so that a run has one process group, as without a server. A workflow that is not in
this repository imports its own `tessera_flow`.

As a script: for each request (a line of JSON) on stdin, writes the process ID of a new fork, or the
exit status of an ended one, to stdout, until stdin ends.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

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
def _server() -> subprocess.Popen[str]:
    """Start the server, which ends with this process."""
    server = subprocess.Popen(
        [sys.executable, __file__, _sockets()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={
            **os.environ,
            "OMP_WAIT_POLICY": "passive",  # threads wait for work without using a core
            "JE_ARROW_MALLOC_CONF": "background_thread:false",  # no thread that forks would lack
        },
    )  # fmt: skip
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    return server


@cache
def _sockets() -> str:
    """Return the folder of the sockets of running jobs."""
    folder = tempfile.TemporaryDirectory(prefix="jobs-")  # a short path: sockets need one
    atexit.register(folder.cleanup)
    return folder.name


def _ask(request: Any) -> int:
    """Return the answer to a request, which is one line.

    Raises:
        ChildProcessError: the server has ended, or does not answer. The next call starts one.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    answer = ""
    try:
        print(json.dumps(request), file=server.stdin, flush=True)
        if select.select([server.stdout], [], [], START_TIMEOUT)[0]:
            answer = server.stdout.readline()
    except BrokenPipeError:
        pass
    if not answer:
        server.kill()
        _server.cache_clear()
        raise ChildProcessError(f"the server of Snakemake gave no answer to {request}")
    return int(answer)


@cache
def job_socket() -> str:
    """Return the socket of a process that runs the scripts of jobs, without a Snakemake."""
    process = _ask(None)
    return f"{_sockets()}/{process}"


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


def _serve(sockets: str) -> list[Any] | None:
    """Answer requests; return those for a run in a fork of its own, and None at the end."""
    end, open_until = os.pipe()
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            _, status = os.waitpid(request, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(open_until)
            os.setsid()
            jobs = job_server.listen(f"{sockets}/{os.getpid()}")
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
        os.close(started)
        os.read(ready, 1)  # ends when the child listens, or has failed
        os.close(ready)
        print(child, flush=True)
    return None


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


def _main(sockets: str) -> None:
    import snakemake.cli
    import snakemake.script

    snakemake.cli.get_argument_parser()  # loads Snakemake's plugins
    _parse_once(sockets)
    gc.freeze()
    if request := _serve(sockets):
        arguments, cwd, variables, output = request
        if not any(a.startswith(f"{job_server.REPOSITORY}/") for a in arguments[:2]):
            job_server.forget_package()
        snakemake.script.sys = _script_python(f"{sockets}/{os.getpid()}")
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
    _main(sys.argv[1])
    os._exit(0)  # as job_server.end_quickly
