"""Scripts of jobs in forks of a server behave as in an interpreter of their own."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import job_server, snakemake_server

CLIENT = Path(snakemake_server.__file__).with_name("job_client.py")
OURS = f"__file__ = {str(job_server.SCRIPTS / 'roi.py')!r}\n"


def start(script: Path, text: str, **variables: str) -> subprocess.Popen[str]:
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(CLIENT), snakemake_server.job_socket(), str(script)],
        cwd=script.parent, env={**os.environ, **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "the script writes nothing"
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("text", "status", "output", "errors"),
    [
        ("import os, sys\nprint(os.getcwd(), os.environ['COLOUR'], sys.argv)", 0, "red", ""),
        ("import sys\nsys.exit(3)", 3, "", ""),
        ("import sys\nsys.exit('a message')", 1, "", "a message\n"),
        ("raise ValueError('wrong')", 1, "", "ValueError: wrong\n"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 137, "", ""),
        ("import atexit\natexit.register(print, 'at the end')", 0, "at the end", ""),
        (
            "import threading, time\n"
            "threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
            0, "late", "",
        ),
    ],
)  # fmt: skip
def test_script_ends_as_in_an_interpreter(
    tmp_path: Path, text: str, status: int, output: str, errors: str
) -> None:
    found = start(tmp_path / "script.py", OURS + text, COLOUR="red")
    stdout, stderr = found.communicate(timeout=60)
    assert found.returncode == status
    assert output in stdout and stderr.endswith(errors)
    if output == "red":
        assert stdout == f"{tmp_path} red ['{tmp_path}/script.py']\n"


def test_script_of_other_sources_imports_its_own_package(tmp_path: Path) -> None:
    """As the rules of a copy do, or of a clone in a cache."""
    text = "import sys\nprint('torch' in sys.modules, 'tessera_flow.errors' in sys.modules)"
    for head, expected in ((OURS, "True True"), ("", "True False")):
        assert (
            start(tmp_path / "script.py", head + text).communicate(timeout=60)[0].strip()
            == expected
        )
    package = tmp_path / "src" / "tessera_flow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = 'another'")
    text = f"import sys\nsys.path.insert(0, {str(package.parent)!r})\n"
    text += "from tessera_flow import __version__\nprint(__version__)"
    assert start(tmp_path / "script.py", text).communicate(timeout=60)[0].strip() == "another"


def test_settings_of_the_interpreter_get_one(tmp_path: Path) -> None:
    text = OURS + "import sys\nprint('torch' in sys.modules, sys.flags.utf8_mode)"
    found = start(tmp_path / "script.py", text, PYTHONUTF8="1")
    assert found.communicate(timeout=60)[0].strip() == "False 1"


def test_signals_reach_the_script(tmp_path: Path) -> None:
    text = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    found = start(tmp_path / "script.py", OURS + text)
    assert first_line(found) == "ready\n"
    found.send_signal(signal.SIGTERM)
    assert found.wait(30) == 7


def test_end_of_the_client_ends_the_script(tmp_path: Path) -> None:
    text = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    found = start(tmp_path / "script.py", OURS + text)
    process = int(first_line(found))
    found.kill()
    for _ in range(300):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the script outlived its client")


def test_a_process_takes_the_socket_of_an_ended_one_with_its_number(tmp_path: Path) -> None:
    """Numbers of processes come round; runs of tests waited for ever for one that could not."""
    path = str(tmp_path / "1234")
    with job_server.listen(path):
        pass
    with job_server.listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_server_serves_all_workers_and_ends_with_the_last(tmp_path: Path) -> None:
    """Without the libraries; its runs fail, because they find no folder for their sockets."""
    path, folder = str(tmp_path / "server"), tmp_path / "absent"
    first, last = (socket.socket(socket.AF_UNIX) for _ in range(2))
    with job_server.listen(path) as listener, first, last:
        serve = (
            "import job_server, snakemake_server as it, socket; it.job_server = job_server; "
            f"it._serve({str(folder)!r}, socket.socket(fileno={listener.fileno()}))"
        )
        server = subprocess.Popen(
            [sys.executable, "-c", serve], cwd=CLIENT.parent,
            stderr=subprocess.PIPE, text=True, pass_fds=[listener.fileno()],
        )  # fmt: skip
        for client in (first, last):
            client.settimeout(60)
            client.connect(path)
        runs = set()
        for client in (first, last):
            client.sendall(b"null\n")
            runs.add(int(client.recv(64)))
            client.close()
    assert len(runs) == 2
    errors = server.communicate(timeout=60)[1]
    assert errors.count("FileNotFoundError") == 2 and server.returncode == 0
    assert not folder.exists()
