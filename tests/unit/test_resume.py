"""Finished patches of an unfinished block."""

from pathlib import Path

import numpy as np
import pytest

from tessera_flow.errors import TileError
from tessera_flow.inference.resume import Progress

MAKING = {"weights": "abc", "origin": [0, 5]}


def patch(value: int) -> dict[str, np.ndarray]:
    return {"codes": np.full((3, 4), value, np.int8), "scales": np.full(3, value / 7, np.float32)}


def same(found: dict[str, np.ndarray], value: int) -> bool:
    wanted = patch(value)
    return set(found) == set(wanted) and all(np.array_equal(found[k], wanted[k]) for k in wanted)


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    output = tmp_path / "not yet there" / "b1.zip"
    with Progress(output, MAKING) as progress:
        assert not progress.found and "p0" not in progress
        progress.add("p0", patch(1))
        progress.add("p1", patch(2))
        assert same(progress.read("p0"), 1)
        progress.add("p2", patch(3))  # after reading, still at the end
    with Progress(output, MAKING) as again:
        assert again.found == {"p0", "p1", "p2"}
        assert [same(again.read(f"p{n}"), n + 1) for n in range(3)] == [True] * 3
        again.remove()
    assert list(output.parent.iterdir()) == []


def test_two_jobs_on_one_block_do_not_break_each_other(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, MAKING) as slow, Progress(output, MAKING) as fast:
        slow.add("p0", patch(1))
        for n in range(3):
            fast.add(f"p{n}", patch(n + 1))
        fast.remove()
        assert list(tmp_path.iterdir()) == []
        slow.add("p1", patch(2))
        assert same(slow.read("p0"), 1) and same(slow.read("p1"), 2)
        slow.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_blocks_and_of_other_making_are_left_alone(tmp_path: Path) -> None:
    with Progress(tmp_path / "b.zip", MAKING) as other:
        other.add("p0", patch(1))
    with Progress(tmp_path / "b", MAKING) as progress:
        assert not progress.found
        progress.add("p1", patch(2))
        progress.remove()
    with Progress(tmp_path / "b.zip", MAKING | {"weights": "others"}) as changed:
        assert not changed.found
    with Progress(tmp_path / "b.zip", MAKING) as other:
        assert other.found == {"p0"}


def test_a_spoilt_record_ends_what_is_believed(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, MAKING) as progress:
        for n in range(3):
            progress.add(f"p{n}", patch(n))
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with Progress(output, MAKING) as again:
        assert again.found == {"p0"}


def test_a_record_that_changes_while_the_job_runs_is_an_error(tmp_path: Path) -> None:
    output = tmp_path / "b1.zip"
    with Progress(output, MAKING) as progress:
        progress.add("p0", {"codes": np.zeros(100_000, np.int8)})
    with Progress(output, MAKING) as again:
        (file,) = tmp_path.iterdir()
        with file.open("r+b") as handle:
            handle.truncate(50_000)
        with pytest.raises(TileError, match=r"p0 of .* changed on disk"):
            again.read("p0")
