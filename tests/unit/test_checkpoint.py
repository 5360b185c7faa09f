import dataclasses
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera_flow.errors import CheckpointError
from tessera_flow.models.checkpoint import FAMILIES, load_model, read_checkpoint, sha256_of
from tessera_flow.models.family import Family
from tessera_flow.models.v1 import V1_0, V1_0_QAT, V1_1
from tessera_flow.models.v2_student import V2_STUDENT
from tessera_flow.models.v2_teacher import V2_TEACHER

CHECKPOINTS = Path(__file__).parents[1] / "golden/checkpoints"


@pytest.fixture
def content() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(CHECKPOINTS / "v2_student_qk.pt", weights_only=True)
    return loaded


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


def test_sizes_come_from_args() -> None:
    plain = load_model(CHECKPOINTS / "v2_student_noqk.pt").sizes
    assert (plain.width, plain.num_layers, plain.nhead, plain.dim_feedforward) == (32, 2, 4, 64)
    assert not plain.qk_norm and plain.matryoshka_dims == (16, 32, 64, 128)
    normed = load_model(CHECKPOINTS / "v2_student_qk.pt").sizes
    assert (normed.width, normed.num_layers, normed.dim_feedforward) == (48, 3, 80)
    assert normed.qk_norm and normed.s2.head_width == 12


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("v1_0", V1_0),
        ("v1_0_qat", V1_0_QAT),
        ("v1_1", V1_1),
        ("v2_student_noqk", V2_STUDENT),
        ("v2_student_qk", V2_STUDENT),
        ("v2_teacher_tiny", V2_TEACHER),
    ],
)
def test_family_follows_from_the_content(name: str, family: Family, tmp_path: Path) -> None:
    # The file name is not used.
    path = tmp_path / "student_nano.pt"
    path.write_bytes((CHECKPOINTS / f"{name}.pt").read_bytes())
    assert read_checkpoint(path)[1] is family
    content = torch.load(path, weights_only=True)
    state = next(v for v in content.values() if isinstance(v, dict) and len(v) > 20)
    names = [key.replace("_orig_mod.", "") for key in state]
    recognised = [f.key for f in FAMILIES.values() if f.recognises(names)]
    assert recognised == [family.key]


def test_prefix_of_compiled_models_is_removed(tmp_path: Path, content: Any) -> None:
    content["model"] = {f"_orig_mod.{key}": value for key, value in content["model"].items()}
    result = load_model(saved(tmp_path, content)).state_dict()
    expected = load_model(CHECKPOINTS / "v2_student_qk.pt").state_dict()
    assert all(torch.equal(result[key], expected[key]) for key in expected)


def test_half_precision_weights_become_float32(tmp_path: Path, content: Any) -> None:
    content["model"] = {key: value.bfloat16() for key, value in content["model"].items()}
    model = load_model(saved(tmp_path, content))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    weight = content["model"]["s1_backbone.embedding.0.weight"].float()
    assert torch.equal(model.s1.embed_values.weight, weight)


def test_missing_or_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(CheckpointError, match=r"weights\.pt does not exist"):
        load_model(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(tmp_path)
    path.touch()
    with pytest.raises(CheckpointError, match="is empty"):
        load_model(path)


@pytest.mark.parametrize("length", [60, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, length: float) -> None:
    content = (CHECKPOINTS / "v2_student_qk.pt").read_bytes()
    path = tmp_path / "weights.pt"
    path.write_bytes(content[: int(length if length > 1 else length * len(content))])
    with pytest.raises(CheckpointError, match="its end is missing"):
        load_model(path)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\n<!DOCTYPE html><html>Virus scan warning</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (bytes(range(256)) * 40, "damaged or of another type"),
        (b"hello", "damaged or of another type"),
    ],
)
def test_file_of_another_type(tmp_path: Path, start: bytes, reason: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=reason):
        load_model(path)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_file_that_would_run_code_is_rejected(tmp_path: Path, content: Any) -> None:
    target = tmp_path / "ran"
    content["args"]["callback"] = Bomb(target)
    with pytest.raises(CheckpointError, match="more than tensors and plain containers"):
        load_model(saved(tmp_path, content))
    legacy = tmp_path / "legacy.pt"
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="more than tensors and plain containers"):
        load_model(legacy)
    legacy.write_bytes(pickle.dumps({"model": Bomb(target)}, protocol=2))
    with pytest.raises(CheckpointError, match="more than tensors and plain containers"):
        load_model(legacy)
    assert not target.exists()


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path, content: Any) -> None:
    del content["model"]["s1_backbone.attn_pool.query.bias"]
    content["model"]["s2_backbone.head.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_model(saved(tmp_path, content))
    assert "1 tensors are missing (s1_backbone.attn_pool.query.bias)" in str(error.value)
    assert "1 are not part of the model (s2_backbone.head.weight)" in str(error.value)


def test_only_the_first_of_many_tensors_are_named(tmp_path: Path, content: Any) -> None:
    content["args"]["num_layers"] = 2
    with pytest.raises(CheckpointError, match=r"36 are not part of the model .*, \.\.\.\)"):
        load_model(saved(tmp_path, content))


def test_wrong_qk_norm_in_args(tmp_path: Path, content: Any) -> None:
    content["args"]["enable_qk_norm"] = False
    with pytest.raises(CheckpointError, match=r"missing .*in_proj_weight.* not part"):
        load_model(saved(tmp_path, content))


def test_qk_norm_follows_from_the_tensors(tmp_path: Path, content: Any) -> None:
    del content["args"]["enable_qk_norm"]
    assert load_model(saved(tmp_path, content)).sizes.qk_norm


@pytest.mark.parametrize("key", ["latent_dim", "dim_feedforward", "repr_dim"])
def test_shapes_that_differ_from_args(tmp_path: Path, content: Any, key: str) -> None:
    content["args"][key] *= 2
    with pytest.raises(CheckpointError, match=r"contradict its `args`.* is \(.*\), not \("):
        load_model(saved(tmp_path, content))


def test_sizes_follow_from_the_tensors_without_args(tmp_path: Path, content: Any) -> None:
    expected = load_model(CHECKPOINTS / "v2_student_qk.pt").sizes
    del content["args"]
    sizes = load_model(saved(tmp_path, content)).sizes
    assert dataclasses.replace(sizes, matryoshka_dims=expected.matryoshka_dims) == expected
    assert sizes.matryoshka_dims == (128,)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nhead", "4", "not a positive whole number"),
        ("num_layers", 0, "not a positive whole number"),
        ("latent_dim", 12.0, "not a positive whole number"),
        ("nhead", 5, "5 heads for a width of 48"),
        ("matryoshka_dims", "16,32,256", "matryoshka_dims"),
        ("matryoshka_dims", "many", "matryoshka_dims"),
    ],
)
def test_wrong_args(tmp_path: Path, content: Any, key: str, value: object, message: str) -> None:
    content["args"][key] = value
    with pytest.raises(CheckpointError, match=message):
        load_model(saved(tmp_path, content))


def test_matryoshka_dims_can_be_a_list(tmp_path: Path, content: Any) -> None:
    content["args"]["matryoshka_dims"] = [8, 128]
    assert load_model(saved(tmp_path, content)).sizes.matryoshka_dims == (8, 128)
    del content["args"]["matryoshka_dims"]
    assert load_model(saved(tmp_path, content)).sizes.matryoshka_dims == (128,)


def test_values_that_are_not_finite(tmp_path: Path, content: Any) -> None:
    content["model"]["dim_reducer.0.bias"][3] = float("nan")
    with pytest.raises(CheckpointError, match=r"not finite \(dim_reducer\.0\.bias\)"):
        load_model(saved(tmp_path, content))


@pytest.mark.parametrize(
    "content", [{"model": {}, "args": {}}, {"epoch": 1}, [1, 2], torch.ones(2)]
)
def test_data_that_are_not_a_checkpoint(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match="is not a TESSERA checkpoint"):
        load_model(saved(tmp_path, content))


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path) == expected
    with pytest.raises(CheckpointError, match="does not exist"):
        sha256_of(tmp_path / "y")


def test_loading_does_not_change_the_weights(content: Any) -> None:
    model = load_model(CHECKPOINTS / "v2_student_qk.pt")
    state = content["model"]
    layer = "s2_backbone.transformer_encoder.1."
    joined = torch.cat([state[f"{layer}{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(model.s2.layers[1].qkv.weight, joined)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def flipped(path: Path, member: str) -> Path:
    """Flip the lowest bit of the middle byte of a member of an archive."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(p for p in archive.infolist() if p.filename.endswith(member))
        content = archive.read(info)
    start = data.index(content, info.header_offset)
    data[start + len(content) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("member", ["/data/0", "/data/7", "/data.pkl"])
def test_flipped_bit_is_detected(tmp_path: Path, content: Any, member: str) -> None:
    path = flipped(saved(tmp_path, content), member)
    with pytest.raises(CheckpointError, match=rf"damaged \(its member weights{member} has a"):
        load_model(path)


def test_damage_in_unused_tensors_is_ignored(tmp_path: Path, content: Any) -> None:
    path = saved(tmp_path, content | {"zz_optimizer": {"step": torch.ones(1000)}})
    with zipfile.ZipFile(path) as archive:
        last = max(
            (p.filename for p in archive.infolist() if "/data/" in p.filename),
            key=lambda name: int(name.rpartition("/")[2]),
        )
    assert load_model(flipped(path, last.partition("/")[2])).sizes.nhead == 4


def test_file_in_the_format_before_zip_archives(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "legacy.pt"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    result, expected = load_model(path), load_model(CHECKPOINTS / "v2_student_qk.pt")
    for key, value in expected.state_dict().items():
        assert torch.equal(result.state_dict()[key], value)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_raise_a_checkpoint_error(tmp_path: Path, legacy: bool, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    original, path = path.read_bytes(), tmp_path / "damaged.pt"
    draw, rejected = random.Random(0), 0
    for number in range(150):
        data = bytearray(original)
        for _ in range(draw.choice([1, 3, 20])):
            data[draw.randrange(6000 if number % 2 else len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            read_checkpoint(path) if legacy else load_model(path)
        except CheckpointError:
            rejected += 1
    assert rejected > 30


def test_damaged_structure_of_the_archive(tmp_path: Path, content: Any) -> None:
    path = saved(tmp_path, content)
    original = path.read_bytes()
    end = original.index(b"PK\x06\x07") + 16  # number of disks
    path.write_bytes(original[:end] + b"\2" + original[end + 1 :])
    with pytest.raises(CheckpointError, match="content is damaged"):
        load_model(path)
    name = original.index(b"weights/data/0")  # in the header before the data
    path.write_bytes(original[:name] + b"\xff" + original[name + 1 :])
    try:
        load_model(path)  # its data are undamaged
    except CheckpointError:
        pass


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda t: t.to(torch.int8), "int8"),
        (lambda t: t.to(torch.int64), "int64"),
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: t > 0, "bool"),
        (lambda t: t.to_sparse(), "sparse or nested"),
        (lambda t: t.to("meta"), "without data"),
    ],
)
def test_weights_must_be_floating_point_numbers(
    tmp_path: Path, content: Any, change: Any, name: str
) -> None:
    key = "dim_reducer.0.weight"
    content["model"][key] = change(content["model"][key])
    with pytest.raises(CheckpointError, match=rf"1 tensors are not \({key} is {name}\)"):
        load_model(saved(tmp_path, content))


def test_settings_or_tensors_of_unexpected_form(tmp_path: Path, content: Any) -> None:
    content["model"]["dim_reducer.0.weight"] = torch.tensor(1.0)
    with pytest.raises(CheckpointError):
        load_model(saved(tmp_path, content))
    del content["args"]
    for key in content["model"]:
        content["model"][key] = torch.tensor(1.0)
    with pytest.raises(CheckpointError):
        load_model(saved(tmp_path, content))
