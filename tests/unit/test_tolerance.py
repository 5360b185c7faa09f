"""The tolerances of docs/equivalence.md, on simulated and real pixels."""

import re
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.plain import Plain, padded
from benchmarks.tiles import MODELS, write_checkpoint

from tessera_flow.demo.weights import write_demo_weights
from tessera_flow.errors import ConfigError
from tessera_flow.inference import batching, device
from tessera_flow.inference import embed as embedding
from tessera_flow.inference import model as prepared_model
from tessera_flow.inference.device import has_bf16
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.inputs import sentinel1_steps, sentinel2_steps
from tessera_flow.inference.model import ModelSpec, prepare, prepare_model
from tessera_flow.inference.tile import ARRAYS, TileArrays
from tessera_flow.inference.tolerance import (
    FLOAT32,
    HALF,
    SAME_MACHINE,
    Agreement,
    compare,
    sample_steps,
)
from tessera_flow.models.checkpoint import load_model
from tessera_flow.models.family import Model
from tessera_flow.models.layers import StackSizes
from tessera_flow.models.philox import Stream
from tessera_flow.models.quantize import V2
from tessera_flow.models.sampling import positions
from tessera_flow.models.statistics import V2_STUDENT
from tessera_flow.models.v1 import V1Sizes
from tessera_flow.tile_folders.format import read_tile_folder

from ..support import golden
from ..support.golden import checkpoint, plain, sequences

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/real/tile_31UFS_monthly"
FAMILIES = (
    "v1_0",
    "v1_0_qat",
    "v1_1",
    "v2_student_noqk",
    "v2_student_qk",
    "v2_teacher_tiny",
)
ALL = InferenceOptions(dtype="float32", min_s2=0, min_s1=0)
needs_tile = pytest.mark.skipif(not REAL.exists(), reason="../shared/real is not available")
needs_bf16 = pytest.mark.skipif(
    not has_bf16(torch.device("cpu")), reason="this processor does not compute in bfloat16"
)


def source(name: str) -> Any:
    return "mpc" if name in ("v1_1", "v1.1") else None


def corner(arrays: TileArrays, edge: int) -> TileArrays:
    result = {}
    for name in ARRAYS:
        array = getattr(arrays, name)
        result[name] = np.array(array[:, :edge, :edge] if array.ndim > 2 else array)
    return TileArrays(**result)


def window(arrays: TileArrays, rows: slice, columns: slice) -> TileArrays:
    series = {name: getattr(arrays, name) for name in ARRAYS}
    return TileArrays(
        **{k: np.array(a[:, rows, columns]) if a.ndim > 2 else a for k, a in series.items()}
    )


def tiles(edge: int) -> dict[str, TileArrays]:
    """Return simulated tiles, one with 300 dates, and real pixels if available."""
    result = {name: golden.tile(name) for name in ("main", "long")}
    if REAL.exists():
        result["real"] = corner(read_tile_folder(REAL), edge)
    return result


def values(arrays: TileArrays, model: Model) -> np.ndarray:
    return embed_tile(arrays, model, ALL).values


def assert_within(a: np.ndarray, b: np.ndarray, model: Model, bound: Agreement, case: str) -> None:
    defined = np.isfinite(a[..., 0])
    assert np.array_equal(defined, np.isfinite(b[..., 0])), case
    assert defined.any(), case
    agreement = compare(a[defined], b[defined], model.family.quantizer)
    assert not bound.violations(agreement), f"{case}: {bound.violations(agreement)}"


def with_every_step(arrays: TileArrays, model: Model) -> np.ndarray:
    """Embed with every repeated step computed, as in the definition."""
    rule, rows = model.family.rule, slice(0, arrays.shape[0])
    s2 = sentinel2_steps(arrays, rows, model.statistics)
    s1 = sentinel1_steps(arrays, rows, model.statistics, rule.empty_orbit_day)
    pixels = np.arange(len(s2.valid))
    origin = np.divmod(pixels, arrays.shape[1])
    vectors = []
    with torch.inference_mode():
        for number, (encoder, sensor) in enumerate(((model.s2, s2), (model.s1, s1))):
            vector = encoder.absent(rule.absent_length).repeat(len(pixels), 1)
            for group in rule.groups(sensor.valid, Stream(0, *origin, sensor=number)):
                x, days = sequences(sensor, group.pixels, group.sequences())
                vector[group.pixels] = encoder(torch.from_numpy(x), torch.from_numpy(days))
            vectors.append(vector)
        embeddings = model.fusion(*vectors).numpy()
    embeddings[~rule.embeddable(s2.valid, s1.valid, lambda: (s2.raw != 0).any(axis=(0, 2)))] = (
        np.nan
    )
    return embeddings.reshape(*arrays.shape, -1)[..., : model.sizes.dims[-1]]


@cache
def packed_values(name: str) -> dict[str, np.ndarray]:
    """Return the embeddings of the tiles by a model that is packed in float32."""
    model = plain(name, source(name)).pack(torch.float32)
    return {title: values(arrays, model) for title, arrays in tiles(12).items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_repeated_steps_computed_once(name: str) -> None:
    model = plain(name, source(name))
    for title, arrays in tiles(12).items():
        assert_within(
            with_every_step(arrays, model),
            packed_values(name)[title],
            model,
            FLOAT32,
            f"{name} {title}",
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_other_batches_and_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain(name, source(name)).pack(torch.float32)
    for title, arrays in tiles(12).items():
        expected = packed_values(name)[title]
        with monkeypatch.context() as patch:
            patch.setattr(embedding, "CHUNK_PIXELS", 31)
            patch.setattr(batching, "CPU_PASS_STEPS", 200)
            result = embed_tile(arrays, model, replace(ALL, batch_size=5)).values
        assert_within(expected, result, model, SAME_MACHINE, f"{name} {title}")


@pytest.fixture
def bf16_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` choose bf16, as on a GPU; processors without bf16 compute it in float32."""
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    monkeypatch.setattr(prepared_model, "resolve_precision", lambda *_: torch.bfloat16)


@pytest.mark.usefixtures("bf16_on_gpus")
@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_of_a_narrow_encoder_falls_back(name: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = ModelSpec(checkpoint(name), device="cpu", statistics=source(name))
    prepared = prepare(spec)
    assert prepared.precision == "float32" and prepared.reference is None
    assert "is computed in float32: in bf16 an encoder of width" in caplog.text
    assert prepared.fallback is not None and "an encoder of width" in prepared.fallback
    arrays = golden.tile("main")
    result = values(arrays, prepared.model)
    assert np.array_equal(result, packed_values(name)["main"], equal_nan=True)
    with pytest.raises(ConfigError, match=r"precision is bf16, but in bf16 an encoder of width"):
        prepare(replace(spec, precision="bf16"))


@needs_tile
@pytest.mark.usefixtures("bf16_on_gpus")
def test_guard_notices_that_the_demo_weights_exceed_bf16(tmp_path: Path) -> None:
    """With these weights bf16 breaks the contract on real pixels near (50, 25)."""
    path = write_demo_weights(tmp_path)
    exact, rounded = load_model(path).pack(torch.float32), load_model(path).pack(torch.bfloat16)
    tile = window(read_tile_folder(REAL), slice(45, 55), slice(20, 30))
    a, b = values(tile, exact), values(tile, rounded)
    agreement = compare(a.reshape(-1, 128), b.reshape(-1, 128), exact.family.quantizer)
    assert agreement.cosine < 0.9995 and agreement.largest > HALF.largest
    prepared = prepare(ModelSpec(path, device="cpu"))
    assert prepared.precision == "float32"
    assert (
        prepared.fallback is not None and "on simulated pixels (cosine 0.999" in prepared.fallback
    )


@needs_tile
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(14))
def test_models_that_pass_the_guard_keep_bf16_on_the_real_tile(seed: int, tmp_path: Path) -> None:
    path = write_checkpoint("v2-nano", tmp_path, seed)
    exact, rounded = load_model(path).pack(torch.float32), load_model(path)
    if prepared_model._pack_if_within_tolerance(rounded, torch.bfloat16, 128) is not None:
        pytest.skip("the guard refuses these weights")
    tile = read_tile_folder(REAL)
    assert_within(values(tile, exact), values(tile, rounded), exact, HALF, f"seed {seed}")


@pytest.fixture
def fp16_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` choose fp16, as on a GPU without bf16; this processor rounds the same way."""
    monkeypatch.setattr(prepared_model, "resolve_precision", lambda *_: torch.float16)


@pytest.mark.usefixtures("fp16_on_gpus")
@pytest.mark.parametrize("name", ["v2-nano", pytest.param("v1.0-qat", marks=pytest.mark.slow)])
def test_fp16_at_published_sizes(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(name, tmp_path)
    prepared = prepare(ModelSpec(path, device="cpu", statistics=source(name)))
    assert prepared.precision == "fp16" and prepared.fallback is None
    exact = load_model(path, statistics=source(name)).pack(torch.float32)
    edge = 4 if name == "v2-nano" else 3
    for title, arrays in tiles(edge).items():
        tile = corner(arrays, edge)
        a, b = values(tile, exact), values(tile, prepared.model)
        assert_within(a, b, exact, HALF, f"{name} {title}")
        # Ten bits of mantissa, where bf16 has seven.
        defined = np.isfinite(a[..., 0])
        assert compare(a[defined], b[defined], exact.family.quantizer).cosine > 0.99999


@pytest.mark.usefixtures("fp16_on_gpus")
def test_guard_notices_that_fp16_overflows(tmp_path: Path) -> None:
    """In float32 the factors 4e5 and 1 / 4e5 cancel out; fp16 ends at 65504."""
    path = write_checkpoint("v2-nano", tmp_path)
    content = torch.load(path, weights_only=True)
    state = content.get("model", content)
    names = [key for key in state if "layers.0.linear1." in key]
    assert len(names) == 4
    for name in names:
        state[name] *= 4e5
    for name in (key for key in state if key.endswith("layers.0.linear2.weight")):
        state[name] /= 4e5
    torch.save(content, path)
    prepared = prepare(ModelSpec(path, device="cpu"))
    assert prepared.precision == "float32"
    assert prepared.fallback is not None and prepared.fallback.startswith("in fp16 it differs")


@needs_bf16
@pytest.mark.parametrize(
    "name", ["v2-nano", "v2-small", pytest.param("v1.0-qat", marks=pytest.mark.slow)]
)
def test_bf16_at_published_sizes(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(name, tmp_path)
    model = prepare_model(ModelSpec(path, device="cpu", statistics=source(name), precision="bf16"))
    assert model.dtype == torch.bfloat16
    exact = load_model(path, statistics=source(name)).pack(torch.float32)
    edge = 12 if name == "v2-nano" else 4
    for title, arrays in tiles(edge).items():
        tile = corner(arrays, edge)
        assert_within(values(tile, exact), values(tile, model), exact, HALF, f"{name} {title}")


@needs_bf16
def test_bf16_of_one_layer_of_v1_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the published width, with the recurrent pooling."""
    stack = StackSizes(512, 1, 4, 1024)
    monkeypatch.setitem(MODELS, "v1.0-qat", ("v1.0-qat", V1Sizes(128, stack, stack, 128, 128)))
    test_bf16_at_published_sizes("v1.0-qat", tmp_path)


@needs_bf16
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v2-medium", "v2-large", "v1.0", "v1.1"])
def test_bf16_at_the_larger_published_sizes(name: str, tmp_path: Path) -> None:
    test_bf16_at_published_sizes(name, tmp_path)


@pytest.mark.usefixtures("bf16_on_gpus")
def test_model_that_bf16_distorts_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The embedding is a small difference of large numbers."""
    path = write_checkpoint("v2-nano", tmp_path)
    content = torch.load(path, weights_only=True)
    for sensor in ("s2", "s1"):
        norm = f"{sensor}_backbone.transformer_encoder.layers.5.norm2"
        content["model"][f"{norm}.weight"] *= 0.01
        content["model"][f"{norm}.bias"] += 5
    content["model"]["dim_reducer.0.bias"] = -5 * content["model"]["dim_reducer.0.weight"].sum(1)
    torch.save(content, path)
    model = prepare_model(ModelSpec(path, device="cpu"))
    assert model.dtype == torch.float32
    assert "differs too much on simulated pixels (" in caplog.text
    assert np.isfinite(values(golden.tile("main"), model)).any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_int8_products_exceed_the_tolerance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why int8 is not offered. PyTorch's dynamic quantisation is used here."""
    path = write_checkpoint("v2-nano", tmp_path)
    like = load_model(path)
    plain_model = Plain("v2-student", like.sizes)
    plain_model.load_state_dict(torch.load(path, weights_only=True)["model"])
    plain_model.eval()
    s2, s1 = sample_steps(like.statistics)
    pixels = np.arange(len(s2.valid))
    x = [torch.from_numpy(padded(s, pixels, positions, 48)) for s in (s2, s1)]
    quantized = torch.ao.quantization.quantize_dynamic(plain_model, {torch.nn.Linear})
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    with torch.inference_mode():
        agreement = compare(plain_model(*x).numpy(), quantized(*x).numpy(), V2)
    assert {"within_one", "cosine"} <= {line.split()[0] for line in HALF.violations(agreement)}


def test_sample_is_reproducible_and_similar_to_pixels() -> None:
    s2, s1 = sample_steps(V2_STUDENT)
    again = sample_steps(V2_STUDENT)[0]
    assert np.array_equal(s2.raw, again.raw) and np.array_equal(s2.valid, again.valid)
    assert s2.valid.any(axis=1).all() and s1.valid.any(axis=1).all()
    optical, radar = ((s.raw - s.mean[:, None]) / s.divisor[:, None] for s in (s2, s1))
    # The kinds take turns; the first is ordinary, the last has outliers in single steps.
    assert 0.5 < optical[:, ::5].std() < 2 and 0.5 < radar[:, ::5].std() < 2
    assert np.abs(radar[:, 1::5].mean(axis=(0, 2))).min() > 1
    assert np.abs(radar[:, 1::5]).max() > 4.5 and (radar[:, 1::5] < -3).any()
    assert optical[:, 2::5].mean() > 2 and s2.raw.min() > -0.01
    outliers = radar[:, 4::5, 0]
    assert (outliers.max(axis=0) - np.median(outliers, axis=0) > 1.5).mean() > 0.9
    steps = np.minimum(s2.valid.sum(axis=1), s1.valid.sum(axis=1))
    assert (steps == 1).sum() >= 5 and steps.max() > 20


def test_violations_are_named() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 128)).astype(np.float32)
    assert compare(a, a, V2) == Agreement(0, 1.0, 1.0, pytest.approx(1.0), 0.0)
    noisy = a + rng.normal(size=a.shape).astype(np.float32) * 0.03
    agreement = compare(a, noisy, V2)
    assert 1 < agreement.largest < 10 and 0.2 < agreement.equal < 0.8 and agreement.cosine < 0.9999
    assert [line.split()[0] for line in HALF.violations(agreement)] == ["within_one", "cosine"] or (
        "cosine" in " ".join(HALF.violations(agreement))
    )
    assert not HALF.violations(compare(a, a, V2))
    assert HALF.violations(compare(a, np.full_like(a, np.nan), V2))


def test_table_in_the_docs_equals_the_tolerances() -> None:
    text = (ROOT / "docs/equivalence.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (CPU|GPU)", line)]
    bounds = {"other batch": SAME_MACHINE, "repeated steps": FLOAT32, "bf16": HALF}
    assert len(rows) == 5
    for row in rows:
        _, _, precision, largest, equal, within, cosine, _ = (c.strip() for c in row.split("|"))
        bound = next((b for key, b in bounds.items() if key in precision), FLOAT32)
        stated = (
            int(largest),
            float(equal.rstrip(" %")) / 100,
            float(within.rstrip(" %")) / 100,
            float(cosine),
        )
        assert stated == pytest.approx(astuple(bound)[:4]), row
