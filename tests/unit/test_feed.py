"""The code for GPUs, run on a CPU: the same numbers as the code for CPUs, and no waiting."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tessera_flow.errors import ConfigError, NotFiniteError
from tessera_flow.inference import runs
from tessera_flow.inference.batching import TokenLimit
from tessera_flow.inference.embed import Embedding, InferenceOptions, embed_tile
from tessera_flow.inference.feed import embed_tiles
from tessera_flow.inference.runs import Item, Stages, together
from tessera_flow.inference.tile import TileArrays
from tessera_flow.inference.tolerance import FLOAT32
from tessera_flow.inference.transfers import Transfers
from tessera_flow.models.family import Model
from tessera_flow.models.layers import Encoder
from tessera_flow.models.on_device import (
    Choices,
    DeviceStream,
    draw_positions,
    position_table,
    quantize_on_device,
)
from tessera_flow.models.philox import Stream, draw_ranks
from tessera_flow.models.quantize import V1, V2, Quantizer, quantize
from tessera_flow.models.sampling import BinsV2, BinsV11, Draws, ObservationRule, draw_steps

from ..support import golden
from ..support.golden import packed
from .test_tolerance import ALL, FAMILIES, assert_within, source, tiles

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def model_of(name: str) -> Model:
    return packed(name, source(name))


def fed(tile: TileArrays, model: Model, options: InferenceOptions, **more: Any) -> Embedding:
    (result,) = embed_tiles([Item(tile, (7, 1001))], model, options, **more)
    return result


def validity(dates: int, pixels: int = 400) -> np.ndarray:
    """Return (P, T) bool with none to all of the dates valid."""
    rng = np.random.default_rng(dates)
    valid: np.ndarray = rng.random((pixels, dates)) < np.linspace(-0.02, 1.02, pixels)[:, None]
    return valid


@pytest.mark.parametrize("dates", [0, 1, 7, 8, 9, 60, 300, 420])
@pytest.mark.parametrize("rule", [BinsV2(), BinsV11()])
def test_sequences_equal_those_of_groups(rule: ObservationRule, dates: int) -> None:
    valid = validity(dates)
    none = np.zeros(len(valid), np.int64)
    expected: dict[int, np.ndarray] = {}
    for group in rule.groups(valid, Stream(0, none, none)):
        expected |= dict(zip(group.pixels.tolist(), group.sequences(), strict=True))
    choices = Choices.of(torch.from_numpy(valid.T.copy()), rule)
    lengths = choices.lengths(rule).numpy()
    table = torch.from_numpy(position_table(rule, dates))
    assert {p: len(s) for p, s in expected.items()} == {
        p: n for p, n in enumerate(lengths.tolist()) if n
    }
    for length in np.unique(lengths[lengths > 0]):
        pixels = torch.from_numpy(np.flatnonzero(lengths == length))
        steps = choices.steps(pixels, table[choices.counts[pixels], : int(length)])
        for pixel, row in zip(pixels.tolist(), steps.numpy(), strict=True):
            assert np.array_equal(row, expected[pixel])


@pytest.mark.parametrize("dates", [1, 39, 40, 41, 130])
@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_draws_equal_those_on_the_cpu(dates: int, seed: int) -> None:
    valid = validity(dates)
    rows, columns = np.arange(400) + 2**31, np.arange(400)[::-1].copy() * 10_000_000
    stream = Stream(seed, rows, columns, sensor=1, repeat=3)
    device = DeviceStream(seed, torch.from_numpy(rows), torch.from_numpy(columns), 1, 3)
    pixels = torch.tensor([399, 0, 17])
    words = device.words(pixels, 43).numpy()
    assert np.array_equal(words, stream.words(43)[pixels.numpy()])
    choices = Choices.of(torch.from_numpy(valid.T.copy()), Draws())
    every = torch.arange(400)
    positions = draw_positions(choices.counts, dates, 40, device.words(every, max(dates, 40)))
    assert np.array_equal(positions.numpy(), draw_ranks(choices.counts.numpy(), 40, stream))
    assert np.array_equal(choices.steps(every, positions).numpy(), draw_steps(valid, 40, stream))


@pytest.mark.parametrize("rule", [V1, V2])
def test_codes_equal_those_on_the_cpu(rule: Quantizer) -> None:
    with np.load(golden.GOLDEN / "prep/quantize.npz") as recorded:
        x = recorded["x"]
    x = np.concatenate([x, np.random.default_rng(0).normal(0, 1, (4000, 128)).astype(np.float32)])
    codes, scales = quantize_on_device(torch.from_numpy(x), rule)
    expected = quantize(x, rule)
    assert np.array_equal(codes.numpy(), expected[0]) and codes.dtype == torch.int8
    assert np.array_equal(scales.numpy(), expected[1])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("small", [False, True])
def test_embeddings_equal_those_on_the_cpu(
    name: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small: several runs of a tile, passes of few pixels."""
    model, options = model_of(name), ALL
    if small:
        monkeypatch.setattr(runs, "RUN_BYTES", 40_000)
        options = replace(ALL, batch_size=3)
    assert small == (len(Stages(model, options, Transfers(CPU)).runs(golden.tile("main"))) > 2)
    names = ("main", "one") if small else golden.TILES
    cases = {n: golden.tile(n) for n in names} | ({} if small else tiles(8))
    for title, tile in cases.items():
        expected = embed_tile(tile, model, ALL, (7, 1001))
        result = fed(tile, model, options)
        assert np.array_equal(result.counts, expected.counts) and result.scales is None
        assert result.pixels == expected.pixels
        if expected.pixels:
            assert_within(expected.values, result.values, model, FLOAT32, f"{name} {title}")


@pytest.mark.parametrize("name", ["v2_student_qk", "v1_0_qat", "v1_1"])
def test_int8_inside_a_region_with_minimum_counts(name: str) -> None:
    tile, model = golden.tile("main"), model_of(name)
    roi = np.ones(tile.shape, np.uint8)
    roi[:5, :4] = 0
    roi[11] = 0
    tile = replace(tile, roi=roi)
    stored = model.sizes.dims[0]
    options = InferenceOptions(dim=stored, min_s2=20, min_s1=30, repeat_times=3, seed=9)
    expected, result = embed_tile(tile, model, options, (7, 1001)), fed(tile, model, options)
    assert 0 < result.pixels == expected.pixels < 100
    assert np.array_equal(result.counts, expected.counts)
    assert result.scales is not None and expected.scales is not None
    np.testing.assert_allclose(result.scales, expected.scales, rtol=1e-5)
    off = np.abs(result.values.astype(int) - expected.values)
    assert off.max() <= 1 and np.mean(off != 0) < 1e-3
    assert result.values.dtype == np.int8 and result.values.shape[2] == stored


def test_several_tiles_are_returned_in_order_and_requested_one_ahead() -> None:
    model, requested, returned = model_of("v2_student_qk"), [], []
    names = ["main", "one", "none", "long"]

    def supply() -> Iterator[Item]:
        for name in names:
            requested.append(name)
            yield Item(golden.tile(name), (0, 0))

    for name, result in zip(names, embed_tiles(supply(), model, ALL), strict=True):
        expected = embed_tile(golden.tile(name), model, ALL)
        np.testing.assert_allclose(result.values, expected.values, atol=5e-6)
        returned.append((name, len(requested)))
    assert returned == [("main", 3), ("one", 4), ("none", 4), ("long", 4)]


class NothingToWaitFor(TorchDispatchMode):
    """Fails for an operation for whose result this machine would wait: a number, or a tensor
    whose shape depends on the data."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "item")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        assert not any(name.lstrip("_").startswith(w.lstrip("_")) for w in self.WAITING), name
        if name in ("index", "index_put_", "index_put"):
            kinds = {t.dtype for t in args[1] if isinstance(t, torch.Tensor)}
            assert torch.bool not in kinds, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["v1_0", "v1_1", "v2_student_qk"])
def test_nothing_waits_for_the_device(name: str) -> None:
    model, transfers = model_of(name), Transfers(CPU)
    expected = fed(golden.tile("main"), model, ALL)
    with NothingToWaitFor():
        with pytest.raises(AssertionError, match="nonzero"):
            torch.ones(3).nonzero()
        result = fed(golden.tile("main"), model, ALL, transfers=transfers)
    np.testing.assert_array_equal(result.values, expected.values)
    assert transfers.copies > 10 and transfers.blocking == 0


def test_memory_that_runs_out_halves_runs_and_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("v2_student_qk")
    expected = embed_tile(golden.tile("main"), model, ALL).values
    forward, start = Encoder.forward, Stages._start

    def small(self: Encoder, values: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
        if values.shape[0] * values.shape[1] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, values, *others, **more)

    def few_rows(self: Stages, item: Item, rows: slice, *others: Any) -> Any:
        if rows.stop - rows.start > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start(self, item, rows, *others)

    largest = 4
    monkeypatch.setattr(Encoder, "forward", small)
    monkeypatch.setattr(Stages, "_start", few_rows)
    with caplog.at_level(logging.WARNING):
        result = fed(golden.tile("main"), model, ALL).values
    np.testing.assert_allclose(result, expected, atol=5e-6)
    assert "12 rows of pixels: continuing with 6" in caplog.text
    assert "pixels in a pass: continuing with" in caplog.text
    assert model.max_pixels < 10
    largest = 0
    with pytest.raises(ConfigError, match="memory for one row of pixels"):
        fed(golden.tile("main"), model, ALL)


def test_a_repeated_pass_adds_no_draw_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out at the end of a pass, after the sum of the draws."""
    model, options = model_of("v1_0_qat"), replace(ALL, repeat_times=2, dtype="int8")
    expected = fed(golden.tile("main"), model, options)
    plain, calls = runs.quantize_on_device, []

    def quantized_later(embeddings: torch.Tensor, rule: Quantizer) -> Any:
        calls.append(len(embeddings))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(embeddings, rule)

    monkeypatch.setattr(runs, "quantize_on_device", quantized_later)
    result = fed(golden.tile("main"), model, options)
    assert len(calls) == 3  # the pass, and its halves
    np.testing.assert_array_equal(result.values, expected.values)
    assert expected.scales is not None and result.scales is not None
    np.testing.assert_allclose(result.scales, expected.scales, rtol=1e-5)


class CountedEnds(Transfers):
    """Counts how often everything was waited for."""

    ends = 0

    def wait_for_all(self) -> None:
        self.ends += 1
        super().wait_for_all()


def test_work_that_nobody_takes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of one stream could be used again while another one still works with it."""
    model, transfers = model_of("v2_student_qk"), CountedEnds(CPU)
    items = [Item(golden.tile("one"), (0, 0))] * 3
    assert len(list(embed_tiles(items, model, ALL, transfers))) == 3 and transfers.ends == 0
    embeddings = embed_tiles(items, model, ALL, transfers)
    next(embeddings)
    assert transfers.ends == 0
    del embeddings
    assert transfers.ends == 1

    def fail(*_: Any) -> None:
        raise NotFiniteError("no finite numbers")

    monkeypatch.setattr(runs, "require_finite", fail)
    with pytest.raises(NotFiniteError):
        list(embed_tiles(items, model, ALL, transfers))
    assert transfers.ends == 2


def test_too_little_memory_for_the_results_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stages, "_results", fail)
    with pytest.raises(ConfigError, match="not have enough memory for the vectors of a patch"):
        fed(golden.tile("one"), model_of("v2_student_qk"), ALL)


def test_runs_follow_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfers, "free_bytes", lambda self: 3 * 40_000)
    stages = Stages(model_of("v2_student_qk"), ALL, Transfers(CPU))
    rows = stages.runs(golden.tile("main"))
    assert len(rows) > 2 and rows[0].start == 0 and rows[-1].stop == 12
    assert [r.stop for r in rows[:-1]] == [r.start for r in rows[1:]]
    assert max(r.stop - r.start for r in rows) - min(r.stop - r.start for r in rows) <= 1


def test_passes_have_equally_many_tokens() -> None:
    limit = TokenLimit(4096)
    assert [limit.size(length) for length in (8, 64, 72, 5000)] == [512, 64, 56, 1]
    assert limit.reduce(10, 64) and limit.size(8) == 80 and not limit.reduce(100, 64)
    assert TokenLimit(2**23).size(8) == 65535  # as many as a GPU has groups along an axis


@pytest.mark.parametrize("name", ["v1_1", "v2_student_qk", "v2_teacher_tiny"])
def test_sequences_of_several_lengths_are_encoded_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rests of all lengths fill a pass, and the numbers remain."""
    model, shapes = model_of(name), []
    forward = Encoder.forward

    def recorded(self: Encoder, values: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
        shapes.append((values.shape[0], values.shape[1], more.get("lengths")))
        return forward(self, values, *others, **more)

    tile = golden.tile("main")
    expected = embed_tile(tile, model, ALL)
    monkeypatch.setattr(Encoder, "forward", recorded)
    result = fed(tile, model, ALL)
    lengths = [mixed for _, _, mixed in shapes if mixed is not None]
    assert len(shapes) == 2 + 2 and lengths  # two absent sensors, two passes
    assert max(len(set(mixed.tolist())) for mixed in lengths) > 2
    assert_within(expected.values, result.values, model, FLOAT32, name)


def test_rests_are_divided_into_few_passes() -> None:
    limit = TokenLimit(640)
    left = [(8, torch.arange(30)), (16, torch.arange(100, 115)), (32, torch.arange(200, 225))]
    passes = [
        (length, [part.tolist() for part in parts]) for length, parts in together(left, limit)
    ]
    assert passes == [
        (32, [list(range(200, 220))]),
        (32, [list(range(220, 225)), list(range(100, 115))]),
        (8, [list(range(30))]),
    ]
    assert together([], limit) == []


def test_arrays_of_any_kind_are_copied_to_the_device() -> None:
    transfers = Transfers(CPU)
    array = np.arange(24, dtype=np.uint16).reshape(4, 6) + 65500
    read_only = array.copy()
    read_only.flags.writeable = False
    for a in (array, read_only, array.astype(">u2"), np.asfortranarray(array)):
        tensor = transfers.upload(a)
        assert np.array_equal(tensor.numpy().view(np.uint16), array)
        a_memory = np.shares_memory(tensor.numpy(), a)
        assert not a_memory
    stack = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert np.array_equal(transfers.upload(stack[:, 1:3], stack[:, :2]).numpy()[:3], stack[:, 1:3])
    assert transfers.copies == 4 + 6  # rows of each image, without a copy in between
    both = transfers.upload(array[:1], array[:0], array[2:])
    assert np.array_equal(both.numpy().view(np.uint16), array[[0, 2, 3]])
    assert transfers.upload(array[:0]).shape == (0, 6)
    tensor = torch.arange(5, dtype=torch.int8)
    result = transfers.download(tensor)
    transfers.event().wait()
    assert result.tolist() == [0, 1, 2, 3, 4] and not np.shares_memory(result, tensor.numpy())
    assert (transfers.copies, transfers.blocking) == (13, 0)


@pytest.mark.slow
def test_the_benchmark_of_the_feed_counts_from_the_first_patch_on(tmp_path: Path) -> None:
    """Loading the model, which takes seconds, is not counted, and neither is the device."""
    command = ["-m", "benchmarks.feed", "--edge", "24", "--patches", "2", "--round", "--folder"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=600,
    )
    run = json.loads(done.stdout)
    assert run["pixels"] == 2 * 24 * 24 and run["copies"] > 20 and run["blocking"] == 0
    assert 0 < run["reading"] < run["total"] < 1.5
