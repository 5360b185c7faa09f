"""Which build of torch `make install` takes, with pip itself and registries in folders."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN = "torch==2.13.0"


def registry(folder: Path, *versions: str) -> str:
    """A package registry that has these versions of torch (each without content); its address."""
    project = folder / "torch"
    project.mkdir(parents=True)
    for version in versions:
        info = f"torch-{version}.dist-info"
        with zipfile.ZipFile(project / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
            wheel.writestr(f"{info}/METADATA", f"{metadata}Requires-Dist: nowhere\n")
            tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            wheel.writestr(f"{info}/WHEEL", tags)
            wheel.writestr(f"{info}/RECORD", "")
    links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in project.glob("*.whl"))
    (project / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return folder.as_uri()


def choose(
    folder: Path, configured: str, index: str, **variables: str
) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """Run tools/torch.sh; returns the versions that it installed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TORCH"))}
    target = folder / "installed"
    done = subprocess.run(
        [str(ROOT / "tools" / "torch.sh"), sys.executable, PIN],
        env={
            **kept,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": configured,
            "PIP_TARGET": str(target),
            "TORCH_INDEX": index,
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    names = target.glob("*.dist-info") if target.exists() else ()
    return [path.name.removesuffix(".dist-info") for path in names], done


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torch is a CUDA build on Linux")


def test_a_mirror_with_the_cpu_build_is_enough(tmp_path: Path) -> None:
    mirror = registry(tmp_path / "mirror", "2.13.0", "2.13.0+cpu")
    installed, done = choose(tmp_path, mirror, (tmp_path / "gone").as_uri())
    assert (installed, done.returncode, done.stderr) == (["torch-2.13.0+cpu"], 0, "")


def test_the_index_of_pytorch_has_what_pypi_has_not(tmp_path: Path) -> None:
    """The plain build is there to be taken, and is not. What torch needs is not asked for: the
    index of PyTorch has none of it in the versions of the lock file."""
    pypi = registry(tmp_path / "pypi", "2.13.0")
    index = registry(tmp_path / "index", "2.12.0+cpu", "2.13.0+cpu")
    installed, done = choose(tmp_path, pypi, index)
    assert (installed, done.returncode, done.stderr) == (["torch-2.13.0+cpu"], 0, "")


def test_without_a_cpu_build_the_size_of_the_other_is_told(tmp_path: Path) -> None:
    """Nothing is installed yet: the lock file's `torch==2.13.0` comes with the rest."""
    pypi = registry(tmp_path / "pypi", "2.13.0")
    index = registry(tmp_path / "index", "2.12.0+cpu")
    installed, done = choose(tmp_path, pypi, index)
    assert (installed, done.returncode) == ([], 0)
    assert "pip: ERROR: No matching distribution found for torch==2.13.0+cpu" in done.stderr
    assert f"there is no CPU build of {PIN} for this Python" in done.stderr
    assert f"from {index}" in done.stderr and "several GB" in done.stderr


def test_for_a_gpu_nothing_is_chosen(tmp_path: Path) -> None:
    mirror = registry(tmp_path / "mirror", "2.13.0", "2.13.0+cpu")
    installed, done = choose(tmp_path, mirror, mirror, TORCH="gpu")
    assert (installed, done.returncode, done.stderr) == ([], 0, "")


def test_both_scripts_choose_by_the_same_one() -> None:
    for name in ("install.sh", "lock.sh"):
        assert 'tools/torch.sh "$' in (ROOT / "tools" / name).read_text()


@pytest.mark.parametrize("python", [None, "#!/bin/sh\necho '(3, 9)'\n", "junk"])
def test_an_environment_of_another_python_is_not_filled(tmp_path: Path, python: str | None) -> None:
    """`python -m venv` keeps what is there: a link to a Python that is gone since, or one of
    another version, into which the packages would go."""
    there = tmp_path / "venv" / "bin" / "python"
    there.parent.mkdir(parents=True)
    if python is None:
        there.symlink_to(tmp_path / "gone")
    else:
        there.write_text(python)
        there.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "tools" / "install.sh"), sys.executable, str(tmp_path / "venv")],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "was made by another Python than Python 3." in done.stderr, done.stderr
    assert sorted(path.name for path in there.parent.iterdir()) == ["python"]
