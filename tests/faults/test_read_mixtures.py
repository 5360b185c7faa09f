"""Random mixtures of faults: the same pixels, the missing scene recorded, or an error.

Each seed is a permanent condition of one object (or none) and faults of single requests.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tessera_flow.errors import ReadError
from tessera_flow.raster.failures import MissingSceneError
from tessera_flow.scenes.manifest import Manifest

from ..support.fault_archive import HOST, Archive, read
from ..support.servers import Fault, FileServer

SENSORS = ("sentinel1", "sentinel2", "sentinel2")

PASSING = (
    Fault("busy"), *(Fault("status", value=code) for code in (403, 500, 502, 503, 504)),
    Fault("reset"), Fault("truncate"), Fault("short"), Fault("html"), Fault("page"),
    Fault("shifted"), Fault("resized"), Fault("unranged"), Fault("whole"), Fault("gzip"),
    Fault("deflate"), Fault("raw deflate"), Fault("gzip whole"),
)  # fmt: skip
"""Faults of single requests."""

FREQUENT_ERRORS = ("whole", "page", "gzip whole")
"""An answer without the range is no range: it can end the read. Drawn less often, so that most
mixtures still have a result."""

CONDITIONS = (
    "none", "missing 404", "missing 403", "recoded", "changed", "encoded", "encoded whole",
    "unavailable", "all refused",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Object:
    """One asset of the archive: position of its item in the manifest, key, and path."""

    item: int
    key: str
    path: str


Expected = tuple[dict[str, bytes], list[str]]
"""Arrays, and the ids of the scenes that are left out."""


@dataclasses.dataclass
class Oracle:
    """What a slice contains, read from files without a server, if one object is another file."""

    archive: Archive
    folder: Path
    known: dict[tuple[str, Object | None, str], Expected] = dataclasses.field(default_factory=dict)

    def expected(self, sensor: str, other: Object | None = None, form: str = "") -> Expected:
        """Return the result; `form` of the other object: `changed`, or empty if it is missing."""
        key = (sensor, other, form)
        if key not in self.known:
            listing = self.folder / "items.json"
            text = self.archive.list_of(sensor).read_text()
            root = str(self.archive.scenes.absolute())
            text = text.replace(f"{HOST}/", f"{root}/")
            if other is not None:
                instead = str(self.file(other, form)) if form else "/nowhere.tif"
                text = text.replace(
                    f'"{self.archive.scenes.absolute()}{other.path}"', f'"{instead}"'
                )
            listing.write_text(text)
            arrays, attributes = read(
                self.archive, self.folder / "expected.zip", sensor, listing,
                max_missing_percent=100.0,
            )  # fmt: skip
            self.known[key] = (arrays, [entry["item"] for entry in attributes["left_out"]])
        return self.known[key]

    def file(self, of: Object, form: str) -> Path:
        """Return another file of an object: `plain` and `changed` have the same size and layout,
        `plain` and `recoded` the pixels of the object."""
        path = self.folder / f"{form}-{of.item}-{of.key}.tif"
        if not path.exists():
            with rasterio.open(self.archive.scenes / of.path.lstrip("/")) as dataset:
                pixels, profile = dataset.read(), dataset.profile
            profile |= {"compress": "lzw", "blockxsize": 64, "blockysize": 64}
            if form != "recoded":
                profile |= {"compress": None, "blockxsize": 16, "blockysize": 16}
            if form == "changed":
                pixels = np.roll(pixels, (37, 53), (1, 2))
            with rasterio.open(path, "w", **profile) as dataset:
                dataset.write(pixels)
        return path


@pytest.fixture(scope="module")
def oracle(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(archive, tmp_path_factory.mktemp("oracle"))


def objects(archive: Archive, sensor: str) -> list[Object]:
    items = Manifest.read(archive.list_of(sensor)).items
    return [
        Object(index, key, asset["href"].removeprefix(HOST))
        for index, item in enumerate(items)
        for key, asset in item.stac["assets"].items()
    ]


def faults_of_requests(rng: random.Random) -> list[Fault]:
    weights = [0.15 if fault.kind in FREQUENT_ERRORS else 1.0 for fault in PASSING]
    drawn = rng.choices(PASSING, weights, k=rng.randint(0, 8))
    return [
        dataclasses.replace(fault, skip=rng.randrange(60), count=rng.choice([1, 1, 1, 2]))
        for fault in drawn
    ]


def permanent_faults(rng: random.Random, condition: str, of: Object) -> list[Fault]:
    """Return the faults of a condition; that of an object is first, as it hides others."""
    if condition.startswith("missing"):
        return [Fault("status", of.path, value=int(condition[-3:]), count=None)]
    if condition in ("recoded", "changed"):
        return [Fault("replace", of.path, skip=rng.randint(1, 5))]
    if condition == "encoded":
        kind = rng.choice(["gzip", "deflate", "raw deflate"])
        return [Fault(kind, rng.choice([of.path, "/s"]), count=None)]
    if condition == "encoded whole":
        return [Fault("gzip whole", rng.choice([of.path, ".tif"]), count=None)]
    if condition == "unavailable":
        kind = rng.choice(["status", "reset", "truncate", "html"])
        return [Fault(kind, of.path, value=503, count=None)]
    if condition == "all refused":
        return [Fault("status", ".tif", skip=rng.randrange(40), value=403, count=None)]
    return []


def outcome(
    archive: Archive, server: FileServer, oracle: Oracle, folder: Path, seed: int
) -> tuple[str, str]:
    """Read a slice with the mixture of a seed; return its condition and what came of it.

    Asserts that the result is one that the objects of the archive can have.
    """
    rng = random.Random(seed)
    sensor = rng.choice(SENSORS)
    condition = CONDITIONS[seed % len(CONDITIONS)]
    of = rng.choice(objects(archive, sensor))
    passing = faults_of_requests(rng)
    server.faults = [*permanent_faults(rng, condition, of), *passing]
    server.versions = rng.choice(["etag", "etag", "weak", "modified"])
    server.contents, server.replacements = {}, {}
    allowed = [oracle.expected(sensor)]
    if condition in ("recoded", "changed"):
        server.contents[of.path] = oracle.file(of, "plain").read_bytes()
        server.replacements[of.path] = oracle.file(of, condition).read_bytes()
    if condition == "changed":
        allowed.append(oracle.expected(sensor, of, "changed"))
    if condition.startswith("missing"):
        allowed = [oracle.expected(sensor, of)]
    try:
        arrays, attributes = read(
            archive, folder / "slice.zip", sensor, max_missing_percent=100.0, attempts=6
        )
    except MissingSceneError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    except ReadError:
        return condition, "error"
    left_out = [entry["item"] for entry in attributes["left_out"]]
    assert (arrays, left_out) in allowed, f"seed {seed}: {condition} of {of}, {server.faults}"
    assert condition not in ("unavailable",) or server.faults[0].seen == 0
    return condition, "missing" if left_out else "same"


Outcome = Callable[[int], tuple[str, str]]


@pytest.fixture
def read_seed(archive: Archive, server: FileServer, oracle: Oracle, tmp_path: Path) -> Outcome:
    return lambda seed: outcome(archive, server, oracle, tmp_path, seed)


def test_some_mixtures_of_faults(read_seed: Outcome) -> None:
    found = collections.Counter(read_seed(seed)[1] for seed in range(9))
    assert found["same"] >= 3 and found["missing"] >= 1, found


@pytest.mark.slow
def test_many_mixtures_of_faults(read_seed: Outcome) -> None:
    found = collections.Counter(read_seed(seed) for seed in range(200))
    total = collections.Counter(result for _, result in found.elements())
    assert total["same"] >= 80 and total["missing"] >= 30, found
    print("\n".join(f"{key[0]}, {key[1]}: {count}" for key, count in sorted(found.items())))
