"""Requirements, conda environments and container files, all from the pins of pyproject.toml."""

from __future__ import annotations

from collections.abc import Sequence

from dependencies import DEVELOP, RUN

PYTHON = "3.11"
"""Of the conda environments and the containers: what the lock was made with."""

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where the CPU builds of torch are; tools/torch.sh names it, too."""

CONDA_NAMES = {
    "affine": "affine",
    "httpx2": "httpx2",
    "huggingface_hub": "huggingface_hub",
    "jinja2": "jinja2",
    "numpy": "numpy",
    "odc-geo": "odc-geo",
    "odc-loader": "odc-loader",
    "odc-stac": "odc-stac",
    "planetary-computer": "planetary-computer",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pyogrio": "pyogrio",
    "pyproj": "pyproj",
    "pystac": "pystac",
    "pystac-client": "pystac-client",
    "pyyaml": "pyyaml",
    "requests": "requests",
    "rasterio": "rasterio",
    "rioxarray": "rioxarray",
    "shapely": "shapely",
    # bioconda's `snakemake` adds what this workflow does not use; both have the same version.
    "snakemake": "snakemake-minimal",
    "snakemake-executor-plugin-slurm": "snakemake-executor-plugin-slurm",
    "torch": "pytorch-cpu",
    "urllib3": "urllib3",
    "xarray": "xarray",
    "zarr": "zarr",
}
"""The name on conda-forge, or on bioconda for what begins with snakemake, by the name on PyPI."""

_FROM_PINS = "# Generated from pyproject.toml by `make generate`; edit that instead."
_FROM_LOCK = "# Generated from requirements/lock.txt by `make generate`; see `make lock`."

# rasterio's wheel expects it of the system.
_PACKAGES = "libexpat1"
_BASE = f"python:{PYTHON}-slim-bookworm"
_PLACE = "/opt/tessera-flow"
_COPIED = ("LICENSE", "README.md", "Snakefile", "envs", "profiles", "pyproject.toml",
           "requirements", "src", "workflow")  # fmt: skip


def run_pins(lock: str) -> list[str]:
    """The pins of requirements/lock.txt that are needed to run.

    Raises:
        ValueError: the lock file has not its two parts.
    """
    _, run, rest = lock.partition(f"{RUN}\n")
    needed, develop, _ = rest.partition(f"{DEVELOP}\n")
    if not run or not develop:
        raise ValueError("requirements/lock.txt has lost its headings: run `make lock`")
    return needed.splitlines()


def requirements(lock: str, *, gpu: bool) -> str:
    """`requirements/cpu.txt` or `requirements/cuda.txt`: what is needed to run, for pip.

    Args:
        lock: text of requirements/lock.txt.
        gpu: the registry's own torch, which is a CUDA build on Linux, in place of the CPU one.
    """
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


def conda_environment(dependencies: Sequence[str], *, gpu: bool) -> str:
    """`envs/cpu.yaml` or `envs/gpu.yaml`, with the same pins as pyproject.toml.

    Args:
        dependencies: `name==version` as in pyproject.toml.
        gpu: with the CUDA build of PyTorch instead of the CPU one.

    Raises:
        ValueError: a dependency is not pinned with `==`, or its name on conda is not known.
    """
    lines = [
        _FROM_PINS,
        "# The package itself is not listed: the workflow's scripts find it in src/.",
        "channels:",
        "  - conda-forge",
        "  - bioconda",
        "  - nodefaults",
        "dependencies:",
        f"  - python ={PYTHON}",
    ]
    for dependency in dependencies:
        name, equals, version = dependency.partition("==")
        if not equals:
            raise ValueError(f"{dependency} is not pinned with == in pyproject.toml")
        if name not in CONDA_NAMES:
            raise ValueError(
                f"{name} has no conda name: look it up on conda-forge and enter it in "
                "tools/environments.py"
            )
        conda = "pytorch-gpu" if gpu and name == "torch" else CONDA_NAMES[name]
        lines.append(f"  - {conda} =={version}")
    return "\n".join(lines) + "\n"


def _steps(requirements: str) -> list[str]:
    """Shell commands that make the container, in order, from the copied files."""
    pip = "python -m pip install --no-cache-dir"
    return [
        "apt-get update",
        f"apt-get install --yes --no-install-recommends {_PACKAGES}",
        "rm -rf /var/lib/apt/lists/*",
        f"{pip} --requirement {_PLACE}/requirements/{requirements}",
        f"{pip} --no-deps {_PLACE}",
        "snakemake --version",
    ]


def apptainer_definition() -> str:
    """`container/apptainer.def`: builds an image with the workflow in it."""
    return "\n".join(
        [
            _FROM_PINS,
            "# In the repository:",
            "#   apptainer build tessera-flow.sif container/apptainer.def",
            "# for CPUs alone, with --build-arg requirements=cpu.txt.",
            "# In the folder that holds config/config.yaml (without --nv on CPUs):",
            "#   apptainer run --nv tessera-flow.sif --cores 8",
            "Bootstrap: docker",
            f"From: {_BASE}",
            "",
            "%arguments",
            "    requirements=cuda.txt",
            "",
            "%files",
            *(f"    {name} {_PLACE}/{name}" for name in _COPIED),
            "",
            "%post",
            "    set -eu",
            *(f"    {step}" for step in _steps("{{ requirements }}")),
            "",
            "%environment",
            "    export PYTHONNOUSERSITE=1",
            "",
            "%runscript",
            f'    exec snakemake --snakefile {_PLACE}/workflow/Snakefile "$@"',
            "",
            "%test",
            "    tessera-flow --version",
            "",
        ]
    )


def containerfile() -> str:
    """`container/Containerfile`: the same image for Podman, Docker and Kubernetes."""
    return "\n".join(
        [
            _FROM_PINS,
            "# In the repository: podman build -f container/Containerfile -t tessera-flow .",
            "# In the folder that holds config/config.yaml:",
            "#   podman run --rm -v $PWD:/data -w /data tessera-flow --cores 8",
            f"FROM docker.io/library/{_BASE}",
            "ARG REQUIREMENTS=cuda.txt",
            *(f"COPY {name} {_PLACE}/{name}" for name in _COPIED),
            "RUN set -eu; \\",
            "    " + "; \\\n    ".join(_steps("$REQUIREMENTS")),
            "ENV PYTHONNOUSERSITE=1",
            f'ENTRYPOINT ["snakemake", "--snakefile", "{_PLACE}/workflow/Snakefile"]',
            "",
        ]
    )
