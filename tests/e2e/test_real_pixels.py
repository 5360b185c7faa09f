"""Real pixels of Sentinel-2 and Sentinel-1 come out of the pipeline unchanged."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr

from tessera_flow.block_file import open_block_file
from tessera_flow.demo.archive import write_item_collection
from tessera_flow.inference.embed import Embedding, InferenceOptions, embed_tile
from tessera_flow.inference.model import ModelSpec, prepare_model
from tessera_flow.inference.tile import ARRAYS, read_patch
from tessera_flow.jobs.files import RunFiles
from tessera_flow.sensors.sentinel2 import BANDS
from tessera_flow.tile_folders.format import read_tile_folder

from ..support import workflow
from ..support.pipeline import configuration, ingest, read_config, stacked, write_box
from ..support.scenes import optical, radar
from ..support.servers import FileServer, serve_files
from ..support.shared_folder import made_once

REAL = workflow.REPOSITORY.parent / "shared" / "real"
TILE = REAL / "tile_31UFS_monthly"
CUBES = REAL / "openeo_gfmap"
TILE_ORIGIN = (664_000.0, 5_612_120.0)
PIXEL = 10.0
INVALID_SCL = (0, 1, 2, 3, 8, 9)
ORDER = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
"""Bands of the arrays of the reference, repeated here: an error in the order of the code must not
cancel out in the scenes."""

pytestmark = pytest.mark.e2e
needs_tile = pytest.mark.skipif(not TILE.is_dir(), reason=f"the real tile {TILE} does not exist")
needs_cubes = pytest.mark.skipif(not CUBES.is_dir(), reason=f"the real cubes {CUBES} do not exist")


def by_name(bands: np.ndarray) -> np.ndarray:
    """Reorder bands from ORDER to the order of the code, which `optical` expects."""
    return np.ascontiguousarray(bands[..., [ORDER.index(name) for name in BANDS]])


def power_of(dn: np.ndarray) -> np.ndarray:
    """Return float32 gamma0 whose scaled decibels are `dn` (the middle of the step, where
    rounding to float32 does not matter); 0 where dn is 0."""
    power = 10.0 ** (((dn.astype(np.float64) + 0.5) / 200.0 - 50.0) / 20.0)
    return np.where(dn > 0, power, 0.0).astype(np.float32)


def scaled_decibels(power: np.ndarray) -> np.ndarray:
    """Compute the formula of the specification independently: trunc((20 log10(x) + 50) 200),
    clipped to 0..32767; 0 where x is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (20.0 * np.log10(power.astype(np.float64)) + 50.0) * 200.0
    return np.trunc(np.clip(np.where(power > 0, scaled, 0.0), 0.0, 32767.0)).astype(np.int16)


# A year of monthly images through the whole workflow


@dataclass(frozen=True)
class Run:
    """A finished run, its input pixels, and (method, path, status) of every request."""

    layout: RunFiles
    requests: list[tuple[str, str, int]]
    arrays: dict[str, np.ndarray]

    def product(self, name: str) -> Path:
        return Path(self.layout.config.paths.results) / "tile" / "year" / name


def monthly_archive(folder: Path, server: FileServer) -> list[dict[str, Any]]:
    """Write one scene per month and sensor; every second optical one has a baseline with offset."""
    tile = read_tile_folder(TILE)
    assert tile.bands.max() <= 65_535 - 1000
    months = json.loads((TILE / "dates.json").read_text())
    items = []
    for index, month in enumerate(months):
        day = f"{month[:8]}15"
        # For values from 1 the offset is removed without loss: max(dn + 1000 - 1000, 1) = dn.
        bands = np.array(tile.bands[index])
        late = index % 2 == 1
        bands[bands > 0] += 1000 if late else 0
        scl = np.where(tile.masks[index] == 1, 4, 0 if index % 3 else 9)
        location = {"origin": TILE_ORIGIN, "href_prefix": server.url}
        items.append(
            optical(folder, f"{day}T10:50:00", by_name(bands), scl, mgrs_tile="31UFS",
                    baseline="05.00" if late else "02.14", **location)
        )  # fmt: skip
        vv, vh = np.moveaxis(power_of(tile.sar_ascending[index]), -1, 0)
        if index % 2:
            vh = np.where(vh == 0, np.float32(-32768), vh)
        items.append(
            radar(folder, f"{day}T17:25:00", vv, vh, "ascending", shape=vv.shape, **location)
        )
    return items


def run_workflow(folder: Path) -> None:
    """Run Snakemake on scenes over HTTP; 2 x 2 blocks of up to 2 x 2 patches."""
    folder.mkdir()
    left, top = TILE_ORIGIN
    write_box(folder / "roi.geojson", left, top - 1000, left + 1000, top)
    with serve_files(folder / "scenes") as server:
        write_item_collection(
            folder / "scenes" / "items.json", monthly_archive(folder / "scenes", server)
        )
        source = {"provider": "local", "location": f"{server.url}/items.json"}
        workflow.write_config(folder, {
            "regions": {"tile": {"roi": str(folder / "roi.geojson")}},
            "periods": {"year": {"start": "2020-11-01", "end": "2021-10-31"}},
            "model": {"weights": str(workflow.CHECKPOINT)},
            "sentinel2": source,
            "sentinel1": source,
            "grid": {"block_size": 64, "patch_size": 32},
            "download": {"slice_months": 12, "attempts": 2, "threads": 4},
            "products": {"formats": ["zarr", "arrays"]},
            "paths": {name: str(folder / name) for name in ("work", "results", "logs")}
            | {"keep": ["stack", "patches"]},
        })  # fmt: skip
        workflow.run(folder)
        requests = [(r.method, r.path, r.status) for r in server.requests]
    (folder / "requests.json").write_text(json.dumps(requests))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Made once, also when pytest-xdist runs several workers."""
    folder = made_once(tmp_path_factory, "real-pixels", run_workflow)
    tile = read_tile_folder(TILE)
    arrays = {name: np.array(getattr(tile, name)) for name in ARRAYS}
    requests = [tuple(entry) for entry in json.loads((folder / "requests.json").read_text())]
    return Run(RunFiles(read_config(folder / "config.yaml")), requests, arrays)


@needs_tile
def test_stacks_are_the_real_pixels(run: Run) -> None:
    assert len(run.layout.grids["tile"].blocks) == 4
    geobox = run.layout.grids["tile"].geobox
    assert (str(geobox.crs), geobox.shape) == ("EPSG:32631", (100, 100))
    assert geobox.affine @ (0, 0) == TILE_ORIGIN
    masks, doys = run.arrays["masks"], run.arrays["doys"]
    valid = masks.any(axis=(1, 2))
    assert valid.sum() == 10
    s2 = stacked(run.layout, "sentinel2", "tile", "year")
    np.testing.assert_array_equal(s2["bands"], run.arrays["bands"][valid])
    np.testing.assert_array_equal(s2["masks"], masks[valid])
    s1 = stacked(run.layout, "sentinel1", "tile", "year")
    np.testing.assert_array_equal(s1["sar_ascending"], run.arrays["sar_ascending"])
    assert s1["sar_descending"].shape == (0, 100, 100, 2)
    for block in run.layout.grids["tile"].blocks:
        files = run.layout.stack_files("tile", "year", block.id)
        with open_block_file(Path(files["sentinel2"])) as group:
            np.testing.assert_array_equal(group["doys"][:], doys[valid])
        with open_block_file(Path(files["sentinel1"])) as group:
            np.testing.assert_array_equal(
                group["sar_ascending_doy"][:], run.arrays["sar_ascending_doy"]
            )


@needs_tile
def test_patches_are_the_real_pixels(run: Run) -> None:
    valid = run.arrays["masks"].any(axis=(1, 2))
    seen = 0
    for block in run.layout.grids["tile"].blocks:
        path = run.layout.paths.patches.format(region="tile", period="year", block=block.id)
        with open_block_file(Path(path)) as group:
            for y0, x0, height, width in group.attrs["patches"]:
                window = np.s_[
                    block.window.y0 + y0 : block.window.y0 + y0 + height,
                    block.window.x0 + x0 : block.window.x0 + x0 + width,
                ]
                patch = read_patch(group[f"{y0}_{x0}"], "")
                masks = run.arrays["masks"][(valid, *window)] != 0
                kept = masks | ~masks.any(axis=0)
                np.testing.assert_array_equal(
                    patch.bands_of(slice(0, height)),
                    run.arrays["bands"][(valid, *window)] * kept[..., np.newaxis],
                )
                np.testing.assert_array_equal(
                    patch.sar_ascending, run.arrays["sar_ascending"][(slice(None), *window)]
                )
                seen += height * width
    assert seen == 100 * 100


@pytest.fixture(scope="module")
def direct() -> Embedding:
    """Embed the arrays of the reference as one tile with the same function."""
    before = torch.get_num_threads()
    model = prepare_model(ModelSpec(workflow.CHECKPOINT, device="cpu", threads=2), 128)
    embedding = embed_tile(read_tile_folder(TILE), model, InferenceOptions())
    torch.set_num_threads(before)
    return embedding


@needs_tile
def test_embeddings_are_those_of_the_arrays(run: Run, direct: Embedding) -> None:
    codes = np.load(run.product("stitched_representation.npy"))
    scales = np.load(run.product("stitched_representation_scales.npy"))
    counts = np.load(run.product("stitched_representation_counts.npy"))
    assert direct.pixels == 10_000
    assert codes.shape == (100, 100, 128) and codes.dtype == np.int8
    difference = np.abs(codes.astype(int) - direct.values.astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.9999
    np.testing.assert_allclose(scales, direct.scales, rtol=1e-5)
    np.testing.assert_array_equal(counts, direct.counts)
    np.testing.assert_array_equal(counts[..., 0], run.arrays["masks"].sum(axis=0))
    assert set(np.unique(counts[..., 0])) == {9, 10}
    # Pixels differ: the codes of a field differ from those of its neighbour.
    assert len(np.unique(codes.reshape(-1, 128), axis=0)) > 9000


@needs_tile
def test_zarr_store_equals_the_arrays(run: Run) -> None:
    store = xr.open_zarr(run.product("embeddings.zarr"), mask_and_scale=False).isel(time=0)
    for name, suffix, last in (
        ("embeddings", "", ["band"]),
        ("scales", "_scales", []),
        ("observation_counts", "_counts", ["kind"]),
    ):
        array = np.load(run.product(f"stitched_representation{suffix}.npy"))
        np.testing.assert_array_equal(store[name].transpose("y", "x", *last).values, array)
    left, top = TILE_ORIGIN
    assert (float(store.x[0]), float(store.y[0])) == (left + 5, top - 5)
    assert (float(store.x[-1]), float(store.y[-1])) == (left + 995, top - 995)


@needs_tile
def test_scenes_were_read_by_ranges(run: Run) -> None:
    """The bands of months without a valid pixel were not read."""
    gets = [(path, status) for method, path, status in run.requests if method == "GET"]
    scenes = [(path, status) for path, status in gets if ".tif" in path]
    assert len(scenes) >= 4 * (10 * 11 + 2 + 12 * 2)  # blocks, months, assets
    assert {status for _, status in scenes} == {206}
    dark = [path for path, _ in scenes if "20201215" in path or "20210115" in path]
    assert [path for path in dark if "_SCL_" in path]
    assert not [path for path in dark if "_B" in path]


# Real dates and clouds


@dataclass(frozen=True)
class Cube:
    """Images of one grid: (T, H, W) by layer, and their days."""

    layers: dict[str, np.ndarray]
    days: list[dt.date]
    origin: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        height, width = next(iter(self.layers.values())).shape[1:]
        return height, width


def read_cube(file: str, prefix: str, names: tuple[str, ...]) -> Cube:
    layers = {}
    for name in names:
        with rasterio.open(f"netcdf:{CUBES / file}:{prefix}-{name}") as dataset:
            layers[name] = dataset.read()
            origin = dataset.transform @ (0, 0)
            numbers = dataset.tags()["NETCDF_DIM_t_VALUES"].strip("{}").split(",")
            assert dataset.tags()["t#units"] == "days since 1990-01-01"
            assert dataset.crs.to_epsg() == 32631
    days = [dt.date(1990, 1, 1) + dt.timedelta(days=int(number)) for number in numbers]
    return Cube(layers, days, origin)


# The layer of the file used for each band of ORDER.
APRIL = ("B04", "B01", "B04", "B08", "B08", "B04", "B08", "B08", "B11", "B11")
AUTUMN = ("B04", "B02", "B03", "B08", "B08", "B04", "B08", "B08", "B03", "B02")


def optical_cube(which: str) -> tuple[Cube, np.ndarray, np.ndarray]:
    """Return the cube, its ten bands (T, H, W, 10) uint16 and its SCL (T, H, W)."""
    if which == "april":
        cube = read_cube("cdse_sentinel2_l2a.nc", "S2-L2A", ("B01", "B04", "B08", "B11", "SCL"))
        order = APRIL
    else:
        cube = read_cube("test_optical_cube.nc", "S2-L2A", ("B02", "B03", "B04", "B08", "SCL"))
        order = AUTUMN
    bands = np.stack([cube.layers[name] for name in order], axis=-1).astype(np.uint16)
    assert bands.min() >= 1 and bands.max() <= 65_535 - 1000
    return cube, bands, cube.layers["SCL"].astype(np.uint8)


def cube_roi(folder: Path, cube: Cube) -> Path:
    left, top = cube.origin
    height, width = cube.shape
    return write_box(folder / "roi.geojson", left, top - PIXEL * height, left + PIXEL * width, top)


def stored_doys(layout: RunFiles, sensor: str, name: str) -> list[int]:
    block = layout.grids["here"].blocks[0].id
    with open_block_file(Path(layout.stack_files("here", "then", block)[sensor])) as group:
        return [int(day) for day in group[name][:]]


def day_of_year(day: dt.date) -> int:
    return (day - dt.date(day.year, 1, 1)).days + 1


@needs_cubes
@pytest.mark.parametrize(
    ("which", "expected"),
    [("april", "2023-04-05 2023-04-15 2023-04-30"), ("autumn", None)],
)
def test_dates_and_masks_follow_the_real_scl(
    tmp_path: Path, which: str, expected: str | None
) -> None:
    cube, bands, scl = optical_cube(which)
    items = [
        optical(tmp_path / "scenes", f"{day}T10:56:00", by_name(image + np.uint16(1000)), classes,
                mgrs_tile="31UFT", baseline="05.09", origin=cube.origin)
        for day, image, classes in zip(cube.days, bands, scl, strict=True)
    ]  # fmt: skip
    config = configuration(
        tmp_path, cube_roi(tmp_path, cube), items, str(cube.days[0]), str(cube.days[-1]),
        sentinel1={"enabled": False}, download={"slice_months": 1},
    )  # fmt: skip
    layout = ingest(config, until="stack")
    stack = stacked(layout, "sentinel2")
    valid = ~np.isin(scl, INVALID_SCL)
    days = [day for day, pixels in zip(cube.days, valid, strict=True) if pixels.any()]
    assert stack["dates"] == [str(day) for day in days]
    if expected is not None:
        assert stack["dates"] == expected.split()
    has_pixel = valid.any(axis=(1, 2))
    assert 0 < has_pixel.sum() < len(cube.days)
    np.testing.assert_array_equal(stack["masks"], valid[has_pixel])
    np.testing.assert_array_equal(stack["bands"], bands[has_pixel])
    assert stored_doys(layout, "sentinel2", "doys") == [day_of_year(day) for day in days]


@needs_cubes
@pytest.mark.parametrize("which", ["april", "autumn"])
def test_mosaic_of_two_overlapping_scenes_a_day(tmp_path: Path, which: str) -> None:
    """The earlier scene of a day is the left part of its image, the later one the right part
    of the next image (so that they differ); 20 columns overlap."""
    cube, bands, scl = optical_cube(which)
    cube = dataclasses.replace(cube, days=cube.days[:8])
    height, width = cube.shape
    first, second = np.s_[: width // 2 + 10], np.s_[width // 2 - 10 :]
    after = np.roll(np.arange(len(cube.days)), -1)
    left, top = cube.origin
    items = []
    for index, day in enumerate(cube.days):
        later = {"mgrs_tile": "31UGT", "baseline": "05.09"}
        items += [
            optical(tmp_path / "scenes", f"{day}T10:56:20",
                    by_name(bands[after[index]][:, second] + np.uint16(1000)),
                    scl[after[index]][:, second],
                    origin=(left + PIXEL * second.start, top), **later),
            optical(tmp_path / "scenes", f"{day}T10:56:00", by_name(bands[index][:, first]),
                    scl[index][:, first], origin=cube.origin),
        ]  # fmt: skip
    config = configuration(
        tmp_path, cube_roi(tmp_path, cube), items, str(cube.days[0]), str(cube.days[-1]),
        sentinel1={"enabled": False}, grid={"block_size": 40},
    )  # fmt: skip
    layout = ingest(config, until="stack")
    stack = stacked(layout, "sentinel2")

    # Pixel by pixel, as in the specification.
    expected: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    second_over_first = never = 0
    for index, day in enumerate(cube.days):
        image, mask = np.zeros((height, width, 10), np.uint16), np.zeros((height, width), np.uint8)
        for row, column in np.ndindex(height, width):
            scenes = [index] if column < first.stop else []
            scenes += [after[index]] if column >= second.start else []
            valid = [i for i in scenes if int(scl[i, row, column]) not in INVALID_SCL]
            mask[row, column] = bool(valid)
            image[row, column] = bands[(valid or scenes)[0], row, column]
            second_over_first += len(scenes) == 2 and valid == scenes[1:]
            never += not valid
        # A block drops a day on which none of its pixels is valid.
        for block in layout.grids["here"].blocks:
            if not mask[block.window.slices].any():
                image[block.window.slices] = 0
        if mask.any():
            expected[str(day)] = image, mask
    assert second_over_first > 500 and never > 500
    assert stack["dates"] == list(expected)
    np.testing.assert_array_equal(stack["bands"], [image for image, _ in expected.values()])
    np.testing.assert_array_equal(stack["masks"], [mask for _, mask in expected.values()])


@needs_cubes
def test_radar_of_real_dates_split_by_orbit_and_mosaicked(tmp_path: Path) -> None:
    """Amplitudes (dB = 20 log10(DN) - 83) as linear power, in two overlapping scenes a pass.

    The file does not contain the direction of its passes: those of one track (12 days apart)
    get the same one here.
    """
    cube = read_cube("cdse_sentinel1_grd.nc", "S1-SIGMA0", ("VV", "VH"))
    decibels = {
        name: 20.0 * np.log10(layer.astype(np.float64)) - 83.0
        for name, layer in cube.layers.items()
    }
    power = {
        name: (10.0 ** (values / 10.0)).astype(np.float32) for name, values in decibels.items()
    }
    directions = [
        "ascending" if (day - cube.days[0]).days % 12 in (0, 5) else "descending"
        for day in cube.days
    ]
    assert directions.count("ascending") == 5
    upper, lower = np.s_[:40], np.s_[24:]
    left, top = cube.origin
    items = []
    for index, day in enumerate(cube.days):
        orbit = directions[index]
        # The second scene of a pass is a little brighter, so that they differ.
        for rows, second, factor in ((lower, 25, 1.25), (upper, 0, 1.0)):
            vv, vh = (power[name][index][rows] * np.float32(factor) for name in ("VV", "VH"))
            items.append(
                radar(tmp_path / "scenes", f"{day}T05:50:{second:02d}", vv, vh, orbit,
                      shape=vv.shape, origin=(left, top - PIXEL * (rows.start or 0)))
            )  # fmt: skip
    config = configuration(
        tmp_path, cube_roi(tmp_path, cube), items, str(cube.days[0]), str(cube.days[-1]),
        sentinel2={"enabled": False},
        model={"min_observations": {"s2": 0}},
        grid={"block_size": 40},
    )  # fmt: skip
    layout = ingest(config, until="stack")
    stack = stacked(layout, "sentinel1")

    stacked_power = np.stack([power["VV"], power["VH"]], axis=-1)
    expected = scaled_decibels(stacked_power)
    bright = scaled_decibels(stacked_power * np.float32(1.25))
    expected[:, upper.stop :] = bright[:, upper.stop :]
    overlap = np.s_[:, lower.start : upper.stop]
    filled = (expected[overlap] == 0) & (bright[overlap] > 0)
    assert filled.sum() > 100  # too weak in the first scene, not in the second
    expected[overlap] = np.where(expected[overlap] == 0, bright[overlap], expected[overlap])
    assert (expected == 0).any() and (expected[..., 0] == 0).mean() < 0.01
    # Against the decibels of the file, which the formula doubles: at most one step of rounding.
    doubled = (2.0 * decibels["VV"] + 50.0) * 200.0
    plain = (slice(None), slice(0, lower.start))
    clear = (doubled[plain] > 1) & (doubled[plain] < 32_767)
    assert np.abs(expected[plain][..., 0][clear] - doubled[plain][clear]).max() <= 1.01

    for orbit in ("ascending", "descending"):
        selected = np.array([direction == orbit for direction in directions])
        days = [day for day, match in zip(cube.days, selected, strict=True) if match]
        assert stack[f"{orbit}_dates"] == [str(day) for day in days]
        np.testing.assert_array_equal(stack[f"sar_{orbit}"], expected[selected])
        assert stored_doys(layout, "sentinel1", f"sar_{orbit}_doy") == list(map(day_of_year, days))
