"""The forms in which people keep checkpoints: loaded with the same numbers, or named."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.errors import CheckpointError
from tessera_flow.models.checkpoint import inspect_checkpoint, load_model

CHECKPOINTS = Path(__file__).parents[1] / "golden/checkpoints"
STUDENT = "v2_student_qk"
KEYS = {
    "v1_0": "model_state",
    "v1_0_qat": "model_state",
    "v1_1": "model_state",
    STUDENT: "model",
    "v2_teacher_tiny": "encoder_state_dict",
}


def content(name: str = STUDENT) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(CHECKPOINTS / f"{name}.pt", weights_only=True)
    return loaded


def weights(name: str = STUDENT) -> dict[str, torch.Tensor]:
    return dict(content(name)[KEYS[name]])


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def write_safetensors(
    path: Path, state: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Path:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    names = {
        torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    }  # fmt: skip
    for name, value in state.items():
        raw = (
            value.contiguous().view(torch.uint8).numpy().tobytes()
            if value.ndim
            else bytes(value.itemsize)
        )
        header[name] = {
            "dtype": names[value.dtype], "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def same(path: Path, name: str = STUDENT, **options: Any) -> None:
    statistics = "mpc" if name == "v1_1" else None
    result = load_model(path, statistics=statistics, **options).state_dict()
    expected = load_model(CHECKPOINTS / f"{name}.pt", statistics=statistics, **options).state_dict()
    assert result.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(result[key], value), key


FORMS: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "several GPUs": lambda s, c: {**c, "model": {f"module.{k}": v for k, v in s.items()}},
    "each encoder on several GPUs": lambda s, c: {
        **c, "model": {k.replace("_backbone.", "_backbone.module."): v for k, v in s.items()}
    },
    "compiled on several GPUs": lambda s, c: {
        **c, "model": {f"module._orig_mod.{k}": v for k, v in s.items()}
    },
    "FSDP": lambda s, c: {
        **c, "model": {
            f"_fsdp_wrapped_module.{k.replace('.layers.', '.layers._fsdp_wrapped_module.')}": v
            for k, v in s.items()
        },
    },
    "compiled parts, FSDP, recomputed activations": lambda s, c: {
        **c, "model": {
            "_fsdp_wrapped_module._orig_mod."
            + k.replace("_backbone.", "_backbone._checkpoint_wrapped_module."): v
            for k, v in s.items()
        },
    },
    "DeepSpeed": lambda s, c: {
        "module": {f"module.{k}": v for k, v in s.items()}, "ds_config": {"zero": 1},
        "optimizer": None, "dp_world_size": 8, "args": c["args"],
    },
    "DeepSpeed in Lightning": lambda s, c: {
        "state_dict": {f"_forward_module.model.{k}": v for k, v in s.items()},
        "hyper_parameters": c["args"],
    },
    "bare": lambda s, c: s,
    "bare with a counter": lambda s, c: {**s, "epoch": 3},
    "bare on several GPUs": lambda s, c: {f"module.{k}": v for k, v in s.items()},
    "Lightning": lambda s, c: {
        "pytorch-lightning_version": "2.4.0", "epoch": 3, "callbacks": {}, "loops": {},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
        "state_dict": {f"model.{k}": v for k, v in s.items()}
        | {"criterion.weight": torch.ones(3)},
        "hyper_parameters": c["args"],
    },
    "Lightning with nested settings": lambda s, c: {
        "state_dict": {f"net.encoder.{k}": v for k, v in s.items()},
        "hyper_parameters": {"lr": 0.1, "args": c["args"]},
    },
    "parameters": lambda s, c: {
        **c, "model": {k: torch.nn.Parameter(v) for k, v in s.items()}
    },
    "another entry": lambda s, c: {"student_weights": s, "args": c["args"]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_checkpoint_have_the_same_weights(tmp_path: Path, form: str) -> None:
    same(saved(tmp_path / "weights.pt", FORMS[form](weights(), content())))


@pytest.mark.parametrize("name", KEYS)
def test_bare_state_dicts_and_safetensors_of_every_family(tmp_path: Path, name: str) -> None:
    # The recorded v1.0 and v1.1 models are smaller than the published ones, as are their heads.
    heads = inspect_checkpoint(CHECKPOINTS / f"{name}.pt").sizes
    options = {"heads": (heads.s2.nhead, heads.s1.nhead)}
    same(saved(tmp_path / "model.pth", weights(name)), name, **options)
    same(write_safetensors(tmp_path / "model.safetensors", weights(name)), name, **options)


def test_sizes_in_the_metadata_of_safetensors_are_used(tmp_path: Path) -> None:
    args = {**content()["args"], "matryoshka_dims": "16,128"}
    path = write_safetensors(tmp_path / "x", weights(), {"format": "pt", "args": json.dumps(args)})
    assert load_model(path).sizes.matryoshka_dims == (16, 128)


def test_tensors_outside_the_model_are_named_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "x.ckpt", FORMS["Lightning"](weights(), content()))
    load_model(path)
    assert "1 tensors outside `model` are not part of the model" in caplog.text
    assert "criterion.weight" in caplog.text


def test_half_precision_is_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = {key: value.half() for key, value in weights().items()}
    for path in (
        saved(tmp_path / "half.pt", {"model": half, "args": content()["args"]}),
        write_safetensors(tmp_path / "half.safetensors", half),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_model(path)
        assert "half precision (float16): embeddings differ slightly" in caplog.text
    caplog.clear()
    load_model(CHECKPOINTS / f"{STUDENT}.pt")
    assert "half precision" not in caplog.text


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda s, c: {"model": s, "state_dict": s, "args": c["args"]},
            r"several sets of weights \(`model` and `state_dict`\)",
        ),
        (
            lambda s, c: {"a": s, "b": s, "args": c["args"]},
            r"several sets of weights \(`a` and `b`\)",
        ),
        (
            lambda s, c: {f"{p}.{k}": v for p in ("student", "ema") for k, v in s.items()},
            r"several models \(ema\.s2_backbone, student\.s2_backbone\)",
        ),
        (
            lambda s, c: {**c, "model": s | {f"module.{k}": v for k, v in s.items()}},
            "with and without the prefix of a wrapped model",
        ),
        (
            lambda s, c: {k.removeprefix("s2_backbone."): v for k, v in s.items() if "s2_b" in k},
            "the encoder of a single sensor",
        ),
        (
            lambda s, c: {
                **c,
                "model": {"s2_backbone._fsdp_wrapped_module._flat_param": s.popitem()[1]},
            },
            r"divided among processes by FSDP or DeepSpeed .*_flat_param is a flat parameter",
        ),
        (
            lambda s, c: {"module": {k: torch.empty(0) for k in s}, "ds_config": {}},
            r"divided among processes by FSDP or DeepSpeed .* is empty\): .*zero_to_fp32\.py",
        ),
        (
            lambda s, c: {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
            "the state of an optimiser and no weights",
        ),
        (
            lambda s, c: {"state_dict": {"layer1.0.conv1.weight": torch.ones(3)}},
            r"tensors of another model: layer1\.0\.conv1\.weight",
        ),
        (
            lambda s, c: {**c, "args": argparse.Namespace(**c["args"])},
            r"such as argparse\.Namespace, which could run code .* torch\.save\(",
        ),
        (
            lambda s, c: torch.nn.Linear(2, 2),
            r"such as torch\.nn\.modules\.linear\.Linear, .*torch\.save\(",
        ),
    ],
)
def test_ambiguous_or_other_content_is_named(
    tmp_path: Path, made: Callable[[Any, Any], object], message: str
) -> None:
    path = saved(tmp_path / "x.pt", made(weights(), content()))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    assert "damaged" not in str(error.value)


class Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def checkpoint_bytes() -> bytes:
    return (CHECKPOINTS / f"{STUDENT}.pt").read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: gzip.compress(checkpoint_bytes()), "is a gzip file: unpack it"),
        (lambda: zipped("ckpt/student.pt", checkpoint_bytes()), r"zip archive with ckpt/student"),
        (lambda: tarred("student.pt"), "is a tar archive: unpack it"),
        (lambda: tarred("sys_info", "pickle", "storages", "tensors"), r"PyTorch before 0\.1\.10"),
        (npz, r"a NumPy archive \(\.npz\)"),
        (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.4.0" + bytes(90), "is an ONNX model"),
        (lambda: pickle.dumps({"model": [1.0]}), r"a Python pickle that torch\.save did not"),
        (lambda: b"\xef\xbb\xbf<HTML><body>", "is a web page"),
        (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "an XML document"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (lambda: b'{"weight_map": {}}', "a JSON document"),
        (lambda: b"GGUF" + bytes(100), "a GGUF file"),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_named(
    tmp_path: Path, data: Callable[[], bytes], message: str
) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(data())
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    assert "damaged" not in str(error.value)


def test_torchscript_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    torch.jit.script(Scripted()).save(str(path))
    with pytest.raises(CheckpointError, match=r"a TorchScript archive.*state_dict\(\)"):
        load_model(path)


def test_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it is a folder"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"it is a folder\): name .*model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    with pytest.raises(CheckpointError, match="several parts together"):
        load_model(tmp_path)
    (tmp_path / "data.pkl").touch()
    with pytest.raises(CheckpointError, match="unpacked archive of a PyTorch checkpoint"):
        load_model(tmp_path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], more: bytes = b"") -> Path:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    changed = change(header)
    text = (changed if isinstance(changed, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :] + more)
    return path


NAME = "dim_reducer.0.bias"


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda h: h[NAME].update(dtype="F8_E4M3"), b"", f"{NAME} has the type F8_E4M3"),
        (lambda h: h[NAME].update(shape=[-1]), b"", f"{NAME} has a shape or position"),
        (lambda h: h[NAME].update(shape=[1]), b"", f"the bytes of {NAME} do not follow"),
        (lambda h: h.pop(NAME), b"", "do not follow"),
        (lambda h: None, b"\0" * 3, "3 bytes follow the last tensor"),
        (lambda h: h[NAME].pop("data_offsets"), b"", "a wrong header"),
        (lambda h: '{"a": {}, "a": {}}', b"", "a name occurs twice"),
        (lambda h: "{" + "x" * 50, b"", "a wrong header"),
    ],
)
def test_safetensors_that_break_the_format(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], more: bytes, message: str
) -> None:
    path = rewritten(write_safetensors(tmp_path / "x.safetensors", weights()), change, more)
    with pytest.raises(CheckpointError, match=rf"safetensors file with .*{message}"):
        load_model(path)


@pytest.mark.parametrize("length", [100, -1])
def test_truncated_safetensors(tmp_path: Path, length: int) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", weights())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="safetensors file whose end is missing"):
        load_model(path)
