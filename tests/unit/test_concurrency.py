"""Threads: order, bounds on memory, errors."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tessera_flow.concurrency import BackgroundWriter, call_with_timeout, ordered_map


class Failed(Exception):
    pass


@pytest.mark.parametrize("threads", [0, 1, 3, 8])
def test_results_are_in_the_order_of_the_items(threads: int) -> None:
    rng = random.Random(1)
    pauses = [rng.uniform(0, 0.01) for _ in range(30)]

    def square(number: int) -> int:
        time.sleep(pauses[number])
        return number**2

    assert list(ordered_map(square, range(30), threads)) == [n**2 for n in range(30)]
    assert list(ordered_map(square, [], threads)) == []


def test_calls_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=10)  # breaks unless three calls run together
    assert len(list(ordered_map(lambda _: barrier.wait(), range(6), 3))) == 6


@pytest.mark.parametrize(
    ("threads", "limit", "expected"),
    [(0, None, 1), (1, None, 1), (1, 2, 2), (3, None, 3), (2, 4, 4)],
)
def test_the_number_of_results_in_memory_is_limited(
    threads: int, limit: int | None, expected: int
) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    most = 0
    for used, _ in enumerate(ordered_map(lambda item: item, items(), threads, limit)):
        time.sleep(0.002)
        most = max(most, len(taken) - used)
    assert most == expected


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_error_is_raised_after_the_results_before_it(threads: int) -> None:
    started = []

    def call(number: int) -> int:
        started.append(number)
        if number == 5:
            raise Failed(f"call {number}")
        return number

    results = []
    with pytest.raises(Failed, match="call 5"):
        for result in ordered_map(call, range(100), threads):
            results.append(result)
    assert results == [0, 1, 2, 3, 4]
    assert len(started) <= 6 + threads


def test_an_error_of_the_items_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Failed

    with pytest.raises(Failed):
        list(ordered_map(lambda item: item, items(), 2))


def test_an_error_ends_the_calls_that_run() -> None:
    stop = threading.Event()

    def call(number: int) -> None:
        if number == 0:
            raise Failed
        stop.wait(20)

    start = time.monotonic()
    with pytest.raises(Failed):
        list(ordered_map(call, range(3), 3, stop=stop))
    assert stop.is_set()
    assert time.monotonic() - start < 5


def test_a_caller_that_fails_ends_the_calls_that_run() -> None:
    stop = threading.Event()
    threads = set()

    def call(number: int) -> int:
        threads.add(threading.current_thread())
        if number:
            stop.wait(20)
        return number

    start = time.monotonic()
    with pytest.raises(Failed), closing(ordered_map(call, range(9), 3, stop=stop)) as results:
        for _ in results:
            raise Failed
    assert time.monotonic() - start < 5
    assert not any(thread.is_alive() for thread in threads)


def test_a_complete_iteration_does_not_set_stop() -> None:
    stop = threading.Event()
    assert list(ordered_map(str, range(3), 2, stop=stop)) == ["0", "1", "2"]
    assert not stop.is_set()


@pytest.mark.parametrize("enabled", [True, False])
def test_writes_are_in_order_and_complete_on_exit(enabled: bool) -> None:
    written = []

    def write(number: int) -> None:
        time.sleep(0.002)
        written.append((number, threading.current_thread()))

    with BackgroundWriter(write, enabled) as writer:
        for number in range(5):
            writer.write(number)
            assert len(written) >= number + (not enabled)
    assert [number for number, _ in written] == list(range(5))
    in_caller = {thread is threading.current_thread() for _, thread in written}
    assert in_caller == {not enabled}


def test_the_caller_continues_during_a_write_and_waits_with_the_next() -> None:
    go = threading.Event()
    started = []

    def write(number: int) -> None:
        started.append(number)
        assert go.wait(10)

    with BackgroundWriter(write) as writer:
        writer.write(1)  # returns although it is not complete
        threading.Timer(0.05, go.set).start()
        writer.write(2)
        assert go.is_set() and started[0] == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_an_error_of_a_write_is_raised(enabled: bool) -> None:
    written = []

    def write(number: int) -> None:
        if number == 1:
            raise Failed(f"write {number}")
        written.append(number)

    with pytest.raises(Failed, match="write 1"), BackgroundWriter(write, enabled) as writer:
        for number in range(9):
            writer.write(number)
    assert written == [0]
    with pytest.raises(Failed, match="write 1"), BackgroundWriter(write, enabled) as writer:
        writer.write(1)  # the last one: raised on exit


def test_an_error_of_the_caller_is_not_replaced_and_the_write_completes() -> None:
    written = []

    def write(number: int) -> None:
        time.sleep(0.02)
        written.append(number)
        raise Failed("the write")

    with pytest.raises(Failed, match="the caller"), BackgroundWriter(write) as writer:
        writer.write(1)
        raise Failed("the caller")
    assert written == [1]


def test_a_call_returns_its_result_or_raises_its_error_in_time() -> None:
    assert call_with_timeout(lambda: 7, 10) == 7

    def fail() -> None:
        raise Failed("in the thread")

    with pytest.raises(Failed, match="in the thread"):
        call_with_timeout(fail, 10)


def test_a_call_that_takes_too_long_is_given_up() -> None:
    end = threading.Event()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        call_with_timeout(lambda: end.wait(20), 0.05)
    with pytest.raises(TimeoutError):
        call_with_timeout(lambda: end.wait(20), -1)
    assert time.monotonic() - start < 5
    end.set()
