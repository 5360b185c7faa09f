"""The Zarr store, opened with plain xarray: every pixel."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
import zarr
from odc.geo.geobox import GeoBox
from pyproj import CRS
from zarr.storage import LocalStore

from tessera_flow.errors import OutputError, Stopped, TileError
from tessera_flow.products.blocks import RegionBlocks
from tessera_flow.products.reading.sample import sample_store
from tessera_flow.products.stores.zarr_grid import shard_edges
from tessera_flow.products.stores.zarr_store import ABSENT_CODE, write_zarr
from tessera_flow.products.tables.points import Points
from tessera_flow.region.grid import Window
from tessera_flow.signals import stop_requests

from ..support.products_region import HEIGHT, WIDTH, damage, digest, make_region


def open_store(path: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path)


@pytest.mark.parametrize("block_size", [50, 64, 100, 500])
def test_every_pixel_of_an_int8_store(tmp_path: Path, block_size: int) -> None:
    region = make_region(tmp_path / "blocks", block_size)
    assert (block_size == 500) == (len(region.grid.blocks) == 1)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance, chunk=40)
    with open_store(tmp_path / "e.zarr") as ds:
        assert ds.embeddings.dims == ("time", "band", "y", "x")
        assert ds.scales.dims == ("time", "y", "x")
        assert ds.embeddings.dtype == np.int8, "a _FillValue would have made it float"
        assert ds.observation_counts.dtype == np.uint16
        assert ds.scales.dtype == np.float32
        stored = np.zeros(region.valid.shape, bool)
        for block in region.grid.blocks:
            stored[region.grid.product_window(block).slices] = True
        assert stored.all() == (block_size == 500)
        codes = ds.embeddings[0].transpose("y", "x", "band").values
        np.testing.assert_array_equal(codes[stored], region.embeddings[stored])
        assert (codes[~stored] == ABSENT_CODE).all()
        np.testing.assert_array_equal(ds.scales[0], region.scales)
        np.testing.assert_array_equal(
            ds.observation_counts[0].transpose("y", "x", "kind"), region.counts
        )
        months = ds.observation_months
        assert months.dtype == np.uint16
        np.testing.assert_array_equal(
            months[0].transpose("y", "x", "kind"), np.where(region.counts > 0, 0xFFF, 0)
        )
        names = months.attrs["flag_meanings"].split()
        assert (names[0], names[11], len(names)) == ("2023-07", "2024-06", 12)
        assert list(months.attrs["flag_masks"]) == [2**n for n in range(12)]
        outside = ~region.valid
        assert np.isnan(ds.scales[0].values[outside]).all()


def test_float_store_has_no_scales_and_nan_outside(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64, dtype="float32")
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance)
    with open_store(tmp_path / "e.zarr") as ds:
        assert "scales" not in ds
        assert ds.embeddings.dtype == np.float32
        np.testing.assert_array_equal(
            ds.embeddings[0].transpose("y", "x", "band"), region.embeddings
        )
        assert np.isnan(ds.embeddings[0].values[:, ~region.valid]).all()
        assert "geoemb:quantization" not in ds.attrs


def test_lazy_with_coordinates_and_crs(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance)
    with open_store(tmp_path / "e.zarr") as ds:
        assert ds.embeddings.chunks is not None, "open_zarr must not load"
        assert ds.rio.crs.to_epsg() == 32631
        assert ds.embeddings.rio.crs.to_epsg() == 32631
        assert tuple(ds.rio.transform())[:6] == (10, 0, 600_000, 0, -10, 5_700_000)
        np.testing.assert_array_equal(ds.x, 600_005 + 10.0 * np.arange(WIDTH))
        np.testing.assert_array_equal(ds.y, 5_699_995 - 10.0 * np.arange(HEIGHT))
        assert ds.time.values.tolist() == [np.datetime64("2023-07-01", "ns").astype(int)]
        assert ds.band.values.tolist() == list(range(16))
        assert ds.kind.values.tolist() == ds.kind.attrs["flag_values"] == [0, 1, 2]
        assert ds.kind.attrs["flag_meanings"] == "s2_valid s1_ascending s1_descending"
        point = ds.sel(x=600_000 + 1234, y=5_700_000 - 2001, method="nearest")
        np.testing.assert_array_equal(point.embeddings[0], region.embeddings[200, 123])
        assert ds.x.attrs["standard_name"] == "projection_x_coordinate"
        assert {"spatial_ref"} <= set(ds.coords)


def test_downsampled_grid(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100, rate=2)
    assert region.grid.product_geobox.shape == (HEIGHT, WIDTH)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance)
    with open_store(tmp_path / "e.zarr") as ds:
        np.testing.assert_array_equal(ds.scales[0], region.scales)
        assert ds.x.values[:2].tolist() == [600_005.0, 600_025.0]
        assert ds.attrs["geoemb:gsd"] == 20.0


def test_conventions_and_provenance(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance)
    attrs = json.loads((tmp_path / "e.zarr" / "zarr.json").read_text())["attributes"]
    # The schemas of proj and spatial (v0.1) accept these values only.
    stated = {c["uuid"]: (c["name"], c["schema_url"]) for c in attrs["zarr_conventions"]}
    github = "https://raw.githubusercontent.com"
    assert stated == {
        "61c12cc5-0e28-4056-999a-480cf3fb7e4c": (
            "geoemb:",
            f"{github}/geo-embeddings/embeddings-zarr-convention/refs/tags/v1/schema.json",
        ),
        "f17cb550-5864-4468-aeb7-f3180cfb622f": (
            "proj", f"{github}/zarr-conventions/proj/refs/tags/v0.1/schema.json",
        ),
        "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4": (
            "spatial", f"{github}/zarr-conventions/spatial/refs/tags/v0.1/schema.json",
        ),
    }  # fmt: skip
    assert attrs["geoemb:type"] == "pixel"
    assert attrs["geoemb:dimensions"] == 16
    assert attrs["geoemb:data_type"] == "int8"
    assert attrs["geoemb:gsd"] == 10.0
    assert attrs["geoemb:model"] == "urn:sha256:" + "ab" * 32
    assert attrs["geoemb:source_data"] == [
        "https://planetarycomputer.microsoft.com/api/stac/v1/collections/sentinel-2-l2a",
        "https://planetarycomputer.microsoft.com/api/stac/v1/collections/sentinel-1-rtc",
    ]
    assert attrs["geoemb:quantization"] == {
        "method": "per_pixel_scale",
        "original_dtype": "float32",
        "quantized_dtype": "int8",
        "scale": {"type": "array", "array_name": "scales", "nodata": "NaN"},
    }
    assert attrs["proj:code"] == "EPSG:32631"
    assert "proj:wkt2" not in attrs
    assert attrs["spatial:transform"] == [10, 0, 600_000, 0, -10, 5_700_000]
    assert attrs["spatial:shape"] == [HEIGHT, WIDTH]
    assert attrs["spatial:bbox"] == [600_000, 5_697_700, 601_700, 5_700_000]
    assert attrs["provenance"]["model"]["sha256"] == "ab" * 32
    assert attrs["provenance"]["period_end"] == "2024-06-30"


def test_crs_without_a_code_is_written_as_wkt(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 500)
    crs = "+proj=laea +lat_0=51 +lon_0=4 +datum=WGS84 +units=m"
    geobox = GeoBox(region.grid.geobox.shape, region.grid.geobox.affine, crs)
    object.__setattr__(region.grid, "geobox", geobox)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance)
    with open_store(tmp_path / "e.zarr") as ds:
        assert "proj:code" not in ds.attrs
        assert "Lambert Azimuthal" in ds.attrs["proj:wkt2"]
        assert ds.rio.crs.to_dict()["proj"] == "laea"


@pytest.mark.parametrize("block_size", [50, 64, 100])
def test_no_shard_spans_two_blocks(tmp_path: Path, block_size: int) -> None:
    region = make_region(tmp_path / "blocks", block_size)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance, chunk=25)
    group = zarr.open_group(tmp_path / "e.zarr", mode="r")
    for name in ("embeddings", "scales", "observation_counts"):
        array = group[name]
        assert block_size % array.shards[-1] == 0
        assert array.shards[-1] == array.shards[-2] == block_size
        assert array.chunks[:-2] == array.shape[:-2], "all values of a pixel are in one chunk"
        assert array.chunks[-1] <= 25
        # Absent blocks cost no file.
        files = [p for p in (tmp_path / "e.zarr" / name / "c").rglob("*") if p.is_file()]
        assert len(files) == len(region.grid.blocks)


@pytest.mark.parametrize(
    ("edge", "chunk", "pixel_bytes", "expected"),
    [
        (2000, 100, 128, (500, 100)),
        (2000, 100, 512, (500, 100)),
        (2000, 100, 4096, (100, 100)),
        (2000, 100, 4, (2000, 100)),
        (1000, 256, 128, (500, 250)),
        (64, 100, 128, (64, 64)),
        (1999, 100, 128, (500, 100)),  # a prime: chunks keep their size, shards cross blocks
    ],
)
def test_shard_edges(edge: int, chunk: int, pixel_bytes: int, expected: tuple[int, int]) -> None:
    shard, size = shard_edges(edge, chunk, pixel_bytes)
    assert shard % size == 0
    assert size <= chunk
    assert shard * shard * pixel_bytes <= 128 * 2**20
    assert (shard, size) == expected


def test_prime_block_size(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 127)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance, chunk=30)
    assert zarr.open_group(tmp_path / "e.zarr", mode="r")["embeddings"].chunks[-1] == 30
    with open_store(tmp_path / "e.zarr") as ds:
        codes = ds.embeddings[0].transpose("y", "x", "band").values
        np.testing.assert_array_equal(codes[region.valid], region.embeddings[region.valid])
        np.testing.assert_array_equal(ds.scales[0], region.scales)


class CountingStore(LocalStore):
    """Count reads of chunk data."""

    reads: list[str] = []  # noqa: RUF012

    async def get(self, key, prototype, byte_range=None):  # type: ignore[no-untyped-def]
        if "/c/" in key:
            self.reads.append(f"{key} {byte_range}")
        return await super().get(key, prototype, byte_range)


def test_point_query_reads_one_chunk(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance, chunk=25)
    group = zarr.open_group(CountingStore(tmp_path / "e.zarr", read_only=True), mode="r")
    for name in ("embeddings", "scales", "observation_counts"):
        CountingStore.reads.clear()
        group[name][..., 150, 130]
        # The shard's index, then one chunk.
        assert len(CountingStore.reads) == 2, CountingStore.reads
        assert len({read.split()[0] for read in CountingStore.reads}) == 1


def test_point_in_xarray_and_in_sample_reads_one_chunk_of_each_array(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    write_zarr(tmp_path / "e.zarr", region.grid, region.blocks, region.provenance, chunk=25)
    store = CountingStore(tmp_path / "e.zarr", read_only=True)
    x, y = 600_005 + 10 * 130, 5_699_995 - 10 * 150
    expected = region.embeddings[150, 130] * region.scales[150, 130]

    def arrays_read() -> dict[str, int]:
        names = [read.split("/")[0] for read in CountingStore.reads]
        return {name: names.count(name) for name in names if name not in ("x", "y", "kind")}

    with xr.open_zarr(store) as ds:
        point = ds.sel(x=x, y=y, method="nearest")
        CountingStore.reads.clear()
        np.testing.assert_array_equal((point.embeddings * point.scales).values[0], expected)
    assert arrays_read() == {"embeddings": 2, "scales": 2}, CountingStore.reads

    group = zarr.open_group(store, mode="r")
    points = Points(np.array([x]), np.array([y]), CRS("EPSG:32631"), pa.table({"name": ["a"]}))
    CountingStore.reads.clear()
    np.testing.assert_array_equal(sample_store(group, points).embeddings[0], expected)
    assert arrays_read() == {"embeddings": 2, "scales": 2, "observation_counts": 2}


def test_rewriting_gives_the_same_bytes(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 64)
    first, second = tmp_path / "1" / "e.zarr", tmp_path / "2" / "e.zarr"
    write_zarr(first, region.grid, region.blocks, region.provenance)
    reverse = dict(reversed(region.blocks.items()))
    write_zarr(second, region.grid, reverse, region.provenance)
    assert digest(first) == digest(second)
    # Overwriting gives the same store and leaves no other files.
    write_zarr(second, region.grid, region.blocks, region.provenance)
    assert digest(first) == digest(second)
    assert [p.name for p in second.parent.iterdir()] == ["e.zarr"]


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 50)
    result = []
    for threads in (1, 3, 40):
        store = tmp_path / str(threads) / "e.zarr"
        write_zarr(store, region.grid, region.blocks, region.provenance, 25, threads)
        result.append(digest(store))
    assert result[0] == result[1] == result[2]


def test_damaged_block_stops_all_threads_and_leaves_no_files(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 50)
    damage(region.blocks["b002_001"])
    with pytest.raises(TileError, match="b002_001"):
        write_zarr(
            tmp_path / "e.zarr", region.grid, region.blocks, region.provenance, 25, threads=2
        )
    assert [p.name for p in tmp_path.iterdir()] == ["blocks"]


def test_parent_is_a_file(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(OutputError, match=r"Cannot write .*e\.zarr"):
        write_zarr(tmp_path / "results" / "e.zarr", region.grid, region.blocks, region.provenance)


def test_interrupted_write_leaves_neither_threads_nor_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM is delivered to the main thread, which waits for the writing threads."""
    region = make_region(tmp_path / "blocks", 25)
    read = RegionBlocks.read_region
    writers: set[threading.Thread] = set()
    windows: list[Window] = []

    def slowly(self: RegionBlocks, name: str, window: Window) -> Any:
        windows.append(window)
        writers.add(threading.current_thread())
        if len(windows) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return read(self, name, window)

    monkeypatch.setattr(RegionBlocks, "read_region", slowly)
    output = tmp_path / "store" / "embeddings.zarr"
    with pytest.raises(Stopped), stop_requests():
        write_zarr(output, region.grid, region.blocks, region.provenance, chunk=25, threads=2)
    assert len(writers) == 2
    assert not [thread for thread in writers if thread.is_alive()]
    assert len(windows) <= 5
    assert list(output.parent.iterdir()) == []
