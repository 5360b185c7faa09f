"""Put the questions to the geotessera client and record its answers.

    python -m tests.geotessera.record PYTHON     writes tests/golden/geotessera.json

PYTHON is a Python 3.12 in which geotessera is installed (`make test-geotessera` makes one). Every
store is read as a folder and from an HTTP server; the answers must be the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..support.servers import FileServer, running
from .questions import stores

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = ROOT / "tests/golden/geotessera.json"


def ask(python: str, questions: dict[str, Any], folder: Path) -> Any:
    path = folder / "questions.json"
    path.write_text(json.dumps(questions))
    script = Path(__file__).with_name("client.py")
    done = subprocess.run(
        [python, str(script), str(path)], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def recorded(python: str) -> dict[str, Any]:
    """Return the answers of the client, with the questions and the content of the stores."""
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = FileServer(folder=folder)
        local, remote = {}, {}
        with running(server):
            for path, questions, content in stores(folder):
                for key, question in questions.items():
                    document[key] = {"content": content, **question}
                    local[key] = question | {"store": str(path)}
                    remote[key] = question | {"store": f"{server.url}/{path.relative_to(folder)}"}
            answers = ask(python, local, folder)
            assert ask(python, remote, folder) == answers
    for key, answer in answers["answers"].items():
        document[key]["answer"] = answer
    return {"geotessera": answers["geotessera"], "stores": document}


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(recorded(sys.argv[1])) + "\n")
    print(ANSWERS)
