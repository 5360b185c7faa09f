"""GPUs that cannot be used, several GPUs in one machine, and TF32, with lists of fake GPUs."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tessera_flow.errors import ConfigError
from tessera_flow.inference import device, tf32
from tessera_flow.inference.device import job_device, probe, resolve_device
from tessera_flow.inference.gpus import (
    VISIBLE,
    Build,
    Gpu,
    candidates,
    explain,
    list_gpus,
    own_gpu,
    parse_gpus,
)

CUDA13 = Build(
    "2.13.0", "13.0", ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
)
CUDA126 = Build("2.11.0+cu126", "12.6", ("sm_50", "sm_60", "sm_70", "sm_80", "sm_86", "sm_90"))
A100 = Gpu("GPU-a", "NVIDIA A100-SXM4-40GB", "580.65.06", (8, 0))
V100 = Gpu("GPU-v", "Tesla V100-SXM2-32GB", "580.65.06", (7, 0))
P100 = Gpu("GPU-p", "Tesla P100-PCIE-16GB", "535.104.05", (6, 0))
NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"
ROWS = """\
8.0, GPU-1111, NVIDIA A100-SXM4-40GB, 580.65.06, Default, Disabled, 30000
8.0, GPU-2222, NVIDIA A100-SXM4-40GB, 580.65.06, Default, Enabled, 12
8.0, GPU-3333, NVIDIA A100-SXM4-40GB, 580.65.06, Exclusive_Process, Disabled, 3
[N/A], GPU-4444, Quadro P400, 580.65.06, Prohibited, [N/A], 0
"""
INSTANCES = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1111)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2222)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaa)
  MIG 3g.20gb     Device  1: (UUID: MIG-bbbb)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-3333)
GPU 3: Quadro P400 (UUID: GPU-4444)
"""


@pytest.mark.parametrize(
    ("gpu", "build", "error", "expected"),
    [
        (V100, CUDA13, NO_IMAGE, ["V100", "capability 7.0", "driver 580.65.06", "sm_75",
                                  "install requirements/cuda126.txt"]),
        (P100, CUDA13, "", ["P100", "6.0", "driver 535.104.05", "needs driver 580",
                            "install requirements/cuda126.txt"]),
        (replace(P100, driver="470.57.02"), CUDA13, "", ["470.57.02", "driver must be updated"]),
        (replace(A100, capability=(13, 0)), CUDA126, NO_IMAGE, ["13.0", "newer PyTorch"]),
        (A100, Build("2.13.0+cpu", None, ()), "", ["not built for CUDA", "requirements/cuda.txt"]),
        (V100, Build("2.13.0+cpu", None, ()), "", ["not built for CUDA", "cuda126.txt"]),
        (replace(A100, id=""), CUDA13, "", ["MIG mode and has no instance", "administrator"]),
        (replace(A100, mode="Exclusive_Process"), CUDA13,
         "CUDA error: all CUDA-capable devices are busy or unavailable",
         ["Exclusive_Process", "another process", "--resources gpu=1"]),
        (replace(A100, mode="Prohibited"), CUDA13, "", ["prohibits use"]),
        (A100, CUDA13, "CUDA error: uncorrectable ECC error\nmore", ["uncorrectable ECC error."]),
        (A100, CUDA13, "", ["PyTorch does not find it"]),
    ],
)  # fmt: skip
def test_message_names_capability_driver_and_build(
    gpu: Gpu, build: Build, error: str, expected: list[str]
) -> None:
    message = explain([gpu], build, error)
    assert message is not None and "\n" not in message
    for part in (gpu.driver, build.version, *expected):
        assert part in message, (part, message)


def test_no_gpu_has_no_message() -> None:
    assert explain([], CUDA13, "") is None


@pytest.mark.parametrize(
    ("capability", "build", "supported"),
    [
        ((8, 0), CUDA13, True),
        ((8, 9), CUDA13, True),  # L40S: code of 8.6 runs on it
        ((7, 0), CUDA13, False),
        ((12, 1), CUDA13, True),
        ((13, 0), CUDA13, True),  # translated from compute_120
        ((10, 3), CUDA126, False),
        ((7, 5), CUDA126, True),  # T4: code of 7.0
        ((6, 1), CUDA126, True),
        ((9, 0), Build("2", "12.8", ("sm_90a",)), True),
        ((9, 1), Build("2", "12.8", ("sm_90a",)), False),  # only for exactly this GPU
    ],
)
def test_build_supports_a_capability(
    capability: tuple[int, int], build: Build, supported: bool
) -> None:
    assert build.supports(capability) == supported


def test_gpus_and_instances_are_listed() -> None:
    gpus = parse_gpus(ROWS, INSTANCES)
    assert [gpu.id for gpu in gpus] == ["GPU-1111", "MIG-aaaa", "MIG-bbbb", "GPU-3333", "GPU-4444"]
    assert gpus[0].capability == (8, 0) and gpus[-1].capability is None
    assert gpus[1].name == "NVIDIA A100-SXM4-40GB (MIG)"
    # One that is in use comes last, one that must not be used is left out.
    assert candidates(gpus, None) == ["MIG-aaaa", "MIG-bbbb", "GPU-3333", "GPU-1111"]
    without = parse_gpus(ROWS, INSTANCES.replace("  MIG", "  no"))
    assert "" in [gpu.id for gpu in without] and "" not in candidates(without, None)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,2", ["0", "2"]), ("GPU-3333", ["GPU-3333"]), ("", []), ("1,-1,2", ["1"]), ("-1", [])],
)
def test_a_scheduler_restricts_the_choice(visible: str, expected: list[str]) -> None:
    assert candidates(parse_gpus(ROWS, INSTANCES), visible) == expected


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a program `nvidia-smi` that prints rows, or fails for fields it does not know."""

    def install(body: str) -> None:
        program = tmp_path / "bin/nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return install


def test_list_of_a_driver_that_does_not_know_the_capability(
    nvidia_smi: Callable[[str], None],
) -> None:
    nvidia_smi(
        'case "$1" in *compute_cap*) echo "Field is not valid"; exit 2;; '
        '--query*) echo "GPU-1, Tesla V100, 450.80.02, Default, Disabled, 0";; esac'
    )
    assert list_gpus() == [Gpu("GPU-1", "Tesla V100", "450.80.02")]
    nvidia_smi("exit 9")
    assert list_gpus() == []


def two() -> list[Gpu]:
    return [replace(A100, id="GPU-1"), replace(A100, id="GPU-2")]


def test_job_sees_only_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    with own_gpu(two(), tmp_path) as name:
        assert name == os.environ[VISIBLE] == "GPU-1"
    assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "1,0")
    with own_gpu(two(), tmp_path):
        assert os.environ[VISIBLE] == "1"
    assert os.environ[VISIBLE] == "1,0"


JOB = """
import sys
from pathlib import Path
from tessera_flow.inference.gpus import Gpu, own_gpu
gpus = [Gpu(name, "A100", "580.1") for name in ("GPU-1", "GPU-2")]
with own_gpu(gpus, Path(sys.argv[1])) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def test_each_job_has_its_own_gpu_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)

    def start() -> tuple["subprocess.Popen[str]", str]:
        job = subprocess.Popen(
            [sys.executable, "-c", JOB, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert job.stdout is not None
        return job, job.stdout.readline().strip()

    jobs = [start() for _ in range(4)]
    try:
        # The third and the fourth job share a GPU with one other each.
        assert [name for _, name in jobs] == ["GPU-1", "GPU-2", "GPU-1", "GPU-2"]
        jobs[0][0].kill()
        jobs[0][0].wait()
        jobs.append(start())
        assert jobs[4][1] == "GPU-1"
    finally:
        for job, _ in jobs:
            job.kill()
            job.communicate()


def test_one_gpu_needs_no_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3")
    with own_gpu(two(), tmp_path) as name:
        assert name is None and os.environ[VISIBLE] == "3"
    assert not list(tmp_path.iterdir())


def test_unusable_gpu_fails_or_runs_on_the_cpu(
    nvidia_smi: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A V100, and a PyTorch whose code does not run on it."""
    monkeypatch.delenv(VISIBLE, raising=False)
    row = "7.0, GPU-1, Tesla V100-SXM2-32GB, 580.65.06, Default, Disabled, 0"
    nvidia_smi(f'case "$1" in --query*) echo "{row}";; esac')
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(device, "_build", lambda: CUDA13)
    monkeypatch.setattr(device, "probe", lambda name: NO_IMAGE)
    reason = r"V100.*driver 580\.65\.06, compute capability 7\.0.*install requirements/cuda126\.txt"
    with pytest.raises(ConfigError, match=reason), job_device("gpu", "auto"):
        pass
    with pytest.raises(ConfigError, match=reason):
        resolve_device("cuda")
    with job_device("gpu", "cuda", "cpu") as name:
        assert name == "cpu"
    assert "running on the CPU (jobs.on_missing_gpu: cpu). Tesla V100" in caplog.text
    caplog.clear()
    assert resolve_device("auto").type == "cpu"
    assert "because the GPU cannot be used. Tesla V100" in caplog.text


def test_probe_computes() -> None:
    assert probe("cpu") is None
    if not torch.cuda.is_available():
        message = probe("cuda")
        assert message is not None and "\n" not in message


TF32 = """
import torch
from tessera_flow.inference.tf32 import forbid_tf32
before = torch.backends.cuda.matmul.allow_tf32
forbid_tf32(torch.device("cpu"))
import os
print(before, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
      os.environ["NVIDIA_TF32_OVERRIDE"])
"""


def test_tf32_is_off_where_a_variable_switches_it_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TF32],
        env=os.environ | dict.fromkeys(tf32.OVERRIDES, "1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False", "False", "0"]


def test_rounding_of_factors_is_noticed() -> None:
    def rounded(a: Tensor, b: Tensor) -> Tensor:
        bits = [x.view(torch.int32) & ~0x1FFF for x in (a, b)]
        return bits[0].view(torch.float32) @ bits[1].view(torch.float32)

    cpu = torch.device("cpu")
    assert tf32.rounds_factors(rounded, cpu)
    assert not tf32.rounds_factors(torch.matmul, cpu)
