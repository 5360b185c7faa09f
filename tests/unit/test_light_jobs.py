"""Jobs import only the libraries they need: a job that starts PyTorch takes seconds and memory."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ..support.pipeline import write_box
from .test_layers import MODULES, PACKAGES, ROOT, SCRIPTS, package_of

NEEDS_TORCH = {"site_infer", "weights"}
"""Scripts that load a checkpoint. `infer` imports PyTorch when its job has no worker."""
SEARCHES = {"items", "plan"}
"""Scripts that search archives."""
LIGHT_MODULES = [
    name
    for name in MODULES
    if package_of(name).partition(".")[0] in ("products", "geotessera", "jobs")
] + ["tile_folders.importer", "tile_folders.exporter", "tile_folders.tile_list"]
HEAVY = {
    "torch": NEEDS_TORCH,
    "transformers": set(),
    "huggingface_hub": {"weights"},
    "pystac_client": SEARCHES,
    "pandas": {"download", "label_map"},
    "odc.stac": {"download"},
    "scipy": {"download", "label_map"},
}
"""Libraries that take long to import or much memory, and the scripts that may import them."""


def script_imports(path: Path) -> list[str]:
    """Return the modules of the package that a script imports, also through the adaptor.

    `stitch_inputs` of the adaptor imports `products.inputs` when it is called.
    """
    text = path.read_text(encoding="utf-8")
    modules = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tessera_flow"):
            modules.append(node.module or "")
    if "stitch_inputs" in text:
        modules.append("tessera_flow.products.inputs")
    return modules


ADAPTOR = next(path for path in SCRIPTS if path.stem == "adaptor")
SHARED = [name for name in script_imports(ADAPTOR) if name != "tessera_flow.products.inputs"]


IMPORT_CHAINS = """
import importlib, json, os, sys

def imported(names):
    for name in names:
        importlib.import_module(name)
    return [name for name in HEAVY if name in sys.modules]

print(json.dumps(imported(FIRST)), flush=True)
for chain in CHAINS:
    if not os.fork():
        for names in chain:
            print(json.dumps(imported(names)), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""
"""Imports modules, then those of each chain in a process that has imported the first ones only."""


def loaded(first: list[str], chains: list[list[list[str]]]) -> list[set[str]]:
    """Import modules, and then those of chains of stages, one stage after the other.

    Each chain has a process of its own, in which nothing but `first` was imported before.

    Returns the heavy libraries that have been loaded at the end of each stage, `first` being one.
    """
    values = {
        "HEAVY": list(HEAVY),
        "FIRST": sorted(set(first)),
        "CHAINS": [[sorted(set(stage)) for stage in chain] for chain in chains],
    }
    program = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + IMPORT_CHAINS
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [set(json.loads(line)) for line in done.stdout.splitlines()]


def allowed(script: str) -> frozenset[str]:
    return frozenset(library for library, scripts in HEAVY.items() if script in scripts)


GROUPS: dict[frozenset[str], list[Path]] = {}
"""Scripts by the heavy libraries that they may import."""
for _path in SCRIPTS:
    if _path != ADAPTOR:
        GROUPS.setdefault(allowed(_path.stem), []).append(_path)


NONE: frozenset[str] = frozenset()
"""The group of the scripts that may import no heavy library; what it imports all others may."""


def chains() -> list[list[frozenset[str]]]:
    """Divide the other groups into chains in which each may import what the one before it may.

    One process imports a chain, in this order: what a group loads that it may not is seen as if it
    had a process of its own.
    """
    result: list[list[frozenset[str]]] = []
    for libraries in sorted(GROUPS, key=lambda libraries: (len(libraries), sorted(libraries))):
        if libraries == NONE:
            continue
        chain = next((chain for chain in result if chain[-1] <= libraries), None)
        if chain is None:
            result.append([libraries])
        else:
            chain.append(libraries)
    return result


LIGHT = "modules of light packages"


@pytest.fixture(scope="module")
def loaded_by_group() -> dict[frozenset[str] | str, set[str]]:
    """The heavy libraries that are loaded after the imports of each group, and of `LIGHT`."""

    def imports(group: frozenset[str]) -> list[str]:
        return [name for path in GROUPS[group] for name in [*SHARED, *script_imports(path)]]

    groups = chains()
    found = loaded(
        imports(NONE),
        [
            *([imports(group) for group in chain] for chain in groups),
            [[f"tessera_flow.{name}" for name in LIGHT_MODULES]],
        ],
    )
    order = [NONE, *(group for chain in groups for group in chain), LIGHT]
    return dict(zip(order, found, strict=True))


def test_the_named_scripts_exist() -> None:
    names = {path.stem for path in SCRIPTS}
    assert set().union(*HEAVY.values()) <= names
    stitch = next(path for path in SCRIPTS if path.stem == "stitch_arrays")
    assert "tessera_flow.products.arrays" in script_imports(stitch)


@pytest.mark.parametrize(
    "libraries", list(GROUPS), ids=lambda libraries: "+".join(sorted(libraries)) or "none"
)
def test_scripts_import_only_the_libraries_they_need(
    libraries: frozenset[str], loaded_by_group: dict[frozenset[str] | str, set[str]]
) -> None:
    surplus = loaded_by_group[libraries] - libraries
    assert not surplus, f"{', '.join(path.stem for path in GROUPS[libraries])} import {surplus}"


def test_site_infer_imports_torch(loaded_by_group: dict[frozenset[str] | str, set[str]]) -> None:
    """The list of libraries is not empty because the test sees nothing."""
    assert "torch" in loaded_by_group[allowed("site_infer")]


EMBED = """
import sys
from tessera_flow.models.checkpoint import load_model
*checkpoints, weights, tiles, out = sys.argv[1:]
for path in checkpoints:
    load_model(path, statistics="mpc" if "v1_1" in path else None)
print(*{"torch._dynamo", "sympy"} & set(sys.modules))

from tessera_flow.cli.main import main
arguments = ["--weights", weights, "--tiles", tiles, "--out", out, "--device", "cpu"]
assert main(["embed", *arguments]) == 0
heavy = {"torch._dynamo", "torch._inductor", "sympy", "scipy", "pandas", "odc", "shapely",
         "pyogrio", "pyproj", "transformers", "xarray", "pyarrow", "sklearn", "jinja2", "pystac",
         "snakemake"}
print(*sorted(heavy & set(sys.modules)), "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process prints that loads a model of each family and then embeds."""
    folder = tmp_path_factory.mktemp("embedding")
    shutil.copytree(ROOT / "tests/golden/tiles/main", folder / "tiles" / "main")
    checkpoints = sorted(map(str, ROOT.glob("tests/golden/checkpoints/*.pt")))
    assert len(checkpoints) >= 6
    student = ROOT / "tests/golden/checkpoints/v2_student_noqk.pt"
    done = subprocess.run(
        [sys.executable, "-c", EMBED, *checkpoints, student, folder / "tiles", folder / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_loading_a_model_does_not_import_the_compiler_of_torch(embedding: list[str]) -> None:
    """PyTorch imports it, in 1.6 s and 100 MB, for some operations on the meta device."""
    assert embedding[0].split() == []


def test_embedding_imports_nothing_beside_torch_that_takes_long(embedding: list[str]) -> None:
    """From the command to the file: 0.9 s of processor time beyond `import torch` (6 x 6 pixels,
    v2-nano), of which imports are half."""
    assert embedding[-1].split() == ["True"]


def test_modules_of_light_packages_do_not_import_torch(
    loaded_by_group: dict[frozenset[str] | str, set[str]],
) -> None:
    assert set(PACKAGES) >= {"products", "products.report", "geotessera", "jobs.plan"}
    assert not loaded_by_group[LIGHT] & {"torch", "transformers", "huggingface_hub"}


NOT_FOR_READING = [
    *("torch", "numpy", "odc", "rasterio", "pyogrio", "pandas", "geopandas"),
    *("zarr", "pyarrow", "pystac", "pystac_client", "huggingface_hub"),
]
"""Libraries that reading the workflow does not need: every job on a cluster reads it again."""

READ_WORKFLOW = """
import json, sys
import yaml
{imports}
files = RunFiles(load_config(yaml.safe_load(open("config.yaml"))))
schedule, params = Schedule(files), JobParams(files)
products = ProductFiles(files).all()
block = files.grids["here"].blocks[0].id
params.infer("here", "then", block), params.roi("here")
params.download("here", "then", "sentinel2", block)
schedule.memory_mb("download", 1), files.block_files("here", "then")
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


def test_reading_the_workflow_imports_no_reader_of_data(tmp_path: Path) -> None:
    """What the rules import and call, with the grid of the region in the cache."""
    write_box(tmp_path / "roi.geojson", 500_000, 5_000_000, 501_000, 5_001_000)
    (tmp_path / "weights.pt").touch()
    configuration = {
        "regions": {"here": {"roi": "roi.geojson"}},
        "periods": {"then": {"start": "2023-01-01", "end": "2023-12-31"}},
        "model": {"weights": "weights.pt"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration))
    names = ("common.smk", "start_and_end.smk")
    rules = "\n".join((ROOT / "workflow/rules" / name).read_text("utf-8") for name in names)
    imports = "\n".join(
        re.findall(
            r"^    (from tessera_flow\.\S+ import (?:\([^)]*\)|[^(\n]+))$", rules, re.MULTILINE
        )
    )
    assert imports.count("\n") > 15
    for cached in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", READ_WORKFLOW.format(imports=imports)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        imported = set(json.loads(done.stdout))
        if cached:
            assert not imported & set(NOT_FOR_READING)
        else:
            assert imported >= {"numpy", "odc", "rasterio", "pyogrio"}, "the region was not read"
