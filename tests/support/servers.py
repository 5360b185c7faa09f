"""Servers on 127.0.0.1 for tests: files with byte ranges, and a STAC API.

They speak real HTTP from threads of this process, each on a port of its own, also as a proxy
(so that a test can use the host names of an archive). They record requests, and fail as a
test schedules it. Other services of tests are subclasses of `Server` or `FileServer`.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import gzip
import hashlib
import json
import mmap
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import shapely

GEOJSON = "application/geo+json"
CLASSES = ("core", "collections", "item-search")
CONFORMANCE = [f"https://api.stacspec.org/v1.0.0/{name}" for name in CLASSES]
PAGE = b"<!DOCTYPE html><html><title>Sign in</title><body>Please sign in.</body></html>" * 20

HEADER_BYTES = 2048
"""Not changed by the fault `corrupt`: the header of a small file."""

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


@dataclass(frozen=True)
class Request:
    """One request and its answer.

    Attributes:
        path: path and query as sent (to a proxy, the whole URL).
        headers: lower-case names.
        status: of the answer.
        sent: size of the answer's body in bytes.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    status: int
    sent: int


@dataclass
class Fault:
    """A failure of some of the GET requests.

    Attributes:
        kind: an answer in place of the regular one:
            `status` (HTTP status `value`), `busy` (429 with `Retry-After: value`), `html` (a
            web page with status 200);
            a wrong range of a file:
            `short` (half of the requested bytes, with correct headers), `corrupt` (bytes that
            differ from the file's after the first `HEADER_BYTES`), `shifted` (Content-Range of
            other bytes), `resized` (Content-Range of a larger file), `unranged` (206 without
            Content-Range);
            another form of the answer:
            `whole` (status 200 and the complete file), `gzip`, `deflate` and `raw deflate` (the
            body is compressed), `gzip whole` (both), `replace` (from this request on, the file is
            that of `FileServer.replacements`), `page` (a web page as octets, status 200);
            a transfer of a file that fails:
            `reset` (the connection is reset after half of the body), `truncate` (it is closed
            after half of the body), `cut` (it is closed after `value` bytes), `stall` (as
            `truncate`, after a pause of `value` seconds), `drip` (one byte every `value`
            seconds).
        path: substring of the path of the requests that can fail; empty: all.
        skip: number of these requests that succeed first.
        count: number that then fail; None: all.
        value: see `kind`.
        seen: number of these requests so far.
    """

    kind: str
    path: str = ""
    skip: int = 0
    count: int | None = 1
    value: float = 0.0
    seen: int = 0

    def applies(self, path: str) -> bool:
        """Whether the request for `path` fails; counts it."""
        if self.path not in path:
            return False
        self.seen += 1
        number = self.seen - self.skip
        return number > 0 and (self.count is None or number <= self.count)

    def replacement(self) -> Answer | None:
        """The answer in place of the regular one, if this fault has one."""
        if self.kind == "html":
            return 200, {"Content-Type": "text/html; charset=utf-8"}, PAGE
        if self.kind == "page":
            return 200, {"Content-Type": "application/octet-stream"}, PAGE
        if self.kind == "busy":
            return 429, {"Retry-After": f"{self.value:g}"}, b"slow down"
        if self.kind == "status":
            return int(self.value), {}, b"no"
        return None

    def changed(self, answer: Answer) -> Answer:
        """The answer to a range request with a wrong range."""
        status, headers, body = answer
        if status not in (200, 206):
            return answer
        if encode := _ENCODINGS.get(self.kind.removesuffix(" whole")):
            name, function = encode
            return status, headers | {"Content-Encoding": name}, function(body)
        if status != 206:
            return answer
        start, stop, size = map(int, re.findall(r"\d+", headers["Content-Range"]))
        if self.kind == "short":
            body = body[: max(1, len(body) // 2)]
            stop = start + len(body) - 1
            headers = headers | {"Content-Range": f"bytes {start}-{stop}/{size}"}
        elif self.kind == "shifted":
            headers = headers | {"Content-Range": f"bytes {start + 1}-{stop + 1}/{size + 1}"}
        elif self.kind == "resized":
            headers = headers | {"Content-Range": f"bytes {start}-{stop}/{size + 7}"}
        elif self.kind == "unranged":
            headers = {name: v for name, v in headers.items() if name != "Content-Range"}
        elif self.kind == "corrupt":
            intact = max(0, min(len(body), HEADER_BYTES - start))
            body = body[:intact] + bytes(byte ^ 0x5A for byte in body[intact:])
        return status, headers, body


def _raw_deflate(body: bytes) -> bytes:
    engine = zlib.compressobj(1, wbits=-15)
    return engine.compress(body) + engine.flush()


_ENCODINGS = {
    "gzip": ("gzip", partial(gzip.compress, compresslevel=1)),
    "deflate": ("deflate", partial(zlib.compress, level=1)),
    "raw deflate": ("deflate", _raw_deflate),
}


@dataclass
class Server:
    """State of a server; subclasses implement `respond`.

    Attributes:
        requests: all requests, in the order of the answers.
        unavailable: number of the next requests that get a 503 with `Retry-After: 0`.
        delay: seconds to wait before each answer.
        faults: the schedule; the first one that applies to a request is used.
        connections: number of connections accepted.
        concurrent: for each request, the paths of all requests in progress when it arrived.
        on_request: called for each request.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    unavailable: int = 0
    delay: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    connections: int = 0
    concurrent: list[list[str]] = field(default_factory=list)
    on_request: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_progress: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """Path and query of all requests."""
        return [request.path for request in self.requests]

    @property
    def sent(self) -> int:
        """Bytes of ranges sent."""
        return sum(request.sent for request in self.requests if request.status == 206)

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        raise NotImplementedError

    def replace(self, path: str) -> None:
        """Replace the object at a path."""

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: Any, fault: Fault | None
    ) -> Answer:
        """The answer to a request, with its fault."""
        with self.lock:
            refused = self.unavailable > 0
            self.unavailable -= refused
        if refused:
            return 503, {"Retry-After": "0"}, b"busy"
        replacement = fault and fault.replacement()
        if replacement:
            return replacement
        if fault is not None and fault.kind.endswith("whole"):
            headers = {name: value for name, value in headers.items() if name != "range"}
        if fault is not None and fault.kind == "replace":
            self.replace(path)
        try:
            answer = self.respond(method, path, headers, body)
        except ValueError as error:
            return 400, {}, str(error).encode()
        return answer if fault is None else fault.changed(answer)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes, and Nagle's algorithm would delay the second.
    disable_nagle_algorithm = True
    server_state: Server

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        state = self.server_state
        state.on_request()
        length = int(self.headers.get("Content-Length", 0))
        text = self.rfile.read(length)
        body = json.loads(text) if text else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = None
        with state.lock:
            if self.command == "GET":
                fault = next((fault for fault in state.faults if fault.applies(self.path)), None)
            state.in_progress.append(self.path)
            state.concurrent.append(state.in_progress.copy())
        time.sleep(state.delay)
        try:
            answer = state.answer(self.command, self.path, headers, body, fault)
            sent = 0 if self.command == "HEAD" else len(answer[2])
            request = Request(self.command, self.path, headers, body, answer[0], sent)
            with state.lock:
                state.requests.append(request)
            self._send(answer, fault)
        except ConnectionError:
            self.close_connection = True  # the client stopped waiting, or a fault broke it
        finally:
            with state.lock:
                state.in_progress.remove(self.path)

    do_GET = do_HEAD = do_POST = _handle

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        status, headers, body = answer
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and "Accept-Ranges" in headers and fault.kind in _TRANSFER_FAULTS:
            self._send_part(body, fault)
        else:
            self.wfile.write(body)

    def _send_part(self, body: bytes, fault: Fault) -> None:
        self.close_connection = True
        if fault.kind == "drip":
            for byte in body[:200]:
                self.wfile.write(bytes([byte]))
                time.sleep(fault.value)
        else:
            self.wfile.write(body[: int(fault.value) if fault.kind == "cut" else len(body) // 2])
            self.wfile.flush()
        if fault.kind == "stall":
            time.sleep(fault.value)
        if fault.kind == "reset":
            # Closing with a lingering time of 0 sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


_TRANSFER_FAULTS = ("reset", "truncate", "cut", "stall", "drip")


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    state: Server

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.state.lock:
            self.state.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that a fault broke

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):
            super().shutdown_request(request)


@contextmanager
def running(state: Server) -> Iterator[None]:
    handler = type("Handler", (_Handler,), {"server_state": state})
    server = _HttpServer(("127.0.0.1", 0), handler)
    server.state = state
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class FileServer(Server):
    """Byte ranges of the files below `folder`.

    It can sign as Planetary Computer does: `/sas/...` returns a token, which is valid for a
    number of bytes or seconds.

    Attributes:
        contents: content to serve by path, in place of the files.
        replacements: content by path after the fault `replace`.
        versions: answers state the version of the file: `etag`, `weak` (a weak ETag), `modified`
            (Last-Modified); empty: none. With `etag`, If-Range is respected.
        replaced: the same, but with status 200, as a web page and without ranges (as a login
            page).
        redirect: URL to which all requests are redirected.
        signed: requests without a valid token get a 403.
        token_bytes, token_seconds: validity of a token; None: no limit.
        tokens: tokens issued, and the bytes that each has fetched.
        issued: time at which each was issued.
    """

    folder: Path = Path()
    contents: dict[str, bytes] = field(default_factory=dict)
    replacements: dict[str, bytes] = field(default_factory=dict)
    versions: str = ""
    replaced: dict[str, bytes] = field(default_factory=dict)
    redirect: str = ""
    signed: bool = False
    token_bytes: int | None = None
    token_seconds: float | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    issued: dict[str, float] = field(default_factory=dict)

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        parts = urlsplit(path)
        name = unquote(parts.path)
        if self.redirect:
            return 302, {"Location": self.redirect + path}, b""
        if self.signed and name.startswith("/sas/"):
            return 200, {"Content-Type": "application/json"}, self.new_token()
        with self.lock:
            token = self._valid_token(parts.query)
        if self.signed and token is None:
            return 403, {}, b"AuthenticationFailed: the signature is not valid"
        if name in self.replaced:
            return 200, {"Content-Type": "text/html"}, self.replaced[name]
        content = self.content(name)
        if content is None:
            return 404, {}, b"not found"
        stated = self._version(content)
        span = headers.get("range", "")
        if "ETag" in stated and headers.get("if-range", stated["ETag"]) != stated["ETag"]:
            span = ""
        answer = file_answer(method, span, content)
        answer = (answer[0], answer[1] | stated, answer[2])
        if token is not None:
            with self.lock:
                self.tokens[token] += len(answer[2])
        return answer

    def replace(self, path: str) -> None:
        name = unquote(urlsplit(path).path)
        self.contents[name] = self.replacements[name]

    def _version(self, content: bytes | mmap.mmap) -> dict[str, str]:
        if not self.versions:
            return {}
        digest = hashlib.sha256(content).hexdigest()[:16]
        if self.versions == "modified":
            moment = dt.datetime.fromtimestamp(int(digest[:7], 16), dt.UTC)
            return {"Last-Modified": email.utils.format_datetime(moment, usegmt=True)}
        return {"ETag": f'"{digest}"' if self.versions == "etag" else f'W/"{digest}"'}

    def content(self, name: str) -> bytes | mmap.mmap | None:
        """The content at a path, None if there is none."""
        if name in self.contents:
            return self.contents[name]
        file = (self.folder / name.lstrip("/")).resolve()
        if not (file.is_relative_to(self.folder.resolve()) and file.is_file()):
            return None
        if file.stat().st_size == 0:
            return b""
        with file.open("rb") as handle:
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

    def new_token(self) -> bytes:
        """The answer of the signing service."""
        with self.lock:
            token = f"se=2099&sig=T0ken-{len(self.tokens)}-secret"
            self.tokens[token] = 0
            self.issued[token] = time.monotonic()
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        return json.dumps({"msft:expiry": ends.isoformat(), "token": token}).encode()

    def _valid_token(self, query: str) -> str | None:
        """The token in a query, if it was issued and is still valid."""
        for token, used in self.tokens.items():
            if parse_qs(token)["sig"] == parse_qs(query).get("sig"):
                age = time.monotonic() - self.issued[token]
                expired = self.token_seconds is not None and age > self.token_seconds
                used_up = self.token_bytes is not None and used >= self.token_bytes
                return None if expired or used_up else token
        return None

    def asked(self, part: str) -> list[Request]:
        """Return the requests whose path contains `part`."""
        return [request for request in self.requests if part in request.path]


def file_answer(method: str, requested: str, content: bytes | mmap.mmap) -> Answer:
    """The answer to a request for a file.

    Args:
        method: GET or HEAD.
        requested: the `Range` header; the whole file if it is empty or not a range.
        content: of the file.
    """
    size = len(content)
    headers = {"Accept-Ranges": "bytes"}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)|bytes=-(\d+)", requested)
    if method == "HEAD":
        return 200, headers | {"Content-Length": str(size)}, b""
    if span is None:
        return 200, headers, content[:]
    if span[3] is not None:
        start, stop = max(0, size - int(span[3])), size
    else:
        start, stop = int(span[1]), min(size, int(span[2] or size) + 1)
    if start >= stop:
        return 416, headers | {"Content-Range": f"bytes */{size}"}, b""
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return 206, headers, content[start:stop]


@contextmanager
def serve_files(folder: Path, **options: Any) -> Iterator[FileServer]:
    """Serve the files below `folder` until the end of the block."""
    state = FileServer(folder=folder, **options)
    with running(state):
        yield state


@dataclass
class StacServer(Server):
    """A STAC API: landing page, collections, and item search with paging.

    Attributes:
        items: all items, in the order of search results.
        page_size: largest number of items of a page, also if `limit` is larger.
        post: support search by POST, in addition to GET.
        overlap: number of items of a page that are repeated on the next.
    """

    items: Sequence[Mapping[str, Any]] = ()
    page_size: int = 2
    post: bool = True
    overlap: int = 0

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        parts = urlsplit(path)
        document: dict[str, Any] | None = None
        if parts.path == "/":
            document = self._landing()
        elif parts.path == "/collections":
            names = sorted({item["collection"] for item in self.items})
            document = {"collections": [self._collection(name) for name in names], "links": []}
        elif parts.path == "/search" and method == "POST" and self.post:
            document = self._page(body, post=True)
        elif parts.path == "/search" and method == "GET":
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            document = self._page(query, post=False)
        if document is None:
            return 404, {}, b"not found"
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    def searches(self) -> list[Request]:
        """Return the successful search requests."""
        return [r for r in self.requests if r.path.startswith("/search") and r.status == 200]

    def _landing(self) -> dict[str, Any]:
        search = [
            {"rel": "search", "href": f"{self.url}/search", "method": method, "type": GEOJSON}
            for method in ("GET", "POST")[: 1 + self.post]
        ]
        return {
            "type": "Catalog",
            "id": "archive",
            "stac_version": "1.0.0",
            "description": "A STAC API over the scenes of a test.",
            "conformsTo": CONFORMANCE,
            "links": [
                {"rel": "self", "href": f"{self.url}/"},
                {"rel": "root", "href": f"{self.url}/"},
                {"rel": "data", "href": f"{self.url}/collections"},
                *search,
            ],
        }

    def _collection(self, name: str) -> dict[str, Any]:
        return {
            "type": "Collection",
            "id": name,
            "stac_version": "1.0.0",
            "description": name,
            "license": "proprietary",
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [[None, None]]},
            },
            "links": [],
        }

    def _page(self, query: Mapping[str, Any], post: bool) -> dict[str, Any]:
        items = [item for item in self.items if matches(item, query)]
        start = int(query.get("token", 0))
        stop = start + min(int(query.get("limit", 10)), self.page_size)
        links = []
        if stop < len(items):
            link: dict[str, Any] = {"rel": "next", "type": GEOJSON}
            token = str(stop - self.overlap)
            if post:
                link |= {"href": f"{self.url}/search", "method": "POST"}
                link |= {"body": {"token": token}, "merge": True}
            else:
                link |= {"href": f"{self.url}/search?{urlencode({**query, 'token': token})}"}
            links.append(link)
        return {"type": "FeatureCollection", "features": items[start:stop], "links": links}


def matches(item: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    def listed(value: Any) -> list[str]:
        return value.split(",") if isinstance(value, str) else list(value)

    if "collections" in query and item["collection"] not in listed(query["collections"]):
        return False
    if "bbox" in query:
        box = shapely.box(*(float(value) for value in listed(query["bbox"])))
        if not shapely.geometry.shape(item["geometry"]).intersects(box):
            return False
    if "datetime" in query:
        first, _, last = query["datetime"].partition("/")
        moment = _moment(item["properties"]["datetime"])
        if first not in ("", "..") and moment < _moment(first):
            return False
        if last not in ("", "..") and moment > _moment(last):
            return False
    return True


def _moment(stamp: str) -> dt.datetime:
    """Parse a time as in the API specification: RFC 3339 with time and zone."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", stamp):
        raise ValueError(f"{stamp} is not an RFC 3339 time")
    return dt.datetime.fromisoformat(stamp.replace("Z", "+00:00"))


@contextmanager
def serve_stac(items: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[StacServer]:
    """Serve `items` through a STAC API until the end of the block."""
    state = StacServer(items=items, **options)
    with running(state):
        yield state
