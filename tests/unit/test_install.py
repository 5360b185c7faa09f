"""The build of torch that `make install` takes, with pip itself and registries in folders."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tessera_flow.errors import ConfigError
from tessera_flow.jobs.state.preflight import check_python

ROOT = Path(__file__).resolve().parents[2]
PIN = "torch==2.13.0"


def registry(folder: Path, *versions: str) -> str:
    """Write a package registry with these versions of torch (empty wheels); return its URL."""
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


def run_torch_script(
    folder: Path, configured: str, index: str, **variables: str
) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """Run tools/torch.sh; return the versions that it installed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TORCH"))}
    target = folder / "installed"
    done = subprocess.run(
        [str(ROOT / "tools" / "torch.sh"), sys.executable, PIN],
        env={
            **environment,
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


def test_mirror_with_the_cpu_build_is_enough(tmp_path: Path) -> None:
    mirror = registry(tmp_path / "mirror", "2.13.0", "2.13.0+cpu")
    installed, done = run_torch_script(tmp_path, mirror, (tmp_path / "gone").as_uri())
    assert (installed, done.returncode, done.stderr) == (["torch-2.13.0+cpu"], 0, "")


def test_index_of_pytorch_is_used_when_the_registry_lacks_the_cpu_build(tmp_path: Path) -> None:
    """The plain build of the registry is not installed. Neither are requirements of torch: the
    index of PyTorch does not have them in the versions of the lock file."""
    pypi = registry(tmp_path / "pypi", "2.13.0")
    index = registry(tmp_path / "index", "2.12.0+cpu", "2.13.0+cpu")
    installed, done = run_torch_script(tmp_path, pypi, index)
    assert (installed, done.returncode, done.stderr) == (["torch-2.13.0+cpu"], 0, "")


def test_without_a_cpu_build_the_size_of_the_default_build_is_reported(tmp_path: Path) -> None:
    """Nothing is installed yet: `torch==2.13.0` comes with the lock file."""
    pypi = registry(tmp_path / "pypi", "2.13.0")
    index = registry(tmp_path / "index", "2.12.0+cpu")
    installed, done = run_torch_script(tmp_path, pypi, index)
    assert (installed, done.returncode) == ([], 0)
    assert "pip: ERROR: No matching distribution found for torch==2.13.0+cpu" in done.stderr
    assert f"has a CPU build of {PIN} for this Python" in done.stderr
    assert f"nor {index}" in done.stderr and "several GB" in done.stderr


def test_for_a_gpu_nothing_is_installed(tmp_path: Path) -> None:
    mirror = registry(tmp_path / "mirror", "2.13.0", "2.13.0+cpu")
    installed, done = run_torch_script(tmp_path, mirror, mirror, TORCH="gpu")
    assert (installed, done.returncode, done.stderr) == ([], 0, "")


def test_install_and_lock_use_the_same_script() -> None:
    for name in ("install.sh", "lock.sh"):
        assert 'tools/torch.sh "$' in (ROOT / "tools" / name).read_text()


@pytest.mark.parametrize("python", [None, "#!/bin/sh\necho '(3, 9)'\n", "junk"])
def test_environment_of_another_python_is_refused(tmp_path: Path, python: str | None) -> None:
    """`python -m venv` would keep it: a link to a removed Python, or one of another version."""
    existing = tmp_path / "venv" / "bin" / "python"
    existing.parent.mkdir(parents=True)
    if python is None:
        existing.symlink_to(tmp_path / "gone")
    else:
        existing.write_text(python)
        existing.chmod(0o755)
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
    assert sorted(path.name for path in existing.parent.iterdir()) == ["python"]


def test_slurm_profile_is_copied_once(tmp_path: Path) -> None:
    """Into the clone, not into the home folder; an existing one is never overwritten."""
    home = tmp_path / "home"
    home.mkdir()
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "profiles").symlink_to(ROOT / "profiles")
    plugin = ["-o", ".venv/.slurm"]  # is installed
    command = ["make", "-f", str(ROOT / "Makefile"), *plugin, "slurm-profile"]

    def make() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=clone,
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert make().returncode == 0
    copy = clone / "slurm" / "config.yaml"
    assert copy.read_bytes() == (ROOT / "profiles" / "slurm" / "config.yaml").read_bytes()
    copy.write_text("edited")
    again = make()
    assert again.returncode != 0
    assert "./slurm exists" in again.stderr
    assert copy.read_text() == "edited"
    assert list(home.iterdir()) == []


def test_slurm_plugin_is_installed_by_its_hashes_where_it_is_needed() -> None:
    """Not by `make install`: Snakemake imports an installed plugin whenever it starts."""
    listed = ["make", "-n", "-o", ".venv/.installed", "-W", "requirements/slurm.txt"]
    for target in ("install", "slurm-plugin", "slurm-profile", "test", "test-slurm"):
        done = subprocess.run(
            [*listed, target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        installs = "--no-deps --requirement requirements/slurm.txt" in done.stdout
        assert installs == (target != "install"), target


@pytest.mark.parametrize("name", ["DEMO", "VENV"])
def test_clean_removes_no_folder_of_others(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "mine" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("kept")
    others = {"DEMO": "absent", "VENV": "absent"} | {name: "mine"}
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "clean", *(f"{k}={v}" for k, v in others.items())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "nothing is removed" in done.stderr
    assert precious.read_text() == "kept"


@pytest.mark.parametrize("name", ["a b", "it's", "a&b", "a#b", "a{b}"])
def test_folder_that_snakemake_cannot_use_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is installed into it."""
    (tmp_path / name / "tools").mkdir(parents=True)
    script = tmp_path / name / "tools" / "install.sh"
    script.write_bytes((ROOT / "tools/install.sh").read_bytes())
    done = subprocess.run(["bash", script, sys.executable, ".venv"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"Snakemake cannot start a Python in {tmp_path / name}: " in done.stderr
    assert not (tmp_path / name / ".venv").exists()
    with pytest.raises(ConfigError, match="its path has a space or a special character"):
        check_python(str(tmp_path / name / ".venv" / "bin" / "python"))


def test_python_of_this_environment_is_accepted() -> None:
    check_python("/home/jürgen/project-1+x,y/.venv/bin/python3.11")


def test_folder_of_the_demo_can_have_a_space() -> None:
    """Every command of the target quotes it."""
    done = subprocess.run(["make", "-n", "demo", "DEMO=my demo", "INSTALLED="], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    commands = done.stdout.splitlines()
    assert sum("my demo" in line for line in commands) >= 2
    for line in commands:
        assert "my demo" not in line.replace('"my demo', '"')
