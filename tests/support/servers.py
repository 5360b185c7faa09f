"""Servers on 127.0.0.1 that stand in for archives of scenes: range reads and a STAC API.

Both speak real HTTP from a thread of this process, on a port of their own, and remember
what they were asked.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import shapely

GEOJSON = "application/geo+json"
CONFORMANCE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/item-search",
]


@dataclass(frozen=True)
class Request:
    """One request and its answer.

    Attributes:
        path: path and query as they came.
        headers: lower-case names.
        status: of the answer.
        sent: bytes of the answer's body.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    status: int
    sent: int


@dataclass
class Server:
    """What both servers share.

    Attributes:
        requests: every request, in the order of the answers.
        unavailable: how many of the next requests get a 503 with `Retry-After: 0`.
        delay: seconds to wait before each answer.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    unavailable: int = 0
    delay: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes, and Nagle's algorithm would hold the second back.
    disable_nagle_algorithm = True
    server_state: Server

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        state = self.server_state
        length = int(self.headers.get("Content-Length", 0))
        text = self.rfile.read(length)
        body = json.loads(text) if text else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        time.sleep(state.delay)
        with state.lock:
            refused = state.unavailable > 0
            state.unavailable -= refused
        if refused:
            status, extra, content = 503, {"Retry-After": "0"}, b"busy"
        else:
            try:
                status, extra, content = state.respond(self.command, self.path, headers, body)
            except ValueError as error:
                status, extra, content = 400, {}, str(error).encode()
        sent = 0 if self.command == "HEAD" else len(content)
        with state.lock:
            state.requests.append(Request(self.command, self.path, headers, body, status, sent))
        try:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | extra).items():
                self.send_header(name, value)
            self.end_headers()
            if sent:
                self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True  # the client gave up waiting

    do_GET = do_HEAD = do_POST = _handle


@contextmanager
def _running(state: Server) -> Iterator[None]:
    handler = type("Handler", (_Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class FileServer(Server):
    """Byte ranges of the files below `folder`.

    Attributes:
        replaced: content to answer with, by path, whatever lies in the folder (with status
            200 and no ranges, as a login page would come).
        token: if given, requests without `sig=<token>` in their query get a 403.
    """

    folder: Path = Path()
    replaced: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        place = unquote(urlsplit(path).path)
        if self.token is not None and f"sig={self.token}" not in urlsplit(path).query:
            return 403, {}, b"the token is not valid"
        if place in self.replaced:
            return 200, {"Content-Type": "text/html"}, self.replaced[place]
        file = (self.folder / place.lstrip("/")).resolve()
        if not (file.is_relative_to(self.folder.resolve()) and file.is_file()):
            return 404, {}, b"not found"
        size = file.stat().st_size
        extra = {"Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)|bytes=-(\d+)", headers.get("range", ""))
        if method == "HEAD":
            return 200, extra | {"Content-Length": str(size)}, b""
        if wanted is None:
            return 200, extra, file.read_bytes()
        if wanted[3] is not None:
            start, stop = max(0, size - int(wanted[3])), size
        else:
            start, stop = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
        if start >= stop:
            return 416, extra | {"Content-Range": f"bytes */{size}"}, b""
        with file.open("rb") as handle:
            handle.seek(start)
            content = handle.read(stop - start)
        return 206, extra | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, content

    def asked(self, part: str) -> list[Request]:
        """Requests whose path contains `part`."""
        return [request for request in self.requests if part in request.path]


@contextmanager
def serve_files(folder: Path) -> Iterator[FileServer]:
    """Serve the files below `folder` until the end of the block."""
    state = FileServer(folder=folder)
    with _running(state):
        yield state


@dataclass
class StacServer(Server):
    """A STAC API: landing page, collections, and item search with paging.

    Attributes:
        items: every item, in the order in which a search returns them.
        page_size: most items of one page, whatever `limit` asks for.
        post: offer search by POST as well as by GET.
        overlap: how many items of a page are repeated on the next one.
    """

    items: Sequence[Mapping[str, Any]] = ()
    page_size: int = 2
    post: bool = True
    overlap: int = 0

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
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
        """The search requests that were answered with a page."""
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
        found = [item for item in self.items if _matches(item, query)]
        start = int(query.get("token", 0))
        stop = start + min(int(query.get("limit", 10)), self.page_size)
        links = []
        if stop < len(found):
            link: dict[str, Any] = {"rel": "next", "type": GEOJSON}
            token = str(stop - self.overlap)
            if post:
                link |= {"href": f"{self.url}/search", "method": "POST"}
                link |= {"body": {"token": token}, "merge": True}
            else:
                link |= {"href": f"{self.url}/search?{urlencode({**query, 'token': token})}"}
            links.append(link)
        return {"type": "FeatureCollection", "features": found[start:stop], "links": links}


def _matches(item: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
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
    """As the API specification has it: RFC 3339 with a time and a zone, nothing shorter."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", stamp):
        raise ValueError(f"{stamp} is not an RFC 3339 time")
    return dt.datetime.fromisoformat(stamp.replace("Z", "+00:00"))


@contextmanager
def serve_stac(items: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[StacServer]:
    """Serve `items` through a STAC API until the end of the block."""
    state = StacServer(items=items, **options)
    with _running(state):
        yield state
