"""Write the requirements and the conda environments from pins; tools/lock.sh calls this.

python tools/environments.py UV TORCH < FREEZE    write the locked requirements with hashes

FREEZE is the output of `pip freeze --all` in an environment that holds nothing else, UV the command
`uv`, which looks up hashes, TORCH the version of torch. tools/generate.py writes the other files.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
RUN, SLURM, LOCK, CUDA = (f"requirements/{name}.txt" for name in ("run", "slurm", "lock", "cuda"))

OPTIONS = ["--require-hashes", "--only-binary :all:", "--no-binary connection_pool"]
"""Options of the locked files. Only connection_pool, of Snakemake, has no wheel on PyPI."""

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

_FROM_PINS = "# Generated from pyproject.toml and requirements/ by `make generate`."
_FROM_LOCK = "# Generated from requirements/cuda.txt by `make generate`; see `make lock`."


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


def split(freeze: str, needed: set[str]) -> tuple[list[str], list[str]]:
    """Return the pins whose normal names are needed, and the others; both without torch.

    Raises:
        ValueError: the environment holds a CUDA build of torch, whose packages only Linux has.
    """
    pins = [line for line in freeze.splitlines() if "==" in line]
    pins.sort(key=lambda pin: normal(pin.partition("==")[0]))
    if any(pin.startswith("nvidia-") for pin in pins):
        raise ValueError("the lock files need the CPU build of torch, but the CUDA build came")
    pins = [pin for pin in pins if not pin.startswith("torch==")]
    run = [pin for pin in pins if normal(pin.partition("==")[0]) in needed]
    return run, [pin for pin in pins if pin not in run]


def locked(pins: Sequence[str], uv: str, *options: str) -> str:
    """Return pins as requirements with the SHA-256 of every file of each version."""
    command = [uv, "pip", "compile", "--universal", "--generate-hashes", "--quiet"]
    command += ["--python-version", PYTHON, "--no-header", "--no-annotate", *options, "-"]
    text = "\n".join(pins)
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def lock_files(
    freeze: str, needed: set[str], slurm: set[str], torch: str, uv: str
) -> dict[str, str]:
    """Return the text of each locked file by its path: packages that are needed to run, and those
    to submit jobs to Slurm. See `split` for the other arguments and errors."""
    run, others = split(freeze, needed)
    plugin, develop = split("\n".join(others), slurm)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(run))
        constraints.flush()
        cuda = blocks(locked([f"torch=={torch}"], uv, "--constraint", constraints.name))
    extra = [pin for pin in cuda if normal(pin.partition("==")[0]) not in names(run)]
    texts = {
        RUN: ("What is needed to run, without torch.", "", locked(run, uv, "--no-deps")),
        SLURM: ("To submit jobs to Slurm, beside run.txt.", "", locked(plugin, uv, "--no-deps")),
        LOCK: ("To test and to develop, without torch.", "-r run.txt\n",
               locked(develop, uv, "--no-deps")),
        CUDA: ("With torch of PyPI, on Linux a build for CUDA.", "-r run.txt\n",
               "\n".join([*extra, ""])),
    }  # fmt: skip
    head = "\n".join(["# Written by `make lock`.", *OPTIONS, ""])
    return {path: f"# {title}\n{head}{more}{pins}" for path, (title, more, pins) in texts.items()}


def blocks(text: str) -> list[str]:
    """Return the requirements of a locked file, each with its marker and hashes."""
    return re.findall(r"^\S+==(?:.*\\\n)*.*", text, re.MULTILINE)


def names(pins: Iterable[str]) -> set[str]:
    """Return the normal names of pins."""
    return {normal(pin.partition("==")[0]) for pin in pins}


def versions(*paths: str) -> dict[str, str]:
    """Return versions by normal name from locked files of the repository."""
    found = {}
    for path in paths:
        for block in blocks((ROOT / path).read_text(encoding="utf-8")):
            name, version = re.split("==|[ ;]", block)[:2]
            found[normal(name)] = version
    return found


def requirements_torch(torch: str, index: str, comment: str) -> str:
    """Return a file that installs torch alone, from an index of PyTorch."""
    return f"{_FROM_LOCK}\n# {comment}\n--index-url {index}\ntorch=={torch}\n"


def conda_environment(dependencies: Sequence[str], pins: Mapping[str, str], *, gpu: bool) -> str:
    """Return `envs/gpu.yaml` (gpu) or `envs/cpu.yaml` of the dependencies in pyproject.toml and the
    locked versions by normal name."""
    lines = [
        _FROM_PINS,
        "# The package itself is not listed: the workflow's scripts find it in src/.",
        *("channels:", "  - conda-forge", "  - bioconda", "  - nodefaults"),
        *("dependencies:", f"  - python ={PYTHON}"),
    ]
    for dependency in dependencies:
        name = Requirement(dependency).name
        conda = "pytorch-gpu" if gpu and name == "torch" else CONDA_NAMES.get(name, name)
        lines.append(f"  - {conda} =={pins[normal(name)]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    uv, torch = sys.argv[1:]
    needed, slurm = closure(["tessera-flow"]), closure(["snakemake-executor-plugin-slurm"])
    for name, text in lock_files(sys.stdin.read(), needed, slurm, torch, uv).items():
        (ROOT / name).write_text(text, encoding="utf-8")
