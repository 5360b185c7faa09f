"""Malformed files for every reader of the package: a message, never a traceback or a hang.

A few are made in every run of the tests. `make test-fuzz` makes them for `FUZZ_SECONDS` per reader
(60), from the seed `FUZZ_SEED` on (0). A finding names reader and seed, which repeat it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from affine import Affine

from tessera_flow.archives.stac import search_items
from tessera_flow.block_file import create_array, create_block_file, get_array, open_block_file
from tessera_flow.config.configuration import load_config
from tessera_flow.config.sections import Download, Period
from tessera_flow.config.yaml_file import check_config_files
from tessera_flow.errors import TesseraFlowError
from tessera_flow.models.checkpoint import inspect_checkpoint
from tessera_flow.products.reading.description import read_record
from tessera_flow.products.reading.open import open_product, sample_points
from tessera_flow.products.stores.zarr_store import write_zarr
from tessera_flow.products.tables.points import read_points
from tessera_flow.region.roi import read_roi
from tessera_flow.scenes.manifest import Manifest
from tessera_flow.tile_folders.format import read_tile_folder

from ..support.pipeline import write_box
from ..support.products_region import make_region
from ..support.scenes import optical, radar
from ..support.search_run import LEFT, TOP, search
from ..support.static_catalog import write_static_catalog
from .malformed import spoil

ROOT = Path(__file__).resolve().parents[1]
FAST = 6
"""Malformed files per reader in the fast tier."""
LONGEST = 30
"""Seconds after which a reader counts as hanging."""


def valid_config(folder: Path) -> None:
    document = {
        "regions": {"here": {"roi": "roi.geojson"}},
        "periods": {"then": {"start": "2021-06-01", "end": "2021-06-30"}},
        "model": {"weights": "v2-nano", "heads": [4, 2]},
        "sentinel2": {"provider": "local", "location": "items.json", "asset_folders": ["/a"]},
        "grid": {"block_size": 100, "resolution": 10.0},
        "jobs": {"cpu_gpu": "1:4"},
        "products": {"formats": ["zarr", "arrays"]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    (folder / "config.json").write_text(json.dumps(document))


def read_config(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        check_config_files([path])
        # Snakemake reports what is not YAML.
        document = None
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            load_config(document)


SQUARE = shapely.box(4.0, 51.0, 4.01, 51.01)


def valid_regions(folder: Path) -> None:
    write_box(folder / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)
    for name in ("roi.gpkg", "roi.shp", "roi.fgb"):
        pyogrio.raw.write(
            folder / name, np.array([SQUARE.wkb], dtype=object), [np.array([1])], ["n"],
            crs="EPSG:4326", geometry_type="Polygon",
        )  # fmt: skip
    geo = {"version": "1.0.0", "primary_column": "geometry",
           "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}}}  # fmt: skip
    table = pa.table({"geometry": [SQUARE.wkb]}).replace_schema_metadata({"geo": json.dumps(geo)})
    pq.write_table(table, folder / "roi.parquet")
    with rasterio.open(
        folder / "roi.tif", "w", driver="GTiff", height=30, width=40, count=1, dtype="uint8",
        crs="EPSG:32631", transform=Affine(10, 0, LEFT, 0, -10, TOP), compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((30, 40), np.uint8), 1)


def read_regions(folder: Path) -> None:
    for path in sorted(folder.glob("roi.*")):
        if path.suffix not in (".dbf", ".shx", ".prj", ".cpg"):
            read_roi(path).fingerprint()


def valid_items(folder: Path) -> None:
    scenes = folder.parent / "scenes"
    found = [
        optical(scenes, "2021-06-10T10:00:00", 2000),
        radar(scenes, "2021-06-12T05:00:00", 0.1, 0.02),
    ]
    (folder / "list").mkdir()
    collection = {"type": "FeatureCollection", "features": found}
    (folder / "list" / "items.json").write_text(json.dumps(collection))
    write_static_catalog(folder / "catalog", found)
    (folder / "pages").mkdir()
    (folder / "pages" / "a.ndjson").write_text("\n".join(map(json.dumps, found)))
    (folder / "table").mkdir()
    rows = [
        {
            **{key: item[key] for key in ("id", "collection", "assets")},
            **item["properties"],
            "geometry": shapely.geometry.shape(item["geometry"]).wkb,
        }
        for item in found
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table" / "items.parquet")


def read_items(folder: Path) -> None:
    roi = write_box(folder.parent / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)
    for number, path in enumerate(sorted(folder.iterdir())):
        location = path / "items.json" if path.name == "list" else path
        with contextlib.suppress(TesseraFlowError):
            period = Period(start="2021-06-01", end="2021-06-30")  # type: ignore[arg-type]
            list(
                search_items(str(location), "sentinel-2-l2a", [(4, 50, 5, 52)], period, Download())
            )
            search(folder.parent / f"search{number}", roi, location)


def valid_tables(folder: Path) -> None:
    (folder / "points.csv").write_text("name,lon,lat\na,4.0,51.0\nb,4.1,51.2\n")
    (folder / "comma.csv").write_text("name;lon;lat\nä;4,0;51,0\nb;4,1;51,2\n")
    table = pa.table({"lon": [4.0, 4.1], "lat": [51.0, 51.2], "name": ["a", "b"]})
    pq.write_table(table, folder / "points.parquet")
    points = np.array([shapely.Point(4, 51).wkb, shapely.Point(4.1, 51.2).wkb], dtype=object)
    for name in ("points.gpkg", "points.geojson", "points.shp"):
        pyogrio.raw.write(folder / name, points, [np.array(["a", "ä"], dtype=object)], ["n"],
                          crs="EPSG:4326", geometry_type="Point")  # fmt: skip


def read_tables(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".dbf", ".shx", ".prj", ".cpg"):
            read_points(path)


def valid_tile(folder: Path) -> None:
    source = next(path.parent for path in sorted((ROOT / "golden/tiles").rglob("bands.npy")))
    shutil.copytree(source, folder / "tile")


def read_tile(folder: Path) -> None:
    tile = read_tile_folder(folder / "tile")
    for array in vars(tile).values():
        if isinstance(array, np.ndarray):
            np.asarray(array).sum(dtype=float)


def valid_checkpoints(folder: Path) -> None:
    import torch

    for name in ("v2_student_qk", "v1_1"):
        shutil.copy(ROOT / f"golden/checkpoints/{name}.pt", folder)
    content = torch.load(folder / "v2_student_qk.pt", weights_only=True)
    torch.save(content, folder / "old.pt", _use_new_zipfile_serialization=False)
    header, data = {}, b""
    for key, tensor in content["model"].items():
        raw = tensor.numpy().tobytes()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape),
                       "data_offsets": [len(data), len(data) + len(raw)]}  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    (folder / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_checkpoints(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        inspect_checkpoint(path)


def valid_store(folder: Path) -> None:
    region = make_region(folder.parent / "region", 40)
    write_zarr(folder / "embeddings.zarr", region.grid, region.blocks, region.provenance)


def read_store(folder: Path) -> None:
    store = folder / "embeddings.zarr"
    read_record(store)
    open_product(store)
    x, y = np.meshgrid(LEFT + np.arange(5.0, 400, 50), TOP - np.arange(5.0, 400, 50))
    sample_points(store, x.ravel(), y.ravel(), crs="EPSG:32631")


def valid_blocks(folder: Path) -> None:
    with create_block_file(folder / "block.zip", {"dates": ["2021-06-01"]}) as group:
        create_array(group, "bands", (1, 5, 5), (1, 5, 5), np.uint16)[:] = 7
    (folder / "items.json").write_text(json.dumps({
        "sensor": "sentinel2", "warnings": [], "left_out": [{"id": "a", "reason": "b"}],
        "items": [{"id": "a", "date": "2021-06-01", "extent": [0, 0, 1, 1], "boa_offset": 0,
                   "orbit": None, "stac": {"assets": {}}}],
    }))  # fmt: skip


def read_blocks(folder: Path) -> None:
    with open_block_file(folder / "block.zip") as group:
        get_array(group, "bands")[:]
    Manifest.read(folder / "items.json")


Maker = Callable[[Path], None]
READERS: dict[str, tuple[Maker, Maker]] = {
    "config": (valid_config, read_config),
    "region": (valid_regions, read_regions),
    "items": (valid_items, read_items),
    "tables": (valid_tables, read_tables),
    "tile": (valid_tile, read_tile),
    "checkpoint": (valid_checkpoints, read_checkpoints),
    "store": (valid_store, read_store),
    "block": (valid_blocks, read_blocks),
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the folder with the valid files of a reader."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "valid"
            made[name].mkdir()
            READERS[name][0](made[name])
        return made[name]

    return folder


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"no result in {LONGEST} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def finding(name: str, valid: Path, work: Path, seed: int) -> str | None:
    """Return what is wrong with the reader's answer to the malformed file of a seed."""
    folder = work / "files"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(valid, folder)
    path = spoil(folder, random.Random(f"{name} {seed}"))
    try:
        with time_limit():
            READERS[name][1](folder)
    except TesseraFlowError as error:
        if "internal error" in str(error) or not str(error).strip():
            return f"{name} {seed} ({path.name}): {error}"
    except BaseException:
        return f"{name} {seed} ({path.name}):\n{traceback.format_exc(limit=-6)}"
    return None


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(examples: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    with contextlib.suppress(TesseraFlowError):  # no point of the store is requested
        READERS[name][1](Path(shutil.copytree(examples(name), tmp_path / "files")))


@pytest.mark.parametrize("name", READERS)
def test_some_malformed_files(examples: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    logging.disable(logging.WARNING)
    try:
        found = [finding(name, examples(name), tmp_path / "work", seed) for seed in range(FAST)]
    finally:
        logging.disable(logging.NOTSET)
    assert not any(found), "\n".join(filter(None, found))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", READERS)
def test_many_malformed_files(examples: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "60"))
    first = int(os.environ.get("FUZZ_SEED", "0"))
    findings: list[str] = []
    logging.disable(logging.WARNING)
    try:
        for seed in itertools.count(first):
            if time.monotonic() > end or len(findings) >= 20:
                break
            problem = finding(name, examples(name), tmp_path / "work", seed)
            findings += [problem] if problem else []
    finally:
        logging.disable(logging.NOTSET)
    print(f"{name}: seeds {first} to {seed - 1}, {len(findings)} findings")
    assert not findings, "\n".join(findings)
