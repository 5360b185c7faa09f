"""The published Zarr layout as a source, judged by recorded answers of the geotessera client."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from tessera_flow.block_file import open_block_file
from tessera_flow.config.configuration import load_config
from tessera_flow.errors import ConfigError, ItemError, ReadError, TileError
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.listing import list_published, open_listed
from tessera_flow.geotessera.manifest import StoreManifest
from tessera_flow.geotessera.pixels import Pixels
from tessera_flow.geotessera.stores import PUBLIC_ROOT, Store, configured_store, public_store
from tessera_flow.raster.retry import RetryPolicy
from tessera_flow.region.grid import Block, RegionGrid, Window, block_id, tiling

from ..geotessera.questions import content
from ..support.published_zarr import (
    ABSENT,
    HUGE,
    SHAPE,
    UNWRITTEN,
    WATER,
    WITHOUT_CODES,
    ZONES,
    write_published,
)
from ..support.servers import Fault, FileServer, closed_port, running

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/geotessera.json").read_text())["stores"]
POLICY = RetryPolicy(attempts=2, timeout=5.0, deadline=20.0)
ZONE_31, ZONE_33 = ZONES[0], ZONES[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "store")


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder=folder.parent)
    with running(server):
        yield server


def remote(server: FileServer, query: str = "") -> Store:
    return Store(f"{server.url}/store{query}", policy=POLICY)


def region_grid(crs: str, affine: Affine, shape: tuple[int, int], block: int = 500) -> RegionGrid:
    blocks = tuple(Block(block_id(w.y0 // block, w.x0 // block), w) for w in tiling(*shape, block))
    return RegionGrid.of("here", GeoBox(shape, affine, crs), block, 1, blocks)


def grid_of_zone(zone: Any, crs: str | None = None, shift: float = 0.0) -> RegionGrid:
    left, top = zone.origin
    return region_grid(crs or zone.crs, Affine(10, 0, left, 0, -10, top + shift), SHAPE)


def taken(
    store: Store, grid: RegionGrid, year: int, folder: Path, patch: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Import all blocks; return codes and scales of the region."""
    folder.mkdir(exist_ok=True)
    shape = tuple(int(n) for n in grid.geobox.shape)
    roi, crs = folder / "roi.tif", str(grid.geobox.crs)
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1}
    with rasterio.open(
        roi, "w", dtype="uint8", crs=crs, transform=grid.geobox.affine, **profile
    ) as file:
        file.write(np.ones(shape, np.uint8), 1)
    manifest = list_published(store, grid, year)
    codes, scales = np.zeros((*shape, 128), np.int8), np.zeros(shape, np.float32)
    for block in grid.blocks:
        path = folder / f"{block.id}.zip"
        import_embeddings(store, manifest, grid, block, roi, path, patch, on_empty_block="nodata")
        with open_block_file(path) as group:
            codes[block.window.slices] = group["embeddings"][:]
            scales[block.window.slices] = group["scales"][:]
    return codes, scales


def consolidate(store: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store)


def digest(values: np.ndarray) -> str:
    filled = np.where(np.isnan(values), -9999, values).astype("<f4")
    return hashlib.sha256(np.ascontiguousarray(filled).tobytes()).hexdigest()


def test_the_store_is_the_one_that_the_client_read(folder: Path) -> None:
    assert content(folder) == GOLDEN["north"]["content"] == GOLDEN["south"]["content"]


@pytest.mark.parametrize(("name", "number"), [("north", 0), ("north", 1), ("south", 0)])
def test_regions_are_those_of_the_client(
    folder: Path, tmp_path: Path, name: str, number: int
) -> None:
    mosaic = GOLDEN[name]["answer"]["mosaics"][number]
    affine, shape = Affine(*mosaic["transform"]), tuple(mosaic["shape"][:2])
    grid = region_grid(mosaic["crs"], affine, shape)
    codes, scales = taken(Store(str(folder)), grid, 2024, tmp_path)
    values = codes.astype(np.float32) * scales[..., np.newaxis]
    if name == "south":
        # The client returns zeros where codes were never written; here these are no embeddings.
        column, row = (round(v) for v in ~affine @ ZONE_33.origin)
        y, x = WITHOUT_CODES
        part = slice(y.start + row, y.stop + row), slice(x.start + column, x.stop + column)
        assert np.isnan(scales[part]).all() and scales[part].size == 4
        values[part] = 0
    assert int(np.isfinite(values).all(axis=-1).sum()) == mosaic["valid"] > 2500
    assert digest(values) == mosaic["sha256"]


def test_southern_crs_of_the_zone_gives_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    """Northings of the store are negative in the south; those of EPSG:327NN are 10,000 km more."""
    store = Store(str(folder))
    north = taken(store, grid_of_zone(ZONE_33), 2024, tmp_path / "north")
    south_grid = grid_of_zone(ZONE_33, "EPSG:32733", 1e7)
    south = taken(store, south_grid, 2024, tmp_path / "south")
    np.testing.assert_array_equal(south[0], north[0])
    np.testing.assert_array_equal(south[1], north[1])
    assert list_published(store, south_grid, 2024).zones[0].is_aligned(south_grid)
    assert np.isfinite(south[1]).sum() > 10_000


@pytest.mark.parametrize("name", ["north", "south", "first_year"])
def test_points_are_those_of_the_client(folder: Path, name: str) -> None:
    golden, store = GOLDEN[name], Store(str(folder))
    seen = {"valid": 0, "none": 0, "refused": 0}
    for (lon, lat), vector in zip(golden["points"], golden["answer"]["vectors"], strict=True):
        crs = f"EPSG:{32601 + int((lon + 180) // 6)}"
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        grid = region_grid(crs, Affine(10, 0, x - 5, 0, -10, y + 5), (1, 1))
        try:
            manifest = list_published(store, grid, golden["year"])
        except ItemError as error:
            assert "no UTM zone that overlaps" in str(error) and vector is None
            seen["none"] += 1
            continue
        with open_listed(store, manifest, grid) as parts:
            codes, scales = Pixels(parts, grid).read(Window(0, 0, 1, 1), np.ones((1, 1), bool))
        if np.isfinite(scales[0, 0]):
            value = codes[0, 0].astype(np.float32) * scales[0, 0]
            assert (value * 1024).tolist() == vector
            seen["valid"] += 1
        elif vector is None:
            seen["none"] += 1
        else:  # huge scales, and scales without codes
            assert max(vector) == 0 or max(vector) > 1e6
            seen["refused"] += 1
    expected = {"north": (15, 9, 2), "south": (6, 3, 2), "first_year": (7, 13, 2)}[name]
    assert tuple(seen.values()) == expected


def test_every_mark_of_a_missing_embedding(folder: Path, tmp_path: Path) -> None:
    codes, scales = taken(Store(str(folder)), grid_of_zone(ZONE_33), 2024, tmp_path)
    stored_codes, stored_scales = ZONE_33.pixels(2024)
    missing = ~np.isfinite(stored_scales)
    missing[HUGE] = missing[WITHOUT_CODES] = True
    for part in (WATER, UNWRITTEN, WITHOUT_CODES, ABSENT):
        assert missing[part].all()
    np.testing.assert_array_equal(np.isnan(scales), missing)
    assert not codes[missing].any()
    np.testing.assert_array_equal(codes[~missing], stored_codes.transpose(1, 2, 0)[~missing])
    np.testing.assert_array_equal(scales[~missing], stored_scales[~missing])
    with open_block_file(tmp_path / "b000_000.zip") as group:
        assert group.attrs["without_codes"] == 4 and group.attrs["tiles"] == ["utm33"]


def test_pixels_come_from_the_zone_of_their_longitude(folder: Path, tmp_path: Path) -> None:
    """East of 6 degrees the nearest pixels of zone 32, also in blocks of another size."""
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform(6.0, 51.5)
    affine = Affine(10, 0, round(x / 10) * 10 - 200, 0, -10, round(y / 10) * 10 + 200)
    grid, store = region_grid("EPSG:32631", affine, (40, 40)), Store(str(folder))
    manifest = list_published(store, grid, 2024)
    assert [zone.name for zone in manifest.zones] == ["utm31", "utm32"]
    assert [zone.is_aligned(grid) for zone in manifest.zones] == [True, False]
    codes, scales = taken(store, grid, 2024, tmp_path / "one")
    compared = set()
    for row in range(0, 40, 3):
        for column in range(0, 40, 3):
            x, y = affine @ (column + 0.5, row + 0.5)
            lon, _ = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True).transform(x, y)
            zone = ZONES[0] if lon < 6 else ZONES[1]
            move = Transformer.from_crs("EPSG:32631", zone.crs, always_xy=True)
            (left, top), (zx, zy) = zone.origin, move.transform(x, y)
            r, c = int((top - zy) // 10), int((zx - left) // 10)
            stored_codes, stored_scales = _pixels(zone.number)
            if not np.isfinite(stored_scales[r, c]):
                continue  # then from the other zone, if it has one
            compared.add(zone.number)
            assert scales[row, column] == stored_scales[r, c]
            assert codes[row, column].tolist() == stored_codes[:, r, c].tolist()
    assert compared == {31, 32} and np.isfinite(scales).mean() > 0.9
    parts = region_grid("EPSG:32631", affine, (40, 40), block=17)
    again = taken(store, parts, 2024, tmp_path / "parts", patch=9)
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_array_equal(again[1], scales)


def _pixels(number: int, known: dict[int, Any] = {}) -> Any:  # noqa: B006
    if number not in known:
        known[number] = next(z for z in ZONES if z.number == number).pixels(2024)
    return known[number]


def test_coarser_pixels_are_nearest_neighbours(folder: Path, tmp_path: Path) -> None:
    left, top = ZONE_33.origin
    grid = region_grid(ZONE_33.crs, Affine(100, 0, left, 0, -100, top), (12, 16))
    codes, scales = taken(Store(str(folder)), grid, 2024, tmp_path)
    full = taken(Store(str(folder)), grid_of_zone(ZONE_33), 2024, tmp_path / "full")
    np.testing.assert_array_equal(codes, full[0][5:120:10, 5::10])
    np.testing.assert_array_equal(scales, full[1][5:120:10, 5::10])


def test_url_gives_the_same_as_the_folder(folder: Path, server: FileServer, tmp_path: Path) -> None:
    grid, store = grid_of_zone(ZONE_33), remote(server)
    over_http = taken(store, grid, 2024, tmp_path / "http")
    local = taken(Store(str(folder)), grid, 2024, tmp_path / "folder")
    for first, second in zip(over_http, local, strict=True):
        np.testing.assert_array_equal(first, second)
    statuses = {request.status for request in server.requests}
    assert statuses == {200, 206, 404} or statuses == {206, 404}
    refused = [request.path for request in server.requests if request.status == 404]
    assert refused and all("/c/1/" in path for path in refused)  # the shard that does not exist
    assert len(refused) == len(set(refused))


@pytest.mark.parametrize(("status", "reason"), [(500, "HTTP 500"), (403, "HTTP 403")])
def test_an_outage_is_an_error_and_not_a_hole(
    server: FileServer, tmp_path: Path, status: int, reason: str
) -> None:
    grid, store = grid_of_zone(ZONE_33), remote(server)
    fault = Fault("status", "/utm33/scales/c/", count=None, value=status)
    manifest = list_published(store, grid, 2024)
    server.faults.append(fault)
    if status == 403:
        # As on S3: 403 for a missing object, while others of the store are served.
        fault.path = "/utm33/scales/c/1/1/2"
        scales = taken(store, grid, 2024, tmp_path)[1]
        assert np.isnan(scales[ABSENT]).all() and np.isfinite(scales).sum() > 10_000
        fault.path = "/store/"
    with pytest.raises(ReadError, match=rf"{reason}"):
        taken(store, grid, 2024, tmp_path)
    assert manifest.zones


def test_no_connection_and_no_secret(server: FileServer, tmp_path: Path) -> None:
    grid = grid_of_zone(ZONE_33)
    store = Store(
        f"http://user:pass-w0rd@127.0.0.1:{closed_port()}/store?sig=s3cret", policy=POLICY
    )
    with pytest.raises(ReadError, match=r"Cannot read zarr.json") as caught:
        list_published(store, grid, 2024)
    signed = remote(server, "?sig=s3cret")
    manifest = list_published(signed, grid, 2024)
    assert all(path.endswith("?sig=s3cret") for path in server.paths)
    manifest.write(tmp_path / "list.json")
    assert StoreManifest.read(tmp_path / "list.json") == manifest
    for text in (str(caught.value), str(store), repr(store), (tmp_path / "list.json").read_text()):
        assert "pass-w0rd" not in text and "s3cret" not in text


def test_list_of_zones(folder: Path, tmp_path: Path) -> None:
    store, grid = Store(str(folder)), grid_of_zone(ZONE_31)
    manifest = list_published(store, grid, 2023)
    assert (manifest.layout, manifest.version, manifest.dataset) == ("zarr", "v1.1", "v1.1, 2023")
    assert [(zone.name, zone.time) for zone in manifest.zones] == [("utm31", 0), ("utm32", 0)]
    assert manifest.model == {"url": "https://geotessera.org/model/1.1"}
    with pytest.raises(ItemError, match=r"no embeddings of 2019; it has 2023, 2024: choose"):
        list_published(store, grid, 2019)
    far = region_grid("EPSG:32631", Affine(10, 0, 500_000, 0, -10, 5_500_000), (9, 9))
    with pytest.raises(ItemError, match=r"no UTM zone that overlaps region here"):
        list_published(store, far, 2024)
    with pytest.raises(ItemError, match=r"is dataset v1.1, but geotessera.version is v1:"):
        list_published(Store(str(folder), "v1"), grid, 2024)


def test_stores_that_are_not_of_the_layout(
    folder: Path, server: FileServer, tmp_path: Path
) -> None:
    grid = grid_of_zone(ZONE_31)
    with pytest.raises(ItemError, match=r"has no zarr.json, .* download tiles of the NPY layout"):
        list_published(Store(f"{server.url}/nothing", policy=POLICY), grid, 2024)
    with pytest.raises(ItemError, match=r"There is no folder .*nowhere"):
        list_published(Store(str(tmp_path / "nowhere")), grid, 2024)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ItemError, match=r"neither zarr.json \(Zarr\) nor registry.parquet"):
        list_published(Store(str(tmp_path / "empty")), grid, 2024)
    other = write_published(tmp_path / "other")
    group: Any = zarr.open_group(other, mode="r+", use_consolidated=False)["utm31"]
    group.attrs["proj:code"] = "EPSG:32632"
    consolidate(other)
    with pytest.raises(ItemError, match=r"utm31 of .* has the CRS EPSG:32632, not EPSG:32631"):
        list_published(Store(str(other)), grid, 2024)
    group.attrs.update({"proj:code": "EPSG:32631", "spatial:transform": [10, 0, 0, 0, -10, 0]})
    consolidate(other)
    with pytest.raises(ItemError, match=r"does not agree with its coordinates"):
        list_published(Store(str(other)), grid, 2024)


def test_store_that_changes_or_is_damaged(folder: Path, tmp_path: Path) -> None:
    other, grid = write_published(tmp_path / "other"), grid_of_zone(ZONE_33)
    store = Store(str(other))
    manifest = list_published(store, grid, 2024)
    zarr.open_group(other, mode="r+", use_consolidated=False).attrs["geoemb:build_version"] = "2"
    consolidate(other)
    with (
        pytest.raises(ItemError, match="has changed since its list was made"),
        open_listed(store, manifest, grid),
    ):
        pass
    (shard,) = (other / "utm33/embeddings/c/1/0/0").glob("0")
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(TileError, match=r"The Zarr store .*other cannot be read"):
        taken(store, grid, 2024, tmp_path)


def test_configured_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    document: dict[str, Any] = {
        "regions": {"fens": {"roi": "fens.geojson"}},
        "periods": {"y2023": {"start": "2023-01-01", "end": "2023-12-31"}},
        "source": "geotessera",
    }
    store = configured_store(load_config(document), "fens", "y2023")
    assert (store.location, store.version, store.variant) == (
        f"{PUBLIC_ROOT}/v1.1-dclimate", "v1.1", "dclimate",
    )  # fmt: skip
    assert public_store("v1", None)[2] == f"{PUBLIC_ROOT}/v1"
    assert public_store("v1.1", "cambridge")[2] == f"{PUBLIC_ROOT}/v1.1"
    with pytest.raises(ConfigError, match=r"No public Zarr store is known of v1.1 vultr"):
        public_store("v1.1", "vultr")
    document["geotessera"] = {
        "location": "https://example.org/{period}?sig=${STORE_KEY}", "version": "1.0",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="STORE_KEY of the environment is not set"):
        configured_store(load_config(document), "fens", "y2023")
    monkeypatch.setenv("STORE_KEY", "s3cret")
    store = configured_store(load_config(document), "fens", "y2023")
    assert (store.location, store.version) == ("https://example.org/y2023?sig=s3cret", "v1")
