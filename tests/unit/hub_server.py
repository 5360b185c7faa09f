"""A local server that speaks the part of the Hugging Face Hub's API that a download uses.

`HEAD` and `GET /<repository>/resolve/main/<file>` with the commit, the ETag and the size in
the headers, byte ranges, 404 for what is not there; it can hang up in the middle of a file.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked.

    Attributes:
        files: content by "<repository>/<path in it>".
        hang_ups: how many of the next transfers break off.
        break_after: bytes sent before a transfer breaks off.
        status: an error status to answer everything with, or None.
        requests: (method, path, headers) of every request, oldest first.
    """

    files: Mapping[str, bytes]
    hang_ups: int = 0
    break_after: int = 0
    status: int | None = None
    port: int = 0
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, method: str) -> list[dict[str, str]]:
        return [headers for m, _, headers in self.requests if m == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, send_body: bool) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))
        content = self.hub.files.get(self.path.lstrip("/").replace("/resolve/main/", "/"))
        if self.hub.status is not None or content is None:
            self.send_response(self.hub.status or 404)
            if self.hub.status is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = 0, len(content)
        if "range" in headers:
            start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if not send_body:
            return
        if self.hub.hang_ups:
            self.hub.hang_ups -= 1
            end = min(end, start + self.hub.break_after)
            self.close_connection = True
        self.wfile.write(content[start:end])
        self.wfile.flush()


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve `files` until the end of the block."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
