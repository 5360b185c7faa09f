"""Missing, shortened and altered parts of products are noticed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import xarray as xr
import zarr
from pyproj import CRS
from rasterio.errors import RasterioDeprecationWarning

from tessera_flow.cli.main import main
from tessera_flow.errors import TileError
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.checksums import STORE_RECORD, Checksums, record_files, records_in
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.geotiff.vrt import write_vrt
from tessera_flow.products.reading.open import open_product
from tessera_flow.products.reading.sample import Sample, open_store, sample_store
from tessera_flow.products.record import has_record
from tessera_flow.products.stac.documents import write_item
from tessera_flow.products.stores.zarr_store import ABSENT_CODE, write_zarr
from tessera_flow.products.tables.points import Points

from ..support.products_region import Region, make_region, write_mask

ROW, COLUMN = 229, 150
SHARD = "embeddings/c/0/0/2/1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Region, Path]:
    folder = tmp_path_factory.mktemp("whole")
    region = make_region(folder / "blocks", 100)
    store = folder / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance, chunk=25)
    return region, store


@pytest.fixture
def store(whole: tuple[Region, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[1], tmp_path / "embeddings.zarr"))


def sample(store: Path) -> Sample:
    x, y = np.array([600_005.0 + 10 * COLUMN]), np.array([5_699_995.0 - 10 * ROW])
    return sample_store(open_store(store), Points(x, y, CRS("EPSG:32631"), pa.table({})))


def test_a_whole_store_is_sampled(whole: tuple[Region, Path]) -> None:
    region, store = whole
    assert region.scales is not None
    expected = region.embeddings[ROW, COLUMN] * region.scales[ROW, COLUMN]
    np.testing.assert_array_equal(sample(store).embeddings[0], expected)


@pytest.mark.parametrize("array", ["embeddings", "scales", "observation_counts"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes instead of"),
    ],
)
def test_missing_or_shortened_shards(store: Path, array: str, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    names = {"embeddings": SHARD, "scales": "scales/c/0/2/1"}
    damage(store / names.get(array, "observation_counts/c/0/0/2/1"))
    with pytest.raises(TileError, match=rf"{array}/c/\S+/2/1 .*{message}"):
        sample(store)
    with pytest.raises(TileError, match=message):
        open_product(store)


def test_chunks_without_shards(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 100)
    for name, shards in (("shards", True), ("chunks", False)):
        inputs = (region.grid, region.blocks, region.provenance, 25)
        write_zarr(tmp_path / name, *inputs, shards=shards)
    one, other = (xr.open_zarr(tmp_path / name, chunks=None) for name in ("shards", "chunks"))
    xr.testing.assert_identical(one, other)
    files = {
        p.relative_to(tmp_path / "chunks").as_posix() for p in (tmp_path / "chunks").rglob("*")
    }
    assert len([name for name in files if name.startswith("scales/c/0/")]) > 50
    store = tmp_path / "chunks"
    expected = sample(tmp_path / "shards").embeddings
    np.testing.assert_array_equal(sample(store).embeddings, expected)
    chunk = store / f"embeddings/c/0/0/{ROW // 25}/{COLUMN // 25}"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(TileError, match=f"0/0/{ROW // 25}/{COLUMN // 25} cannot be decoded"):
        sample(store)
    chunk.unlink()
    with pytest.raises(TileError, match=f"0/0/{ROW // 25}/{COLUMN // 25} is missing"):
        sample(store)
    with pytest.raises(TileError, match="is missing"):
        open_product(store)


def test_absent_codes_are_no_embedding_for_any_reader(store: Path) -> None:
    (store / SHARD).unlink()
    with xr.open_zarr(store) as ds:
        codes = ds.embeddings.values[0, :, ROW, COLUMN]
    assert (codes == ABSENT_CODE).all()
    # Also without the record.
    (store / STORE_RECORD).unlink()
    with pytest.raises(TileError, match="codes of rows 225 to 229, columns 150 to 169 are miss"):
        sample(store)


def test_every_changed_bit_of_a_shard_is_an_error(store: Path) -> None:
    data = (store / SHARD).read_bytes()
    array = zarr.open_group(store, mode="r")["embeddings"]
    choose = random.Random(1)
    for _ in range(300):
        changed = bytearray(data)
        changed[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        (store / SHARD).write_bytes(changed)
        with pytest.raises((RuntimeError, ValueError)):
            array[0, :, 200:, 100:]
    index = 16 * 16 + 4
    (store / SHARD).write_bytes(bytes(byte ^ 1 for byte in data[:-index]) + data[-index:])
    with pytest.raises(TileError, match=f"{SHARD} cannot be decoded"):
        sample(store)


def test_changed_metadata(store: Path) -> None:
    path = store / "zarr.json"
    path.write_text(path.read_text().replace("600000", "600010"))
    with pytest.raises(TileError, match=r"zarr.json has changed"):
        sample(store)


def test_damaged_record(store: Path) -> None:
    (store / STORE_RECORD).write_text('{"files": ')
    with pytest.raises(TileError, match=r"checksums.json is no record of checksums"):
        sample(store)
    with pytest.raises(TileError, match=r"checksums.json is no record of checksums"):
        open_product(store)


def test_record_of_a_store(whole: tuple[Region, Path], store: Path) -> None:
    record = Checksums.of_store(store)
    files = {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()}
    assert set(record.sizes) == files - {STORE_RECORD}
    assert not [*record.changed_sizes(), *record.changed_contents(), *record.unknown()]
    (store / ".DS_Store").write_text("of a file browser")
    assert not list(record.unknown())
    (store / "embeddings/c/0/0/0/0").parent.mkdir(parents=True, exist_ok=True)
    (store / "embeddings/c/0/0/0/0").write_bytes(b"stray")
    (store / "embeddings/pam.aux.xml").write_text("<PAMDataset/>")  # statistics of GDAL
    assert list(record.unknown()) == ["embeddings/c/0/0/0/0 is not in the record"]
    data = bytearray((store / SHARD).read_bytes())
    data[100] ^= 1
    (store / SHARD).write_bytes(data)
    assert not list(record.changed_sizes())
    assert list(record.changed_contents()) == [f"{SHARD} has changed (its SHA-256 is another)"]
    assert json.loads((store / STORE_RECORD).read_text())["settings"] is None


def test_sizes_of_a_thousand_shards_are_compared_quickly(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}").write_bytes(b"shard")
    Checksums.of(tmp_path).write(tmp_path / STORE_RECORD)
    (tmp_path / "500").write_bytes(b"")
    start = time.process_time()
    faults = list(Checksums.of_store(tmp_path).changed_sizes())
    assert time.process_time() - start < 0.3
    assert faults == ["500 has 0 bytes instead of 5"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a folder with a store, a GeoTIFF and an Item, with their records."""
    region = make_region(tmp_path / "blocks", 100)
    folder = tmp_path / "results" / "here" / "then"
    write_zarr(folder / "embeddings.zarr", region.grid, region.blocks, region.provenance)
    mask = write_mask(region, tmp_path / "roi.tif")
    write_counts(folder / "counts.tif", region.grid, region.blocks, region.provenance, mask)
    record_files(folder / "checksums/counts.json", [folder / "counts.tif"], {"configuration": "1"})
    products = {"zarr": ["embeddings.zarr"], "counts": ["counts.tif"]}
    write_item(folder / "item.json", region.grid, region.blocks, region.provenance, products, [])
    record_files(folder / "checksums/item.json", [folder / "item.json"])
    return folder


def test_info_verifies_whole_products(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (results.parents[1], results):
        assert main(["info", "--verify", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3 and all(line.endswith("as recorded") for line in lines)
        assert sum("(counts.tif), as" in line for line in lines) == 1
        assert sum("(item.json), as" in line for line in lines) == 1
    for path in (results / "counts.tif", results / "embeddings.zarr"):
        assert main(["info", "--verify", str(path)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1


def test_info_names_what_is_damaged(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((results / "counts.tif").read_bytes())
    data[-1] ^= 1
    (results / "counts.tif").write_bytes(data)
    (results / "embeddings.zarr" / SHARD).unlink()
    (results / "embeddings.zarr/scales/c/0/9").mkdir()
    (results / "embeddings.zarr/scales/c/0/9/9").write_bytes(b"stray")
    (results / "checksums/item.json").unlink()
    assert main(["info", "--verify", str(results)]) == 1
    printed = capsys.readouterr()
    assert f"{results}: counts.tif has changed (its SHA-256 is another)\n" in printed.out
    assert f"embeddings.zarr: {SHARD} is missing\n" in printed.out
    assert "embeddings.zarr: scales/c/0/9/9 is not in the record\n" in printed.out
    assert "item.json: has no record of checksums" in printed.out
    assert "4 files are damaged, or have no record" in printed.err


def test_stac_has_the_checksums_of_the_records(results: Path) -> None:
    assets = json.loads((results / "item.json").read_text())["assets"]
    data = (results / "counts.tif").read_bytes()
    assert assets["counts"]["file:size"] == len(data)
    # Multihash: 0x12 is SHA-256, 0x20 its 32 bytes.
    assert assets["counts"]["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    record = (results / "embeddings.zarr" / STORE_RECORD).read_bytes()
    asset = assets["zarr_checksums"]
    assert asset["href"] == "./embeddings.zarr/checksums.json"
    assert asset["file:checksum"] == "1220" + hashlib.sha256(record).hexdigest()
    assert "file:checksum" not in assets["embeddings"]


def test_stac_reads_only_the_records_of_its_products(results: Path) -> None:
    """A Mac writes `._counts.json` on disks of other systems; other records may be damaged."""
    (results / "checksums/._counts.json").write_bytes(b"\0\5\x16\7")
    (results / "checksums/report.json").write_text("{")
    assert [record.root for record in records_in(results, ["counts", "preview"])] == [results]
    region = make_region(results / "blocks", 100)
    products = {"counts": ["counts.tif"], "zarr": ["embeddings.zarr"]}
    item = results / "item.json"
    write_item(item, region.grid, region.blocks, region.provenance, products, [])
    assert "file:checksum" in json.loads(item.read_text())["assets"]["counts"]
    with pytest.raises(TileError, match=r"report\.json is no record"):
        records_in(results)


@pytest.mark.parametrize("name", ["embeddings.vrt", "embeddings_codes.vrt"])
def test_statistics_of_gdal_do_not_change_a_vrt(tmp_path: Path, name: str) -> None:
    region = make_region(tmp_path / "blocks", 100)
    arrays = [tmp_path / f"{part}.npy" for part in ("all", "scales", "counts")]
    write_arrays(*arrays, tmp_path / "r.json", region.grid, region.blocks, region.provenance)
    codes = tmp_path / "embeddings_codes.vrt"
    vrt = tmp_path / "embeddings.vrt"
    write_vrt(vrt, codes, arrays[0], arrays[1], region.grid, region.provenance)
    record_files(tmp_path / "checksums/vrt.json", [vrt, codes])
    record = records_in(tmp_path)[0].only([name])
    path = tmp_path / name
    size = path.stat().st_size
    with rasterio.open(path) as file, pytest.warns(RasterioDeprecationWarning):
        file.statistics(1, approx=False)
    changed = path.read_text(encoding="utf-8")
    assert "STATISTICS_MEAN" in changed and path.stat().st_size != size
    assert not [*record.changed_sizes(), *record.changed_contents()]
    for old, new in (
        ("rasterXSize", "rasterXsize"),
        ("6.0000000000000000e+05", "6.0000000000000000e+06"),
        ('AUTHORITY["EPSG","32631"]]', 'AUTHORITY["EPSG","32632"]]'),
        ("PROVENANCE", "PROVENANC"),
        ("dimension 3<", "dimension 4<"),
        ('relativeToVRT="1">', 'relativeToVRT="1">x'),
        ("</VRTDataset>", ""),
    ):
        for text in (changed.replace(old, new, 1), changed.replace(old, new)):
            assert text != changed
            path.write_text(text, encoding="utf-8")
            assert list(record.changed_contents()), old
            if path.stat().st_size != size:
                assert list(record.changed_sizes()), old
    path.write_text("")
    assert list(record.changed_sizes()) == [f"{name} has 0 bytes instead of {size}"]
    path.unlink()
    assert list(record.changed_sizes()) == [f"{name} is missing"]


def test_the_record_of_checksums_identifies_a_store_without_metadata(
    whole: tuple[Region, Path], tmp_path: Path
) -> None:
    region, _ = whole
    store = tmp_path / "embeddings.zarr"
    inputs = (region.grid, region.blocks, region.provenance)
    write_zarr(store, *inputs, settings={"configuration": "1"})
    (store / "zarr.json").write_text("{")
    assert has_record(store)
    write_zarr(store, *inputs, settings={"configuration": "2"})
    assert not list(Checksums.of_store(store).changed_contents())
    (store / "zarr.json").unlink()
    for text in ("{}", '{"files": {}, "settings": {}}', '{"settings": null}', "[]"):
        (store / STORE_RECORD).write_text(text)
        assert not has_record(store)
