"""A server of byte ranges on 127.0.0.1 that fails as archives do, on schedule.

It speaks real HTTP over real sockets, also as a proxy (so that a test can use the host names
of an archive). It can hand out tokens at `/sas/...` as Planetary Computer's signing service
does, each good for a number of bytes or seconds.
"""

from __future__ import annotations

import datetime as dt
import json
import mmap
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

PAGE = b"<!DOCTYPE html><html><title>Sign in</title><body>Please sign in.</body></html>" * 20


@dataclass
class Fault:
    """What happens to some of the requests.

    Attributes:
        kind: `status` (answer with the code `value`), `busy` (429 with `Retry-After: value`),
            `reset` (the connection breaks in mid-body), `stall` (nothing for `value` seconds
            in mid-body), `truncate` (half of the body, then the end), `corrupt` (bytes that
            differ from the object's; headers of files stay whole), `drip` (a byte every `value`
            seconds, and no end of it), `html` (a page, with
            status 200), `short` (fewer bytes than asked for, correctly labelled).
        path: part of the path of the requests meant; all if empty.
        skip: how many of these pass first.
        count: how many fail then; None: all.
        value: see `kind`.
    """

    kind: str
    path: str = ""
    skip: int = 0
    count: int | None = 1
    value: float = 0.0
    seen: int = 0

    def takes(self, path: str) -> bool:
        if self.path not in path:
            return False
        self.seen += 1
        number = self.seen - self.skip
        return number > 0 and (self.count is None or number <= self.count)


@dataclass
class FaultServer:
    """Serves the files below `folder`.

    Attributes:
        faults: the schedule; the first that takes a request decides.
        delay: seconds before each answer.
        signed: only requests with a living token are answered.
        token_bytes, token_seconds: what a token is good for; None: no limit.
        tokens: those handed out, and the bytes each has fetched.
        issued: when each was handed out.
        sent: bytes of bodies sent.
        paths: path and query of every request.
        watch: called at every request.
        together: the paths that were being answered at each request's beginning.
        connections: accepted so far.
        redirect: address to which every request is sent on.
    """

    folder: Path
    faults: list[Fault] = field(default_factory=list)
    delay: float = 0.0
    signed: bool = False
    token_bytes: int | None = None
    token_seconds: float | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    issued: dict[str, float] = field(default_factory=dict)
    sent: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    watch: Callable[[], None] = lambda: None
    together: list[list[str]] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)
    connections: int = 0
    redirect: str = ""
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    cache: dict[Path, bytes | mmap.mmap] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def content(self, path: str) -> bytes | mmap.mmap | None:
        file = (self.folder / unquote(path).lstrip("/")).resolve()
        if file not in self.cache:
            if not (file.is_relative_to(self.folder.resolve()) and file.is_file()):
                return None
            with file.open("rb") as handle:
                self.cache[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        return self.cache[file]

    def new_token(self) -> bytes:
        """The answer of the signing service."""
        with self.lock:
            token = f"se=2099&sig=T0ken-{len(self.tokens)}-secret"
            self.tokens[token] = 0
            self.issued[token] = time.monotonic()
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        return json.dumps({"msft:expiry": ends.isoformat(), "token": token}).encode()

    def admits(self, query: str) -> bool:
        if not self.signed:
            return True
        for token, used in self.tokens.items():
            if parse_qs(token)["sig"] == parse_qs(query).get("sig"):
                late = self.token_seconds is not None and (
                    time.monotonic() - self.issued[token] > self.token_seconds
                )
                spent = self.token_bytes is not None and used >= self.token_bytes
                return not (late or spent)
        return False

    def count(self, query: str, sent: int) -> None:
        self.sent += sent
        for token in self.tokens:
            if parse_qs(token)["sig"] == parse_qs(query).get("sig"):
                self.tokens[token] += sent


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: FaultServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        state.watch()
        parts = urlsplit(self.path)
        with state.lock:
            state.paths.append(self.path)
            state.headers.append({k.lower(): v for k, v in self.headers.items()})
            fault = next((fault for fault in state.faults if fault.takes(self.path)), None)
            admitted = state.admits(parts.query)
            state.under_way.append(self.path)
            state.together.append([path for path in state.under_way if "/sas/" not in path])
        time.sleep(state.delay)
        try:
            self._respond(parts, fault, admitted)
        except ConnectionError:
            pass  # a fault broke it, or the client has gone
        finally:
            with state.lock:
                state.under_way.remove(self.path)

    def setup(self) -> None:
        super().setup()
        with self.state.lock:
            self.state.connections += 1

    def _respond(self, parts: SplitResult, fault: Fault | None, admitted: bool) -> None:
        state = self.state
        if state.redirect:
            self._answer(302, b"", {"Location": state.redirect + self.path})
        elif fault is not None and fault.kind in ("status", "busy", "html"):
            self._instead(fault)
        elif parts.path.startswith("/sas/"):
            self._answer(200, state.new_token(), {"Content-Type": "application/json"})
        elif not admitted:
            self._answer(403, b"AuthenticationFailed: the signature is not valid", {})
        else:
            self._range(parts.path, parts.query, fault)

    def do_HEAD(self) -> None:
        content = self.state.content(urlsplit(self.path).path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def _instead(self, fault: Fault) -> None:
        if fault.kind == "html":
            self._answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif fault.kind == "busy":
            self._answer(429, b"slow down", {"Retry-After": f"{fault.value:g}"})
        else:
            self._answer(int(fault.value), b"no", {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _range(self, path: str, query: str, fault: Fault | None) -> None:
        content = self.state.content(path)
        if content is None:
            return self._answer(404, b"BlobNotFound", {})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return self._answer(200, content[:], {})
        start, stop = int(wanted[1]), min(len(content), int(wanted[2]) + 1)
        if start >= stop:
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if fault is not None and fault.kind == "short":
            stop = start + max(1, (stop - start) // 2)
        body = content[start:stop]
        if fault is not None and fault.kind == "corrupt":
            kept = max(0, min(len(body), HEADER_BYTES - start))
            body = body[:kept] + bytes(byte ^ 0x5A for byte in body[kept:])
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        with self.state.lock:
            self.state.count(query, len(body))
        if fault is not None and fault.kind in ("reset", "stall", "truncate"):
            return self._break(body, fault)
        if fault is not None and fault.kind == "drip":
            for byte in body[:200]:
                self.wfile.write(bytes([byte]))
                time.sleep(fault.value)
            return self.connection.close()
        self.wfile.write(body)

    def _break(self, body: bytes, fault: Fault) -> None:
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if fault.kind == "stall":
            time.sleep(fault.value)
        if fault.kind == "reset":
            # Closing with a lingering time of 0 sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


HEADER_BYTES = 2048
"""Left whole by `corrupt`: the header of a small file."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that a fault broke

    def shutdown_request(self, request: object) -> None:
        with suppress(OSError):
            super().shutdown_request(request)  # type: ignore[arg-type]


@contextmanager
def serve_with_faults(folder: Path, *faults: Fault, **settings: object) -> Iterator[FaultServer]:
    """Serve the files below `folder` until the end of the block."""
    state = FaultServer(folder, list(faults), **settings)  # type: ignore[arg-type]
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Server(("127.0.0.1", 0), handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
