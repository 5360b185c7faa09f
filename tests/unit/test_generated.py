"""Generated files and pins: what is written down twice must say the same."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tessera_flow import __version__
from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.messages import key_paths

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import config_reference  # noqa: E402
import dependencies  # noqa: E402
import environments  # noqa: E402
import generate  # noqa: E402
from dependencies import normal  # noqa: E402

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [*PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"]["dev"]]


LOCK = (ROOT / "requirements/lock.txt").read_text(encoding="utf-8")


def pins(text: str) -> dict[str, str]:
    """Versions by normal name in a requirements file."""
    lines = [line for line in text.splitlines() if line and line[0] not in "#-"]
    return {normal(name): version for name, version in (line.split("==", 1) for line in lines)}


def test_generated_files_are_up_to_date() -> None:
    found = generate.differences()
    assert not found, f"\n{found}\nGenerated files are out of date: run `make generate`."


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = generate.generated()["docs/configuration.md"]
    monkeypatch.setattr(
        generate, "generated", lambda: {"docs/configuration.md": text.replace("2000", "1000")}
    )
    assert "-| `block_size` | whole number >= 1 | `2000`" in generate.differences()


def test_default_config_is_valid_and_at_the_defaults() -> None:
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    least = {
        "regions": {"my_region": {"roi": "path/to/region.geojson"}},
        "periods": document["periods"],
        "model": {"weights": "path/to/checkpoint.pt"},
    }
    assert load_config(document) == load_config(least)
    assert max(len(line) for line in text.splitlines()) <= 100


def test_default_config_and_page_have_every_key() -> None:
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for path in key_paths(Config):
        key = path.rpartition(".")[2]
        assert re.search(rf"^ *{key}:", text, flags=re.MULTILINE), path
        assert re.search(rf"^\| `{key}` \| [^|]+ \| [^|]+ \| [^|]* \| [^|]+ \|$", page, re.M), path


def test_schema_is_closed_and_described() -> None:
    schema = json.loads(config_reference.config_schema())
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == 14
    for section in sections:
        assert section["additionalProperties"] is False
        for key, entry in section["properties"].items():
            name = entry.get("$ref", "").rpartition("/")[2]
            assert entry.get("description") or schema["$defs"][name]["description"], key
    grid = schema["$defs"]["GridSettings"]["properties"]
    assert (grid["block_size"]["default"], grid["block_size"]["unit"]) == (2000, "px")


def test_every_direct_dependency_is_pinned_and_locked() -> None:
    locked = pins(LOCK)
    for pin in PINS:
        name, _, version = pin.partition("==")
        assert locked.get(normal(name)) == version, f"{pin}: run `make lock`"
    assert "+" not in locked["torch"], "the CPU build is chosen by tools/torch.sh"


def test_the_lock_has_what_is_needed_to_run_and_no_more_in_its_first_part() -> None:
    """Its two parts together are an environment; the first one alone is, too."""
    run = pins("\n".join(environments.run_pins(LOCK)))
    names = [pin.partition("==")[0] for pin in PYPROJECT["dependencies"]]
    on_cpu = metadata.version("torch").endswith("+cpu")
    if on_cpu and sys.version_info[:2] == (3, 11):
        needed = {normal(name) for name in names} | dependencies.brought(names)
        assert set(run) == needed, "run `make lock`"
    assert {"pytest", "ruff", "geotessera"}.isdisjoint(run)
    with pytest.raises(ValueError, match="has lost its headings"):
        environments.run_pins("numpy==2.4.6\n")


def test_requirements_differ_in_torch_alone() -> None:
    cpu = environments.requirements(LOCK, gpu=False).splitlines()
    cuda = environments.requirements(LOCK, gpu=True).splitlines()
    torch = pins(LOCK)["torch"]
    assert set(cuda) - set(cpu) == {f"torch=={torch}", cuda[1]}
    assert set(cpu) - set(cuda) == {
        cpu[1],
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        f'torch=={torch}+cpu; sys_platform == "linux"',
        f'torch=={torch}; sys_platform != "linux"',
    }
    assert environments.CPU_INDEX in (ROOT / "tools/torch.sh").read_text(encoding="utf-8")


def test_environments_hold_every_pin() -> None:
    for file, torch in (("cpu", "pytorch-cpu"), ("gpu", "pytorch-gpu")):
        entries = yaml.safe_load((ROOT / f"envs/{file}.yaml").read_text(encoding="utf-8"))
        assert entries["channels"] == ["conda-forge", "bioconda", "nodefaults"]
        found = {entry.split(" ")[0]: entry.split("=")[-1] for entry in entries["dependencies"]}
        assert found.pop("python") == environments.PYTHON
        names = environments.CONDA_NAMES | {"torch": torch}
        expected = {}
        for dependency in PYPROJECT["dependencies"]:
            name, _, version = dependency.partition("==")
            expected[names[name]] = version
        assert found == expected


def test_no_conda_name_is_left_over() -> None:
    direct = {pin.partition("==")[0] for pin in PYPROJECT["dependencies"]}
    assert set(environments.CONDA_NAMES) == direct


@pytest.mark.parametrize(
    ("pin", "sentence"),
    [("numpy>=2", "numpy>=2 is not pinned"), ("attrs==26.1.0", "attrs has no conda name")],
)
def test_what_conda_cannot_have_is_refused(pin: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        environments.conda_environment([pin], gpu=False)


def test_both_containers_take_the_same_steps() -> None:
    """In the shell's own eyes correct, from files that are there."""
    definition = environments.apptainer_definition()
    post = definition.partition("%post\n")[2].partition("\n%")[0]
    script = "\n".join(line.strip() for line in post.splitlines())
    recipe = environments.containerfile()
    run = recipe.partition("\nRUN ")[2].partition("\nENV ")[0].replace("\\\n", "")
    for text in (script, run):
        subprocess.run(["sh", "-n", "-c", text], check=True)
    steps = [step.strip() for step in run.split(";")]
    assert [s.replace("$REQUIREMENTS", "{{ requirements }}") for s in steps] == script.splitlines()
    copied = re.findall(r"^COPY (\S+) /opt/tessera-flow/(\S+)$", recipe, re.MULTILINE)
    listed = re.findall(r"^    (\S+) /opt/tessera-flow/(\S+)$", definition, re.MULTILINE)
    assert copied == listed and len(copied) == 9
    assert all(source == place and (ROOT / source).exists() for source, place in copied)
    python = f"python:{environments.PYTHON}-slim"
    assert f"\nFrom: {python}" in definition and f"\nFROM docker.io/library/{python}" in recipe


def test_dependencies_page_says_what_is_installed() -> None:
    """Licences to the letter, sizes within a third; torch is heavier as a CUDA build."""
    page = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) (\S+) \| (.+) \| (.+) \| (.+) \| (\d+) \|$", page, re.M)
    assert [f"{name}=={version}" for name, version, *_ in rows] == PINS, "run `make lock`"
    assert set(dependencies.USES) == {name for name, *_ in rows}
    for name, _, use, licence, size, brought in rows:
        assert use == dependencies.USES[name]
        assert licence == dependencies.licence(name) != "not stated", name
        if name == "torch" and not metadata.version("torch").endswith("+cpu"):
            continue
        found = dependencies.megabytes(name)
        assert (found < 1.5) if size == "< 1" else (0.67 < found / float(size) < 1.5), name
        if sys.version_info[:2] == (3, 11):
            assert len(dependencies.brought([name])) == int(brought), name


@pytest.mark.skipif(not metadata.version("torch").endswith("+cpu"), reason="of the CPU build")
def test_the_size_of_an_installation_is_told() -> None:
    found = sum(map(dependencies.megabytes, pins(LOCK))) / 1e3
    for page in ("README.md", "tools/install.sh"):
        text = (ROOT / page).read_text(encoding="utf-8")
        (told,) = re.findall(r"\(about ([\d.]+) GB, (?:CPU only|a few minutes)\)", text)
        assert 0.85 < found / float(told) < 1.15, page


def test_no_dependency_is_left_over() -> None:
    """What src does not import is there for a reason that is not an import."""
    imported = {name for path in (ROOT / "src").rglob("*.py") for name in distributions(path)}
    direct = {normal(pin.partition("==")[0]) for pin in PYPROJECT["dependencies"]}
    workflow = {"snakemake", "snakemake-executor-plugin-slurm", "pyyaml"}
    users = {"xarray", "rioxarray"}
    assert direct - imported == workflow | users


# Import names that differ from the distribution's name, or that come with another one.
DISTRIBUTIONS = {
    "odc.geo": "odc-geo",
    "odc.loader": "odc-loader",
    "odc.stac": "odc-stac",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}


def distributions(path: Path) -> set[str]:
    """Normal names of the distributions that a file imports from, at least in part."""
    found = set()
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
            found.add(normal(DISTRIBUTIONS.get(two) or DISTRIBUTIONS.get(top) or top))
    return found


def test_every_import_is_a_direct_dependency() -> None:
    """What src imports is pinned by us, not met by chance through another package."""
    optional = PYPROJECT["optional-dependencies"]["geotessera"]  # met by a sentence where absent
    direct = {normal(pin.partition("==")[0]) for pin in (*PYPROJECT["dependencies"], *optional)}
    missing = {
        str(path.relative_to(ROOT)): distributions(path) - direct
        for path in (ROOT / "src").rglob("*.py")
        if distributions(path) - direct
    }
    assert not missing, f"imported, but not in pyproject.toml's dependencies: {missing}"


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PYPROJECT["version"] == __version__ == citation["version"]
