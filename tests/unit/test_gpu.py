"""Tests on a GPU (`pytest -m gpu`); skipped without one."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.tiles import write_checkpoint

from tessera_flow.inference.device import DTYPES, has_bf16, has_fp16
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.feed import embed_tiles
from tessera_flow.inference.model import ModelSpec, prepare_model
from tessera_flow.inference.runs import Item
from tessera_flow.inference.tile import TileArrays
from tessera_flow.inference.tolerance import FLOAT32, HALF, compare
from tessera_flow.inference.transfers import Transfers

from ..support import golden
from ..support.golden import TILES, TOLERANCE, checkpoint
from .test_tolerance import ALL, FAMILIES, assert_within, corner, source, tiles, values

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu() -> Any:
    for name in ("cuda", "xpu"):
        if getattr(torch, name).is_available():
            return name
    pytest.skip("PyTorch finds no GPU here")


@pytest.mark.parametrize("name", TILES)
def test_embeddings_equal_the_reference(name: str, gpu: Any) -> None:
    expected = np.load(golden.GOLDEN / f"v2/student_qk__{name}.npz")
    model = prepare_model(
        ModelSpec(checkpoint("v2_student_qk"), device=gpu, precision="float32"), 128
    )
    result = values(golden.tile(name), model)
    defined = ~expected["undefined"]
    np.testing.assert_allclose(result[defined], expected["emb"][defined], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_float32(name: str, gpu: Any) -> None:
    on_cpu, on_gpu = (
        prepare_model(
            ModelSpec(checkpoint(name), device=d, statistics=source(name), precision="float32")
        )
        for d in ("cpu", gpu)
    )
    for title, arrays in tiles(40).items():
        case = f"{name} {title}"
        assert_within(values(arrays, on_cpu), values(arrays, on_gpu), on_cpu, FLOAT32, case)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["v2-nano", "v2-small", "v2-medium", "v1.0", "v1.0-qat", "v1.1"])
def test_half_precision_at_published_sizes(
    name: str, precision: Any, gpu: Any, tmp_path: Path
) -> None:
    if not {"bf16": has_bf16, "fp16": has_fp16}[precision](torch.device(gpu)):
        pytest.skip(f"this GPU does not compute in {precision}")
    path = write_checkpoint(name, tmp_path)
    on_cpu, on_gpu = (
        prepare_model(ModelSpec(path, device=d, statistics=source(name), precision=precision))
        for d, precision in (("cpu", "float32"), (gpu, precision))
    )
    assert on_gpu.dtype == DTYPES[precision]
    for title, arrays in tiles(12).items():
        tile, case = corner(arrays, 12), f"{name} {title}"
        exact, result = values(tile, on_cpu), values(tile, on_gpu)
        assert_within(exact, result, on_cpu, HALF, case)
        other = embed_tile(tile, on_gpu, dataclasses.replace(ALL, batch_size=5)).values
        defined = np.isfinite(result[..., 0])
        # Passes of another size run in other kernels, which add in another order: both round
        # within the tolerance, and no bits need to be equal.
        agreement = compare(result[defined], other[defined], on_gpu.family.quantizer)
        assert not HALF.violations(agreement), case


def test_embeddings_are_equal_with_too_little_memory(
    gpu: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if gpu != "cuda":
        pytest.skip("only CUDA lets a process limit its memory")
    path = write_checkpoint("v2-medium", tmp_path)
    model = prepare_model(ModelSpec(path, device=gpu, precision="float32"))
    arrays = golden.tile("main")
    many = TileArrays(
        **{
            f.name: np.tile(array, (1, 40, 40) + (1,) * (array.ndim - 3))
            if (array := getattr(arrays, f.name)) is not None and array.ndim > 2
            else array
            for f in dataclasses.fields(arrays)
        }
    )
    total = torch.cuda.mem_get_info()[1]
    options = InferenceOptions(min_s2=0, batch_size=2**17)
    try:
        torch.cuda.set_per_process_memory_fraction(min(1.0, 3 * 2**30 / total))
        with caplog.at_level(logging.WARNING, "tessera_flow"):
            result = embed_tile(many, model, options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with" in caplog.text
    off = result.values[:12, :10].astype(int) - result.values[-12:, -10:]
    assert result.pixels > 0 and np.abs(off).max() <= 1 and np.mean(off != 0) < 1e-3


def test_nothing_blocks_on_the_gpu(gpu: Any) -> None:
    """Copies are asynchronous, and no operation waits; CUDA itself reports those that do."""
    if gpu != "cuda":
        pytest.skip("only CUDA reports operations that wait")
    model = prepare_model(
        ModelSpec(checkpoint("v2_student_qk"), device=gpu, precision="float32"), 128
    )
    transfers = Transfers(model.device)
    pinned = [
        TileArrays(
            **{
                f.name: None if (a := getattr(golden.tile(name), f.name)) is None else _pinned(a)
                for f in dataclasses.fields(TileArrays)
            }
        )
        for name in ("main", "long", "one", "main")
    ]
    expected = [embed_tile(tile, model, ALL).values for tile in pinned]
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = list(embed_tiles([Item(tile, (0, 0)) for tile in pinned], model, ALL, transfers))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert transfers.copies > 20 and transfers.blocking == 0
    for result, values_before in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.values, values_before)


def _pinned(array: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.array(array)).pin_memory().numpy()
