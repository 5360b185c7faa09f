from pathlib import Path

import numpy as np

from tessera_flow.models.quantize import dequantize, quantize

GOLDEN = np.load(Path(__file__).parents[1] / "golden/prep/quantize.npz")


def test_codes_and_scales_equal_the_reference() -> None:
    codes, scales = quantize(GOLDEN["x"])
    assert codes.dtype == np.int8 and scales.dtype == np.float32
    assert np.array_equal(codes, GOLDEN["v2_code"])
    assert np.array_equal(scales, GOLDEN["v2_scale"])


def test_recorded_scales_of_v2_and_v1_differ() -> None:
    assert not np.array_equal(GOLDEN["v2_scale"], GOLDEN["v1_scale"])


def test_dequantized_embeddings_equal_the_reference() -> None:
    result = dequantize(GOLDEN["v2_code"], GOLDEN["v2_scale"])
    assert result.dtype == np.float32
    assert np.array_equal(result, GOLDEN["v2_dequant"])


def test_any_leading_shape() -> None:
    codes, scales = quantize(GOLDEN["x"].reshape(8, 5, 128))
    assert np.array_equal(codes.reshape(40, 128), GOLDEN["v2_code"])
    assert scales.shape == (8, 5)


def test_error_of_a_code_is_at_most_half_a_scale() -> None:
    x = np.random.default_rng(0).normal(size=(50, 128)).astype(np.float32)
    codes, scales = quantize(x)
    assert np.abs(dequantize(codes, scales) - x).max() <= 0.5001 * scales.max()
    assert (np.abs(codes).max(axis=1) == 127).all()


def test_pixel_without_embedding_is_nan() -> None:
    assert np.isnan(dequantize(np.zeros(3, np.int8), np.float32(np.nan))).all()
