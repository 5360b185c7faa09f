"""Run the scripts of jobs in forks of one process, which imports the libraries only once.

A fork runs a script as `python SCRIPT` does, with streams, environment and working directory of
its own. Scripts of another package than this repository's, or with settings of the interpreter,
run in an interpreter of their own.

As a script, with the path of a socket: writes a line to stdout when it is ready, and ends when
stdin ends.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "workflow" / "scripts"
PRELOADED = (
    *("httpx2", "jinja2", "numpy", "odc.geo.geobox", "odc.stac", "pandas", "pyarrow", "pydantic"),
    *("pyogrio", "pyproj", "pystac_client", "rasterio", "requests", "rioxarray", "scipy.ndimage"),
    *("shapely", "snakemake.iocontainers", "snakemake.logging", "tenacity", "torch", "xarray"),
    *("yaml", "zarr"),
)
"""Libraries that scripts import."""

OF_INTERPRETER = ("PYTHON", "COVERAGE", "LD_")
"""Variables that an interpreter reads when it starts."""


def receive(connection: socket.socket) -> tuple[str, str, dict[str, str], list[int]]:
    """Return script, working directory, environment and standard streams of a request."""
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as lines:
        script, folder, variables = json.loads(lines.read(int.from_bytes(size, "big")))
    return script, folder, variables, streams


def serve(connection: socket.socket) -> tuple[Any, ...] | None:
    """Fork for one request. Return it in the fork that runs the script; end the other one with it.

    The end of the connection ends the script, too.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = receive(connection)
    job = os.fork()
    if job == 0:
        connection.close()
        return request
    for stream in request[-1]:
        os.close(stream)
    ended = os.pidfd_open(job)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        if connection in ready:
            number = connection.recv(1)
            signal.pidfd_send_signal(ended, number[0] if number else signal.SIGKILL)
            if not number:
                break
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    try:
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    except OSError:  # the client was killed
        pass
    os._exit(0)


def reap(number: int, frame: FrameType | None) -> None:
    """Let ended forks go."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def listen(path: str) -> tuple[Any, ...]:
    """Answer requests; return each in a fork of its own. End when stdin ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        print("ready", flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                request = serve(connection)
                assert request is not None
                return request
            connection.close()
    os._exit(0)


def preload() -> None:
    """Import the libraries, and the package as far as the scripts import it."""
    for name in PRELOADED:
        import_module(name)
    sys.path.insert(0, str(REPOSITORY / "src"))
    names = set()
    for path in SCRIPTS.glob("*.py"):
        names |= set(re.findall(r"^from (tessera_flow\S*) import", path.read_text(), re.MULTILINE))
    for name in sorted(names):
        import_module(name)
    del sys.path[0]


def is_ours(script: str) -> bool:
    """Whether a script, as Snakemake writes it, is one of this repository."""
    return f"__file__ = {str(SCRIPTS)!r}"[:-1] in Path(script).read_text()


def end_quickly(call: Callable[[], object]) -> NoReturn:
    """End the process after a call as an interpreter does, without freeing its memory: that takes
    a second after so many imports."""
    code = 1
    try:
        call()
        code = 0
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            code = error.code or 0
        else:
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


def of_interpreter(variables: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in variables.items() if k.startswith(OF_INTERPRETER)}


def main() -> None:
    preload()
    gc.freeze()
    signal.signal(signal.SIGCHLD, reap)
    script, folder, variables, streams = listen(sys.argv[1])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    if of_interpreter(variables) != of_interpreter(dict(os.environ)) or not is_ours(script):
        os.execve(sys.executable, [sys.executable, script], variables)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [script]
    sys.path[0] = os.path.dirname(script)
    end_quickly(lambda: runpy.run_path(script, run_name="__main__"))


if __name__ == "__main__":
    main()
