"""Generated files and pins: files that repeat a value agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tessera_flow import __version__
from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.messages import key_paths
from tessera_flow.inference.gpus import OLDER_BUILD

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import config_reference  # noqa: E402
import environments  # noqa: E402
import generate  # noqa: E402
from environments import CUDA, LOCK, RUN, SLURM, normal, versions  # noqa: E402

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PYPROJECT["optional-dependencies"]
DIRECT = [*PYPROJECT["dependencies"], *OPTIONAL["slurm"], *OPTIONAL["dev"]]


def test_generated_files_are_up_to_date() -> None:
    diff = generate.differences()
    assert not diff, f"\n{diff}\nGenerated files are out of date: run `make generate`."


def test_a_difference_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    text = generate.generated()["docs/configuration.md"]
    monkeypatch.setattr(
        generate, "generated", lambda: {"docs/configuration.md": text.replace("2000", "1000")}
    )
    assert "-| `block_size` | whole number >= 1 | `2000`" in generate.differences()


def test_default_config_is_valid_and_states_the_defaults() -> None:
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    minimal = {
        "regions": {"my_region": {"roi": "path/to/region.geojson"}},
        "periods": document["periods"],
        "model": {"weights": "v2-medium"},
    }
    assert load_config(document) == load_config(minimal)
    assert max(len(line) for line in text.splitlines()) <= 100


def test_default_config_and_page_have_every_key() -> None:
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for path in key_paths(Config):
        key = path.rpartition(".")[2]
        if not path.startswith("maps.<name>"):  # there is no map by default
            assert re.search(rf"^ *{key}:", text, flags=re.MULTILINE), path
        assert re.search(rf"^\| `{key}` \| [^|]+ \| [^|]+ \| [^|]* \| [^|]+ \|$", page, re.M), path


def test_schema_is_closed_and_described() -> None:
    schema = json.loads(config_reference.config_schema())
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == 19
    for section in sections:
        assert section["additionalProperties"] is False
        for key, entry in section["properties"].items():
            name = entry.get("$ref", "").rpartition("/")[2]
            assert entry.get("description") or schema["$defs"][name]["description"], key
    # A key of a region or period that is left out has the value of the general section.
    for name in ("Sentinel2", "Sentinel1", "MinObservations"):
        general, override = (schema["$defs"][n]["properties"] for n in (name, f"{name}Override"))
        assert all("default" in key for key in general.values())
        assert override == {
            name: {field: value for field, value in key.items() if field != "default"}
            for name, key in general.items()
        }
    grid = schema["$defs"]["GridSettings"]["properties"]
    assert (grid["block_size"]["default"], grid["block_size"]["unit"]) == (2000, "px")


def test_every_direct_dependency_is_bounded_and_locked() -> None:
    pins = versions(RUN, SLURM, LOCK, CUDA)
    for requirement in map(Requirement, DIRECT):
        bounds = {specifier.operator for specifier in requirement.specifier}
        calendar = requirement.name == "xarray"
        assert bounds in ({">=", "<"}, {"=="}) or (calendar and bounds == {">="}), requirement
        assert pins[normal(requirement.name)] in requirement.specifier, "run `make lock`"
    torch = Requirement(next(r for r in DIRECT if r.startswith("torch"))).specifier
    assert environments.CUDA126_TORCH in torch


def test_run_file_has_exactly_what_is_needed_to_run() -> None:
    names = [Requirement(text).name for text in PYPROJECT["dependencies"]]
    on_cpu = metadata.version("torch").endswith("+cpu")
    if on_cpu and sys.version_info[:2] == (3, 11):
        assert {*versions(RUN), "torch"} == environments.closure(names), "run `make lock`"
        plugin = environments.closure(Requirement(text).name for text in OPTIONAL["slurm"])
        assert set(versions(SLURM)) == plugin - set(versions(RUN)), "run `make lock`"
    assert {"pytest", "ruff"} <= set(versions(LOCK))
    assert len(versions(RUN, SLURM, LOCK)) == sum(len(versions(f)) for f in (RUN, SLURM, LOCK))
    assert "torch" not in versions(RUN, SLURM, LOCK), "the build of torch is chosen separately"


def test_every_locked_package_has_hashes_and_is_a_wheel() -> None:
    for path, least in ((RUN, 10), (SLURM, 1), (LOCK, 10), (CUDA, 10)):
        text = (ROOT / path).read_text(encoding="utf-8")
        found = environments.blocks(text)
        assert text.count("==") - text.count(" == ") >= len(found) > least
        for block in found:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}$", block), block
        assert all(option in text.splitlines() for option in environments.OPTIONS)
    assert environments.OPTIONS[:2] == ["--require-hashes", "--only-binary :all:"]
    nvidia = [name for name in versions(CUDA) if name.startswith("nvidia-")]
    assert len(nvidia) > 10 and {"torch", "triton"} <= set(versions(CUDA))


def test_pins_are_split_from_pip_freeze() -> None:
    freeze = "pytest==9.2.0\nNumPy==2.4.6\ntessera-flow @ file:///x\ntorch==2.13.0+cpu\n"
    assert environments.split(freeze, {"numpy", "torch"}) == (["NumPy==2.4.6"], ["pytest==9.2.0"])
    with pytest.raises(ValueError, match="CUDA build"):
        environments.split(f"{freeze}nvidia-cublas==13.0\n", {"torch"})


def test_no_index_is_added_to_that_of_all_packages() -> None:
    """A package of the same name on a second index could replace one of the first."""
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "--extra-index-url" not in path.read_text(encoding="utf-8"), path
    for name, version, index in (
        ("cpu", f"{versions(CUDA)['torch']}+cpu", environments.CPU_INDEX),
        ("cuda126", "2.11.0+cu126", "https://download.pytorch.org/whl/cu126"),
    ):
        text = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert lines == [f"--index-url {index}", f"torch=={version}"]
    assert environments.CPU_INDEX in (ROOT / "tools/torch.sh").read_text(encoding="utf-8")
    assert OLDER_BUILD == "requirements/cuda126.txt" and (ROOT / OLDER_BUILD).is_file()


def test_conda_environments_hold_every_pin() -> None:
    for file, torch in (("cpu", "pytorch-cpu"), ("gpu", "pytorch-gpu")):
        entries = yaml.safe_load((ROOT / f"envs/{file}.yaml").read_text(encoding="utf-8"))
        assert entries["channels"] == ["conda-forge", "bioconda", "nodefaults"]
        found = {entry.split(" ")[0]: entry.split("=")[-1] for entry in entries["dependencies"]}
        assert found.pop("python") == environments.PYTHON
        names = {"snakemake": "snakemake-minimal", "torch": torch}
        expected = {}
        for dependency in [*PYPROJECT["dependencies"], *OPTIONAL["slurm"]]:
            name = Requirement(dependency).name
            expected[names.get(name, name)] = versions(RUN, SLURM, CUDA)[normal(name)]
        assert found == expected


def test_both_containers_take_the_same_steps() -> None:
    """Their steps are valid shell, and copy files that exist."""
    definition = (ROOT / "container/apptainer.def").read_text(encoding="utf-8")
    post = definition.partition("%post\n")[2].partition("\n%")[0]
    script = "\n".join(line.strip() for line in post.splitlines() if line)
    recipe = (ROOT / "container/Containerfile").read_text(encoding="utf-8")
    run = recipe.partition("\nRUN ")[2].partition("\nENV ")[0].replace("\\\n", "")
    for text in (script, run):
        subprocess.run(["sh", "-n", "-c", text], check=True)
    steps = [step.strip() for step in run.split(";")]
    assert [s.replace("$TORCH", "{{ torch }}") for s in steps] == script.splitlines()
    copied = re.findall(r"^COPY (\S+) /opt/tessera-flow/(\S+)$", recipe, re.MULTILINE)
    listed = re.findall(r"^    (\S+) /opt/tessera-flow/(\S+)$", definition, re.MULTILINE)
    assert copied == listed and len(copied) == 9
    assert all(source == target and (ROOT / source).exists() for source, target in copied)
    python = f"python:{environments.PYTHON}-slim"
    assert f"\nFrom: {python}" in definition and f"\nFROM docker.io/library/{python}" in recipe
    assert "\n    torch=cuda.txt\n" in definition and "\nARG TORCH=cuda.txt\n" in recipe


def test_long_modules_exist() -> None:
    """A module that is renamed would start last, and run in `make check`."""
    lines = (ROOT / "tests/long.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert len(set(names)) == len(names) >= 15
    assert [name for name in names if not (ROOT / "tests" / name).is_file()] == []


def test_no_dependency_is_unused() -> None:
    """A dependency that src does not import is used by users."""
    imported = {name for path in (ROOT / "src").rglob("*.py") for name in distributions(path)}
    direct = {normal(Requirement(text).name) for text in PYPROJECT["dependencies"]}
    assert direct - imported == {"rioxarray"}


# Import names that differ from the distribution's name, or that come with another one.
DISTRIBUTIONS = {
    "odc.geo": "odc-geo",
    "odc.loader": "odc-loader",
    "odc.stac": "odc-stac",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@cache
def distributions(path: Path) -> set[str]:
    """Return the normal names of the distributions that a file imports from."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top == "tessera_flow":
                continue
            two = ".".join(name.split(".")[:2])
            result.add(normal(DISTRIBUTIONS.get(two) or DISTRIBUTIONS.get(top) or top))
    return result


def test_every_import_is_a_direct_dependency() -> None:
    """No import of src relies on a package that another one happens to need."""
    direct = {normal(Requirement(text).name) for text in PYPROJECT["dependencies"]}
    missing = {
        str(path.relative_to(ROOT)): distributions(path) - direct
        for path in (ROOT / "src").rglob("*.py")
        if distributions(path) - direct
    }
    assert not missing, f"imported, but not in pyproject.toml's dependencies: {missing}"


def test_tests_import_only_what_is_installed_for_them() -> None:
    """A package that a developer happens to have would fail only on a new machine."""
    folders = ("tests", "tools", "benchmarks", "workflow/scripts")
    files = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    known = {*versions(RUN, LOCK), "torch", "tests", "benchmarks"}
    known |= {normal(path.stem) for path in files} | {"snakemake-logger-plugin-tessera-flow"}
    files.remove(ROOT / "tests/geotessera/client.py")  # runs in the client's own environment
    missing = {path: unknown for path in files if (unknown := distributions(path) - known)}
    assert not missing, f"imported, but not in requirements/: {missing}"


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PYPROJECT["version"] == __version__ == citation["version"]
