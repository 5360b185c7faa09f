"""Generated files and pins: what is written down twice must say the same."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tessera_flow import __version__, reference
from tessera_flow.config import Config, load_config
from tessera_flow.config_errors import key_paths

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import generate  # noqa: E402

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [*PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"]["dev"]]


def normal(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


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
    schema = json.loads(reference.config_schema())
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
    lines = (ROOT / "requirements/lock.txt").read_text(encoding="utf-8").splitlines()
    locked = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            locked[normal(name)] = version
    for pin in PINS:
        name, _, version = pin.partition("==")
        assert locked.get(normal(name)) == version, f"{pin}: run `make lock`"
    assert "+" not in locked["torch"], "the CPU build is chosen by tools/install.sh"


def test_environments_hold_every_pin() -> None:
    for file, torch in (("cpu", "pytorch-cpu"), ("gpu", "pytorch-gpu")):
        entries = yaml.safe_load((ROOT / f"envs/{file}.yaml").read_text(encoding="utf-8"))
        assert entries["channels"] == ["conda-forge", "bioconda", "nodefaults"]
        pins = {entry.split(" ")[0]: entry.split("=")[-1] for entry in entries["dependencies"]}
        for dependency in PYPROJECT["dependencies"]:
            name, _, version = dependency.partition("==")
            assert pins[torch if name == "torch" else name] == version


def test_unpinned_dependency_is_refused() -> None:
    with pytest.raises(ValueError, match="numpy>=2 is not pinned"):
        reference.conda_environment(["numpy>=2"], "3.11", gpu=False)


# Import names that differ from the distribution's name, or that come with another one.
DISTRIBUTIONS = {
    "odc.geo": "odc-geo",
    "odc.loader": "odc-loader",
    "odc.stac": "odc-stac",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}


def test_every_import_is_a_direct_dependency() -> None:
    """What src imports is pinned by us, not met by chance through another package."""
    optional = PYPROJECT["optional-dependencies"]["geotessera"]  # met by a sentence where absent
    direct = {normal(pin.partition("==")[0]) for pin in (*PYPROJECT["dependencies"], *optional)}
    missing: dict[str, list[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
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
                distribution = DISTRIBUTIONS.get(two) or DISTRIBUTIONS.get(top) or top
                if normal(distribution) not in direct:
                    missing.setdefault(distribution, []).append(str(path.relative_to(ROOT)))
    assert not missing, f"imported, but not in pyproject.toml's dependencies: {missing}"


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PYPROJECT["version"] == __version__ == citation["version"]
