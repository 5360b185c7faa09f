"""Run the scripts of jobs in forks of one process, which imports the libraries only once.

A fork runs a script as `python SCRIPT` does, with streams, environment and working directory of
its own. A script of another package than this repository's imports that package again; one with
settings of the interpreter runs in an interpreter of its own. `snakemake_server` starts it.
"""

from __future__ import annotations

import atexit
import os
import re
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "workflow" / "scripts"
PRELOADED = (
    *("encodings.cp437", "encodings.utf_8_sig", "graphlib", "httpx2", "jinja2", "numpy"),
    *("odc.geo.geobox", "odc.stac", "pandas"),
    *("pyarrow", "pydantic", "pyogrio", "pyproj", "pystac_client", "rasterio", "requests"),
    *("rioxarray", "scipy.ndimage", "shapely", "snakemake.io", "snakemake.iocontainers"),
    *("snakemake.logging", "snakemake_interface_storage_plugins.io", "tenacity", "torch"),
    *("torch.utils._device", "torch.utils.serialization", "xarray", "yaml", "zarr"),
)
"""Libraries that scripts import."""

OF_INTERPRETER = ("PYTHON", "COVERAGE", "LD_")
"""Variables that an interpreter reads when it starts."""


class Request(NamedTuple):
    """A script to run."""

    script: str
    folder: str
    variables: dict[str, str]
    streams: list[int]


def receive(connection: socket.socket) -> Request:
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    length = int.from_bytes(size, "big")
    with connection.makefile("rb") as file:
        content = file.read(length)
    if len(content) != length or len(streams) != 3:
        raise ValueError("the client was killed")
    script, folder, *variables = map(os.fsdecode, content.split(b"\0"))
    pairs = (variable.partition("=") for variable in variables)
    return Request(script, folder, {name: value for name, _, value in pairs}, streams)


def listen(path: str) -> socket.socket:
    """Return a socket at a path, to which clients can connect from now on.

    A file at the path is of an ended process that had the same number, and is replaced.
    """
    Path(path).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(16)
    return server


def serve(server: socket.socket, until: int) -> Request:
    """Answer requests; return each in a fork of its own. End when the descriptor `until` ends.

    Bytes on a connection are signals for its script; the end of the connection kills the script.
    """
    jobs: dict[int, tuple[int, socket.socket]] = {}
    clients: dict[socket.socket, int] = {}
    while True:
        ready = select.select([until, server, *jobs, *clients], [], [])[0]
        if until in ready:
            os._exit(0)
        for entry in ready:
            if entry is server:
                connection, _ = server.accept()
                try:
                    connection.settimeout(60)
                    request = receive(connection)
                    connection.settimeout(None)
                except (OSError, ValueError):  # the client was killed
                    connection.close()
                    continue
                process = os.fork()
                if process == 0:
                    for other in (server, connection, *clients):
                        other.close()
                    return request
                for stream in request.streams:
                    os.close(stream)
                handle = os.pidfd_open(process)
                jobs[handle], clients[connection] = (process, connection), handle
            elif entry in jobs:
                process, connection = jobs.pop(entry)
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                try:
                    connection.sendall(bytes([code if code >= 0 else 128 - code]))
                except OSError:  # the client was killed
                    pass
                clients.pop(connection, None)
                connection.close()
                os.close(entry)
            elif entry in clients:
                number = entry.recv(1)
                signal.pidfd_send_signal(clients[entry], number[0] if number else signal.SIGKILL)
                if not number:
                    del clients[entry]


def preload() -> None:
    """Import the libraries, and the package as far as scripts and rules import it."""
    for name in PRELOADED:
        import_module(name)
    sys.path.insert(0, str(REPOSITORY / "src"))
    names = {"tessera_flow.inference.worker"}
    for path in [*SCRIPTS.glob("*.py"), *SCRIPTS.parent.glob("**/*.smk")]:
        found = re.findall(r"^ *from (tessera_flow\S*) import", path.read_text(), re.MULTILINE)
        names |= {*found}
    for name in sorted(names):
        import_module(name)
    del sys.path[0]
    # What libraries do at the end is for this process: in a fork it would copy 30 MB of memory.
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    no_wait_for_disks()


def no_wait_for_disks() -> None:
    """Leave it to the system when files get to the disk: no test cuts the power.

    A call of `os.fsync` takes 5 ms; a run of the workflow makes hundreds.
    """
    os.fsync = os.fstat  # type: ignore[assignment]


def forget_package() -> None:
    """Forget the preloaded package, so that the next import reads the sources on the path."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tessera_flow"]:
        del sys.modules[name]


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


def run(request: Request) -> NoReturn:
    """Run the script of a request in this process, a fork."""
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.folder)
    script, variables = request.script, request.variables
    if of_interpreter(variables) != of_interpreter(dict(os.environ)):
        os.execve(sys.executable, [sys.executable, script], variables)
    if not is_ours(script):
        forget_package()
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [script]
    sys.path[0] = os.path.dirname(script)
    end_quickly(lambda: runpy.run_path(script, run_name="__main__"))
