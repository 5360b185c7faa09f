import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tessera_flow import inference
from tessera_flow.atomic import atomic_output
from tessera_flow.blockfile import create_array, create_block_file, open_block_file
from tessera_flow.errors import CheckpointError, ConfigError, TileError
from tessera_flow.inference import (
    InferenceOptions,
    embed_pixels,
    embed_tile,
    infer_block,
    prepare_model,
    resolve_device,
)
from tessera_flow.models import statistics
from tessera_flow.models.checkpoint import load_model
from tessera_flow.models.family import Model
from tessera_flow.observations import group_by_length
from tessera_flow.quantize import quantize
from tessera_flow.sentinel1 import CHANNELS
from tessera_flow.sentinel2 import BANDS
from tessera_flow.sequences import SensorSteps, sentinel1_steps, sentinel2_steps
from tessera_flow.tiles import ARRAYS, TileArrays, read_tile_folder

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ("noqk", "qk")
TILES = ("main", "long", "one", "none")
TOLERANCE = 5e-5
ALL = InferenceOptions(dtype="float32", min_s2=0, min_s1=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors; waiting for a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(variant: str) -> Path:
    return GOLDEN / f"checkpoints/v2_student_{variant}.pt"


def student(variant: str = "noqk") -> Model:
    return load_model(checkpoint(variant))


def tile(name: str) -> TileArrays:
    return read_tile_folder(GOLDEN / "tiles" / name)


def golden(variant: str, name: str) -> Any:
    return np.load(GOLDEN / f"v2/student_{variant}__{name}.npz")


def embed(name: str, variant: str = "noqk", arrays: TileArrays | None = None) -> np.ndarray:
    return embed_tile(arrays or tile(name), student(variant), ALL).values


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TILES)
def test_embeddings_equal_the_reference(variant: str, name: str) -> None:
    expected, found = golden(variant, name), embed(name, variant)
    undefined = expected["undefined"]
    assert found.dtype == np.float32 and found.shape == expected["emb"].shape
    np.testing.assert_allclose(
        found[~undefined], expected["emb"][~undefined], atol=TOLERANCE, rtol=0
    )
    assert np.isnan(found[undefined]).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("dim", [128, 64, 16])
def test_codes_and_scales_equal_the_reference(variant: str, name: str, dim: int) -> None:
    expected = golden(variant, name)
    options = InferenceOptions(dim=dim, min_s2=0, min_s1=0)
    found = embed_tile(tile(name), student(variant), options)
    defined = ~expected["undefined"]
    steps = np.abs(found.values.astype(int) - expected[f"int8_{dim}"])[defined]
    assert found.values.dtype == np.int8 and found.values.shape[-1] == dim
    assert steps.max() <= 1 and np.mean(steps > 0) <= 1e-3
    assert found.scales is not None
    np.testing.assert_allclose(found.scales[defined], expected[f"scale_{dim}"][defined], rtol=1e-5)
    assert (found.values[~defined] == 0).all() and np.isnan(found.scales[~defined]).all()


def test_codes_of_the_recorded_embedding_are_exact() -> None:
    for name in TILES:
        expected = golden("noqk", name)
        defined = ~expected["undefined"]
        for dim in (128, 64, 16):
            codes, scales = quantize(expected["emb"][..., :dim][defined])
            assert np.array_equal(codes, expected[f"int8_{dim}"][defined])
            np.testing.assert_allclose(scales, expected[f"scale_{dim}"][defined], rtol=1e-6)


@pytest.mark.parametrize("name", TILES)
def test_model_inputs_and_bins_equal_the_reference(name: str) -> None:
    expected, arrays = golden("noqk", name), tile(name)
    rows = slice(0, arrays.shape[0])
    for key, sensor in (
        ("s2", sentinel2_steps(arrays, rows, statistics.V2_STUDENT)),
        ("s1", sentinel1_steps(arrays, rows, statistics.V2_STUDENT)),
    ):
        inputs, bins = expected[f"{key}_x"], expected[f"bin_{key}"].reshape(-1)
        seen = np.zeros(bins.size, bool)
        for group in group_by_length(sensor.valid):
            values, days = sensor.sequences(group.pixels, group.steps)
            wanted = inputs[group.pixels, : group.length]
            assert (bins[group.pixels] == group.length).all()
            assert np.array_equal(days, wanted[..., -1])
            error = np.abs(values - wanted[..., :-1]) / np.maximum(1, np.abs(wanted[..., :-1]))
            assert error.max() <= 2e-6
            seen[group.pixels] = True
        assert np.array_equal(seen, bins > 0)


@pytest.mark.parametrize("name", TILES)
def test_counts_are_of_valid_steps(name: str) -> None:
    expected, arrays = golden("noqk", name), tile(name)
    counts = embed_tile(arrays, student(), ALL).counts
    assert counts.dtype == np.uint16
    assert np.array_equal(counts[..., 0], expected["n_s2"])
    assert np.array_equal(counts[..., 1].astype(int) + counts[..., 2], expected["n_s1"])
    for channel, stack in ((1, arrays.sar_ascending), (2, arrays.sar_descending)):
        assert np.array_equal(counts[..., channel], (stack != 0).any(-1).sum(0))


def test_only_pixels_observed_often_enough_are_embedded() -> None:
    expected = golden("noqk", "main")
    for min_s2, min_s1 in ((1, 0), (9, 0), (0, 1), (2, 4)):
        options = InferenceOptions(dtype="float32", min_s2=min_s2, min_s1=min_s1)
        found = embed_tile(tile("main"), student(), options)
        wanted = (expected["n_s2"] >= min_s2) & (expected["n_s1"] >= min_s1)
        wanted &= ~expected["undefined"]
        assert np.array_equal(np.isfinite(found.values).all(-1), wanted)
        assert np.array_equal(np.isnan(found.values).all(-1), ~wanted)
        assert found.pixels == wanted.sum()
    default = embed_tile(tile("main"), student(), InferenceOptions())
    assert default.scales is not None
    assert np.array_equal(np.isnan(default.scales), expected["n_s2"] == 0)
    assert (default.values[expected["n_s2"] == 0] == 0).all()


def test_outside_the_region_there_is_nothing() -> None:
    roi = (np.random.default_rng(0).random((12, 10)) < 0.5).astype(np.uint8) * 255
    found = embed_tile(dataclasses.replace(tile("main"), roi=roi), student(), ALL)
    whole = embed_tile(tile("main"), student(), ALL)
    assert np.isnan(found.values[roi == 0]).all()
    assert (found.counts[roi == 0] == 0).all()
    np.testing.assert_allclose(found.values[roi > 0], whole.values[roi > 0], atol=TOLERANCE)
    assert np.array_equal(found.counts[roi > 0], whole.counts[roi > 0])


def test_two_swapped_bands_are_noticed() -> None:
    arrays = tile("main")
    order = list(range(10))
    order[3], order[4] = order[4], order[3]  # B08 and B8A: the two most alike
    swapped = embed("main", arrays=dataclasses.replace(arrays, bands=arrays.bands[..., order]))
    expected = golden("noqk", "main")
    difference = np.abs(swapped - expected["emb"])[~expected["undefined"]]
    assert difference.max() > 100 * TOLERANCE


def test_swapped_orbit_statistics_are_noticed() -> None:
    right, model = statistics.V2_STUDENT, student()
    model.statistics = dataclasses.replace(
        right, ascending=right.descending, descending=right.ascending
    )
    expected = golden("noqk", "main")
    found = embed_tile(tile("main"), model, ALL).values
    difference = np.abs(found - expected["emb"])[~expected["undefined"]]
    assert difference.max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["main", "long"])
def test_batches_and_runs_change_nothing_but_rounding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed_tile(tile(name), student("qk"), dataclasses.replace(ALL, batch_size=4096))
    monkeypatch.setattr(inference, "RUN_PIXELS", 7)
    monkeypatch.setattr(inference, "CPU_PASS_STEPS", 100)
    for batch_size in (1, 3, 1024):
        options = dataclasses.replace(ALL, batch_size=batch_size)
        found = embed_tile(tile(name), student("qk"), options)
        np.testing.assert_allclose(found.values, whole.values, atol=5e-6)
        assert np.array_equal(found.counts, whole.counts)


def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(embed("main", "qk"))
        assert torch.get_num_threads() == threads
    assert np.array_equal(found[0], found[1], equal_nan=True)
    assert np.array_equal(found[0], found[2], equal_nan=True)


def test_a_pixel_does_not_depend_on_its_neighbours() -> None:
    arrays, whole = tile("main"), embed("main")
    for rows, columns in ((slice(0, 5), slice(3, 10)), (slice(11, 12), slice(0, 1))):
        part = TileArrays(
            **{
                key: array[:, rows, columns] if array.ndim > 2 else array
                for key, array in ((key, getattr(arrays, key)) for key in ARRAYS)
            }
        )
        np.testing.assert_allclose(embed("main", arrays=part), whole[rows, columns], atol=5e-6)


def test_a_tile_without_any_date_has_no_embedding() -> None:
    arrays = tile("none")
    empty = dataclasses.replace(
        arrays, bands=arrays.bands[:0], masks=arrays.masks[:0], doys=arrays.doys[:0]
    )
    found = embed_tile(empty, student(), InferenceOptions(min_s2=0))
    assert found.pixels == 0 and (found.values == 0).all() and (found.counts == 0).all()
    assert found.scales is not None and np.isnan(found.scales).all()


def test_no_sentinel2_date_but_sentinel1() -> None:
    arrays = tile("main")
    only_s1 = dataclasses.replace(
        arrays, bands=arrays.bands[:0], masks=arrays.masks[:0], doys=arrays.doys[:0]
    )
    found, expected = embed("main", arrays=only_s1), golden("noqk", "main")
    # Pixel (0, 0) has no valid Sentinel-2 step in the reference either.
    np.testing.assert_allclose(found[0, 0], expected["emb"][0, 0], atol=TOLERANCE)
    assert np.array_equal(np.isfinite(found[..., 0]), expected["n_s1"] > 0)


def steps_of(
    values: np.ndarray, days: np.ndarray, channel_statistics: Any, names: tuple[str, ...]
) -> SensorSteps:
    """One pixel's steps (T, C), valid unless 0; without statistics they are standardised."""
    mean, divisor = np.zeros(len(names), np.float32), np.ones(len(names), np.float32)
    if channel_statistics is not None:
        mean, divisor = channel_statistics.in_order(names)
    return SensorSteps(
        raw=values[:, None],
        valid=values.any(-1)[None],
        days=days.astype(np.int64),
        mean=np.broadcast_to(mean, values.shape),
        divisor=np.broadcast_to(divisor, values.shape),
    )


@pytest.mark.parametrize("standardised", [False, True])
def test_pixels_with_days_of_their_own_equal_the_reference(standardised: bool) -> None:
    data, model = golden("noqk", "encode_pixels"), student()
    v2 = statistics.V2_STUDENT
    found = []
    for pixel in range(9):
        if standardised:
            kept = data["z_masks"][pixel] == 1
            s2 = steps_of(data["z_s2"][pixel][kept], data["s2_doys"][pixel][kept], None, BANDS)
            s1 = steps_of(data["z_s1_asc"][pixel], data["z_s1_doys"][pixel], None, CHANNELS)
        else:
            s2 = steps_of(data["s2_bands"][pixel], data["s2_doys"][pixel], v2.sentinel2, BANDS)
            s1 = steps_of(
                data["s1_desc_bands"][pixel], data["s1_desc_doys"][pixel], v2.descending, CHANNELS
            )
        origin = np.zeros(1, np.int64)
        found.append(embed_pixels(s2, s1, origin, model, ALL, (origin, origin))[0])
    expected = data["z_emb" if standardised else "emb"]
    np.testing.assert_allclose(np.stack(found), expected, atol=TOLERANCE, rtol=0)


def write_patches(path: Path, arrays: TileArrays, size: int, roi: np.ndarray) -> None:
    height, width = arrays.shape
    windows = [
        [y, x, min(size, height - y), min(size, width - x)]
        for y in range(0, height, size)
        for x in range(0, width, size)
        if roi[y : y + size, x : x + size].any()
    ]
    with create_block_file(
        path, {"shape": [height, width], "patch_size": size, "patches": windows}
    ) as group:
        for y, x, h, w in windows:
            patch = group.create_group(f"{y}_{x}")
            rows, columns = slice(y, y + h), slice(x, x + w)
            stacks = {key: getattr(arrays, key) for key in ARRAYS}
            parts = {k: a[:, rows, columns] if a.ndim > 2 else a for k, a in stacks.items()}
            for key, part in (parts | {"roi": roi[rows, columns]}).items():
                array = create_array(patch, key, part.shape, part.shape, part.dtype)
                if part.size:
                    array[...] = part


@pytest.mark.parametrize("size", [4, 5, 12])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_block_equals_its_tile_whatever_the_patches(
    tmp_path: Path, size: int, dtype: Any, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = tile("main")
    roi = np.ones((12, 10), np.uint8)
    roi[:5, :5] = 0
    roi[11, 9] = 0
    write_patches(tmp_path / "patches.zip", arrays, size, roi)
    options = InferenceOptions(dim=64, dtype=dtype)
    with caplog.at_level(logging.INFO, "tessera_flow"):
        infer_block(
            tmp_path / "patches.zip",
            checkpoint("qk"),
            tmp_path / "embeddings.zip",
            options,
            {"model": "untrained"},
            device="cpu",
        )
    whole = embed_tile(dataclasses.replace(arrays, roi=roi), student("qk"), options)
    with open_block_file(tmp_path / "embeddings.zip") as group:
        assert group.attrs["model"] == "untrained"
        found = {key: array[...] for key, array in group.arrays()}
    assert np.array_equal(found["counts"], whole.counts)
    if dtype == "int8":
        assert whole.scales is not None
        assert set(found) == {"embeddings", "scales", "counts"}
        np.testing.assert_allclose(found["scales"], whole.scales, rtol=1e-5)
        assert np.abs(found["embeddings"].astype(int) - whole.values).max() <= 1
        assert np.mean(found["embeddings"] != whole.values) < 1e-3
    else:
        assert set(found) == {"embeddings", "counts"}
        np.testing.assert_allclose(found["embeddings"], whole.values, atol=5e-6)
    assert f"of {size**2}" in caplog.text or "of 120" in caplog.text


def test_a_block_of_one_clipped_corner_patch_is_written_once(tmp_path: Path) -> None:
    roi = np.zeros((12, 10), np.uint8)
    roi[11, 9] = 1
    write_patches(tmp_path / "patches.zip", tile("main"), 7, roi)
    infer_block(
        tmp_path / "patches.zip",
        checkpoint("noqk"),
        tmp_path / "out.zip",
        InferenceOptions(),
        {},
        device="cpu",
    )
    with open_block_file(tmp_path / "out.zip") as group:
        scales, codes = group["scales"], group["embeddings"]
        assert isinstance(scales, zarr.Array) and isinstance(codes, zarr.Array)
        assert codes.chunks == (7, 7, 128)
        assert np.argwhere(np.isfinite(scales[...])).tolist() == [[11, 9]]
        assert np.argwhere(codes[...].any(-1)).tolist() == [[11, 9]]


def test_a_block_without_a_patch_is_nodata(tmp_path: Path) -> None:
    with create_block_file(tmp_path / "p.zip", {"shape": [6, 5], "patch_size": 6, "patches": []}):
        pass
    out = tmp_path / "e.zip"
    infer_block(tmp_path / "p.zip", checkpoint("noqk"), out, InferenceOptions(), {}, "cpu")
    with open_block_file(out) as group:
        found = {key: array[...] for key, array in group.arrays()}
    assert found["embeddings"].shape == (6, 5, 128) and not found["embeddings"].any()
    assert np.isnan(found["scales"]).all() and not found["counts"].any()


def test_incomplete_patches_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path, out = tmp_path / "patches.zip", tmp_path / "out.zip"
    arguments = (checkpoint("noqk"), out, InferenceOptions(), {}, "cpu")
    with pytest.raises(TileError, match="does not exist"):
        infer_block(path, *arguments)
    with create_block_file(path, {"shape": [6, 5]}):
        pass
    with pytest.raises(TileError, match="`patches`, `shape` and `patch_size`"):
        infer_block(path, *arguments)
    with create_block_file(path, {"shape": [6, 5], "patch_size": 6, "patches": [[0, 0, 6, 5]]}):
        pass
    with pytest.raises(TileError, match=r"0_0 of .* is missing"):
        infer_block(path, *arguments)
    with create_block_file(
        path, {"shape": [6, 5], "patch_size": 6, "patches": [[0, 0, 6, 5]]}
    ) as group:
        create_array(group.create_group("0_0"), "roi", (6, 5), (6, 5), np.uint8)
    with pytest.raises(TileError, match=r"bands, masks, doys.* missing"):
        infer_block(path, *arguments)
    with atomic_output(path) as part:
        part.write_bytes(b"PK half a file")
    with pytest.raises(TileError, match="not a complete block file"):
        infer_block(path, *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zip"]


def test_an_unknown_prefix_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dim is 100.*16, 32, 64, 128"):
        prepare_model(checkpoint("noqk"), 100, "cpu")


def test_a_changed_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has changed since it was recorded"):
        prepare_model(checkpoint("noqk"), 128, "cpu", sha256="0" * 64)


def test_threads_are_set() -> None:
    prepare_model(checkpoint("noqk"), 128, "cpu", threads=2)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_clearly() -> None:
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("name", TILES)
def test_embeddings_on_a_gpu_equal_the_reference(name: str) -> None:
    expected = golden("qk", name)
    found = embed_tile(tile(name), prepare_model(checkpoint("qk"), 128, "cuda"), ALL).values
    defined = ~expected["undefined"]
    np.testing.assert_allclose(found[defined], expected["emb"][defined], atol=TOLERANCE, rtol=0)
