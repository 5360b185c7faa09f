"""Tests for every family: variants of files, heads, statistics, the command, the block."""

import argparse
import dataclasses
import json
import logging
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.block_file import open_block_file
from tessera_flow.cli import embed
from tessera_flow.errors import CheckpointError, ConfigError, OutputError
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import Embedding, InferenceOptions, embed_tile
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.tile import ARRAYS
from tessera_flow.models.checkpoint import inspect_checkpoint, load_model
from tessera_flow.models.family import Model
from tessera_flow.tile_folders.format import folder_origin, read_tile_folder

from .test_block_inference import write_patches

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINTS = GOLDEN / "checkpoints"
V1 = ("v1_0", "v1_0_qat", "v1_1")
EVERY = (*V1, "v2_student_noqk", "v2_student_qk", "v2_teacher_tiny")
PREFIX = "_orig_mod."


def source(name: str) -> str | None:
    return "mpc" if name == "v1_1" else None


def read(name: str) -> tuple[dict[str, Any], str]:
    """Return a checkpoint's content, and the name of the entry with the weights."""
    content: dict[str, Any] = torch.load(CHECKPOINTS / f"{name}.pt", weights_only=True)
    entry = next(k for k, v in content.items() if isinstance(v, dict) and len(v) > 20)
    return content, entry


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


def same(a: Model, b: Model) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return a.sizes == b.sizes and all(torch.equal(first[key], second[key]) for key in second)


# Files


@pytest.mark.parametrize("name", V1)
@pytest.mark.parametrize("entry", ["model_state", "model_state_dict"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_variants_of_v1_files_load(name: str, entry: str, prefixed: bool, tmp_path: Path) -> None:
    content, old = read(name)
    state = {key.replace(PREFIX, ""): value for key, value in content.pop(old).items()}
    if prefixed:  # the model was compiled, or a module of it
        state = {
            key.replace("s2_backbone.", f"s2_backbone.{PREFIX}"): v for key, v in state.items()
        }
        state = {f"{PREFIX}{key}": value for key, value in state.items()}
    content[entry] = state
    result = load_model(saved(tmp_path, content), statistics=source(name))
    assert same(result, load_model(CHECKPOINTS / f"{name}.pt", statistics=source(name)))


@pytest.mark.parametrize("name", V1)
def test_file_with_the_state_of_training_loads(name: str, tmp_path: Path) -> None:
    content, entry = read(name)
    parameters = [torch.nn.Parameter(torch.ones(3, 3))]
    optimiser = torch.optim.AdamW(parameters)
    parameters[0].sum().backward()
    optimiser.step()
    content |= {
        "optimizer_state": optimiser.state_dict(),
        "scheduler_state": {"last_epoch": 3, "_last_lr": [1e-4]},
        "scaler": {"scale": 65536.0},
        "epoch": 7,
    }
    content[entry][f"{PREFIX}segmented_matryoshka_projector.heads.1.weight"] = torch.ones(2, 2)
    result = load_model(saved(tmp_path, content), statistics=source(name))
    assert same(result, load_model(CHECKPOINTS / f"{name}.pt", statistics=source(name)))


@pytest.mark.parametrize("name", EVERY)
def test_missing_or_additional_encoder_tensors_are_rejected(name: str, tmp_path: Path) -> None:
    content, entry = read(name)
    encoder = [key for key in content[entry] if "projector" not in key]
    random = np.random.default_rng(0)
    for key in map(str, random.choice(encoder, 12, replace=False)):
        value = content[entry].pop(key)
        with pytest.raises(CheckpointError, match=r"missing|not part of the model|contradict"):
            load_model(saved(tmp_path, content), statistics=source(name))
        content[entry][key] = value
    for extra in ("s1_backbone.extra.weight", "dim_reducer.9.bias", "head.weight"):
        content[entry][extra] = torch.ones(2)
        with pytest.raises(CheckpointError, match="1 are not part of the model"):
            load_model(saved(tmp_path, content), statistics=source(name))
        del content[entry][extra]


@pytest.mark.parametrize("name", ["v2_student_qk", "v2_teacher_tiny"])
def test_projectors_are_not_part_of_v2(name: str, tmp_path: Path) -> None:
    content, entry = read(name)
    content[entry]["projector.net.0.weight"] = torch.ones(2, 2)
    with pytest.raises(CheckpointError, match=r"not part of the model \(projector"):
        load_model(saved(tmp_path, content))


def test_tensor_with_and_without_the_prefix_is_rejected(tmp_path: Path) -> None:
    content, entry = read("v1_1")
    key = next(iter(content[entry]))
    content[entry][key.removeprefix(PREFIX)] = content[entry][key]
    with pytest.raises(CheckpointError, match="with and without the prefix"):
        load_model(saved(tmp_path, content), statistics="mpc")


def test_sizes_that_contradict_the_config_are_rejected(tmp_path: Path) -> None:
    for key, value, message in (
        ("latent_dim", 16, "contradict its `config`"),
        ("s1_num_layers", 1, "not part of the model"),
        ("s2_num_layers", 3, "missing"),
        ("s1_dim_feedforward", 32, "contradict its `config`"),
        ("representation_dim", 128, "contradict its `config`"),
        ("s2_num_heads", "4", "not a positive whole number"),
    ):
        content, _ = read("v1_1")
        content["config"][key] = value
        with pytest.raises(CheckpointError, match=message):
            load_model(saved(tmp_path, content), statistics="mpc")


def test_sizes_of_the_teacher_follow_from_the_tensors(tmp_path: Path) -> None:
    content, _ = read("v2_teacher_tiny")
    content["arch"] = {}
    result = load_model(saved(tmp_path, content))
    assert same(result, load_model(CHECKPOINTS / "v2_teacher_tiny.pt"))


# Heads


def heads(name: str | Path, requested: tuple[int, int] | None = None) -> tuple[int, int]:
    path = name if isinstance(name, Path) else CHECKPOINTS / f"{name}.pt"
    sizes = inspect_checkpoint(path, requested).sizes
    return sizes.s2.nhead, sizes.s1.nhead


@pytest.mark.parametrize(("name", "usual"), [("v1_0", 8), ("v1_0_qat", 4), ("v1_1", 4)])
def test_usual_heads_of_a_file_without_heads(
    name: str, usual: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, _ = read(name)
    content.pop("config", None)
    path = saved(tmp_path, content)
    assert heads(path) == (usual, usual)
    assert f"using {usual}" in caplog.text and "--heads" in caplog.text


def test_usual_heads_of_a_student_without_heads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, _ = read("v2_student_noqk")
    del content["args"]["nhead"]
    assert heads(saved(tmp_path, content)) == (4, 4) and "using 4" in caplog.text


def test_heads_follow_from_the_norm_of_queries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, entry = read("v2_student_qk")
    del content["args"]["nhead"]
    for key, value in content[entry].items():
        if key.startswith("s1_backbone.") and key.endswith("_norm.weight"):
            content[entry][key] = torch.cat([value, value])  # 24 wide: 2 heads of 48
    assert heads(saved(tmp_path, content)) == (4, 2) and not caplog.text


def test_heads_follow_from_the_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content, _ = read("v1_1")
    content["config"] |= {"s2_num_heads": 8, "s1_num_heads": 2}
    assert heads(saved(tmp_path, content)) == (8, 2) and not caplog.text
    content, _ = read("v1_0")
    content["args"] = {"nhead": 4}
    assert heads(saved(tmp_path, content)) == (4, 4) and not caplog.text


@pytest.mark.parametrize("name", ["v1_0", "v1_0_qat", "v1_1", "v2_student_noqk"])
def test_requested_heads_override(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert heads(name, (2, 8)) == (2, 8) and not caplog.text
    arrays, options = read_tile_folder(GOLDEN / "tiles/one"), InferenceOptions(dtype="float32")
    usual, other = (
        embed_tile(arrays, load_model(CHECKPOINTS / f"{name}.pt", None, h, source(name)), options)
        for h in (None, (2, 8))
    )
    defined = np.isfinite(usual.values)
    assert np.abs(usual.values - other.values)[defined].max() > 1e-3


def test_impossible_heads_are_rejected() -> None:
    with pytest.raises(CheckpointError, match=r"5 heads for a width of 32 \(Sentinel-1\)"):
        heads("v1_1", (4, 5))
    for name in ("v2_student_qk", "v2_teacher_tiny"):  # the width of the norm implies 4
        with pytest.raises(CheckpointError, match="the number of heads"):
            heads(name, (8, 8))


# Statistics


def test_statistics_are_required_for_v1_1_only() -> None:
    with pytest.raises(ConfigError, match=r"set model\.statistics \(--statistics\) to mpc or aws"):
        load_model(CHECKPOINTS / "v1_1.pt")
    for name in EVERY:
        if name != "v1_1":
            with pytest.raises(ConfigError, match="has a single set of statistics: leave it out"):
                load_model(CHECKPOINTS / f"{name}.pt", statistics="mpc")
    with pytest.raises(ConfigError, match=r"no v1\.1 statistics for gee: choose mpc or aws"):
        load_model(CHECKPOINTS / "v1_1.pt", statistics="gee")


# The command


def run(name: str, tiles: Path, out: Path, *words: object) -> int:
    parser = argparse.ArgumentParser(prog="tessera-flow")
    embed.register(parser.add_subparsers(required=True))
    weights = CHECKPOINTS / f"{name}.pt"
    line = ["embed", "--weights", weights, "--tiles", tiles, "--out", out, "--threads", 1, *words]
    arguments = parser.parse_args([str(word) for word in line])
    result: int = arguments.func(arguments)
    return result


@pytest.mark.parametrize(
    ("name", "words", "width", "dtype"),
    [
        ("v1_0", (), 8, "float32"),
        ("v1_0_qat", (), 8, "int8"),
        ("v1_1", ("--statistics", "mpc"), 128, "int8"),
        ("v2_student_qk", (), 128, "int8"),
        ("v2_teacher_tiny", (), 96, "float32"),
    ],
)
def test_command_embeds_with_every_family(
    name: str, words: tuple[str, ...], width: int, dtype: str, tmp_path: Path
) -> None:
    tiles = GOLDEN / "tiles"
    assert run(name, tiles, tmp_path, *words) == 0
    for tile in ("main", "long", "one", "none"):
        result = np.load(tmp_path / f"{tile}.npy")
        assert result.dtype == dtype and result.shape[-1] == width
        assert (tmp_path / f"{tile}_scales.npy").exists() == (dtype == "int8")
        metadata = json.loads((tmp_path / f"{tile}.json").read_text())
        assert metadata["settings"]["dim"] == width
        assert metadata["settings"]["statistics"] == (words[1] if words else None)
    other = "int8" if dtype == "float32" else "float32"
    run(name, tiles / "one", tmp_path / "other", *words, "--format", other)
    assert np.load(tmp_path / "other/one.npy").dtype == other


def test_command_equals_the_reference_v1_1(tmp_path: Path) -> None:
    for statistics in ("mpc", "aws"):
        run("v1_1", GOLDEN / "tiles", tmp_path / statistics, "--statistics", statistics,
            "--min-s2", 0)  # fmt: skip
        for tile in ("main", "long", "one", "none"):
            expected = np.load(GOLDEN / f"v1_1/{tile}__{statistics}.npz")
            codes = np.load(tmp_path / statistics / f"{tile}.npy").astype(int)
            scales = np.load(tmp_path / statistics / f"{tile}_scales.npy")
            difference = np.abs(codes - expected["int8"])
            assert difference.max() <= 1 and np.mean(difference > 0) <= 1e-3
            np.testing.assert_allclose(scales, expected["scales"], rtol=1e-5)


def test_command_reports_missing_or_wrong_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = GOLDEN / "tiles"
    with pytest.raises(ConfigError, match="to mpc or aws"):
        run("v1_1", tiles, tmp_path / "out")
    with pytest.raises(ConfigError, match="a single set of statistics"):
        run("v1_0", tiles, tmp_path / "out", "--statistics", "aws")
    with pytest.raises(ConfigError, match=r"dim is 64, .* stored with 96 dimensions"):
        run("v2_teacher_tiny", tiles, tmp_path / "out", "--dim", 64)
    for words in (("--heads", "4,2,1"), ("--heads", "0"), ("--heads", "x"), ("--seed", "-1"),
                  ("--repeat-times", "0"), ("--statistics", "gee")):  # fmt: skip
        with pytest.raises(SystemExit):
            run("v1_0", tiles, tmp_path / "out", *words)
    assert "4,2,1 is more than two numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_of_another_seed_are_not_reused(tmp_path: Path) -> None:
    tiles = GOLDEN / "tiles/one"
    run("v1_0_qat", tiles, tmp_path)
    first = np.load(tmp_path / "one.npy")
    with pytest.raises(OutputError, match=r"other settings \(seed differ\)"):
        run("v1_0_qat", tiles, tmp_path, "--seed", 3)
    with pytest.raises(OutputError, match=r"\(heads differ\)"):
        run("v1_0_qat", tiles, tmp_path, "--heads", "4,2")
    run("v1_0_qat", tiles, tmp_path, "--seed", 3, "--overwrite")
    assert (np.load(tmp_path / "one.npy") != first).any()
    run("v1_0_qat", tiles, tmp_path, "--seed", 0, "--overwrite")
    assert np.array_equal(np.load(tmp_path / "one.npy"), first)


def test_origin_of_a_tile_folder_follows_from_its_name(tmp_path: Path) -> None:
    assert folder_origin(tmp_path / "500_1500_1000_2000") == (1500, 500)
    for name in ("main", "500_1500", "a_1_2_3", "1_2_3_4_5", "-1_2_3_4"):
        assert folder_origin(tmp_path / name) == (0, 0)


def test_tile_folders_cut_from_one_another_agree(tmp_path: Path) -> None:
    """The draws of v1.0 depend on the pixel, not on the folder that contains it."""
    full = tmp_path / "full/20_40_30_52"
    shutil.copytree(GOLDEN / "tiles/main", full)
    for x0, y0, x1, y1 in ((20, 40, 26, 45), (26, 45, 30, 52)):
        part = tmp_path / f"parts/{x0}_{y0}_{x1}_{y1}"
        part.mkdir(parents=True)
        for key in ARRAYS:
            array = np.load(full / f"{key}.npy")
            if array.ndim > 2:
                array = array[:, y0 - 40 : y1 - 40, x0 - 20 : x1 - 20]
            np.save(part / f"{key}.npy", array)
    for folder in ("full", "parts"):
        run("v1_0", tmp_path / folder, tmp_path / "out")
    together = np.load(tmp_path / "out/20_40_30_52.npy")
    for x0, y0, x1, y1 in ((20, 40, 26, 45), (26, 45, 30, 52)):
        part_values = np.load(tmp_path / f"out/{x0}_{y0}_{x1}_{y1}.npy")
        np.testing.assert_allclose(
            part_values, together[y0 - 40 : y1 - 40, x0 - 20 : x1 - 20], atol=5e-6
        )


# The block


ROI = np.ones((12, 10), np.uint8)
ROI[:4, :6] = 0
SEEDED = InferenceOptions(seed=4, repeat_times=2)
PLACE = (2000, 4000)


@cache
def embedded_as_tile(name: str) -> Embedding:
    model = load_model(CHECKPOINTS / f"{name}.pt", statistics=source(name))
    arrays = dataclasses.replace(read_tile_folder(GOLDEN / "tiles/main"), roi=ROI)
    return embed_tile(arrays, model, SEEDED, PLACE)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [5, 12])
def test_block_equals_its_tile_for_every_family(name: str, size: int, tmp_path: Path) -> None:
    arrays = read_tile_folder(GOLDEN / "tiles/main")
    write_patches(tmp_path / "patches.zip", arrays, size, ROI)
    infer_block(
        tmp_path / "patches.zip",
        tmp_path / "out.zip",
        ModelSpec(CHECKPOINTS / f"{name}.pt", statistics=source(name), device="cpu"),
        SEEDED,
        {},
        origin=PLACE,
    )
    expected = embedded_as_tile(name)
    with open_block_file(tmp_path / "out.zip") as group:
        result = {key: array[...] for key, array in group.arrays()}
    assert expected.scales is not None
    np.testing.assert_allclose(result["scales"], expected.scales, rtol=1e-5)
    difference = np.abs(result["embeddings"].astype(int) - expected.values)
    assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3
    assert np.array_equal(result["counts"], expected.counts)


def test_usual_heads_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tessera_flow"):
        load_model(CHECKPOINTS / "v1_0.pt")
    assert caplog.text.count("attention heads") == 1
