"""Devices, pipes, giant files and links in the way of every reader and writer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessera_flow import input_files
from tessera_flow.archives.item_files import folder_items
from tessera_flow.archives.stac_geoparquet import read_items
from tessera_flow.errors import RegionError, TesseraFlowError, TileError
from tessera_flow.jobs.journal import read_job_log, record_job
from tessera_flow.models.published import weights_file
from tessera_flow.products.tables.points import read_points
from tessera_flow.region.roi import read_roi
from tessera_flow.tile_folders.format import read_tile_folder

READERS: dict[str, Callable[[Path], object]] = {
    "roi.geojson": read_roi,
    "roi.tif": read_roi,
    "roi.parquet": read_roi,
    "roi.gpkg": read_roi,
    "points.csv": read_points,
    "points.parquet": read_points,
    "points.gpkg": read_points,
    "weights.pt": lambda path: weights_file(str(path)),
}


def make(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_pipes_and_devices_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    make(tmp_path / name, kind)
    start = time.monotonic()
    with pytest.raises(TesseraFlowError, match="a device, pipe or socket"):
        READERS[name](tmp_path / name)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipe_in_a_tile_folder_is_refused(tmp_path: Path, kind: str) -> None:
    make(tmp_path / "bands.npy", kind)
    with pytest.raises(TileError):
        read_tile_folder(tmp_path)


def test_array_that_claims_more_than_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "bands.npy", np.zeros((2, 3, 4, 10), np.uint16))
    data = (tmp_path / "bands.npy").read_bytes()
    (tmp_path / "bands.npy").write_bytes(data.replace(b"(2, 3, 4, 10)", b"(2, 300000, 400000, 10)"))
    with pytest.raises(TileError):
        read_tile_folder(tmp_path)


def test_tables_that_need_more_memory_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that repeat one value take no space in the file."""
    path = tmp_path / "points.parquet"
    column = pa.array(np.ones(1_000_000)).dictionary_encode()
    pq.write_table(pa.table({"lon": column, "lat": column}), path)
    assert path.stat().st_size < 20_000
    assert len(read_points(path).x) == 1_000_000
    monkeypatch.setattr(input_files, "MAX_TABLE", 5_000_000)
    with pytest.raises(RegionError, match=r"needs at least 0\.0 GB of memory, more than the limit"):
        read_points(path)


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "points.parquet"
    columns = [pa.array([1.0]), pa.array([2.0]), pa.array([3.0])]
    pq.write_table(pa.Table.from_arrays(columns, names=["lon", "lat", "lon"]), path)
    with pytest.raises(RegionError, match="several columns named lon: rename or remove them"):
        read_points(path)
    texts = [pa.array(["a"]), pa.array(["b"]), pa.array(["{}"])]
    pq.write_table(pa.Table.from_arrays(texts, names=["id", "id", "assets"]), path)
    with pytest.raises(ValueError, match="several columns named id"):
        list(read_items(path))


@pytest.mark.parametrize("name", ["A.JSON", "A.NDJSON", "A.PARQUET"])
def test_files_of_items_with_names_in_capitals_are_read(tmp_path: Path, name: str) -> None:
    item = {"type": "Feature", "id": "a", "properties": {}, "assets": {}}
    if name.endswith("PARQUET"):
        pq.write_table(pa.table({"id": ["a"], "assets": ["{}"]}), tmp_path / name)
    else:
        (tmp_path / name).write_text(json.dumps(item))
    assert [found["id"] for found, _ in folder_items(tmp_path)] == ["a"]


def test_text_table_of_a_giant_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "points.csv").touch()
    os.truncate(tmp_path / "points.csv", 2**41)
    with pytest.raises(RegionError, match=r"has 2199\.0 GB, more than the limit of 1\.1 GB"):
        read_points(tmp_path / "points.csv")


def test_links_are_not_followed_when_a_file_is_opened_for_writing(tmp_path: Path) -> None:
    """In a shared folder, another user can make links to files of this one."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    link = tmp_path / "link"
    link.symlink_to(precious)
    with record_job(link, "job"):
        pass
    assert precious.read_text() == "kept"
    assert read_job_log(precious) == []
