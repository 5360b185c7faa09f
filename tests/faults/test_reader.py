"""Failures of single reads that need a large file or a slow server."""

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from affine import Affine
from odc.geo.geobox import GeoBox

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.raster import retry
from tessera_flow.raster.failures import of_exception
from tessera_flow.raster.http_range import RangeClient
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.raster.retry import RetryPolicy

from ..support.servers import Fault, FileServer, serve_files

GRID = GeoBox((300, 300), Affine(10, 0, 612_000, 0, -10, 5_688_000), "EPSG:32631")


@pytest.fixture
def many_tiles(tmp_path: Path) -> Iterator[FileServer]:
    """A file whose tile index is larger than the first request."""
    values = np.random.default_rng(0).integers(1, 9000, (2000, 2000)).astype(np.uint16)
    profile = {
        "driver": "GTiff", "height": 2000, "width": 2000, "count": 1, "dtype": "uint16",
        "crs": "EPSG:32631", "transform": Affine(10, 0, 600_000, 0, -10, 5_700_000),
    }  # fmt: skip
    with rasterio.open(tmp_path / "plain.tif", "w", **profile) as dataset:
        dataset.write(values, 1)
    rasterio.shutil.copy(
        tmp_path / "plain.tif", tmp_path / "tiles.tif", driver="GTiff", TILED="YES",
        BLOCKXSIZE=16, BLOCKYSIZE=16, COPY_SRC_OVERVIEWS="YES", COMPRESS="DEFLATE", BIGTIFF="YES",
    )  # fmt: skip
    with serve_files(tmp_path) as server:
        yield server


def read(server: FileServer, policy: RetryPolicy) -> np.ndarray:
    asset = Asset("X", "B04", f"{server.url}/tiles.tif")
    options = ReadOptions("bilinear", True)
    with Reader(lambda href, fresh=False: Access(href), policy) as reader:
        return reader.read(asset, GRID, "uint16", options)[1]


def test_outage_during_the_read_of_a_tile_index_is_an_error(
    many_tiles: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL treats tiles missing from an incomplete index as tiles without data."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    expected = read(many_tiles, RetryPolicy(attempts=2))
    assert expected.all()
    count = len(many_tiles.paths)
    assert count >= 2
    for skip in range(count):
        for status in (503, 404):
            many_tiles.faults = [Fault("status", skip=skip, value=status, count=None)]
            with pytest.raises(ReadError, match=r"asset B04 of item X .*HTTP (503|404)"):
                read(many_tiles, RetryPolicy(attempts=2))
        many_tiles.faults = [Fault("status", skip=skip, value=503)]
        assert np.array_equal(read(many_tiles, RetryPolicy(attempts=2)), expected)


def test_very_slow_answer_times_out(many_tiles: FileServer) -> None:
    many_tiles.faults = [Fault("drip", count=None, value=0.05)]
    start = time.monotonic()
    with pytest.raises(ReadError, match="no answer in time"):
        read(many_tiles, RetryPolicy(attempts=1, timeout=0.3, deadline=5))
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("kind", ["gzip", "gzip whole"])
def test_encoded_answer_takes_the_memory_of_its_content(tmp_path: Path, kind: str) -> None:
    """Not that of the largest object that may be sent so, for each of many requests."""
    content = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "object").write_bytes(content)
    policy = RetryPolicy(attempts=1)
    with serve_files(tmp_path, faults=[Fault(kind)]) as server:
        client = RangeClient(lambda href, fresh=False: Access(href), policy, 1)
        tracemalloc.start()
        try:
            found, _ = client.fetch(
                f"{server.url}/object", 0, len(content), "object", retry.Attempts(policy)
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found == content
    assert peak < 3_000_000


def test_causes_are_named() -> None:
    for error, cause in (
        (requests.exceptions.SSLError("self-signed"), "certificate is not accepted"),
        (requests.TooManyRedirects("30", response=requests.Response()), "redirects endlessly"),
    ):
        failure = of_exception(error)
        assert failure.kind == "permanent" and cause in failure.cause
