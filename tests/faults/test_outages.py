"""Outages of a file system, and lack of memory: never missing or corrupt scenes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.raster.failures import MissingSceneError
from tessera_flow.raster.local_archive import LocalArchive
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.raster.retry import RetryPolicy

from ..support.fault_archive import HOST, Archive, read

GRID = GeoBox((20, 20), Affine(10, 0, 600_000, 0, -10, 5_700_000), "EPSG:32631")


def write(path: Path, size: int = 20, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint16",
        crs="EPSG:32631", transform=GRID.affine, **options,
    ) as dataset:  # fmt: skip
        dataset.write(np.full((size, size), 7, np.uint16), 1)
    return path


def reader(**options: object) -> Reader:
    return Reader(lambda href, fresh=False: Access(href), RetryPolicy(attempts=1), **options)


def pixels(reader: Reader, path: Path) -> np.ndarray:
    asset = Asset(path.parent.name, "B04", str(path))
    return reader.read(asset, GRID, "uint16", ReadOptions("nearest", True))[1]


def test_absent_file_is_missing_only_while_files_read_before_exist(tmp_path: Path) -> None:
    """The folder is renamed in mid-read, as if its disk were unmounted, and comes back."""
    mount = tmp_path / "mount"
    first, second = (write(mount / name / "B04.tif") for name in ("one", "two"))
    with reader() as archive:
        assert (pixels(archive, first) == 7).all()
        mount.rename(tmp_path / "away")
        for path in (first, second):
            with pytest.raises(ReadError, match=r"does not exist, but .*mounted") as raised:
                pixels(archive, path)
            assert not isinstance(raised.value, MissingSceneError)
        mount.mkdir()  # the empty mount point
        with pytest.raises(ReadError, match="which was read before, does not exist either"):
            pixels(archive, second)
        mount.rmdir()
        (tmp_path / "away").rename(mount)
        assert (pixels(archive, second) == 7).all()
        second.unlink()
        with pytest.raises(MissingSceneError, match="does not exist"):
            pixels(archive, second)


def test_absent_file_is_missing_only_while_other_scenes_exist(tmp_path: Path) -> None:
    """A disk of several disappears: scenes on the other one prove nothing."""
    paths = [str(write(tmp_path / disk / f"{n}/B04.tif")) for disk in "ab" for n in range(9)]
    archive = LocalArchive()
    archive.witnesses = paths
    absent = str(tmp_path / "b" / "9" / "B04.tif")
    assert archive.doubt(absent) is None
    (tmp_path / "b").rename(tmp_path / "away")
    doubt = archive.doubt(absent)
    assert doubt is not None and "none of 8 other files there exists" in doubt
    assert archive.doubt(str(tmp_path / "a" / "9" / "B04.tif")) is None
    (tmp_path / "away").rename(tmp_path / "b")
    assert archive.doubt(paths[-1]) == "it exists again"


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_absent_file_is_missing_only_while_its_archive_has_files(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "archive"
    archive = LocalArchive([str(folder)])
    (folder / "other").mkdir(parents=True)
    absent = str(folder / "scene" / "B04.tif")
    assert archive.doubt(absent) is None
    (folder / "other").rmdir()
    if left == "nothing":
        folder.rmdir()
    assert archive.doubt(absent) == f"{folder} does not exist or is empty"


def test_outage_of_the_disk_fails_a_block_also_if_all_scenes_may_be_missing(
    archive: Archive, tmp_path: Path
) -> None:
    items = tmp_path / "items.json"
    gone = tmp_path / "gone"
    items.write_text(archive.list_of("sentinel2").read_text().replace(HOST, str(gone)))
    with pytest.raises(ReadError, match=r"none of .* other files there exists.*is mounted"):
        read(archive, tmp_path / "slice.zip", items=items, max_missing_percent=100.0)
    assert not (tmp_path / "slice.zip").exists()


def test_raster_with_giant_blocks_is_not_read(tmp_path: Path) -> None:
    """A file of a few kB with one block of 8 GiB."""
    path = tmp_path / "B04.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=65536, width=65536, count=1, dtype="uint16",
        crs="EPSG:32631", transform=GRID.affine, tiled=True, blockxsize=65536, blockysize=65536,
        sparse_ok=True,
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 100_000
    asset = Asset("item", "B04", str(path))
    with reader() as archive:
        with pytest.raises(ReadError, match=r"its blocks have 8\.6 GB each"):
            pixels(archive, path)
        with pytest.raises(ReadError, match=r"its blocks have 8\.6 GB each"):
            archive.overview(asset)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, link_to_endless])
def test_device_or_pipe_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "B04.tif")
    with reader() as archive, pytest.raises(ReadError, match="a device, pipe or socket"):
        pixels(archive, tmp_path / "B04.tif")


def test_failure_of_a_bucket_is_never_a_missing_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_NO_SIGN_REQUEST", "YES"), ("AWS_S3_ENDPOINT", "127.0.0.1:9"),
                        ("AWS_HTTPS", "NO"), ("AWS_VIRTUAL_HOSTING", "FALSE")):  # fmt: skip
        monkeypatch.setenv(name, value)
    asset = Asset("item", "B04", "s3://bucket/B04.tif")
    with reader() as archive, pytest.raises(ReadError, match=r"^Cannot read asset B04") as raised:
        archive.overview(asset)
    assert not isinstance(raised.value, MissingSceneError)


LIMITED = """
import resource, sys
from tests.faults.test_outages import Path, pixels, reader
path = Path(sys.argv[1])
with reader() as archive:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    try:
        pixels(archive, path)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_lack_of_memory_is_not_a_corrupt_file(tmp_path: Path) -> None:
    """The file has one block of 128 MiB, and the process may take 64 MiB more."""
    path = write(tmp_path / "B04.tif", 8192, compress="deflate", blockysize=8192)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], cwd=root, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.stdout.startswith("ReadError Cannot read asset B04"), done.stdout + done.stderr
    assert "the memory of this job is not enough" in done.stdout
