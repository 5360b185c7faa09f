"""The result of a pixel does not depend on the division into blocks and patches.

Some scenes are from the neighbouring UTM zone, where GDAL's default resampling depends on the
window (by up to 999 digital numbers).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely

from tessera_flow.block_file import open_block_file
from tessera_flow.demo.archive import PIXEL_SIZES, write_sentinel2_scene
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.jobs.files import RunFiles
from tessera_flow.sensors.sentinel2 import BANDS

from ..support.pipeline import CRS, ORIGIN, configuration, ingest, stacked, utc, write_polygon
from ..support.scenes import radar

GOLDEN = Path(__file__).parents[1] / "golden"
LEFT, TOP = ORIGIN
WIDTH, HEIGHT = 130, 110
NEXT_ZONE = "EPSG:32630"


def neighbour_origin() -> tuple[float, float]:
    x, y = pyproj.Transformer.from_crs(CRS, NEXT_ZONE, always_xy=True).transform(
        LEFT + 5 * WIDTH, TOP - 5 * HEIGHT
    )
    return round((x - 1600) / 20) * 20, round((y + 1600) / 20) * 20


def scene(folder: Path, seed: int, when: str, crs: str, origin: tuple[float, float], size: int):
    """Write a scene of noise with clouds; 20 m bands have 20 m pixels, as published."""
    rng = np.random.default_rng(seed)
    bands = {}
    for band in BANDS:
        edge = size if PIXEL_SIZES[band] == 10 else size // 2
        bands[band] = rng.integers(1, 9000, (edge, edge)).astype(np.uint16)
    scl = np.kron(rng.choice([4, 5, 9, 3], (size // 10, size // 10)), np.ones((5, 5)))
    return write_sentinel2_scene(
        folder, bands=bands, scl=scl.astype(np.uint8), crs=crs, origin=origin,
        datetime=utc(when), mgrs_tile="31UFT" if crs == CRS else "30UXC", baseline="05.00",
    )  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(9)
    items = []
    for number, day in enumerate(("2021-06-03", "2021-06-08")):
        items.append(scene(folder, number, f"{day}T10:00:00", CRS, (LEFT - 100, TOP + 100), 200))
        items.append(
            scene(folder, 50 + number, f"{day}T10:05:00", NEXT_ZONE, neighbour_origin(), 320)
        )
    for day, crs, origin, orbit in (
        ("2021-06-04", CRS, (LEFT, TOP), "ascending"),
        ("2021-06-09", NEXT_ZONE, neighbour_origin(), "ascending"),
        ("2021-06-10", NEXT_ZONE, neighbour_origin(), "descending"),
    ):
        power = rng.uniform(0.01, 0.5, (2, 320, 320))
        items.append(radar(folder, f"{day}T06:00:00", power[0], power[1], orbit,
                           shape=(320, 320), crs=crs, origin=origin))  # fmt: skip
    return folder, items


def run(
    tmp_path: Path, archive: tuple[Path, list], block_size: int, patch_size: int
) -> tuple[RunFiles, dict]:
    polygon = shapely.Polygon(
        [(LEFT + 3, TOP), (LEFT + 1295, TOP - 200), (LEFT + 1100, TOP - 1099), (LEFT, TOP - 900)]
    )
    folder = tmp_path / f"{block_size}_{patch_size}"
    roi = write_polygon(folder / "roi.geojson", polygon)
    scenes, items = archive
    trusted = {"asset_folders": [str(scenes)]}
    config = configuration(
        folder, roi, items, "2021-06-01", "2021-06-30", sentinel2=trusted, sentinel1=trusted,
        grid={"block_size": block_size, "patch_size": patch_size},
    )  # fmt: skip
    layout = ingest(config)
    shape = layout.grids["here"].product_geobox.shape
    result = {
        "codes": np.zeros((*shape, 128), np.int8),
        "scales": np.full(shape, np.nan, np.float32),
        "counts": np.zeros((*shape, 3), np.uint16),
    }
    for block in layout.grids["here"].blocks:
        patches = layout.paths.patches.format(region="here", period="then", block=block.id)
        output = folder / f"{block.id}.zip"
        spec = ModelSpec(GOLDEN / "checkpoints" / "v2_student_qk.pt")
        infer_block(patches, output, spec, InferenceOptions(), {})
        window = layout.grids["here"].product_window(block).slices
        with open_block_file(output) as group:
            result["codes"][window] = group["embeddings"][:]
            result["scales"][window] = group["scales"][:]
            result["counts"][window] = group["counts"][:]
    return layout, result


@pytest.fixture(scope="module")
def undivided(archive, tmp_path_factory) -> tuple[RunFiles, dict]:
    """The region as one block and one patch."""
    return run(tmp_path_factory.mktemp("undivided"), archive, 500, 500)


@pytest.mark.parametrize(("block_size", "patch_size"), [(50, 25), (64, 50), (100, 25), (100, 50)])
def test_result_does_not_depend_on_blocks_and_patches(
    archive, undivided, tmp_path: Path, block_size: int, patch_size: int
) -> None:
    layout, result = run(tmp_path, archive, block_size, patch_size)
    expected_layout, expected = undivided
    assert len(layout.grids["here"].blocks) >= 4
    for sensor in ("sentinel2", "sentinel1"):
        stack, reference = stacked(layout, sensor), stacked(expected_layout, sensor)
        assert stack.keys() == reference.keys()
        for name in reference:
            if name.endswith("dates"):
                assert stack[name] == reference[name]
            else:
                assert reference[name].any()
                assert stack[name].tobytes() == reference[name].tobytes(), name
    np.testing.assert_array_equal(result["counts"], expected["counts"])
    np.testing.assert_array_equal(np.isnan(result["scales"]), np.isnan(expected["scales"]))
    np.testing.assert_allclose(result["scales"], expected["scales"], rtol=1e-5)
    difference = np.abs(result["codes"].astype(int) - expected["codes"])
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.9999
    assert (expected["codes"] != 0).mean() > 0.5


def test_scenes_of_the_neighbouring_zone_are_used(undivided) -> None:
    """Where the scene of its own zone is not valid, a pixel comes from the neighbouring zone."""
    stack = stacked(undivided[0], "sentinel2")
    s1 = stacked(undivided[0], "sentinel1")
    assert s1["ascending_dates"] == ["2021-06-04", "2021-06-09"]
    assert s1["sar_descending"][0].any(axis=-1).mean() > 0.7
    # With one scene alone about half of the pixels would be valid on each day.
    assert stack["masks"].mean() > 0.55
