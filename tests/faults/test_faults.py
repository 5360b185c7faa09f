"""Failing archives: a read returns the same pixels as without the failure, or an error."""

from __future__ import annotations

import dataclasses
import gc
import logging
import random
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.errors import ReadError
from tessera_flow.raster import retry
from tessera_flow.raster.failures import Failure, Kind

from ..support.fault_archive import HOST, Archive, both, one_asset, read
from ..support.servers import Fault, FileServer

# Transient failures do not change the result

TRANSIENT = {
    "busy": [Fault("busy", "/s2/", value=0, count=3)],
    "server errors": [Fault("status", skip=2 * n, value=500 + n) for n in (0, 2, 3, 4)],
    "a gateway that is down for a while": [Fault("status", "_B04_", value=502, count=3)],
    "other transient statuses": [Fault("status", value=408), Fault("status", skip=5, value=425)],
    "refused once": [Fault("status", "B11", value=403), Fault("status", "B02", value=401)],
    "broken connections": [Fault("reset", count=3), Fault("reset", "iw-v", skip=1, count=3)],
    "a stall": [Fault("stall", "_B08_", skip=1, value=1.6)],
    "cut short": [Fault("truncate", count=2), Fault("truncate", "_B12_", skip=1, count=2)],
    "shorter than requested": [Fault("short", skip=1, count=4)],
    "a login page": [Fault("html", "_SCL_"), Fault("html", skip=12)],
    "bytes corrupted in transit": [Fault("corrupt", "_B04_", skip=1), Fault("corrupt", "iw-vv")],
    "a signing service that is busy": [
        Fault("busy", "/sas/", value=0), Fault("status", "/sas/", value=503),
    ],
}  # fmt: skip


@pytest.mark.parametrize("faults", TRANSIENT.values(), ids=TRANSIENT)
def test_transient_failures_do_not_change_the_result(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    faults: list[Fault],
) -> None:
    server.faults = [dataclasses.replace(fault) for fault in faults]
    assert both(archive, tmp_path) == undisturbed
    assert all(fault.seen > fault.skip for fault in server.faults)


@pytest.mark.parametrize("limit", [{"token_bytes": 200_000}, {"token_seconds": 0.15}])
def test_token_that_expires_during_a_read_is_renewed(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    limit: dict[str, Any],
) -> None:
    """Readers that are refused at the same time request one new token, not one each."""
    for name, value in limit.items():
        setattr(server, name, value)
    server.delay = 0.01
    assert both(archive, tmp_path) == undisturbed
    tokens = sum("/sas/" in path for path in server.paths)
    if "token_bytes" in limit:
        assert 2 <= tokens <= 2 + server.sent / 200_000
    else:
        assert 2 <= tokens <= 12


def mixture(seed: int) -> list[Fault]:
    """Return up to ten transient faults of random requests, fewer than the attempts of a read."""
    rng = random.Random(seed)
    kinds: list[tuple[str, float]] = [
        ("busy", 0), ("status", 500), ("status", 502), ("status", 503), ("status", 504),
        ("status", 403), ("reset", 0), ("truncate", 0), ("short", 0), ("html", 0),
    ]  # fmt: skip
    return [
        Fault(kind, skip=rng.randrange(60), count=1, value=value)
        for kind, value in rng.choices(kinds, k=rng.randint(2, 10))
    ]


def test_number_of_threads_does_not_change_a_byte(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    for threads in (1, 3, 40):
        arrays, _ = read(archive, tmp_path / "slice.zip", threads=threads)
        for name, data in arrays.items():
            assert data == undisturbed[f"sentinel2/{name}"]
    progress = [record.getMessage() for record in caplog.records if "day " in record.getMessage()]
    assert len(progress) == 6
    assert progress[1].startswith("day 2 of 2: 2021-06-20, 1 scenes, ")
    assert "(so far " in progress[1] and " MB in " in progress[1]


def test_bands_scenes_and_days_are_read_in_parallel(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    """So that their latencies overlap."""
    server.delay = 0.05
    read(archive, tmp_path / "slice.zip", threads=24)
    concurrent = [[p for p in paths if "/sas/" not in p] for paths in server.concurrent]
    # More than the ten bands of one scene. A busy machine may not reach all 24.
    assert max(len(paths) for paths in concurrent) > 10
    tiles = [{path.split("/")[4] for path in paths} for paths in concurrent]
    assert max(map(len, tiles)) == 3  # scenes, of two days


def test_one_connection_serves_many_requests(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    read(archive, tmp_path / "slice.zip", threads=4)
    assert len(server.paths) > 60
    assert server.connections <= 6


# Lasting failures fail only this block; the message names item, asset and cause


LASTING = {
    "not allowed": (Fault("status", value=401), "HTTP 401 Unauthorized. Check the credentials"),
    "busy": (Fault("busy", value=0), "HTTP 429 Too Many Requests. Check that the archive is"),
    "an outage": (Fault("status", value=503), "HTTP 503 Service Unavailable. Check that"),
    "broken connections": (Fault("reset"), "connection reset by peer. Check that the archive is"),
    "cut short": (
        Fault("truncate"),
        r"only \d+ of \d+ bytes were received|the connection was interrupted",
    ),
    "a login page": (Fault("html"), "the server returned a web page instead of data"),
    "a stall": (Fault("stall", value=1.6), "no answer in time"),
    "a client error": (Fault("status", value=400), "after 1 attempt: HTTP 400 Bad Request"),
    "a pause beyond the deadline": (Fault("busy", value=10_000), "after 1 attempt: HTTP 429"),
}


@pytest.mark.parametrize(("fault", "cause"), LASTING.values(), ids=LASTING)
def test_lasting_failure_fails_the_block_and_is_named(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    cause: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    item, path = one_asset(archive)
    server.faults = [dataclasses.replace(fault, path=path, count=None)]
    with pytest.raises(ReadError, match=cause) as raised:
        read(archive, tmp_path / "slice.zip", attempts=3)
    message = str(raised.value)
    assert message.startswith(f"Cannot read asset B05 of item {item} ({HOST}{path}) after ")
    assert "\n" not in message and "sig=" not in message
    assert list(tmp_path.iterdir()) == []
    attempts = sum(path in requested for requested in server.paths)
    assert attempts == (1 if "after 1 attempt" in message else 3)
    assert_no_token(server, message, caplog.text, repr(raised.getrepr(style="long")))
    # The other block of the region is not affected.
    server.faults[0].path = "of another item"
    assert read(archive, tmp_path / "slice.zip")


def assert_no_token(server: FileServer, *texts: str) -> None:
    assert server.tokens
    for text in texts:
        assert "T0ken-" not in text
        assert "sig=" not in text


def test_failures_of_several_items_are_not_added_up(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    """Each read counts its own attempts: one failure each of many files is not an outage."""
    server.faults = [Fault("status", f"_{key}_", value=503) for key in ("B04", "B02", "B03")]
    server.faults += [Fault("status", f"_{key}_", value=503) for key in ("B08", "B8A", "B05")]
    assert read(archive, tmp_path / "slice.zip", attempts=2)


def test_silent_signing_service_fails_the_block_at_the_deadline(
    archive: Archive, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """planetary-computer has no timeout."""
    new_token = server.new_token

    def silent() -> bytes:
        time.sleep(1.5)
        return new_token()

    monkeypatch.setattr(server, "new_token", silent)
    with pytest.raises(ReadError, match=r"no (answer|signature) in time"):
        read(archive, tmp_path / "slice.zip", deadline=0.5)


def test_failed_day_ends_the_pauses_of_the_others(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    _, path = one_asset(archive, index=0)
    _, other_day = one_asset(archive, "SCL", 2)
    server.faults = [
        Fault("status", path, count=None, value=400),
        Fault("busy", other_day, count=None, value=60),
    ]
    start = time.monotonic()
    with pytest.raises(ReadError, match="HTTP 400"):
        read(archive, tmp_path / "slice.zip")
    assert time.monotonic() - start < 10
    assert any(other_day in requested for requested in server.paths)


def test_pause_lasts_as_long_as_retry_after(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    _, path = one_asset(archive, "SCL", 0)
    server.faults = [Fault("busy", path, value=1)]
    start = time.monotonic()
    read(archive, tmp_path / "slice.zip")
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), (None, None), ("", None), ("soon", None), ("0", 0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry.retry_after(value) == seconds


class _Pauses(threading.Event):
    """A stop event that records pauses and ends them at once."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.stop_after = stop_after

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        if len(self.seconds) == self.stop_after:
            self.set()
        return self.is_set()


def attempts_and_pauses(
    failure: Failure, stop: _Pauses | None = None, **limits: float
) -> tuple[int, list[float]]:
    """The number of attempts at a request that always fails, and the pauses between them."""
    stop = stop or _Pauses()
    policy = retry.RetryPolicy(stop=stop, **limits)  # type: ignore[arg-type]
    requests: list[None] = []

    def request() -> Failure:
        requests.append(None)
        return failure

    result, count = retry.Attempts(policy).call(request, "the asset")
    assert result is failure and count == len(requests)
    return count, stop.seconds


def test_pauses_double_with_jitter() -> None:
    count, pauses = attempts_and_pauses(Failure("transient", "no"), attempts=13, deadline=1000)
    assert count == 13
    for number, pause in enumerate(pauses):
        middle = min(60.0, 0.5 * 2**number)
        assert 0.5 * middle <= pause <= 1.5 * middle
    assert len(set(pauses)) == 12


def test_no_pause_lasts_beyond_the_deadline() -> None:
    assert attempts_and_pauses(Failure("transient", "no", 6.0), deadline=5.0) == (1, [])
    assert attempts_and_pauses(Failure("transient", "no", 6.0), attempts=2) == (2, [6.0])


def test_a_refused_request_is_repeated_at_once_the_first_time() -> None:
    count, pauses = attempts_and_pauses(Failure("refused", "no"), attempts=3)
    assert count == 3 and pauses[0] == 0 and pauses[1] >= 0.5
    assert attempts_and_pauses(Failure("refused", "no", 2.0), attempts=2)[1][0] >= 2


@pytest.mark.parametrize("kind", ["missing", "permanent"])
def test_failures_that_cannot_pass_are_not_retried(kind: Kind) -> None:
    assert attempts_and_pauses(Failure(kind, "no")) == (1, [])


def test_a_job_that_ends_makes_no_more_attempts() -> None:
    stopped = _Pauses()
    stopped.set()
    assert attempts_and_pauses(Failure("transient", "no"), stopped) == (1, [])
    during_a_pause = _Pauses(stop_after=2)
    count, pauses = attempts_and_pauses(Failure("transient", "no"), during_a_pause, attempts=9)
    assert count == len(pauses) == 2


def test_results_are_freed_without_the_garbage_collector() -> None:
    """The bytes of a read must not outlive it."""

    class Result:
        pass

    gc.disable()
    try:
        result, _ = retry.Attempts(retry.RetryPolicy()).call(Result, "the asset")
        reference = weakref.ref(result)
        del result
        assert reference() is None
    finally:
        gc.enable()


# Random mixtures


def assert_mixture_changes_nothing(
    archive: Archive, server: FileServer, folder: Path, seed: int, expected: dict[str, bytes]
) -> None:
    server.faults = mixture(seed)
    server.token_bytes = random.Random(seed).choice([None, 500_000, 800_000])
    sensor = ("sentinel1", "sentinel2", "sentinel2")[seed % 3]
    arrays, attributes = read(archive, folder / "slice.zip", sensor)
    assert attributes["left_out"] == attributes["replaced"] == []
    for name, data in arrays.items():
        assert data == expected[f"{sensor}/{name}"], f"{name}, seed {seed}: {server.faults}"


@pytest.mark.parametrize("first", range(0, 20, 10))
def test_mixtures_of_transient_failures_do_not_change_the_result(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    first: int,
) -> None:
    for seed in range(first, first + 10):
        assert_mixture_changes_nothing(archive, server, tmp_path, seed, undisturbed)


@pytest.mark.slow
def test_many_more_mixtures(
    archive: Archive, server: FileServer, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    for seed in range(20, 450):
        assert_mixture_changes_nothing(archive, server, tmp_path, seed, undisturbed)
