"""Write the lock file, the requirements and the conda environments from the pins of pyproject.toml.

python tools/environments.py < FREEZE    print requirements/lock.txt, from `pip freeze --all`

tools/lock.sh calls this with the Python of an environment that holds nothing else;
tools/generate.py writes the other files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata

from packaging.requirements import Requirement

RUN = "# Needed to run:"
DEVELOP = "# Needed to test and to develop:"

PYTHON = "3.11"
"""Python version of the lock file, the conda environments and the containers."""

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Index with the CPU builds of torch; tools/torch.sh names it, too."""

CUDA126_INDEX = "https://download.pytorch.org/whl/cu126"
CUDA126_TORCH = "2.11.0"
"""Index and version of torch for CUDA 12.6, the last builds for NVIDIA GPUs below compute
capability 7.5 and for drivers below 580."""

CONDA_NAMES = {
    # bioconda's `snakemake` adds packages that this workflow does not use.
    "snakemake": "snakemake-minimal",
    "torch": "pytorch-cpu",
}
"""Names on conda-forge and bioconda that differ from those on PyPI."""

_FROM_PINS = "# Generated from pyproject.toml by `make generate`; edit that instead."
_FROM_LOCK = "# Generated from requirements/lock.txt by `make generate`; see `make lock`."


def normal(name: str) -> str:
    """Return the name of a distribution as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: Iterable[str]) -> set[str]:
    """Return the normal names of installed distributions and of all that they need in turn."""
    result: set[str] = set()
    queue = [normal(name) for name in names]
    while queue:
        name = queue.pop()
        if name not in result:
            result.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            queue += [
                normal(requirement.name)
                for requirement in requirements
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ]
    return result


def lock(freeze: str, needed: set[str]) -> str:
    """Return the text of requirements/lock.txt.

    Args:
        freeze: output of `pip freeze --all`.
        needed: normal names of the distributions that are needed to run.

    Raises:
        ValueError: the environment holds a CUDA build of torch, whose packages only Linux has.
    """
    pins = [line.replace("+cpu", "") for line in freeze.splitlines() if "==" in line]
    pins.sort(key=lambda pin: normal(pin.partition("==")[0]))
    if any(pin.startswith("nvidia-") for pin in pins):
        raise ValueError("the lock file needs the CPU build of torch, but the CUDA build came")
    run = [pin for pin in pins if normal(pin.partition("==")[0]) in needed]
    head = [
        "# Every package of a working environment, pinned; written by `make lock`.",
        "# tools/torch.sh chooses the CPU build of torch before this file is read.",
    ]
    return "\n".join([*head, RUN, *run, DEVELOP, *(p for p in pins if p not in run), ""])


def run_pins(lock: str) -> list[str]:
    """Return the pins of requirements/lock.txt that are needed to run.

    Raises:
        ValueError: the lock file lacks one of its two headings.
    """
    _, run, below = lock.partition(f"{RUN}\n")
    needed, develop, _ = below.partition(f"{DEVELOP}\n")
    if not run or not develop:
        raise ValueError("requirements/lock.txt lacks its headings: run `make lock`")
    return needed.splitlines()


def requirements(lock: str, *, gpu: bool) -> str:
    """Return `requirements/cuda.txt` (gpu) or `requirements/cpu.txt` from the text of the lock."""
    lines = [_FROM_LOCK]
    if gpu:
        lines.append("# On Linux PyPI's torch is a CUDA build, which pins its CUDA libraries.")
    else:
        lines += ["# The CPU build of torch is not on PyPI.", f"--extra-index-url {CPU_INDEX}"]
    for pin in run_pins(lock):
        if pin.startswith("torch==") and not gpu:
            lines.append(f'{pin}+cpu; sys_platform == "linux"')
            lines.append(f'{pin}; sys_platform != "linux"')
        else:
            lines.append(pin)
    return "\n".join(lines) + "\n"


def requirements_cuda126(lock: str) -> str:
    """Return `requirements/cuda126.txt` from the text of the lock: torch for CUDA 12.6 on Linux."""
    lines = [
        _FROM_LOCK,
        "# For NVIDIA GPUs below compute capability 7.5 (V100, P100) and drivers 525 to 579.",
        f"--extra-index-url {CUDA126_INDEX}",
        *(
            f"torch=={CUDA126_TORCH}+cu126" if pin.startswith("torch==") else pin
            for pin in run_pins(lock)
        ),
    ]
    return "\n".join(lines) + "\n"


def conda_environment(dependencies: Sequence[str], *, gpu: bool) -> str:
    """Return `envs/gpu.yaml` (gpu) or `envs/cpu.yaml` from pins as in pyproject.toml.

    Raises:
        ValueError: a dependency is not pinned with `==`.
    """
    lines = [
        _FROM_PINS,
        "# The package itself is not listed: the workflow's scripts find it in src/.",
        *("channels:", "  - conda-forge", "  - bioconda", "  - nodefaults"),
        *("dependencies:", f"  - python ={PYTHON}"),
    ]
    for dependency in dependencies:
        name, equals, version = dependency.partition("==")
        if not equals:
            raise ValueError(f"{dependency} is not pinned with == in pyproject.toml")
        conda = "pytorch-gpu" if gpu and name == "torch" else CONDA_NAMES.get(name, name)
        lines.append(f"  - {conda} =={version}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(lock(sys.stdin.read(), closure(["tessera-flow"])), end="")
