"""Parquet files whose values need far more memory than the file has bytes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from tessera_flow import input_files
from tessera_flow.archives import stac_geoparquet
from tessera_flow.archives.stac_geoparquet import read_items
from tessera_flow.input_files import decoded_bytes, needed_bytes, open_texts
from tessera_flow.products.tables.points import read_points

ROWS = 3000
BIG = "x" * 1_000_000


def repeated(text: Any = BIG, rows: int = ROWS) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def write(path: Path, **columns: Any) -> Path:
    """Write columns so that readers take dictionaries as plain texts."""
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    return path


def points(path: Path) -> Path:
    places = np.full(ROWS, 4.5)
    return write(path, lon=places, lat=places, note=repeated())


def items(path: Path, text: str = 4 * BIG) -> Path:
    names = pa.array([str(n) for n in range(ROWS)])
    band = pa.StructArray.from_arrays([repeated(text)], ["href"])
    return write(path, id=names, assets=pa.StructArray.from_arrays([band], ["B02"]))


def region(path: Path) -> Path:
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(5, 52, 5.1, 52.1)], crs="EPSG:4326")
    frame.to_parquet(path)
    ring = shapely.Point(5, 52).buffer(0.1, 20_000)
    metadata = pq.read_schema(path).metadata
    table = pa.table({"geometry": repeated(shapely.to_wkb(ring))})
    with pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"geo": metadata[b"geo"].decode()})
    return path


def list_of_tiles(path: Path) -> Path:
    return write(path, year=pa.array(np.full(ROWS, 2024)), hash=repeated())


# What is written, what reads it, and the message.
BOMBS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "points": (
        points,
        "from tessera_flow.products.tables.points import read_points as read",
        r"needs at least 2\.0 GB of memory, more than the limit of 1\.1 GB: check that it is the",
    ),
    "region": (
        region,
        "from tessera_flow.region.roi import read_roi as read",
        r"needs at least \d\.\d GB of memory, more than the limit of 1\.1 GB: keep the geometry",
    ),
    "items": (
        items,
        "from tessera_flow.archives.item_files import folder_items\n"
        "read = lambda path: list(folder_items(path.parent))",
        r"100 of its items take 0\.4 GB of memory, more than the limit of 0\.3 GB",
    ),
    "tiles": (
        list_of_tiles,
        "from tessera_flow.geotessera.tiles import _read\n"
        "read = lambda path: _read(path, ['year', 'hash'])",
        r"list of tiles .* cannot be used \(.* needs at least 2\.0 GB of memory",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_needs_gigabytes_is_refused_before_it_takes_them(
    tmp_path: Path, name: str
) -> None:
    make, reader, message = BOMBS[name]
    path = make(tmp_path / "table.parquet")
    assert path.stat().st_size < 2_000_000
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from tessera_flow.errors import TesseraFlowError\n"
        f"{reader}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read(Path(sys.argv[1]))\n"
        "except TesseraFlowError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    text, grown = done.stdout.strip().rsplit("\n", 1)
    assert re.search(message, text), text
    assert int(grown) < 300_000  # kB


def test_items_with_long_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of one row cannot be divided."""
    path = tmp_path / "items.parquet"
    lists = pa.array([list(range(2000))])
    write(path, id=pa.array(["a"]), assets=pa.array(["{}"]), numbers=lists)
    (item,) = read_items(path)
    assert len(item["properties"]["numbers"]) == 2000
    monkeypatch.setattr(stac_geoparquet, "MAX_LIST_VALUES", 1999)
    with pytest.raises(ValueError, match="a group of its rows has 2,000 values in lists"):
        list(read_items(path))


def test_items_of_much_text_are_read_in_small_pieces(tmp_path: Path) -> None:
    path = items(tmp_path / "items.parquet", "y" * 500_000)
    found = read_items(path)
    assert {len(next(found)["assets"]["B02"]["href"]) for _ in range(300)} == {500_000}


def test_needed_memory_is_that_of_the_decoded_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = ["a", None, "bcd", "bcd"] * 500
    table = pa.table({
        "text": texts,
        "list": [[text, "x"] for text in texts],
        "struct": [{"inner": text, "number": 1.0} for text in texts],
        "map": pa.array([[("k", text)] for text in texts], pa.map_(pa.string(), pa.string())),
        "data": [b"12345"] * 2000,
    })  # fmt: skip
    pq.write_table(table, path)
    with open_texts(path) as file:
        batches = list(file.iter_batches(700))
    letters = 500 * (1 + 3 + 3)
    content = 4 * letters + 2000 * (1 + 1 + 5)  # four columns of texts; "x", "k", the data
    values = 2000 * (1 + 2 + 2 + 2 + 1)
    least = content + 4 * (values - 2000) + 8 * 2000
    assert least <= sum(decoded_bytes(batch) for batch in batches) <= least + values
    assert [row for batch in batches for row in batch.to_pylist()] == table.to_pylist()


def test_items_with_texts_of_every_kind(tmp_path: Path) -> None:
    text = pa.string()
    kinds = (text, pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), text))
    texts = {
        f"text{n}": pa.array(["a", None, "a"], text).cast(kind) for n, kind in enumerate(kinds)
    }
    asset = pa.struct([("href", text), ("roles", pa.list_(text))])
    band = ("B02", {"href": "u", "roles": ["data"]})
    assets = pa.array([[band]] * 3, pa.map_(text, asset))
    table = pa.table({"id": ["1", "2", "3"], "assets": assets, **texts})
    pq.write_table(table, tmp_path / "items.parquet")
    first, second, _ = read_items(tmp_path / "items.parquet")
    assert first["properties"] == {f"text{n}": "a" for n in range(len(kinds))}
    assert second["properties"] == {}
    assert first["assets"] == {"B02": {"href": "u", "roles": ["data"]}}


def test_large_tables_are_not_refused_for_what_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of more bytes may need more; the limit is that of all tables."""
    path = points(tmp_path / "points.parquet")
    monkeypatch.setattr(input_files, "MAX_SMALL_TABLE", 2**32)
    assert needed_bytes(path) < 2**23  # no value can be longer than its file: it is not counted
    monkeypatch.setattr(input_files, "MAX_SMALL_TABLE", 2**31)
    assert 2e9 < needed_bytes(path) < 2**31 * 1.5
    small = write(tmp_path / "small.parquet", lon=[4.5, 4.6], lat=[51.0, 51.1], note=["a", "b"])
    assert len(read_points(small).x) == 2
