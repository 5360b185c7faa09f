"""Write every generated file of the repository, or check that each is up to date.

python tools/generate.py           write
python tools/generate.py --check   exit 1 with the differences if one is out of date
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tools")]

import config_reference  # noqa: E402
import environments  # noqa: E402

from tessera_flow.atomic import write_text  # noqa: E402


def generated() -> dict[str, str]:
    """Return the text of each generated file by its path in the repository."""
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project = tomllib.load(handle)["project"]
    dependencies: list[str] = [*project["dependencies"], *project["optional-dependencies"]["slurm"]]
    pins = environments.versions(environments.RUN, environments.SLURM, environments.CUDA)
    return {
        "workflow/schemas/config.schema.json": config_reference.config_schema(),
        "docs/configuration.md": config_reference.configuration_page(),
        "workflow/sources.txt": sources(),
        "config/config.yaml": config_reference.default_config(),
        "requirements/cpu.txt": environments.requirements_torch(
            f"{pins['torch']}+cpu",
            environments.CPU_INDEX,
            "The CPU build for Linux: install with --no-deps, then run.txt.",
        ),
        "requirements/cuda126.txt": environments.requirements_torch(
            f"{environments.CUDA126_TORCH}+cu126",
            environments.CUDA126_INDEX,
            "For NVIDIA GPUs below compute capability 7.5 (V100, P100) and drivers 525 to 579: "
            "install, then run.txt.",
        ),
        "envs/cpu.yaml": environments.conda_environment(dependencies, pins, gpu=False),
        "envs/gpu.yaml": environments.conda_environment(dependencies, pins, gpu=True),
    }


def sources() -> str:
    """List the files that Snakemake fetches beside the rules if the workflow is on a git host."""
    package = ROOT / "src/tessera_flow"
    files = [ROOT / "workflow/scripts/adaptor.py"]
    for pattern in ("*.py", "*.j2", "*.css"):
        files += package.rglob(pattern)
    return "".join(f"{name}\n" for name in sorted(str(p.relative_to(ROOT)) for p in files))


def differences() -> str:
    """Return a unified diff from the present to the generated files; empty if they agree."""
    lines: list[str] = []
    for name, text in generated().items():
        path = ROOT / name
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        lines += difflib.unified_diff(
            present.splitlines(keepends=True),
            text.splitlines(keepends=True),
            name,
            f"{name} (generated)",
        )
    return "".join(lines)


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the generated files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    if parser.parse_args().check:
        diff = differences()
        if diff:
            print(f"{diff}\nGenerated files are out of date: run `make generate`.")
        return 1 if diff else 0
    for name, text in generated().items():
        write_text(ROOT / name, text)
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
