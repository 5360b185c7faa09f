"""The time series of single pixels are those of a region, from files that are read block by block.

Half of the scenes are from the neighbouring UTM zone, and 20 m bands have 20 m pixels.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely

from tessera_flow.block_file import made_from, open_block_file
from tessera_flow.config.configuration import Config
from tessera_flow.errors import ReadError
from tessera_flow.inference.tile import read_patch
from tessera_flow.ingest.sites import write_series
from tessera_flow.jobs.files import RunFiles
from tessera_flow.raster.pixels import PixelList

from ..support.pipeline import CRS, ORIGIN, configuration, ingest, stacked, write_polygon
from ..support.scenes import radar
from .test_no_seams import NEXT_ZONE, neighbour_origin, scene

LEFT, TOP = ORIGIN
HEIGHT, WIDTH = 130, 170
RECORD = {"read": "these settings"}


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> tuple[Config, RunFiles, Path]:
    """The series of all pixels of a region, and the archive that they are from."""
    folder = tmp_path_factory.mktemp("region")
    rng = np.random.default_rng(4)
    items = [
        scene(folder / "files", 1, "2021-06-03T10:00:00", CRS, (LEFT - 100, TOP + 100), 160),
        scene(folder / "files", 2, "2021-06-03T10:05:00", NEXT_ZONE, neighbour_origin(), 320),
        scene(folder / "files", 3, "2021-06-08T10:05:00", NEXT_ZONE, neighbour_origin(), 320),
    ]
    for day, crs, origin in (
        ("2021-06-04", CRS, (LEFT, TOP)),
        ("2021-06-09", NEXT_ZONE, neighbour_origin()),
    ):
        power = rng.uniform(0.01, 0.5, (2, 320, 320))
        items.append(radar(folder / "files", f"{day}T06:00:00", power[0], power[1],
                           shape=(320, 320), crs=crs, origin=origin))  # fmt: skip
    box = shapely.box(LEFT, TOP - 10 * HEIGHT, LEFT + 10 * WIDTH, TOP)
    roi = write_polygon(folder / "roi.geojson", box)
    config = configuration(folder, roi, items, "2021-06-01", "2021-06-30")
    return config, ingest(config, until="stack"), folder / "files"


def series(
    region: tuple[Config, RunFiles, Path],
    output: Path,
    rows: np.ndarray,
    columns: np.ndarray,
    all_values: bool = False,
) -> None:
    config, files, _ = region
    sources = {
        sensor: (
            Path(files.paths.items.format(region="here", period="then", sensor=sensor)),
            getattr(config, sensor),
        )
        for sensor in ("sentinel2", "sentinel1")
    }
    pixels = PixelList(files.grids["here"].geobox, rows, columns)
    with made_from(RECORD):
        write_series(
            pixels, sources, files.time_slices("then"), output, "n31_06_56", config.preprocessing,
            config.download, 30, RECORD, all_values,
        )  # fmt: skip


def test_series_of_pixels_are_those_of_the_region(region, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    chosen = rng.choice(HEIGHT * WIDTH, 70, replace=False)
    # Corners, and pixels at both sides of an edge of the blocks of the files.
    rows, columns = np.divmod(chosen, WIDTH)
    rows = np.append(rows, [0, 0, HEIGHT - 1, HEIGHT - 1, 53, 54, 53, 54])
    columns = np.append(columns, [0, WIDTH - 1, 0, WIDTH - 1, 117, 117, 118, 118])
    _, kept = np.unique(rows * WIDTH + columns, return_index=True)
    rows, columns = rows[kept], columns[kept]
    series(region, tmp_path / "cell.zip", rows, columns)
    expected = stacked(region[1], "sentinel2") | stacked(region[1], "sentinel1")
    count = len(rows)
    assert expected["masks"][:, rows, columns].any(axis=1).sum() == 2
    with open_block_file(tmp_path / "cell.zip") as group:
        dates = group.attrs["dates"]
        height, width = group.attrs["shape"]
        assert (height, width) == (-(-count // 30), 30)
        assert dates["sentinel2"] == expected["dates"]
        sure = expected["masks"].any(axis=0)
        expected["bands"] *= (expected["masks"] | ~sure)[..., np.newaxis]
        for name in ("bands", "masks", "sar_ascending", "sar_descending"):
            steps, tail = expected[name].shape[0], expected[name].shape[3:]
            image = np.zeros((steps, height, width, *tail), expected[name].dtype)
            for y, x, h, w in group.attrs["patches"]:
                tile = read_patch(group[f"{y}_{x}"], "")
                found = tile.bands_of(slice(0, h)) if name == "bands" else getattr(tile, name)
                image[:, y : y + h, x : x + w] = found
            found = image.reshape(steps, height * width, *tail)
            assert found[:, :count].tobytes() == expected[name][:, rows, columns].tobytes(), name
            assert not found[:, count:].any()
        positions = group["positions"][:].reshape(2, -1)
        np.testing.assert_array_equal(positions[:, :count], [rows, columns])
        assert (positions[:, count:] == -1).all()
        assert (group["scenes"][:].reshape(-1)[:count] == 3).all()
    assert not (tmp_path / "cell.zip.parts").exists()


def test_pixels_outside_all_scenes_have_no_steps(region, tmp_path: Path) -> None:
    rows, columns = np.array([5, 5]), np.array([5, 90_000])
    series(region, tmp_path / "cell.zip", rows, columns)
    with open_block_file(tmp_path / "cell.zip") as group:
        assert group["scenes"][:].tolist() == [[3, 0]]
        masks = group["0_0"]["masks"][:]
        assert masks[:, 0, 0].any()
        assert not masks[:, 0, 1].any()


def test_series_that_are_kept_have_values_under_clouds(region, tmp_path: Path) -> None:
    rows, columns = np.divmod(np.arange(60), 12)
    series(region, tmp_path / "cell.zip", rows, columns, all_values=True)
    expected = stacked(region[1], "sentinel2")["bands"][:, rows, columns]
    with open_block_file(tmp_path / "cell.zip") as group:
        assert group.attrs["patches"] == [[0, 0, 2, 30]]
        found = group["0_0/bands"][:]
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_slices_of_an_earlier_attempt_are_not_read_again(region, tmp_path: Path) -> None:
    """The second attempt finds no radar files: the optical slices of the first are used."""
    _, _, archive = region
    rows, columns = np.divmod(np.arange(60), 12)
    parts = tmp_path / "cell.zip.parts"
    hidden = tmp_path / "hidden"
    radar_files = [path for path in archive.rglob("*") if path.is_dir() and "S1" in path.name]
    optical_files = [path for path in archive.rglob("*") if path.is_dir() and "S2" in path.name]
    assert radar_files
    assert optical_files
    hidden.mkdir()
    for path in radar_files:
        shutil.move(path, hidden / path.name)
    try:
        with pytest.raises(ReadError):
            series(region, tmp_path / "cell.zip", rows, columns)
    finally:
        for path in radar_files:
            shutil.move(hidden / path.name, path)
    assert len(list(parts.glob("sentinel2_*.zip"))) == 1
    assert not (tmp_path / "cell.zip").exists()
    for path in optical_files:
        shutil.move(path, hidden / path.name)
    try:
        series(region, tmp_path / "cell.zip", rows, columns)
    finally:
        for path in optical_files:
            shutil.move(hidden / path.name, path)
    with open_block_file(tmp_path / "cell.zip") as group:
        assert group["0_0"]["masks"].shape[0] == 2
