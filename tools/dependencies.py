"""What the pinned packages bring: the lock file in two parts, and docs/dependencies.md.

python tools/dependencies.py lock < FREEZE   the lock file, from what `pip freeze` prints
python tools/dependencies.py page            the page

Both are read from the metadata of the packages that are installed beside the running Python;
tools/lock.sh calls this in an environment that holds nothing else.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
RUN = "# Needed to run:"
DEVELOP = "# Needed to test and to develop:"

USES = {
    "affine": "geotransforms",
    "editables": "installing the clone in place",
    "geotessera": "reads the published embeddings (`source: geotessera`) and our store",
    "hatchling": "building the package",
    "httpx2": "errors of the downloads from Hugging Face",
    "huggingface_hub": "downloading published weights",
    "jinja2": "the HTML report",
    "jsonschema": "checking the schema and STAC documents in the tests",
    "mypy": "checking types",
    "myst-parser": "the pages of docs/ as they are",
    "numpy": "arrays",
    "odc-geo": "the pixel grid",
    "odc-loader": "reading assets onto the grid",
    "odc-stac": "from STAC items to what odc-loader reads",
    "planetary-computer": "signed addresses of Planetary Computer",
    "pyarrow": "stac-geoparquet files",
    "pydantic": "the configuration and its schema",
    "pyogrio": "reading vector files",
    "pyproj": "coordinate systems",
    "pystac": "STAC documents",
    "pystac-client": "searching STAC APIs",
    "pytest": "tests",
    "pytest-cov": "which lines the tests run",
    "pytest-xdist": "tests on several cores",
    "pyyaml": "configuration files",
    "rasterio": "reading and writing rasters (GDAL)",
    "requests": "byte ranges of scenes, CMR, static catalogs",
    "rio-cogeo": "checking our GeoTIFFs in the tests",
    "rioxarray": "what a user clips and plots the store with",
    "ruff": "style",
    "scikit-learn": "the tutorial's class map in the tests",
    "shapely": "regions and footprints",
    "shfmt-py": "snakefmt looks for it",
    "snakefmt": "style of the rules",
    "snakemake": "the workflow engine",
    "snakemake-executor-plugin-cluster-generic": "jobs on other clusters than Slurm, in the tests",
    "snakemake-executor-plugin-slurm": "jobs on Slurm",
    "sphinx": "docs/ as a site, with its links checked",
    "torch": "the encoders",
    "types-PyYAML": "types of pyyaml",
    "urllib3": "retries under requests",
    "xarray": "what a user opens the store with",
    "zarr": "the Zarr product and the files between steps",
}

_LICENCES = {
    "Apache": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "BSD 3-Clause License": "BSD-3-Clause",
    "MIT License": "MIT",
}


def normal(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> tuple[list[str], list[str]]:
    """The pins of pyproject.toml: to run, and to develop."""
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project = tomllib.load(handle)["project"]
    return project["dependencies"], project["optional-dependencies"]["dev"]


def brought(names: Iterable[str], found: set[str] | None = None) -> set[str]:
    """Normal names of all that installed distributions need, directly or not."""
    found = set() if found is None else found
    for name in names:
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and normal(requirement.name) not in found:
                found.add(normal(requirement.name))
                brought([requirement.name], found)
    return found


def licence(name: str) -> str:
    """What an installed distribution states, as an SPDX expression where it can be told."""
    about = metadata.metadata(name)
    stated = [
        about[key].strip().split("\n")[0]
        for key in ("License-Expression", "License")
        if key in about
    ]
    stated += [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if "License" in c]
    for file in metadata.files(name) or []:
        if "licen" in file.name.lower():
            stated.append(file.read_text().strip().split("\n")[0].strip())
    first = next((text for text in stated if text), "not stated")
    return _LICENCES.get(first, first)


def megabytes(name: str) -> float:
    """Size of the files that an installed distribution states as its own."""
    paths = [Path(str(file.locate())) for file in metadata.files(name) or []]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def lock(freeze: str) -> str:
    """requirements/lock.txt from what `pip freeze` prints."""
    run = [pin.partition("==")[0] for pin in direct()[0]]
    needed = {normal(name) for name in run} | brought(run)
    pins = [line.replace("+cpu", "") for line in freeze.splitlines() if "==" in line]
    parts = {True: [RUN], False: [DEVELOP]}
    for pin in sorted(pins, key=lambda pin: normal(pin.partition("==")[0])):
        parts[normal(pin.partition("==")[0]) in needed].append(pin)
    return "\n".join(
        [
            "# Every package of a working environment, pinned; written by `make lock`.",
            "# tools/torch.sh chooses the CPU build of torch before this file is read.",
            *parts[True],
            *parts[False],
            "",
        ]
    )


def row(pin: str) -> str:
    """The line of a table on one direct dependency."""
    name, _, version = pin.partition("==")
    size = megabytes(name)
    cells = (
        f"{name} {version}",
        USES[name],
        licence(name),
        f"{size:.0f}" if size >= 1 else "< 1",
        str(len(brought([name]))),
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """`docs/dependencies.md`."""
    run, develop = direct()
    names = [pin.partition("==")[0] for pin in run]
    everything = {normal(name) for name in names} | brought(names)
    total = sum(map(megabytes, everything))
    head = ["| package | used for | licence | MB | brings |", "|---|---|---|---|---|"]
    return "\n".join(
        [
            "# Dependencies",
            "",
            "<!-- Written by `make lock` (tools/dependencies.py) from installed metadata. -->",
            "",
            "Direct dependencies, each pinned in pyproject.toml: what it is here for, its licence "
            "as its metadata state it, the size of its own files, and how many packages it needs "
            "in turn (shared ones are counted for each). "
            f"On {sys.platform} with Python {sys.version_info[0]}.{sys.version_info[1]} and the "
            f"CPU build of torch, all that is needed to run is {len(everything)} packages and "
            f"{total:.0f} MB.",
            "",
            "## To run",
            "",
            *head,
            *map(row, run),
            "",
            "## To test and to develop",
            "",
            *head,
            *map(row, develop),
            "",
        ]
    )


def main() -> int:
    """Print the lock file or the page."""
    if sys.argv[1:] == ["lock"]:
        print(lock(sys.stdin.read()), end="")
    elif sys.argv[1:] == ["page"]:
        print(page(), end="")
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
