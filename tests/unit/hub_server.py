"""The part of the Hugging Face Hub's API that a download uses, as a local server.

`HEAD` and `GET /<repository>/resolve/<revision>/<file>` with the commit, the ETag and the size in
the headers, byte ranges, and 404 for files that do not exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..support.servers import Answer, Request, Server, file_answer, running

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub(Server):
    """Serves files of repositories.

    Attributes:
        files: content by "<repository>/<path in it>".
        status: an error status for all requests, or None.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    status: int | None = None

    def requests_by(self, method: str) -> list[Request]:
        """The requests with one method."""
        return [request for request in self.requests if request.method == method]

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        if self.status is not None:
            return self.status, {}, b""
        path = re.sub(f"/resolve/(main|{COMMIT})/", "/", path.lstrip("/"))
        content = self.files.get(path)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        about = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        status, answer_headers, data = file_answer(method, headers.get("range", ""), content)
        return status, answer_headers | about, data


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve `files` until the end of the block."""
    hub = Hub(files=files)
    with running(hub):
        yield hub
