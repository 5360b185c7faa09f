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
    if package_of(name) in ("products", "products.report", "geotessera", "jobs")
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


def loaded(*stages: list[str]) -> list[set[str]]:
    """Import the modules of stages, one stage after the other, in a process of their own.

    Returns the heavy libraries that have been loaded at the end of each stage.
    """
    program = (
        "import importlib, json, sys\n"
        "for stage in json.loads(sys.argv[1]):\n"
        "    for name in stage: importlib.import_module(name)\n"
        f"    print(json.dumps([name for name in {list(HEAVY)} if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([sorted(set(stage)) for stage in stages])],
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


def chains() -> list[list[frozenset[str]]]:
    """Divide the groups into chains in which each may import what the one before it may.

    One process imports a chain, in this order: what a group loads that it may not is seen as if it
    had a process of its own.
    """
    result: list[list[frozenset[str]]] = []
    for libraries in sorted(GROUPS, key=lambda libraries: (len(libraries), sorted(libraries))):
        chain = next((chain for chain in result if chain[-1] <= libraries), None)
        if chain is None:
            result.append([libraries])
        else:
            chain.append(libraries)
    return result


@pytest.fixture(scope="module")
def loaded_by_group() -> dict[frozenset[str], set[str]]:
    """The heavy libraries that are loaded after the imports of each group."""
    result = {}
    for chain in chains():
        stages = [
            [name for path in GROUPS[group] for name in [*SHARED, *script_imports(path)]]
            for group in chain
        ]
        result |= dict(zip(chain, loaded(*stages), strict=True))
    return result


def test_the_named_scripts_exist() -> None:
    names = {path.stem for path in SCRIPTS}
    assert set().union(*HEAVY.values()) <= names
    stitch = next(path for path in SCRIPTS if path.stem == "stitch_arrays")
    assert "tessera_flow.products.arrays" in script_imports(stitch)


@pytest.mark.parametrize(
    "libraries", list(GROUPS), ids=lambda libraries: "+".join(sorted(libraries)) or "none"
)
def test_scripts_import_only_the_libraries_they_need(
    libraries: frozenset[str], loaded_by_group: dict[frozenset[str], set[str]]
) -> None:
    surplus = loaded_by_group[libraries] - libraries
    assert not surplus, f"{', '.join(path.stem for path in GROUPS[libraries])} import {surplus}"


def test_site_infer_imports_torch(loaded_by_group: dict[frozenset[str], set[str]]) -> None:
    """The list of libraries is not empty because the test sees nothing."""
    assert "torch" in loaded_by_group[allowed("site_infer")]


LOAD_MODELS = """
import sys
from tessera_flow.models.checkpoint import load_model
for path in sys.argv[1:]:
    load_model(path, statistics="mpc" if "v1_1" in path else None)
print(*{"torch._dynamo", "sympy"} & set(sys.modules))
"""


def test_loading_a_model_does_not_import_the_compiler_of_torch() -> None:
    """PyTorch imports it, in 1.6 s and 100 MB, for some operations on the meta device."""
    checkpoints = sorted(map(str, ROOT.glob("tests/golden/checkpoints/*.pt")))
    assert len(checkpoints) >= 6
    done = subprocess.run(
        [sys.executable, "-c", LOAD_MODELS, *checkpoints],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


EMBED = """
import sys
from tessera_flow.cli.main import main
weights, tiles, out = sys.argv[1:]
arguments = ["--weights", weights, "--tiles", tiles, "--out", out, "--device", "cpu"]
assert main(["embed", *arguments]) == 0
heavy = {"torch._dynamo", "torch._inductor", "sympy", "scipy", "pandas", "odc", "shapely",
         "pyogrio", "pyproj", "transformers", "xarray", "pyarrow", "sklearn", "jinja2", "pystac",
         "snakemake"}
print(*sorted(heavy & set(sys.modules)), "torch" in sys.modules)
"""


def test_embedding_imports_nothing_beside_torch_that_takes_long(tmp_path: Path) -> None:
    """From the command to the file: 0.9 s of processor time beyond `import torch` (6 x 6 pixels,
    v2-nano), of which imports are half."""
    shutil.copytree(ROOT / "tests/golden/tiles/main", tmp_path / "tiles" / "main")
    checkpoint = ROOT / "tests/golden/checkpoints/v2_student_noqk.pt"
    done = subprocess.run(
        [sys.executable, "-c", EMBED, checkpoint, tmp_path / "tiles", tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].split() == ["True"]


def test_modules_of_light_packages_do_not_import_torch() -> None:
    assert set(PACKAGES) >= {"products", "products.report", "geotessera", "jobs"}
    (found,) = loaded([f"tessera_flow.{name}" for name in LIGHT_MODULES])
    assert not found & {"torch", "transformers", "huggingface_hub"}


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
