"""Run Snakemake's command line in forks of one process, which imports Snakemake only once.

A fork runs the same function as `python -m snakemake`, with arguments, environment, working
directory and output of its own. It knows nothing of `tessera_flow`, which the workflow imports.

As a script: reads a request (a line of JSON) from stdin, and writes the exit status of that run to
stdout, until stdin ends.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
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


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    return server


def run_snakemake(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path
) -> int:
    """Run `python -m snakemake ARGUMENTS`; return its exit status.

    Args:
        output: file that gets what it writes to stdout and stderr.
    """
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    request = [list(arguments), str(cwd), dict(environment), str(output)]
    print(json.dumps(request), file=server.stdin, flush=True)
    return int(server.stdout.readline())


def _serve() -> tuple[list[str], str, dict[str, str], str] | None:
    """Answer requests; return the request in each fork, and None at the end in the server."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return tuple(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    sys.path[0] = ""  # as with `python -m`
    for name in PRELOADED:
        import_module(name)
    import snakemake.cli

    snakemake.cli.get_argument_parser()  # loads Snakemake's plugins

    if request := _serve():
        arguments, cwd, variables, output = request
        signal.alarm(TIMEOUT)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(cwd)
        null, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(null, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [snakemake.cli.__file__, *arguments]
        snakemake.cli.main(arguments)
