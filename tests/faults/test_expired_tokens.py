"""Tokens that expire while requests wait: no fault of the archive, so no attempt is used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.raster import retry
from tessera_flow.raster.failures import MissingSceneError
from tessera_flow.raster.http_range import RangeClient
from tessera_flow.raster.retry import Attempts, RetryPolicy

from ..support.servers import Answer, Fault, FileServer, serve_files

ATTEMPTS = 3
CONTENT = bytes(range(256)) * 4
AT_DEADLINE = r"HTTP 403 Forbidden\. Check the credentials|no answer in time"
"""Whether the deadline is after an answer or while one is waited for depends on the machine."""


class Tokens:
    """Access by a token that is kept until a new one is requested, as Planetary Computer's is."""

    def __init__(self, server: FileServer) -> None:
        self.server = server
        self.requested = 0
        self.renew()

    def renew(self) -> None:
        self.server.new_token()
        self.token = list(self.server.tokens)[-1]

    def __call__(self, href: str, fresh: bool = False) -> Access:
        if fresh:
            self.requested += 1
            self.renew()
        return Access(f"{href}?{self.token}")


class Waits:
    """Lets the requests for one object wait on their way, until `meanwhile` has returned.

    Attributes:
        count: number of requests for it so far.
        most: number of them that wait.
    """

    def __init__(self, path: str, meanwhile: Callable[[], None], most: float) -> None:
        self.path, self.meanwhile, self.most = path, meanwhile, most
        self.count = 0

    def install(self, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Waits:
        respond = server.respond

        def late(method: str, path: str, headers: dict[str, str], body: object) -> Answer:
            if self.path in path:
                self.count += 1
                if self.count <= self.most:
                    self.meanwhile()
            return respond(method, path, headers, body)

        monkeypatch.setattr(server, "respond", late)
        return self


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Two objects, and tokens that are valid for one request each."""
    (tmp_path / "late").write_bytes(CONTENT)
    (tmp_path / "other").write_bytes(CONTENT[::-1])
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
    with serve_files(tmp_path, signed=True) as running:
        running.token_bytes = 1
        yield running


def client(server: FileServer, access: Callable[..., Access]) -> RangeClient:
    return RangeClient(access, RetryPolicy(ATTEMPTS, timeout=5.0))


def fetched(reader: RangeClient, name: str, deadline: float = 60.0) -> bytes:
    server_url = reader._access.server.url  # type: ignore[attr-defined]
    attempts = Attempts(RetryPolicy(ATTEMPTS, timeout=5.0, deadline=deadline))
    return bytes(reader.fetch(f"{server_url}/{name}", 0, len(CONTENT), name, attempts)[0])


def test_tokens_that_expire_while_a_request_waits_use_up_no_attempt(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other reads use up each token, and renew it, before the request that waits arrives."""
    reader = client(server, Tokens(server))

    def other_reads() -> None:
        for _ in range(2):
            assert fetched(reader, "other") == CONTENT[::-1]

    waits = Waits("/late", other_reads, most=3 * ATTEMPTS).install(server, monkeypatch)
    assert fetched(reader, "late") == CONTENT
    assert waits.count > waits.most


def test_tokens_that_were_never_accepted_use_up_the_attempts(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although others renew them all the time: credentials that are refused end the read soon."""
    tokens = Tokens(server)
    server.token_bytes = 0
    waits = Waits("/late", tokens.renew, most=float("inf")).install(server, monkeypatch)
    with pytest.raises(ReadError, match=f"after {ATTEMPTS} attempts: HTTP 403 Forbidden. Check"):
        fetched(client(server, tokens), "late")
    assert waits.count == ATTEMPTS


def test_a_refused_object_uses_up_the_attempts_although_its_tokens_are_accepted(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers so for a missing object: other reads are served, and need no new token."""
    server.token_bytes = None
    server.faults = [Fault("status", "/late", value=403, count=None)]
    tokens = Tokens(server)
    reader = client(server, tokens)
    assert fetched(reader, "other") == CONTENT[::-1]
    with pytest.raises(MissingSceneError, match="HTTP 403 Forbidden, although other objects"):
        fetched(reader, "late")
    # Once more with the token by which the other object is served afterwards.
    assert len(server.asked("/late")) <= ATTEMPTS + 1
    assert tokens.requested <= ATTEMPTS


@pytest.mark.parametrize("renewed", [False, True])
def test_an_object_whose_tokens_expire_is_not_taken_as_missing(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, renewed: bool
) -> None:
    """Its last token was refused because it had expired, so that others are served by a new one
    does not show that the object does not exist."""
    tokens = Tokens(server)
    reader = client(server, tokens)

    def other_read() -> None:
        assert fetched(reader, "other") == CONTENT[::-1]
        if renewed:
            tokens.renew()

    Waits("/late", other_read, most=float("inf")).install(server, monkeypatch)
    with pytest.raises(ReadError, match=AT_DEADLINE) as raised:
        fetched(reader, "late", deadline=1.0)
    assert not isinstance(raised.value, MissingSceneError)


def test_tokens_that_always_expire_fail_the_read_at_the_deadline(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = client(server, Tokens(server))

    def other_reads() -> None:
        for _ in range(2):
            fetched(reader, "other")

    waits = Waits("/late", other_reads, most=float("inf")).install(server, monkeypatch)
    start = time.monotonic()
    with pytest.raises(ReadError, match=AT_DEADLINE):
        fetched(reader, "late", deadline=1.0)
    assert waits.count > ATTEMPTS
    assert time.monotonic() - start < 20


def test_many_missing_objects_share_new_tokens(server: FileServer) -> None:
    """Each refusal asks for a new token only if no other read has got one since."""
    server.token_bytes = None
    server.faults = [Fault("status", "/missing", value=403, count=None)]
    tokens = Tokens(server)
    reader = client(server, tokens)
    assert fetched(reader, "other") == CONTENT[::-1]

    def kind(number: int) -> type[Exception] | None:
        try:
            fetched(reader, f"missing{number}")
        except Exception as error:
            return type(error)
        return None

    number = 8
    with ThreadPoolExecutor(number) as pool:
        assert set(pool.map(kind, range(number))) == {MissingSceneError}
    # Alone, each read would ask for one after all but its last attempt.
    assert tokens.requested <= number
    assert len(server.asked("/missing")) <= number * (ATTEMPTS + 3)
