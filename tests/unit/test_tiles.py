import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from tessera_flow.errors import TileError
from tessera_flow.inference.inputs import sentinel1_steps, sentinel2_steps
from tessera_flow.inference.tile import ARRAYS
from tessera_flow.models.v1 import V1_1
from tessera_flow.tile_folders.format import find_tile_folders, read_tile_folder

TILES = Path(__file__).parents[1] / "golden/tiles"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "0_0_10_12"
    shutil.copytree(TILES / "main", copy)
    return copy


def resave(folder: Path, name: str, change: object) -> None:
    path = folder / f"{name}.npy"
    np.save(path, change(np.load(path)))  # type: ignore[operator]


def write_roi(folder: Path, roi: np.ndarray, nodata: float | None = None) -> None:
    with rasterio.open(
        folder / "roi.tiff",
        "w",
        driver="GTiff",
        height=roi.shape[0],
        width=roi.shape[1],
        count=1,
        dtype=roi.dtype,
        nodata=nodata,
        crs="EPSG:32631",
        transform=from_origin(500000, 5600000, 10, 10),
    ) as raster:
        raster.write(roi, 1)


def test_arrays_are_memory_mapped() -> None:
    tile = read_tile_folder(TILES / "main")
    assert tile.shape == (12, 10) and tile.roi is None
    for name in ARRAYS:
        array = getattr(tile, name)
        assert isinstance(array, np.memmap)
        assert np.array_equal(array, np.load(TILES / f"main/{name}.npy"))


def test_no_dates_of_an_orbit_or_of_sentinel2(folder: Path) -> None:
    assert read_tile_folder(TILES / "one").sar_ascending.shape == (0, 4, 5, 2)
    for name in ("bands", "masks", "doys"):
        resave(folder, name, lambda a: a[:0])
    assert read_tile_folder(folder).bands.shape == (0, 12, 10, 10)


def test_roi_is_read(folder: Path) -> None:
    roi = np.zeros((12, 10), np.uint8)
    roi[2:5, 3:] = 255
    write_roi(folder, roi)
    result = read_tile_folder(folder).roi
    assert result is not None and np.array_equal(result, roi // 255)


def test_nodata_of_the_roi_is_outside(folder: Path) -> None:
    roi = np.ones((12, 10), np.uint8)
    roi[0] = 255
    write_roi(folder, roi, nodata=255)
    expected = np.ones((12, 10), np.uint8)
    expected[0] = 0
    result = read_tile_folder(folder).roi
    assert result is not None and np.array_equal(result, expected)
    floats = expected.astype(np.float32)
    floats[0] = np.nan
    for nodata in (None, np.nan):
        write_roi(folder, floats, nodata=nodata)
        result = read_tile_folder(folder).roi
        assert result is not None and np.array_equal(result, expected)


def test_roi_of_another_shape_or_damaged(folder: Path) -> None:
    write_roi(folder, np.ones((10, 12), np.uint8))
    with pytest.raises(TileError, match=r"roi\.tiff has 10 x 12 pixels, .* 12 x 10"):
        read_tile_folder(folder)
    (folder / "roi.tiff").write_bytes(b"not a raster")
    with pytest.raises(TileError, match=r"roi\.tiff cannot be read as a raster"):
        read_tile_folder(folder)


def test_roi_is_a_geotiff(folder: Path) -> None:
    """A file that names another one is not followed."""
    write_roi(folder, np.ones((12, 10), np.uint8))
    (folder / "roi.tiff").rename(folder / "other.tiff")
    (folder / "roi.tiff").write_text(
        '<VRTDataset rasterXSize="10" rasterYSize="12"><VRTRasterBand dataType="Byte" band="1">'
        f"<SimpleSource><SourceFilename>{folder}/other.tiff</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(folder / "roi.tiff") as raster:
        assert raster.read(1).all()
    with pytest.raises(TileError, match=r"roi\.tiff cannot be read as a raster"):
        read_tile_folder(folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_every_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / f"{name}.npy").unlink()
    with pytest.raises(TileError, match=rf"0_0_10_12 is incomplete: {name}\.npy missing"):
        read_tile_folder(folder)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("length", [0, 40, -1])
def test_every_truncated_file_is_named(folder: Path, name: str, length: int) -> None:
    path = folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TileError, match=rf"{name}\.npy cannot be used \(truncated"):
        read_tile_folder(folder)


def test_file_of_another_format(folder: Path) -> None:
    np.savez(folder / "other.npz", a=np.zeros(3))
    (folder / "other.npz").rename(folder / "masks.npy")
    with pytest.raises(TileError, match=r"masks\.npy cannot be used"):
        read_tile_folder(folder)
    np.save(folder / "masks.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(TileError, match=r"masks\.npy cannot be used"):
        read_tile_folder(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bands", lambda a: a.astype(np.float32), "bands.npy .* is float32 .* be uint16"),
        ("bands", lambda a: a[..., 0], "with 3 axes"),
        ("bands", lambda a: a[..., :9], "has 9 channels, but should have 10"),
        ("bands", lambda a: a[:-1], r"bands.npy .* has shape \(59, 12, 10\).*\(60, 12, 10\)"),
        ("masks", lambda a: a.astype(np.int64), "masks.npy .* be uint8"),
        ("masks", lambda a: a * 255, "masks.npy .* contains 255, but a mask is 1"),
        ("masks", lambda a: a + 1, "masks.npy .* contains 2, but a mask is 1"),
        ("masks", lambda a: a[:, :-1], r"bands.npy .* require \(60, 11, 10\)"),
        ("doys", lambda a: a[:-2], r"\(58, 12, 10\)"),
        ("doys", lambda a: a.astype(np.float64), "doys.npy .* be integer"),
        ("sar_ascending", lambda a: a[:, :, :-1], "sar_ascending.npy .* has shape"),
        ("sar_descending", lambda a: a.astype(np.uint16), "sar_descending.npy .* be int16"),
        ("sar_descending_doy", lambda a: a[1:], "sar_descending.npy"),
        ("doys", lambda a: np.where(a == a[3], 0, a), "doys.npy .* contains day 0, .* 1 to 366"),
        ("sar_ascending_doy", lambda a: a + 367, "sar_ascending_doy.npy .* contains day"),
    ],
)
def test_wrong_arrays_are_named(folder: Path, name: str, change: object, message: str) -> None:
    resave(folder, name, change)
    with pytest.raises(TileError, match=message) as error:
        read_tile_folder(folder)
    assert "0_0_10_12" in str(error.value)


def test_day_366_is_valid(folder: Path) -> None:
    assert (read_tile_folder(folder).doys == 366).any()


def test_find_one_tile_or_a_folder_of_tiles(tmp_path: Path) -> None:
    assert find_tile_folders(TILES / "one") == [TILES / "one"]
    assert [p.name for p in find_tile_folders(TILES)] == ["long", "main", "none", "one"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(TileError, match="no tile in"):
        find_tile_folders(tmp_path)
    with pytest.raises(TileError, match="is not a folder"):
        find_tile_folders(tmp_path / "absent")


def test_incomplete_tile_is_listed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/doys.npy").touch()
    (tmp_path / "a").mkdir()
    assert [p.name for p in find_tile_folders(tmp_path)] == ["b"]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("form", ["big-endian", "Fortran", "version 2", "version 3"])
def test_forms_of_npy_files_have_the_same_values(folder: Path, name: str, form: str) -> None:
    path = folder / f"{name}.npy"
    array = np.load(path)
    if form == "big-endian":
        np.save(path, array.astype(array.dtype.newbyteorder(">")))
    elif form == "Fortran":
        np.save(path, np.asfortranarray(array))
    else:
        with path.open("wb") as handle:
            np.lib.format.write_array(handle, array, version=(int(form[-1]), 0))
    assert np.array_equal(getattr(read_tile_folder(folder), name), array)


@pytest.mark.parametrize("form", ["big-endian", "Fortran"])
def test_forms_of_npy_files_give_the_same_inputs(folder: Path, form: str) -> None:
    statistics = V1_1.choose_statistics("mpc", Path("x"))
    expected = [
        steps(read_tile_folder(folder), slice(2, 7), statistics).on(torch.device("cpu")).raw
        for steps in (sentinel2_steps, sentinel1_steps)
    ]
    for name in ("bands", "masks", "sar_ascending", "doys"):  # of the others one stays as it is
        if form == "big-endian":
            resave(folder, name, lambda a: a.astype(a.dtype.newbyteorder(">")))
        else:
            resave(folder, name, np.asfortranarray)
    for steps, raw in zip((sentinel2_steps, sentinel1_steps), expected, strict=True):
        result = steps(read_tile_folder(folder), slice(2, 7), statistics)
        assert torch.equal(result.on(torch.device("cpu")).raw, raw)


def test_reason_of_unusable_npy_files(folder: Path) -> None:
    path = folder / "masks.npy"
    original = path.read_bytes()
    path.write_bytes(original + b"abc")
    with pytest.raises(TileError, match=r"masks\.npy cannot be used \(3 bytes follow the array"):
        read_tile_folder(folder)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(TileError, match=r"\(it contains Python objects, not numbers\)"):
        read_tile_folder(folder)
    np.savez(folder / "x.npz", a=np.zeros(3))
    (folder / "x.npz").rename(path)
    with pytest.raises(TileError, match=r"\(it is an \.npz archive"):
        read_tile_folder(folder)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (lambda a: np.sort(a), None),
        (lambda a: np.roll(np.sort(a), 20), None),  # a period across the end of a year
        (lambda a: np.sort(a)[::-1], r"not in date order \(day \d+ is followed by \d+\)"),
        (lambda a: np.concatenate([a[1:2], a[:1], a[2:]]), "not in date order"),
    ],
)
def test_days_out_of_order_are_stated(
    folder: Path, caplog: pytest.LogCaptureFixture, days: object, message: str | None
) -> None:
    np.save(folder / "doys.npy", days(np.arange(5, 305, 5, dtype=np.uint16)))  # type: ignore[operator]
    read_tile_folder(folder)
    texts = [r.getMessage() for r in caplog.records if "doys.npy" in r.getMessage()]
    if message is None:
        assert texts == []
    else:
        assert len(texts) == 1 and re.search(message, texts[0]) and "0_0_10_12" in texts[0]


def test_days_that_occur_twice_are_stated(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    days = np.arange(5, 305, 5, dtype=np.uint16)
    days[7] = days[6]
    np.save(folder / "doys.npy", days)
    read_tile_folder(folder)
    assert "contains day 35 more than once" in caplog.text


def test_empty_folders_of_tiles_are_not_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("0_0_10_12", "10_0_20_12", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "0_0_10_12/doys.npy").touch()
    assert [p.name for p in find_tile_folders(tmp_path)] == ["0_0_10_12", "10_0_20_12"]
    assert "1 folders are no tiles and are not read (notes)" in caplog.text
