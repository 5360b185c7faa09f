"""Results appear complete or not at all."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tessera_flow import atomic
from tessera_flow.atomic import (
    atomic_folder,
    atomic_output,
    check_output,
    remove_abandoned,
    write_text,
)
from tessera_flow.block_file import create_array, create_block_file, open_block_file
from tessera_flow.errors import OutputError, TileError

from ..conftest import real_fsync


def test_a_file_appears_at_the_end_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.txt"
    write_text(path, "old")
    with atomic_output(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == path.parent
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["result.txt"]


def test_a_folder_appears_at_the_end_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for text in ("old", "new"):
        with atomic_folder(path, lambda folder: (folder / "old").exists()) as part:
            part.mkdir()
            (part / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["new"]


def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    if not atomic._exchange(one, other):
        pytest.skip("this file system cannot exchange names")
    path = tmp_path / "store"
    missing, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            if not (path / "file").exists():
                missing.append(time.monotonic())

    path.mkdir()
    (path / "file").touch()
    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(100):
        with atomic_folder(path, lambda _: True) as part:
            part.mkdir()
            (part / "file").touch()
    stop.set()
    reader.join()
    assert missing == []


def test_content_and_names_are_on_disk_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = os.replace

    def record_sync(handle: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_fsync(handle)

    def record_rename(source: Path, target: Path) -> None:
        events.append(f"rename to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    write_text(tmp_path / "file", "text")
    assert [event.split(".part")[0][:6] for event in events] == ["sync .", "rename", "sync t"]
    assert events[1:] == ["rename to file", f"sync {tmp_path.name}"]
    events.clear()
    with atomic_folder(tmp_path / "store", lambda folder: True) as part:
        (part / "c").mkdir(parents=True)
        (part / "c" / "0").write_text("shard")
    assert events == [
        "sync 0",
        "sync c",
        f"sync {part.name}",
        "rename to store",
        f"sync {tmp_path.name}",
    ]


def test_an_error_leaves_the_old_result_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_output(path) as part:
        part.write_text("half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]
    assert path.read_text() == "old"


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tessera_flow.atomic import atomic_output\n"
        "with atomic_output(sys.argv[1]) as part: part.write_text('half'); os._exit(9)"
    )
    path = tmp_path / "result.txt"
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # ended, as a zombie
    [leftover] = tmp_path.iterdir()
    assert leftover.suffix == ".part"
    other = tmp_path / leftover.name.replace("result.txt", "other.txt")
    other.write_text("of another result")
    # A second file of the same writer, named after the first.
    scratch = leftover.with_suffix(".scratch.part")
    scratch.mkdir()
    write_text(path, "complete")
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "result.txt"]
    assert writer.wait() == 9


def test_leftover_of_an_earlier_process_with_the_same_number_is_removed(tmp_path: Path) -> None:
    """Also for a name that is a pattern."""
    path = tmp_path / "result [1].txt"
    with atomic_output(path) as part:
        before, process, token, _ = part.name.rsplit(".", 3)
        assert int(process) == os.getpid()
        ticks = int(token[:8], 16)
        assert ticks > 0
        own = tmp_path / f"{before}.{process}.{ticks:08x}00000000.part"
        other = tmp_path / f"{before}.{process}.{ticks - 1:08x}00000000.part"
        unknown = tmp_path / f"{before}.{process}.{0:08x}00000000.part"
        for leftover in (own, other, unknown):
            leftover.touch()
        write_text(path, "complete")
        assert {p.name for p in tmp_path.iterdir()} == {own.name, unknown.name, path.name}
        part.touch()


def test_leftovers_below_a_folder_are_removed(tmp_path: Path) -> None:
    """Of writers that have ended; also folders. Nothing of others, nothing deeper, no links."""
    with atomic_output(tmp_path / "result.txt") as part:
        part.touch()
        before, process, token, _ = part.name.rsplit(".", 3)
        ended = f"{process}.{int(token[:8], 16) - 1:08x}00000000.part"
        host = before.rpartition(".")[2]
        within, deeper, linked = tmp_path / "a/b", tmp_path / "a/b/c", tmp_path / "a/b/c/other"
        for folder in (deeper, linked):
            folder.mkdir(parents=True)
        (tmp_path / "a/link").symlink_to(linked)
        gone = [
            tmp_path / f".result.txt.{host}.{ended}",
            within / f".b 0.zip.{host}.{ended}",
            within / f".store.zarr.{host}.{ended.replace('.part', '.scratch.part')}",
        ]
        kept = [
            part,
            within / f".b0.zip.elsewhere.{ended}",
            within / f"b0.zip.{host}.{ended}",
            within / ".my.part",
            deeper / f".b0.zip.{host}.{ended}",
            linked / f".b0.zip.{host}.{ended}",
        ]
        for path in (*gone[:2], *kept):
            path.touch()
        gone[2].mkdir()
        (gone[2] / "zarr.json").touch()
        remove_abandoned(tmp_path, depth=3)
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in kept)
    remove_abandoned(tmp_path / "absent", depth=3)


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    with atomic_output(path) as part:
        part.write_text("first")
        write_text(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]


def test_unwritable_folder_gives_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError, match=r"Cannot write .*file/result\.txt.*check that its folder"
    ):
        write_text(tmp_path / "file" / "result.txt", "x")


def test_full_disk_gives_one_message(tmp_path: Path) -> None:
    message = r"No space left while writing .*free space or quota"
    with pytest.raises(OutputError, match=message), atomic_output(tmp_path / "result.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_truncated_or_missing_block_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with create_block_file(path, {"block": "b"}) as group:
        create_array(group, "x", (0, 3), (1, 3), "uint16")
        create_array(group, "y", (4, 3), (2, 3), "uint16")[:] = 7
    with open_block_file(path) as group:
        assert group.attrs["block"] == "b"
        assert group["x"].shape == (0, 3)
        assert (group["y"][:] == 7).all()
    path.write_bytes(path.read_bytes()[:-100])
    for broken, word in ((path, "not a complete block file"), (tmp_path / "no.zip", "not exist")):
        with pytest.raises(TileError, match=word), open_block_file(broken):
            pass


def test_file_never_replaces_folder(tmp_path: Path) -> None:
    """`--out` given a folder by mistake must not delete what is in it."""
    precious = tmp_path / "folder" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("kept")
    (tmp_path / "link").symlink_to(precious.parent)
    for path in (precious.parent, tmp_path / "link", precious.parent / ".", precious.parent / ".."):
        with pytest.raises(OutputError, match=r"folder|name of a file"), atomic_output(path):
            pytest.fail("refused before anything is computed")
    assert precious.read_text() == "kept"


def test_folder_that_appears_meanwhile_is_not_replaced_by_file(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with pytest.raises(OutputError, match="is a folder"), atomic_output(path) as part:
        part.write_text("x")
        path.mkdir()
        (path / "precious.txt").write_text("kept")
    assert [p.name for p in tmp_path.rglob("*")] == ["result", "precious.txt"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "device", "socket"])
def test_only_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "out.tif", tmp_path / "precious.tif"
    target.write_text("kept")
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "link":
            path.symlink_to(target)
        elif kind == "dangling link":
            path.symlink_to(tmp_path / "scratch" / "gone.tif")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path = Path("/dev/null")
        else:
            listener.bind(str(path))
        before = os.lstat(path).st_mode
        for write in (check_output, lambda path: write_text(path, "x")):
            with pytest.raises(OutputError, match=r"is a (link to|device, pipe or socket)"):
                write(path)
        assert os.lstat(path).st_mode == before
    assert target.read_text() == "kept"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("name", ["", ".", "..", "/", "folder/.."])
def test_names_of_no_file(name: str) -> None:
    with pytest.raises(OutputError, match="is not the name of a file"):
        check_output(name)


def test_folder_replaces_only_own_folder(tmp_path: Path) -> None:
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("kept")
    folder.mkdir()
    link.symlink_to(folder)
    with atomic_folder(folder, lambda _: False) as part:  # an empty one
        part.mkdir()
        (part / "precious.txt").write_text("kept")
    for path in (file, link, folder):
        with (
            pytest.raises(OutputError, match=r"is not a folder|has not written"),
            atomic_folder(path, lambda _: False),
        ):
            pytest.fail("refused before anything is computed")
    assert file.read_text() == (folder / "precious.txt").read_text() == "kept"
