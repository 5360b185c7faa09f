"""Comparisons with float32 on a few real pixels of each patch."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.block_file import open_block_file
from tessera_flow.demo.weights import write_demo_weights
from tessera_flow.errors import ToleranceError
from tessera_flow.inference import block
from tessera_flow.inference import model as prepared_model
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import Embedding, InferenceOptions, embed_tile
from tessera_flow.inference.model import ModelSpec, PreparedModel, prepare
from tessera_flow.inference.spot_check import Sample, check_patch, choose_pixels, require_tolerance
from tessera_flow.inference.tile import ARRAYS, TileArrays
from tessera_flow.inference.tolerance import HALF, Comparison
from tessera_flow.models.weights import fetch_weights
from tessera_flow.tile_folders import embed as embed_folders

from ..support import golden
from .test_block_inference import write_patches

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in bf16 without the check on simulated pixels; `auto` is bf16, as on a GPU."""
    monkeypatch.setattr(prepared_model, "resolve_precision", lambda *_: torch.bfloat16)

    def pack(model: Any, dtype: torch.dtype, dim: int) -> None:
        model.pack(dtype)

    monkeypatch.setattr(prepared_model, "_pack_if_within_tolerance", pack)


def spec(name: str = "v2_student_qk", **changes: Any) -> ModelSpec:
    return ModelSpec(golden.checkpoint(name), device="cpu", **changes)


def loosened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow what the narrow recorded models need."""
    loose = dataclasses.replace(HALF, cosine=0.99, largest=20, within_one=0.5, equal=0.1, scale=0.2)
    monkeypatch.setattr("tessera_flow.inference.spot_check.HALF", loose)


def attributes(path: Path) -> dict[str, Any]:
    with open_block_file(path) as group:
        return dict(group.attrs.asdict())


def codes(path: Path) -> np.ndarray:
    with open_block_file(path) as group:
        return np.asarray(group["embeddings"][...])  # type: ignore[index]


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    path = tmp_path / "patches.zip"
    write_patches(path, golden.tile("main"), 5, np.ones((12, 10), np.uint8))  # 3 x 2 patches
    return path


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("ahead", [0, 1], ids=["CPU", "as on a GPU"])
def test_comparison_is_recorded_in_the_block_file(
    ahead: int, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosened(monkeypatch)
    monkeypatch.setattr(block, "_read_ahead", lambda _: ahead)
    output = tmp_path / "e.zip"
    infer_block(patches, output, spec(), InferenceOptions(), {})
    record = attributes(output)
    assert record["device"] == "cpu" and record["precision"] == "bf16"
    assert record["fallback"] is None
    compared = record["compared"]
    assert 6 * 8 <= compared["pixels"] <= 6 * 20
    assert 0 < compared["largest"] <= 20 and 0.99 < compared["cosine"] < 0.99999
    assert 0.3 < compared["equal"] < 1 and 0 < compared["scale"] < 0.1


def test_reference_is_not_compared_with_itself(patches: Path, tmp_path: Path) -> None:
    infer_block(patches, tmp_path / "e.zip", spec(), InferenceOptions(), {})
    record = attributes(tmp_path / "e.zip")
    assert record["compared"] is None and record["precision"] == "float32"


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("breaks_in", [1, 4])
def test_block_that_breaks_the_contract_is_computed_in_float32(
    breaks_in: int,
    patches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No patch in bf16 remains, also of the patches that were finished before."""
    loosened(monkeypatch)
    calls = []

    def embed(tile: TileArrays, model: Any, *others: Any) -> Embedding:
        result = embed_tile(tile, model, *others)
        calls.append(model.dtype)
        if calls.count(torch.bfloat16) == breaks_in and model.dtype == torch.bfloat16:
            return dataclasses.replace(result, values=-result.values)
        return result

    monkeypatch.setattr(block, "embed_tile", embed)
    infer_block(patches, tmp_path / "e.zip", spec(), InferenceOptions(), {})
    assert calls.count(torch.bfloat16) == breaks_in and calls.count(torch.float32) == 6
    record = attributes(tmp_path / "e.zip")
    assert record["precision"] == "float32" and record["compared"] is None
    assert "it differs too much on" in record["fallback"] and "cosine -0.9" in record["fallback"]
    assert "is computed in float32: in bf16 it differs too much" in caplog.text
    monkeypatch.undo()
    infer_block(patches, tmp_path / "float32.zip", spec(), InferenceOptions(), {})
    assert np.array_equal(codes(tmp_path / "e.zip"), codes(tmp_path / "float32.zip"))
    assert not list(tmp_path.glob("*.progress"))


@pytest.mark.usefixtures("bf16")
def test_requested_precision_is_not_replaced(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = dataclasses.replace(HALF, cosine=0.9999999)
    monkeypatch.setattr("tessera_flow.inference.spot_check.HALF", strict)
    with pytest.raises(ToleranceError, match=r"In bf16 on cpu .* set precision to float32 or auto"):
        infer_block(patches, tmp_path / "e.zip", spec(precision="bf16"), InferenceOptions(), {})
    assert not (tmp_path / "e.zip").exists()


@pytest.mark.usefixtures("bf16")
def test_resumed_block_has_the_record_of_an_undisturbed_one(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosened(monkeypatch)
    undisturbed, output = tmp_path / "undisturbed.zip", tmp_path / "e.zip"
    infer_block(patches, undisturbed, spec(), InferenceOptions(), {})
    embedded = []

    def stops(*arguments: Any) -> Embedding:
        embedded.append(arguments)
        if len(embedded) == 4:
            raise KeyboardInterrupt
        return embed_tile(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(block, "embed_tile", stops)
        with pytest.raises(KeyboardInterrupt):
            infer_block(patches, output, spec(), InferenceOptions(), {})
    infer_block(patches, output, spec(), InferenceOptions(), {})
    assert output.read_bytes() == undisturbed.read_bytes()


@pytest.mark.usefixtures("bf16")
def test_tile_that_breaks_the_contract_is_computed_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tiles after it; what was written before is in bf16 and says so."""
    loosened(monkeypatch)
    for name in ("a", "b", "c"):
        shutil.copytree(golden.GOLDEN / "tiles/main", tmp_path / f"tiles/{name}")
    calls = []

    def embed(tile: TileArrays, model: Any, *others: Any) -> Embedding:
        calls.append(model.dtype)
        result = embed_tile(tile, model, *others)
        return dataclasses.replace(result, values=-result.values) if len(calls) == 2 else result

    monkeypatch.setattr(embed_folders, "embed_tile", embed)
    weights = fetch_weights(str(golden.checkpoint("v2_student_qk")))
    arguments = (tmp_path / "tiles", tmp_path / "out", weights)
    embed_folders.embed_folders(*arguments, spec(), InferenceOptions())
    assert calls == [torch.bfloat16] * 2 + [torch.float32] * 2
    records = [json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("a", "b", "c")]
    assert [record["precision"] for record in records] == ["bf16", "float32", "float32"]
    assert records[0]["fallback"] is None and records[0]["compared"]["cosine"] > 0.99
    assert "it differs too much" in records[1]["fallback"] and records[1]["compared"] is None
    calls.clear()
    with pytest.raises(ToleranceError, match="set precision to float32 or auto"):
        embed_folders.embed_folders(
            *arguments, spec(precision="bf16"), InferenceOptions(), overwrite=True
        )


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("name", ["v2_student_noqk", "v1_0_qat", "v1_1"])
def test_equal_embeddings_compare_as_equal(name: str, dtype: Any) -> None:
    """Also with random draws, which depend on the position of a pixel."""
    statistics = "mpc" if name == "v1_1" else None
    model = golden.packed(name, statistics)
    prepared = PreparedModel(spec(name), model, golden.packed(name, statistics))
    options = InferenceOptions(dtype=dtype, dim=None, min_s2=2)
    tile, origin = golden.tile("main"), (7, 3)
    embedding = embed_tile(tile, model, options, origin)
    comparison = check_patch(Sample.of(tile), embedding, prepared, options, origin)
    assert comparison.pixels >= 8 and comparison.codes == 8 * model.sizes.dims[-1]
    assert comparison.largest <= 1 and comparison.equal >= 0.99 * comparison.codes
    assert comparison.cosine > 0.9999999 and comparison.scale < 1e-5


def test_other_counts_are_an_error() -> None:
    model = golden.packed("v2_student_qk")
    prepared = PreparedModel(spec(), model, golden.packed("v2_student_qk"))
    tile, options = golden.tile("main"), InferenceOptions()
    embedding = embed_tile(tile, model, options)
    embedding.counts[..., 1] += 1
    with pytest.raises(ToleranceError, match="counts other observations than the CPU"):
        check_patch(Sample.of(tile), embedding, prepared, options, (0, 0))


def test_patch_without_embeddings_is_not_compared() -> None:
    model = golden.packed("v2_student_qk")
    prepared = PreparedModel(spec(), model, golden.packed("v2_student_qk"))
    tile, options = golden.tile("none"), InferenceOptions(min_s2=300)
    embedding = embed_tile(tile, model, options)
    compared = check_patch(Sample.of(tile), embedding, prepared, options, (0, 0))
    assert compared == Comparison()


def test_extreme_pixels_are_chosen() -> None:
    model, tile = golden.packed("v2_student_qk"), golden.tile("main")
    arrays = {name: np.array(getattr(tile, name)) for name in ARRAYS}
    arrays["sar_ascending"][0, 3, 4] = 20_000  # one outlier
    arrays["bands"][0, 7, 2], arrays["masks"][0, 7, 2] = 15_000, 1
    arrays["masks"][1:, 9, 9], arrays["masks"][0, 9, 9] = 0, 1  # one step
    arrays["bands"][0, 1, 1], arrays["masks"][0, 1, 1] = 60_000, 0  # cloud: not an observation
    tile = TileArrays(**arrays)
    embedding = embed_tile(tile, model, InferenceOptions())
    sample = Sample.of(tile)
    chosen, typical = choose_pixels(sample, embedding, model)
    places = list(zip(sample.rows[chosen].tolist(), sample.columns[chosen].tolist(), strict=True))
    extremes = {place for place, usual in zip(places, typical, strict=True) if not usual}
    assert {(3, 4), (7, 2), (9, 9)} <= set(places) and typical.sum() == 8
    assert len(set(places)) == len(places) and (1, 1) not in extremes


def test_shares_count_only_with_enough_codes() -> None:
    model = golden.packed("v2_student_qk", dtype=torch.bfloat16)
    prepared = PreparedModel(spec(), model, None)
    few = Comparison(8, 2, 0.99995, 0.001, codes=1024, equal=600, within_one=1000)
    require_tolerance(prepared, few)
    many = Comparison()
    for _ in range(8):
        many += few
    with pytest.raises(ToleranceError, match=r"64 pixels of this block \(within_one 0\.97"):
        require_tolerance(prepared, many)
    with pytest.raises(ToleranceError, match="cosine nan"):
        require_tolerance(prepared, few + dataclasses.replace(few, cosine=float("nan")))
    assert Comparison.of_array(many.to_array()) == many


@pytest.mark.slow
def test_blocks_of_an_archive_with_the_demo_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If bf16 were chosen for these weights, a block would be within the limits or in float32."""
    monkeypatch.setattr(prepared_model, "resolve_precision", lambda *_: torch.bfloat16)
    spec = ModelSpec(write_demo_weights(tmp_path), device="cpu")
    (patches, *_) = sorted(finished.rglob("patches/*.zip"))
    assert prepare(spec).precision == "float32"

    def pack(model: Any, dtype: torch.dtype, dim: int) -> None:
        model.pack(dtype)

    monkeypatch.setattr(prepared_model, "_pack_if_within_tolerance", pack)
    rounded, exact = tmp_path / "bf16.zip", tmp_path / "float32.zip"
    infer_block(patches, rounded, spec, InferenceOptions(), {})
    monkeypatch.undo()
    infer_block(patches, exact, spec, InferenceOptions(), {})
    record = attributes(rounded)
    difference = np.abs(codes(rounded).astype(int) - codes(exact))
    if record["precision"] == "float32":
        assert record["fallback"] and not difference.any()
    else:
        assert difference.max() <= HALF.largest and np.mean(difference <= 1) >= HALF.within_one
