import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.errors import CheckpointError, ConfigError
from tessera_flow.inference import batching
from tessera_flow.inference import embed as embedding
from tessera_flow.inference.embed import InferenceOptions, embed_pixels, embed_tile
from tessera_flow.inference.inputs import SensorSteps, sentinel1_steps, sentinel2_steps
from tessera_flow.inference.model import ModelSpec, prepare_model
from tessera_flow.inference.tile import ARRAYS, TileArrays
from tessera_flow.models import statistics
from tessera_flow.models.family import Model
from tessera_flow.models.quantize import quantize
from tessera_flow.models.sampling import group_by_count
from tessera_flow.sensors.sentinel1 import CHANNELS
from tessera_flow.sensors.sentinel2 import BANDS

from ..support import golden as recorded
from ..support.golden import GOLDEN, TILES, TOLERANCE, assert_inputs, packed, tile

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = ("noqk", "qk")
ALL = InferenceOptions(dtype="float32", min_s2=0, min_s1=0)


def checkpoint(variant: str) -> Path:
    return recorded.checkpoint(f"v2_student_{variant}")


def student(variant: str = "noqk") -> Model:
    return packed(f"v2_student_{variant}")


def golden(variant: str, name: str) -> Any:
    return np.load(GOLDEN / f"v2/student_{variant}__{name}.npz")


def embed(name: str, variant: str = "noqk", arrays: TileArrays | None = None) -> np.ndarray:
    return embed_tile(arrays or tile(name), student(variant), ALL).values


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TILES)
def test_embeddings_equal_the_reference(variant: str, name: str) -> None:
    expected, result = golden(variant, name), embed(name, variant)
    undefined = expected["undefined"]
    assert result.dtype == np.float32 and result.shape == expected["emb"].shape
    np.testing.assert_allclose(
        result[~undefined], expected["emb"][~undefined], atol=TOLERANCE, rtol=0
    )
    assert np.isnan(result[undefined]).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("dim", [128, 64, 16])
def test_codes_and_scales_equal_the_reference(variant: str, name: str, dim: int) -> None:
    expected = golden(variant, name)
    options = InferenceOptions(dim=dim, min_s2=0, min_s1=0)
    result = embed_tile(tile(name), student(variant), options)
    defined = ~expected["undefined"]
    steps = np.abs(result.values.astype(int) - expected[f"int8_{dim}"])[defined]
    assert result.values.dtype == np.int8 and result.values.shape[-1] == dim
    assert steps.max() <= 1 and np.mean(steps > 0) <= 1e-3
    assert result.scales is not None
    np.testing.assert_allclose(result.scales[defined], expected[f"scale_{dim}"][defined], rtol=1e-5)
    assert (result.values[~defined] == 0).all() and np.isnan(result.scales[~defined]).all()


def test_codes_of_recorded_embeddings_are_identical() -> None:
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
        bins = expected[f"bin_{key}"].reshape(-1)
        seen = assert_inputs(sensor, group_by_count(sensor.valid), expected[f"{key}_x"], bins)
        assert np.array_equal(seen, bins > 0)


@pytest.mark.parametrize("name", TILES)
def test_counts_are_numbers_of_valid_steps(name: str) -> None:
    expected, arrays = golden("noqk", name), tile(name)
    counts = embed_tile(arrays, student(), ALL).counts
    assert counts.dtype == np.uint16
    assert np.array_equal(counts[..., 0], expected["n_s2"])
    assert np.array_equal(counts[..., 1].astype(int) + counts[..., 2], expected["n_s1"])
    for channel, stack in ((1, arrays.sar_ascending), (2, arrays.sar_descending)):
        assert np.array_equal(counts[..., channel], (stack != 0).any(-1).sum(0))


def test_pixels_with_too_few_observations_have_no_embedding() -> None:
    expected = golden("noqk", "main")
    for min_s2, min_s1 in ((1, 0), (9, 0), (0, 1), (2, 4)):
        options = InferenceOptions(dtype="float32", min_s2=min_s2, min_s1=min_s1)
        result = embed_tile(tile("main"), student(), options)
        defined = (expected["n_s2"] >= min_s2) & (expected["n_s1"] >= min_s1)
        defined &= ~expected["undefined"]
        assert np.array_equal(np.isfinite(result.values).all(-1), defined)
        assert np.array_equal(np.isnan(result.values).all(-1), ~defined)
        assert result.pixels == defined.sum()
    default = embed_tile(tile("main"), student(), InferenceOptions())
    assert default.scales is not None
    assert np.array_equal(np.isnan(default.scales), expected["n_s2"] == 0)
    assert (default.values[expected["n_s2"] == 0] == 0).all()


def test_pixels_outside_the_region_have_no_embedding() -> None:
    roi = (np.random.default_rng(0).random((12, 10)) < 0.5).astype(np.uint8) * 255
    result = embed_tile(dataclasses.replace(tile("main"), roi=roi), student(), ALL)
    full = embed_tile(tile("main"), student(), ALL)
    assert np.isnan(result.values[roi == 0]).all()
    assert (result.counts[roi == 0] == 0).all()
    np.testing.assert_allclose(result.values[roi > 0], full.values[roi > 0], atol=TOLERANCE)
    assert np.array_equal(result.counts[roi > 0], full.counts[roi > 0])


def test_swapped_bands_change_the_embedding() -> None:
    arrays = tile("main")
    order = list(range(10))
    order[3], order[4] = order[4], order[3]  # B08 and B8A: the most similar bands
    swapped = embed("main", arrays=dataclasses.replace(arrays, bands=arrays.bands[..., order]))
    expected = golden("noqk", "main")
    difference = np.abs(swapped - expected["emb"])[~expected["undefined"]]
    assert difference.max() > 100 * TOLERANCE


def test_swapped_orbit_statistics_change_the_embedding() -> None:
    published, model = statistics.V2_STUDENT, student()
    model.statistics = dataclasses.replace(
        published, ascending=published.descending, descending=published.ascending
    )
    expected = golden("noqk", "main")
    result = embed_tile(tile("main"), model, ALL).values
    difference = np.abs(result - expected["emb"])[~expected["undefined"]]
    assert difference.max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["main", "long"])
def test_batches_and_chunks_change_only_rounding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = embed_tile(tile(name), student("qk"), dataclasses.replace(ALL, batch_size=4096))
    monkeypatch.setattr(embedding, "CHUNK_PIXELS", 7)
    monkeypatch.setattr(batching, "CPU_PASS_STEPS", 100)
    for batch_size in (1, 3, 1024):
        options = dataclasses.replace(ALL, batch_size=batch_size)
        result = embed_tile(tile(name), student("qk"), options)
        np.testing.assert_allclose(result.values, full.values, atol=5e-6)
        assert np.array_equal(result.counts, full.counts)


def test_embeddings_are_identical_for_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(embed("main", "qk"))
        assert torch.get_num_threads() == threads
    assert np.array_equal(results[0], results[1], equal_nan=True)
    assert np.array_equal(results[0], results[2], equal_nan=True)


def test_pixel_does_not_depend_on_its_neighbours() -> None:
    arrays, full = tile("main"), embed("main")
    for rows, columns in ((slice(0, 5), slice(3, 10)), (slice(11, 12), slice(0, 1))):
        window = TileArrays(
            **{
                key: array[:, rows, columns] if array.ndim > 2 else array
                for key, array in ((key, getattr(arrays, key)) for key in ARRAYS)
            }
        )
        np.testing.assert_allclose(embed("main", arrays=window), full[rows, columns], atol=5e-6)


def test_tile_without_dates_has_no_embedding() -> None:
    arrays = tile("none")
    empty = dataclasses.replace(
        arrays, bands=arrays.bands[:0], masks=arrays.masks[:0], doys=arrays.doys[:0]
    )
    result = embed_tile(empty, student(), InferenceOptions(min_s2=0))
    assert result.pixels == 0 and (result.values == 0).all() and (result.counts == 0).all()
    assert result.scales is not None and np.isnan(result.scales).all()


def test_sentinel1_without_sentinel2() -> None:
    arrays = tile("main")
    only_s1 = dataclasses.replace(
        arrays, bands=arrays.bands[:0], masks=arrays.masks[:0], doys=arrays.doys[:0]
    )
    result, expected = embed("main", arrays=only_s1), golden("noqk", "main")
    # Pixel (0, 0) has no valid Sentinel-2 step in the reference either.
    np.testing.assert_allclose(result[0, 0], expected["emb"][0, 0], atol=TOLERANCE)
    assert np.array_equal(np.isfinite(result[..., 0]), expected["n_s1"] > 0)


def steps_of(
    values: np.ndarray, days: np.ndarray, channel_statistics: Any, names: tuple[str, ...]
) -> SensorSteps:
    """Return the steps (T, C) of one pixel, valid unless 0; without statistics as they are."""
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
def test_pixels_with_different_days_equal_the_reference(standardised: bool) -> None:
    data, model = golden("noqk", "encode_pixels"), student()
    v2 = statistics.V2_STUDENT
    results = []
    for pixel in range(9):
        if standardised:
            valid = data["z_masks"][pixel] == 1
            s2 = steps_of(data["z_s2"][pixel][valid], data["s2_doys"][pixel][valid], None, BANDS)
            s1 = steps_of(data["z_s1_asc"][pixel], data["z_s1_doys"][pixel], None, CHANNELS)
        else:
            s2 = steps_of(data["s2_bands"][pixel], data["s2_doys"][pixel], v2.sentinel2, BANDS)
            s1 = steps_of(
                data["s1_desc_bands"][pixel], data["s1_desc_doys"][pixel], v2.descending, CHANNELS
            )
        origin = np.zeros(1, np.int64)
        results.append(embed_pixels(s2, s1, origin, model, ALL, (origin, origin))[0])
    expected = data["z_emb" if standardised else "emb"]
    np.testing.assert_allclose(np.stack(results), expected, atol=TOLERANCE, rtol=0)


def test_invalid_dim_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"dim is 100.*16, 32, 64, 128"):
        prepare_model(ModelSpec(checkpoint("noqk"), device="cpu"), 100)


def test_changed_checkpoint_is_rejected() -> None:
    with pytest.raises(CheckpointError, match="has changed since it was recorded"):
        prepare_model(ModelSpec(checkpoint("noqk"), "0" * 64, device="cpu"))


def test_threads_are_set() -> None:
    prepare_model(ModelSpec(checkpoint("noqk"), device="cpu", threads=2), 128)
    assert torch.get_num_threads() == 2


def test_options_of_a_job_are_its_parameters() -> None:
    settings = {
        "dim": 64,
        "dtype": "float32",
        "min_observations": {"s2": 3, "s1": 2},
        "seed": 5,
        "repeat_times": 4,
        "heads": None,
    }
    assert InferenceOptions.of(settings, 9) == InferenceOptions(64, "float32", 3, 2, 9, 5, 4)
