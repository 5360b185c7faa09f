"""Run Snakemake's command line in forks of one process, which imports Snakemake only once.

A fork runs the same function as `python -m snakemake`, with arguments, environment, working
directory and output of its own. It knows nothing of `tessera_flow`, which the workflow imports.
The scripts of its jobs run in forks, too, of `job_server`.

As a script: reads a request (a line of JSON) from stdin, and writes the exit status of that run to
stdout, until stdin ends.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

PRELOADED = (
    *("odc.geo.geobox", "pandas", "pydantic", "pystac", "rasterio", "requests", "smart_open"),
    *("snakemake.cli", "snakemake.report", "zarr"),
)
"""Modules of Snakemake, and those that a first reading of the workflow imports for its regions."""

TIMEOUT = 600
"""Seconds until a run is killed."""


def _server(*command: str) -> subprocess.Popen[str]:
    """Start a server that ends with this process."""
    server = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    return server


@cache
def _snakemake() -> subprocess.Popen[str]:
    return _server(__file__)


@cache
def _jobs() -> str:
    """Return the socket of the server of jobs."""
    folder = tempfile.TemporaryDirectory(prefix="jobs-")  # a short path: sockets need one
    atexit.register(folder.cleanup)
    path = f"{folder.name}/socket"
    server = _server(str(Path(__file__).with_name("job_server.py")), path)
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return path


def run_snakemake(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path
) -> int:
    """Run `python -m snakemake ARGUMENTS`; return its exit status.

    Args:
        output: file that gets what it writes to stdout and stderr.
    """
    server = _snakemake()
    assert server.stdin is not None and server.stdout is not None
    request = [list(arguments), str(cwd), dict(environment), str(output), _jobs()]
    print(json.dumps(request), file=server.stdin, flush=True)
    return int(server.stdout.readline())


def _script_python(jobs: str) -> types.ModuleType:
    """Return the module `sys` of Snakemake's runner of scripts, which takes its Python from it."""
    client = Path(__file__).with_name("job_client.py")
    module = types.ModuleType("sys")
    vars(module).update(vars(sys), executable=f"{sys.executable} -I -S {client} {jobs}")
    return module


def _serve() -> tuple[list[str], str, dict[str, str], str, str] | None:
    """Answer requests; return the request in each fork, and None at the end in the server."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return tuple(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    from job_server import end_quickly

    sys.path[0] = ""  # as with `python -m`
    for name in PRELOADED:
        import_module(name)
    import snakemake.cli
    import snakemake.script

    snakemake.cli.get_argument_parser()  # loads Snakemake's plugins
    gc.freeze()

    if request := _serve():
        arguments, cwd, variables, output, jobs = request
        snakemake.script.sys = _script_python(jobs)
        signal.alarm(TIMEOUT)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(cwd)
        null, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(null, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [snakemake.cli.__file__, *arguments]
        end_quickly(lambda: snakemake.cli.main(arguments))
