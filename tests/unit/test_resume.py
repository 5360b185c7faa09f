"""Finished patches of an unfinished block."""

import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.errors import TileError, ToleranceError
from tessera_flow.inference import resume as resume_module
from tessera_flow.inference.resume import Finished, Progress

INPUTS = {"weights": "abc", "origin": [0, 5]}


def patch(value: int) -> Finished:
    arrays = {"days": np.full((3, 4), value), "median": np.full(3, value / 7, np.float32)}
    return Finished({"codes/c/0": bytes([value] * 5), "scales/c/0": b"", "c": b"abc"}, arrays)


def is_patch(found: Finished, value: int) -> bool:
    expected = patch(value)
    return (
        {name: bytes(chunk) for name, chunk in found.chunks.items()} == expected.chunks
        and list(found.chunks) == list(expected.chunks)
        and set(found.arrays) == set(expected.arrays)
        and all(np.array_equal(found.arrays[key], expected.arrays[key]) for key in expected.arrays)
    )


def test_saved_patches_are_read_by_the_next_job(tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "b1.zip"
    with Progress(output, INPUTS) as progress:
        assert not progress.finished and "p0" not in progress
        progress.add("p0", patch(1))
        progress.add("p1", patch(2))
        assert is_patch(progress.read("p0"), 1)
        progress.add("p2", patch(3))  # after reading, still at the end
    with Progress(output, INPUTS) as again:
        assert again.finished == {"p0", "p1", "p2"}
        assert [is_patch(again.read(f"p{n}"), n + 1) for n in range(3)] == [True] * 3
        again.remove()
    assert list(output.parent.iterdir()) == []


def test_two_jobs_on_one_block_do_not_interfere(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, INPUTS) as slow, Progress(output, INPUTS) as fast:
        slow.add("p0", patch(1))
        for n in range(3):
            fast.add(f"p{n}", patch(n + 1))
        fast.remove()
        assert list(tmp_path.iterdir()) == []
        slow.add("p1", patch(2))
        assert is_patch(slow.read("p0"), 1) and is_patch(slow.read("p1"), 2)
        slow.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_blocks_and_inputs_are_not_used_or_removed(tmp_path: Path) -> None:
    with Progress(tmp_path / "b.zip", INPUTS) as other:
        other.add("p0", patch(1))
    with Progress(tmp_path / "b", INPUTS) as progress:
        assert not progress.finished
        progress.add("p1", patch(2))
        progress.remove()
    with Progress(tmp_path / "b.zip", INPUTS | {"weights": "other"}) as changed:
        assert not changed.finished
    with Progress(tmp_path / "b.zip", INPUTS) as other:
        assert other.finished == {"p0"}


def test_records_after_a_damaged_one_are_not_used(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, INPUTS) as progress:
        for n in range(3):
            progress.add(f"p{n}", patch(n))
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with Progress(output, INPUTS) as again:
        assert again.finished == {"p0"}


def test_record_that_changes_during_the_job_is_an_error(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, INPUTS) as progress:
        progress.add("p0", Finished({"codes/c/0": bytes(100_000)}, {}))
    with Progress(output, INPUTS) as again:
        (file,) = tmp_path.iterdir()
        with file.open("r+b") as handle:
            handle.truncate(50_000)
        with pytest.raises(TileError, match=r"p0 of .* changed on disk"):
            again.read("p0")


def test_patches_of_an_interval_are_saved_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, INPUTS, interval=60) as progress:
        progress.add("p0", patch(1))
        progress.add("p1", patch(2))
        assert "p0" in progress and is_patch(progress.read("p0"), 1)
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 60)
        progress.add("p2", patch(3))
        assert [is_patch(progress.read(f"p{n}"), n + 1) for n in range(3)] == [True] * 3
        progress.add("p3", patch(4))
        with Progress(output, INPUTS) as other:
            assert other.finished == {"p0", "p1", "p2"}
        progress.remove()
    assert list(tmp_path.iterdir()) == []


def test_patches_of_an_interval_take_limited_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_module, "WAITING_BYTES", 3 * 116)  # patches of 116 bytes
    with Progress(tmp_path / "b1.zip", INPUTS, interval=60) as progress:
        for n in range(3):
            progress.add(f"p{n}", patch(n))
        assert list(tmp_path.iterdir()) == []
        progress.add("p3", patch(3))
        with Progress(tmp_path / "b1.zip", INPUTS) as other:
            assert other.finished == {"p0", "p1", "p2", "p3"}


def test_patches_of_an_interval_are_saved_by_a_job_that_ends_early(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with (
        pytest.raises(ZeroDivisionError),
        Progress(output, INPUTS, interval=60) as progress,
    ):
        progress.add("p0", patch(1))
        progress.add("p1", patch(2))
        raise ZeroDivisionError
    with Progress(output, INPUTS) as again:
        assert again.finished == {"p0", "p1"}
        assert is_patch(again.read("p1"), 2)


def test_a_full_disk_does_not_hide_why_a_job_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ZeroDivisionError),
        Progress(tmp_path / "file" / "b1.zip", INPUTS, interval=60) as progress,
    ):
        progress.add("p0", patch(1))
        raise ZeroDivisionError
    assert "finished patches that are not kept: 1" in caplog.text


def test_a_disk_that_is_full_in_a_record_does_not_hide_why_a_job_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "b1.zip"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = Finished({"c": bytes(3000)}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with (
            pytest.raises(ZeroDivisionError),
            Progress(output, INPUTS, interval=60) as progress,
        ):
            for n in range(3):
                progress.add(f"p{n}", large)
            raise ZeroDivisionError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "finished patches that are not kept: 2" in caplog.text
    with Progress(output, INPUTS) as again:
        assert again.finished == {"p0"}


def test_patches_that_nobody_can_use_are_not_saved(tmp_path: Path) -> None:
    with (
        pytest.raises(ToleranceError),
        Progress(tmp_path / "b1.zip", INPUTS, interval=60) as progress,
    ):
        progress.add("p0", patch(1))
        raise ToleranceError("it differs")
    assert list(tmp_path.iterdir()) == []
