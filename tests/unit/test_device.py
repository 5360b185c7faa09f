"""Devices, precisions, forward passes, and too little memory."""

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.errors import ConfigError
from tessera_flow.inference import batching
from tessera_flow.inference.batching import PassLimit, for_each
from tessera_flow.inference.device import (
    has_bf16,
    precision_name,
    resolve_device,
    resolve_precision,
)
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.memory import memory_message
from tessera_flow.models.layers import Encoder
from tessera_flow.models.sampling import Group

from ..support.golden import packed, tile

CPU = torch.device("cpu")


def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    present = torch.cpu.get_capabilities()
    monkeypatch.setattr(
        torch.cpu,
        "get_capabilities",
        lambda: {key: value and "bf16" not in key for key, value in present.items()},
    )


def test_bf16_is_rejected_on_a_processor_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_bf16(monkeypatch)
    assert not has_bf16(CPU)
    with pytest.raises(ConfigError, match=r"does not compute in bfloat16.*avx512_bf16"):
        resolve_precision("bf16", CPU)
    assert resolve_precision("auto", CPU) == torch.float32


def test_float32_is_the_default_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tessera_flow"):
        assert resolve_precision("auto", CPU) == torch.float32
    assert "running on cpu (" in caplog.text and "float32" in caplog.text
    assert ("bf16 is available" in caplog.text) == has_bf16(CPU)


@pytest.mark.skipif(not has_bf16(CPU), reason="this processor does not compute in bfloat16")
def test_bf16_on_a_processor_that_has_it() -> None:
    assert resolve_precision("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"),
    [((8, 0), True, "bf16"), ((7, 5), False, "fp16"), ((7, 0), False, "fp16"),
     ((6, 1), False, "float32")],
)  # fmt: skip
def test_precision_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bf16: bool, expected: str
) -> None:
    """fp16 for V100 and T4, and nothing below float32 for a P100, which would add in fp16."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.version, "hip", None)
    assert precision_name(resolve_precision("auto", gpu)) == expected
    if expected == "float32":
        with pytest.raises(ConfigError, match=r"precision is fp16, but .* capability 7\.0"):
            resolve_precision("fp16", gpu)
    else:
        assert resolve_precision("fp16", gpu) == torch.float16


def test_fp16_is_not_for_cpus() -> None:
    with pytest.raises(ConfigError, match="precision is fp16, but it is for GPUs"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_missing_gpu_is_reported(device: Any) -> None:
    if getattr(torch, device).is_available():
        pytest.skip("a GPU is available")
    with pytest.raises(ConfigError, match=f"no {device.upper()} GPU"):
        resolve_device(device)


def test_auto_is_the_cpu_without_a_gpu() -> None:
    if torch.cuda.is_available() or torch.xpu.is_available():
        pytest.skip("a GPU is available")
    assert resolve_device("auto").type == "cpu"


def group(pixels: int, steps: int = 3) -> Group:
    return Group(np.arange(pixels), np.zeros((pixels, steps), np.int64))


def test_passes_have_at_most_the_allowed_pixels_and_steps() -> None:
    sizes = [len(batch.pixels) for batch in PassLimit(4).split(group(10))]
    assert sizes == [4, 4, 2]
    assert [len(p.pixels) for p in PassLimit(100, steps=9).split(group(10))] == [3, 3, 3, 1]
    assert [len(p.pixels) for p in PassLimit(100, steps=2).split(group(2))] == [1, 1]


def test_too_little_memory_halves_this_and_later_passes() -> None:
    limit, done = PassLimit(16), []

    def work(batch: Group) -> None:
        if len(batch.pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(batch.pixels.tolist())

    for batch in limit.split(group(40)):
        limit.run(batch, work)
    assert [len(pixels) for pixels in done] == [4] * 10
    assert [pixel for pixels in done for pixel in pixels] == list(range(40))


def test_too_little_memory_for_one_pixel_is_an_error() -> None:
    def work(batch: Group) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match="not have enough memory for one pixel"):
        PassLimit(8).run(group(8), work)


def test_embeddings_are_equal_after_too_little_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The encoder fails for more than seven pixels, like a GPU whose memory is used up."""
    options = InferenceOptions(dtype="float32", min_s2=0)
    expected = embed_tile(tile("main"), packed("v2_student_qk"), options).values
    forward = Encoder.forward

    def small(self: Encoder, values: torch.Tensor, *others: Any) -> torch.Tensor:
        if len(values) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, values, *others)

    monkeypatch.setattr(Encoder, "forward", small)
    model = packed("v2_student_qk")
    result = embed_tile(tile("main"), model, options).values
    np.testing.assert_allclose(result, expected, atol=5e-6)
    assert "out of memory with" in caplog.text
    caplog.clear()
    embed_tile(tile("main"), model, options)
    assert "out of memory" not in caplog.text  # the smaller limit is kept


@pytest.mark.parametrize("threads", [1, 3])
def test_every_job_is_done_and_errors_are_raised(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        done: set[int] = set()
        for_each(range(50), done.add, CPU)
        assert done == set(range(50))
        with pytest.raises(ZeroDivisionError):
            for_each([1, 0, 2], lambda n: print(1 // n), CPU)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_smaller_passes_change_only_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    options = InferenceOptions(dtype="float32", min_s2=0)
    expected = embed_tile(tile("main"), packed("v2_student_noqk"), options).values
    monkeypatch.setattr(batching, "CPU_PASS_STEPS", 1)
    alone = dataclasses.replace(options, batch_size=1)
    result = embed_tile(tile("main"), packed("v2_student_noqk"), alone).values
    np.testing.assert_allclose(result, expected, atol=5e-6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        MemoryError(),
    ],
)
def test_end_of_memory_is_a_message(error: Exception) -> None:
    @memory_message()
    def work() -> None:
        raise error

    with pytest.raises(
        ConfigError, match=r"smaller grid\.patch_size .* patches are kept"
    ) as raised:
        work()
    assert "\n" not in str(raised.value)


def test_other_errors_are_not_taken_for_the_end_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_message():
        raise RuntimeError("shapes cannot be multiplied")
