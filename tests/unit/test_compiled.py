"""Encoders run by PyTorch's compiler, on the CPU: the same numbers, few graphs, and plain PyTorch
whenever something goes wrong."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.block_file import open_block_file
from tessera_flow.inference import compiled
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.compiled import Compilation, compile_encoders, missing
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.tolerance import FLOAT32
from tessera_flow.models.checkpoint import load_model
from tessera_flow.models.family import Model
from tessera_flow.products.inference_record import BlockInference, InferenceRecord

from ..support import golden
from .test_block_inference import write_patches
from .test_feed import fed, model_of
from .test_tolerance import ALL, FAMILIES, assert_within, source

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_model(name: str) -> Model:
    """Return a model that is not packed for a CPU, whose encoders are as on a GPU."""
    return load_model(str(golden.checkpoint(name)), None, None, source(name))


def compile_it(model: Model, folder: Path, backend: str) -> Compilation:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compilation = compile_encoders(model, folder, backend)
    assert compilation is not None
    return compilation


def assert_compiled_equals(name: str, folder: Path, backend: str) -> None:
    model = plain_model(name)
    compilation = compile_it(model, folder, backend)
    stats = torch._dynamo.utils.counters["stats"]
    graphs = stats["unique_graphs"]
    assert compilation.reason is None
    for case in ("main", "long"):
        tile = golden.tile(case)
        expected, result = embed_tile(tile, model_of(name), ALL, (7, 1001)), fed(tile, model, ALL)
        assert_within(expected.values, result.values, model, FLOAT32, f"{name} {case}")
    # Each encoder with and without lengths, and its recurrent cell: no shape adds a graph.
    assert compilation.reason is None and model.s2.compiled is not None
    assert stats["unique_graphs"] == graphs <= 6


@pytest.mark.parametrize("name", ["v1_1", pytest.param("v2_student_qk", marks=pytest.mark.slow)])
def test_few_graphs_serve_all_shapes(name: str, tmp_path: Path) -> None:
    """The graphs of the compiler, run operation by operation."""
    assert_compiled_equals(name, tmp_path, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_code_keeps_the_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that the compiler makes for a CPU, with a C++ compiler."""
    monkeypatch.setattr(compiled, "missing", lambda device: None)
    monkeypatch.setenv(compiled.CACHE, str(tmp_path))
    assert_compiled_equals(name, tmp_path, "inductor")
    assert any(tmp_path.rglob("*.so"))


def test_it_is_for_cuda_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = plain_model("v2_student_qk")
    assert compile_encoders(model, None) is None
    compilation = compile_encoders(model, tmp_path)
    assert compilation is not None and model.s2.compiled is None
    assert compilation.reason == "it is used on GPUs for CUDA only" == missing(torch.device("cpu"))
    assert "the compiler of PyTorch is not used" in caplog.text


def test_an_error_of_the_compiler_is_recorded_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tile = plain_model("v2_student_qk"), golden.tile("one")
    expected = fed(tile, model, ALL)
    calls = 0

    def backend(graph: Any, _: Any) -> Any:
        def run(*inputs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 4:  # after the check
                raise RuntimeError("PTX is too new\nmore")
            return graph(*inputs)

        return run

    compilation = compile_it(model, tmp_path, backend)  # type: ignore[arg-type]
    assert compilation.reason is None
    with caplog.at_level(logging.WARNING):
        result = fed(tile, model, ALL)
    np.testing.assert_allclose(result.values, expected.values, atol=5e-6)
    assert compilation.reason == "RuntimeError: PTX is too new" in caplog.text
    assert model.s2.compiled is None and model.s1.compiled is None


def test_wrong_numbers_are_noticed_at_the_start(tmp_path: Path) -> None:
    model = plain_model("v1_1")

    def backend(graph: Any, _: Any) -> Any:
        return lambda *inputs: tuple(output * 1.01 for output in graph(*inputs))

    compilation = compile_it(model, tmp_path, backend)  # type: ignore[arg-type]
    assert compilation.reason is not None and "differ by" in compilation.reason
    assert model.s2.compiled is None and model.s2.pool.compiled is None  # type: ignore[union-attr]


@pytest.mark.slow
def test_memory_that_runs_out_is_no_error_of_the_compiler(tmp_path: Path) -> None:
    """Passes are halved, and the compiled code is still used."""
    model, tile = plain_model("v2_student_qk"), golden.tile("main")

    def backend(graph: Any, _: Any) -> Any:
        def run(*inputs: Any) -> Any:
            if max(x.shape[0] for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 3) > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return graph(*inputs)

        return run

    compilation = compile_it(model, tmp_path, backend)  # type: ignore[arg-type]
    result = fed(tile, model, ALL)
    assert compilation.reason is None and model.max_pixels < 40
    assert_within(
        embed_tile(tile, model_of("v2_student_qk"), ALL, (7, 1001)).values,
        result.values,
        model,
        FLOAT32,
        "halved",
    )


def test_a_block_records_why_it_was_not_compiled(tmp_path: Path) -> None:
    tile = golden.tile("one")
    write_patches(tmp_path / "p.zip", tile, 5, np.ones(tile.shape, np.uint8))
    spec = ModelSpec(golden.checkpoint("v2_student_qk"), device="cpu", compiled=tmp_path / "code")
    infer_block(tmp_path / "p.zip", tmp_path / "e.zip", spec, InferenceOptions(), {})
    with open_block_file(tmp_path / "e.zip") as group:
        attributes = group.attrs.asdict()
    assert attributes["compiled"] is False and attributes["not_compiled"] is None
    record = InferenceRecord.of([("b0_0", BlockInference("bf16", "cuda (X)", None, None, "no cc"))])
    assert record.not_compiled == {"b0_0": "no cc"}
