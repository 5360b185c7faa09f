"""Block files: attributes can be set until the end, and no member is stored twice."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tessera_flow.block_file import (
    FORMAT,
    chunk_slices,
    create_array,
    create_block_file,
    create_series,
    get_array,
    open_block_file,
    write_encoded,
)
from tessera_flow.errors import TileError
from tessera_flow.inference.block_chunks import encode_chunk, read_array


def test_attributes_set_while_arrays_are_written(tmp_path: Path) -> None:
    with create_block_file(tmp_path / "a.zip", {"dates": ["2021-06-03"]}) as group:
        create_array(group, "kept", (3,), (3,), np.uint8)[:] = [1, 0, 1]
        group.attrs["left_out"] = [{"item": "x"}]
        group.attrs["left_out"] = [{"item": "y"}]
        assert group.attrs["dates"] == ["2021-06-03"]
    with open_block_file(tmp_path / "a.zip") as group:
        assert dict(group.attrs) == {
            "format": FORMAT,
            "dates": ["2021-06-03"],
            "left_out": [{"item": "y"}],
        }
        assert group["kept"][:].tolist() == [1, 0, 1]
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert len(names) == len(set(names))
    assert names.count("zarr.json") == 1


@pytest.mark.parametrize("attributes", [{"format": 1}, {"format": None}])
def test_a_file_of_another_version_is_refused(
    tmp_path: Path, attributes: dict[str, int | None]
) -> None:
    """Its attributes have other names: read as if they had not been written, they would be lost
    silently, such as the record of missing scenes."""
    with create_block_file(tmp_path / "old.zip", attributes):
        pass
    with (
        pytest.raises(TileError, match=r"old\.zip was written by another version .*delete it"),
        open_block_file(tmp_path / "old.zip"),
    ):
        pass


@pytest.mark.parametrize("dates", [0, 1, 15, 16, 17, 48])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8, np.float32])
@pytest.mark.parametrize("create", [create_array, create_series])
@pytest.mark.parametrize("largest", [3, 2**30])
def test_an_array_is_read_where_it_belongs(
    tmp_path: Path, dates: int, dtype: type[np.generic], create: Any, largest: int
) -> None:
    """Values that compression makes smaller, and noise."""
    rng = np.random.default_rng(dates)
    values = rng.integers(0, largest, (dates, 5, 7, 3)).astype(dtype)
    given = np.full(values.shape, 9, dtype)
    with create_block_file(tmp_path / "a.zip", {}) as group:
        for name, chunks in (("a", (16, 5, 7, 3)), ("b", (16, 5, 4, 3))):
            array = create(group.create_group(name), "x", values.shape, chunks, dtype)
            for chunk in list(chunk_slices(array))[1:2]:
                values[chunk] = 0  # a chunk that is not stored
            if dates:
                array[...] = values
    with open_block_file(tmp_path / "a.zip") as group:
        for name in ("a", "b"):
            array = group[f"{name}/x"]
            assert isinstance(array, zarr.Array)
            result = read_array(array, lambda shape, kind: given)
            assert result is given and np.array_equal(result, values)
            assert read_array(array).dtype == dtype
            assert np.array_equal(array[...], values)  # with plain zarr
    assert "a/x/c/1/0/0/0" not in zipfile.ZipFile(tmp_path / "a.zip").namelist()


def test_chunks_of_series_are_about_equal(tmp_path: Path) -> None:
    """A last chunk that is almost empty would be stored, read and checked completely."""
    lengths = {
        (30, 16): [15, 15],
        (120, 16): [15] * 8,
        (17, 16): [9, 8],
        (16, 16): [16],
        (3, 16): [3],
        (0, 16): [],
    }
    with create_block_file(tmp_path / "a.zip", {}) as group:
        for number, ((dates, most), expected) in enumerate(lengths.items()):
            array = create_series(group, f"x{number}", (dates, 4), (most, 4), np.uint8)
            found = list(chunk_slices(array))
            assert [s.stop - s.start for s in found] == expected
            assert [n for s in found for n in range(s.start, s.stop)] == list(range(dates))


@pytest.mark.parametrize(("fill", "dtype"), [(0, np.int8), (0, np.uint16), (np.nan, np.float32)])
def test_chunks_are_written_as_zarr_writes_them(
    tmp_path: Path, fill: float, dtype: type[np.generic]
) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (25, 33, 3)).astype(dtype)
    values[10:20, :10] = fill
    for name in ("zarr", "direct"):
        with create_block_file(tmp_path / name, {}) as group:
            array = create_array(group, "x", values.shape, (10, 10, 3), dtype, fill)
            for y, x in product(range(0, 25, 10), range(0, 33, 10)):
                part = values[y : y + 10, x : x + 10]
                if name == "zarr":
                    array[y : y + 10, x : x + 10] = part
                elif (chunk := encode_chunk(array, (y, x), part)) is not None:
                    write_encoded(group, *chunk)
    assert (tmp_path / "zarr").read_bytes() == (tmp_path / "direct").read_bytes()
    with open_block_file(tmp_path / "direct") as group:
        np.testing.assert_array_equal(get_array(group, "x")[...], values)
        assert "x/c/1/0/0" not in zipfile.ZipFile(tmp_path / "direct").namelist()


@pytest.mark.parametrize(("dates", "width"), [(0, 7), (1, 8), (17, 7), (40, 9)])
def test_booleans_are_stored_as_bits(tmp_path: Path, dates: int, width: int) -> None:
    """Chunks whose number of values is a multiple of 8 or not, and a last one that is shorter."""
    values = np.random.default_rng(dates).random((dates, 5, width)) < 0.5
    with create_block_file(tmp_path / "a.zip", {}) as group:
        array = create_series(group, "x", values.shape, (16, 5, width), np.bool_)
        if dates:
            array[...] = values
    with open_block_file(tmp_path / "a.zip") as group:
        found = read_array(get_array(group, "x"), lambda shape, dtype: np.full(shape, True, dtype))
        assert found.dtype == np.bool_ and np.array_equal(found, values)
        assert np.array_equal(get_array(group, "x")[...], values)  # with plain zarr
    chunks = [i for i in zipfile.ZipFile(tmp_path / "a.zip").filelist if "/c/" in i.filename]
    steps = array.chunks[0] if dates else 0
    assert [chunk.file_size for chunk in chunks] == [
        16 + 1 + -(-steps * 5 * width // 8) + 4 for _ in range(-(-dates // 16))
    ]


def test_values_of_another_place_or_type_are_no_chunk(tmp_path: Path) -> None:
    with create_block_file(tmp_path / "a.zip", {}) as group:
        array = create_array(group, "x", (25, 33), (10, 10), np.int8)
        good = np.ones((10, 10), np.int8)
        assert encode_chunk(array, (10, 20), good) is not None
        for start, values in (
            ((10, 21), good),
            ((20, 0), good),  # the array ends at 25
            ((0, 0), good[:5]),
            ((0, 0), good.astype(np.uint8)),
        ):
            with pytest.raises(ValueError, match="is no chunk of"):
                encode_chunk(array, start, values)


@pytest.mark.parametrize("smooth", [True, False])
def test_noise_is_stored_as_it_is(tmp_path: Path, smooth: bool) -> None:
    values = np.random.default_rng(0).integers(0, 200 if smooth else 65536, (4, 90, 90))
    with create_block_file(tmp_path / "a.zip", {}) as group:
        array = create_series(group, "x", values.shape, (2, 90, 90), np.uint16)
        array[...] = values.astype(np.uint16)
    entry = zipfile.ZipFile(tmp_path / "a.zip").getinfo("x/c/0/0/0")
    size = 2 * 90 * 90 * 2
    assert (entry.file_size < 0.9 * size) if smooth else (entry.file_size == size + 16 + 4)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.99999])
@pytest.mark.parametrize("largest", [200, 65536])
@pytest.mark.parametrize("create", [create_array, create_series])
def test_a_damaged_chunk_is_an_error(
    tmp_path: Path, place: float, largest: int, create: Any
) -> None:
    path = tmp_path / "a.zip"
    values = np.random.default_rng(0).integers(0, largest, (20, 30, 30)).astype(np.uint16)
    with create_block_file(path, {}) as group:
        create(group, "x", values.shape, (20, 30, 30), np.uint16)[...] = values
    entry = zipfile.ZipFile(path).getinfo("x/c/0/0/0")
    content = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename)
    content[start + int(place * entry.file_size)] ^= 4
    path.write_bytes(content)
    with (
        open_block_file(path) as group,
        pytest.raises(TileError, match=r"a\.zip is damaged \(x/c/0/0/0\): delete it"),
    ):
        read_array(get_array(group, "x"))


BUSY_AT_EXIT = """
import sys, time
from tessera_flow import block_file
import numpy as np
with block_file.create_block_file(sys.argv[1], {}) as group:
    group.create_array("a", data=np.zeros(3))
from zarr.core.sync import loop
if len(sys.argv) > 2:
    import atexit
    atexit.unregister(block_file._stop_zarr)
loop[0].call_soon_threadsafe(time.sleep, 0.6)
"""


@pytest.mark.parametrize("without", [[], ["without"]])
def test_no_traceback_at_the_exit_of_a_busy_process(tmp_path: Path, without: list[str]) -> None:
    """zarr waits 0.2 s for its event loop and then closes it although it is running."""
    done = subprocess.run(
        [sys.executable, "-c", BUSY_AT_EXIT, str(tmp_path / "b.zip"), *without],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert ("Cannot close a running event loop" in done.stderr) == bool(without), done.stderr
    assert without or not done.stderr
