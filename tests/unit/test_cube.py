"""The store of all periods of a region: pixels, links, crashes, replaced and foreign periods."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

from tessera_flow.cli.main import main
from tessera_flow.config.configuration import load_config
from tessera_flow.errors import OutputError, TileError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.state import cubes
from tessera_flow.jobs.state.cubes import read_cubes
from tessera_flow.jobs.state.damage import faulty_products
from tessera_flow.products.checksums import STORE_RECORD, Checksums
from tessera_flow.products.provenance import build_provenance
from tessera_flow.products.reading.open import open_product, sample_points
from tessera_flow.products.stac.documents import write_collection
from tessera_flow.products.stores import cube as cube_module
from tessera_flow.products.stores.cube import (
    add_period,
    combined_provenance,
    cube_periods,
    periods_left_out,
)
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import WEIGHTS, digest, landscape, make_config, make_region

SHAPE = (120, 90)
DAYS = {
    "y2021": ("2021-01-01", "2021-12-31"),
    "y2022": ("2022-01-01", "2022-12-31"),
    "y2023": ("2023-01-01", "2023-12-31"),
}
POINT = 600_005 + 10 * 80, 5_699_995 - 10 * 100


def write_store(
    folder: Path, period: str, seed: int, dtype: str = "int8", days: tuple[str, str] | None = None
) -> Path:
    """Write the store of a period; return it."""
    blocks = folder / f"blocks_{period}_{seed}_{dtype}"
    blocks.mkdir(parents=True)
    values = landscape(*SHAPE, 16, seed)
    valid = np.ones(SHAPE, bool)
    valid[:60, :60] = False
    region = make_region(blocks, 60, dtype=dtype, values=values, valid=valid)
    start, end = days or DAYS[period]
    config = make_config(16, dtype, periods={period: {"start": start, "end": end}})
    provenance = build_provenance(region.grid, config, "field", period, WEIGHTS)
    store = folder / period / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, provenance, 20, preview_stretch=2.0)
    return store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the stores of three periods."""
    folder = tmp_path_factory.mktemp("stores")
    return {period: write_store(folder, period, seed) for seed, period in enumerate(DAYS)}


@pytest.fixture
def cube(stores: dict[str, Path], tmp_path: Path) -> Path:
    """Return a cube of the last and the first period."""
    for period in ("y2023", "y2021"):
        assert add_period(tmp_path / "cube.zarr", period, stores[period]) == []
    return tmp_path / "cube.zarr"


def opened(path: Path, **options: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path, **options)


def assert_equal(cube: Path, stores: dict[str, Path]) -> None:
    """Compare all arrays of each period."""
    with opened(cube, chunks=None) as combined:  # a read of an array for each, without dask
        days = [np.datetime64(DAYS[period][0]) for period in stores]
        assert (combined.time.values == np.array(days, "datetime64[ns]")).all()
        for index, store in enumerate(stores.values()):
            with opened(store, chunks=None) as one:
                for name in ("embeddings", "scales", "observation_counts", "observation_months"):
                    np.testing.assert_array_equal(combined[name][index], one[name][0])
    assert main(["info", "--verify", str(cube)]) == 0


def inodes(store: Path, index: int) -> set[int]:
    files = store.glob(f"[!t]*/c/{index}/**/*")  # not of time_bnds
    return {p.stat().st_ino for p in files if p.is_file()}


def test_periods_are_in_order_and_share_their_files(
    cube: Path, stores: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_equal(cube, {p: stores[p] for p in ("y2021", "y2023")})
    before = digest(cube)
    add_period(cube, "y2022", stores["y2022"])
    assert_equal(cube, stores)
    for index, store in enumerate(stores.values()):
        assert inodes(cube, index) == inodes(store, 0) and len(inodes(store, 0)) > 10
    # The last period moved by one; its bytes are the same.
    moved = {n: v for n, v in before.items() if "/c/1/" in n}
    after = digest(cube)
    assert all(after[n.replace("/c/1/", "/c/2/", 1)] == v for n, v in moved.items())
    capsys.readouterr()
    assert main(["info", str(cube)]) == 0
    text = capsys.readouterr().out
    assert "field, y2021, y2022, y2023 (2021-01-01 to 2023-12-31)" in text
    assert [entry["period"] for entry in cube_periods(cube)] == list(DAYS)
    # The colours of a store are fitted to its period, so those of several cannot be compared.
    assert (stores["y2021"] / "preview").is_dir()
    assert not (cube / "preview").exists()


def test_cube_in_xarray_is_cf(cube: Path, tmp_path: Path) -> None:
    with opened(cube) as ds:
        assert ds.time.attrs["standard_name"] == "time" and ds.time.attrs["bounds"] == "time_bnds"
        bounds = ds.time_bnds.values.astype("datetime64[D]")
        assert (
            bounds.tolist()
            == np.array(
                [["2021-01-01", "2022-01-01"], ["2023-01-01", "2024-01-01"]], "datetime64[D]"
            ).tolist()
        )
        assert ds.embeddings.chunks is not None or ds.embeddings.encoding["chunks"][0] == 1
        assert ds.sel(time="2023").sizes["time"] == 1
    with open_product(cube) as product:
        assert product.period.values.tolist() == ["y2021", "y2023"]
        product.isel(band=slice(2)).to_netcdf(tmp_path / "cube.nc", engine="scipy")
        with xr.open_dataset(tmp_path / "cube.nc", engine="scipy") as again:
            np.testing.assert_array_equal(again.embeddings, product.embeddings[:, :2])
            assert (again.time.values == product.time.values).all()


def test_points_of_a_cube_are_those_of_its_stores(
    cube: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "points.csv").write_text(f"id,x,y\n1,{POINT[0]},{POINT[1]}\n")
    out = tmp_path / "points.parquet"
    options = [str(tmp_path / "points.csv"), "--crs", "EPSG:32631", "--out", str(out)]
    assert main(["sample", str(cube), *options]) == 0
    several = pq.read_table(out)
    assert several["period"].to_pylist() == ["y2021", "y2023"]
    assert main(["sample", str(stores["y2021"]), str(stores["y2023"]), *options]) == 0
    assert pq.read_table(out).equals(several)
    expected = sample_points(stores["y2023"], *POINT, "EPSG:32631")
    got = sample_points(cube, *POINT, "EPSG:32631", period="y2023")
    np.testing.assert_array_equal(got, expected)
    assert np.isfinite(expected).all()
    with pytest.raises(TileError, match="has y2021, y2023: give one of them as `period`"):
        sample_points(cube, *POINT, "EPSG:32631")
    # A missing file is an error, not a place without embeddings.
    shard = next(p for p in cube.glob("embeddings/c/1/0/1/1"))
    shard.unlink()
    with pytest.raises(TileError, match=r"embeddings/c/1/0/1/1 is missing"):
        sample_points(cube, *POINT, "EPSG:32631", period="y2023")
    assert np.isfinite(sample_points(cube, *POINT, "EPSG:32631", period="y2021")).all()
    with pytest.raises(TileError, match="is missing"):
        open_product(cube)


def test_what_reads_one_period_refuses_a_cube(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(cube), "--out", str(tmp_path / "e.tif")]) == 1
    assert "has several periods: name embeddings.zarr of one" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["_link", "_write_metadata", "_write_record", "_bytes"])
def test_a_crash_leaves_the_cube_as_it_was(
    cube: Path, stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = digest(cube)
    calls = []
    original = getattr(cube_module, step)

    def crash(*arguments: object) -> object:
        calls.append(step)
        if len(calls) > (5 if step == "_link" else 1 if step == "_bytes" else 0):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(cube_module, step, crash)
    with pytest.raises(KeyboardInterrupt):
        add_period(cube, "y2022", stores["y2022"])
    assert digest(cube) == before
    assert [path.name for path in cube.parent.iterdir()] == ["cube.zarr"]


def test_a_period_is_replaced(cube: Path, stores: dict[str, Path], tmp_path: Path) -> None:
    kept = inodes(cube, 1)
    changed = write_store(tmp_path / "changed", "y2021", 9)
    assert add_period(cube, "y2021", changed) == []
    assert_equal(cube, {"y2021": changed, "y2023": stores["y2023"]})
    assert inodes(cube, 1) == kept
    assert add_period(cube, "y2021", changed) == []  # again, as after a crash of its job
    assert_equal(cube, {"y2021": changed, "y2023": stores["y2023"]})


def test_a_disk_without_links(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if "embeddings.zarr" in str(source) or tmp_path / "cube.zarr" in Path(source).parents:
            raise PermissionError
        link(source, target)  # zarr itself

    monkeypatch.setattr("os.link", refuse)
    for period, store in stores.items():
        add_period(tmp_path / "cube.zarr", period, store)
    assert_equal(tmp_path / "cube.zarr", stores)
    assert not inodes(tmp_path / "cube.zarr", 0) & inodes(stores["y2021"], 0)


def test_periods_that_do_not_match_are_left_out(
    cube: Path, stores: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_store(tmp_path / "other", "y2022", 1, dtype="float32")
    texts = add_period(cube, "y2022", other)
    assert texts == [
        "period y2021 is left out of cube.zarr: it is of another model",
        "period y2023 is left out of cube.zarr: it is of another model",
    ]
    assert texts == [record.getMessage() for record in caplog.records]
    assert [entry["period"] for entry in cube_periods(cube)] == ["y2022"]
    assert json.loads((cube / "zarr.json").read_text())["attributes"]["warnings"] == texts
    # A period of three years has no masks of months.
    long = write_store(tmp_path / "long", "y2022", 1, days=("2022-01-01", "2024-12-31"))
    add_period(cube, "y2023", stores["y2023"])
    text = "observation_months is left out of cube.zarr: not all periods have it alike"
    assert add_period(cube, "y2022", long) == [text]
    with opened(cube) as ds:
        assert "observation_months" not in ds and ds.sizes["time"] == 2


def test_damaged_stores_and_cubes(cube: Path, stores: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "copy" / "embeddings.zarr"
    shutil.copytree(stores["y2022"], store)
    next(p for p in store.glob("scales/c/0/*/*")).unlink()
    before = digest(cube)
    with pytest.raises(TileError, match=r"scales/c/0/\S+ is missing"):
        add_period(cube, "y2022", store)
    assert digest(cube) == before
    next(p for p in cube.glob("scales/c/0/*/*")).unlink()
    texts = add_period(cube, "y2022", stores["y2022"])
    assert len(texts) == 1 and "period y2021 is left out of cube.zarr, because scales/" in texts[0]
    assert_equal(cube, {p: stores[p] for p in ("y2022", "y2023")})
    (cube / STORE_RECORD).write_text("{")
    texts = add_period(cube, "y2021", stores["y2021"])
    assert len(texts) == 1 and "made again from the period that is added" in texts[0]
    assert_equal(cube, {"y2021": stores["y2021"]})


def test_a_folder_of_others_and_another_writer(
    cube: Path, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.zarr"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises((OutputError, TileError)):
        add_period(mine, "y2021", stores["y2021"])
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    seen = iter([b"before", b"after"])
    monkeypatch.setattr(cube_module, "_bytes", lambda _: next(seen))
    with pytest.raises(OutputError, match="was changed by another process"):
        add_period(cube, "y2022", stores["y2022"])


def test_the_collection_has_the_cube(cube: Path, tmp_path: Path) -> None:
    entry = cube_periods(cube)[0]
    item = {"bbox": [0, 0, 1, 1], "assets": {"embeddings": {"title": "Zarr v3 store"}},
            "properties": {"provenance": entry["provenance"],
            "license": "other", "keywords": [], "providers": []}}  # fmt: skip
    (tmp_path / "y2021").mkdir()
    (tmp_path / "y2021" / "item.json").write_text(json.dumps(item))
    write_collection(tmp_path / "collection.json", [tmp_path / "y2021" / "item.json"], cube=cube)
    assets = json.loads((tmp_path / "collection.json").read_text())["assets"]
    assert assets["cube"]["href"] == "./cube.zarr"
    size = (cube / STORE_RECORD).stat().st_size
    assert assets["cube_checksums"]["file:size"] == size


def cube_faults(files: RunFiles) -> dict[str, str]:
    return cubes.cube_faults(files, read_cubes(files))


def cube_warnings(files: RunFiles) -> list[str]:
    return cubes.cube_warnings(files, read_cubes(files))


def run_files(folder: Path) -> RunFiles:
    """Files of a run of the first two periods in `folder`, with the record of each in its cube."""
    periods = {p: {"start": s, "end": e} for p, (s, e) in DAYS.items() if p != "y2023"}
    document = {
        "regions": {"field": {"roi": [5.1, 52.0, 5.102, 52.002]}},
        "periods": periods,
        "model": {"weights": "v2-nano"},
        "products": {"formats": ["zarr"], "cube": True},
        "paths": {n: str(folder / n) for n in ("work", "results", "logs")},
    }
    for period in periods:
        record = folder / "results" / "field" / period / "checksums" / "cube.json"
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    return RunFiles(load_config(document))


def test_a_period_of_another_model_is_left_out_for_good(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    """The next run neither adds it again, which would leave out the others, nor is silent; when
    it matches, or its store changes, it is added."""
    files = run_files(tmp_path)
    region = tmp_path / "results" / "field"
    cube = region / "cube.zarr"
    for period, dtype in (("y2021", "int8"), ("y2022", "float32")):
        store = write_store(tmp_path / "made", period, 1, dtype=dtype)
        store.rename(region / period / store.name)
        add_period(cube, period, region / period / store.name)
    record = str(region / "y2021" / "checksums" / "cube.json")
    assert cube_faults(files) == {}
    why = f"{cube} is without the period y2021: it is of another model."
    assert cube_warnings(files) == [why]
    # Another period is added, and one of a third model: the first one stays left out.
    other = write_store(tmp_path / "other", "y2023", 2, dtype="float32")
    add_period(cube, "y2023", other)
    attributes = json.loads((cube / "zarr.json").read_text())["attributes"]
    text = "period y2021 is left out of cube.zarr: it is of another model"
    assert attributes["warnings"] == [text] and cube_faults(files) == {}
    # It matches again.
    add_period(cube, "y2022", stores["y2022"])
    assert [one["period"] for one in periods_left_out(cube)] == ["y2023"]
    assert cube_faults(files) == {record: f"{cube} does not have the period y2021"}
    # Its store was made again.
    add_period(cube, "y2022", region / "y2022" / "embeddings.zarr")
    add_period(cube, "y2021", region / "y2021" / "embeddings.zarr")
    add_period(cube, "y2022", region / "y2022" / "embeddings.zarr")
    assert cube_faults(files) == {}
    shutil.rmtree(region / "y2021" / "embeddings.zarr")
    shutil.copytree(stores["y2021"], region / "y2021" / "embeddings.zarr")
    assert list(cube_faults(files)) == [record]


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("model", "heads"), [2, 2], "it is of another model"),
        (("preprocessing",), "as_published", "its preprocessing is another one"),
    ],
)
def test_periods_that_cannot_be_compared_are_left_out(
    cube: Path,
    stores: dict[str, Path],
    tmp_path: Path,
    place: tuple[str, ...],
    value: Any,
    why: str,
) -> None:
    store = tmp_path / "embeddings.zarr"
    shutil.copytree(stores["y2022"], store)
    document = json.loads((store / "zarr.json").read_text())
    section = document["attributes"]["provenance"]
    for name in place[:-1]:
        section = section[name]
    assert section[place[-1]] != value
    section[place[-1]] = value
    (store / "zarr.json").write_text(json.dumps(document))
    Checksums.of(store).write(store / STORE_RECORD)
    assert add_period(cube, "y2022", store) == [
        f"period {period} is left out of cube.zarr: {why}" for period in ("y2021", "y2023")
    ]


def test_the_record_of_filled_periods_is_that_of_all(cube: Path, stores: dict[str, Path]) -> None:
    """One period whose model was assumed is not hidden by a later one whose weights are known."""
    entries = cube_periods(cube)
    fills = [("v1.1 2021", "assumed"), ("v1.1 2023", "sha256")]
    for entry, (dataset, how) in zip(entries, fills, strict=True):
        entry["provenance"]["fill"] = {"dataset": dataset, "same_model": how, "model": {"a": 1}}
    assert combined_provenance(entries)["fill"] == {
        "dataset": "v1.1 2021, v1.1 2023", "same_model": "assumed", "model": {"a": 1},
    }  # fmt: skip
    del entries[1]["provenance"]["fill"]
    assert combined_provenance(entries)["fill"]["dataset"] == "v1.1 2021"


def test_periods_that_the_cube_lacks_or_nobody_wants(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cube is no output of a job, so the start of a run compares it, reading its list once."""
    files = run_files(tmp_path)
    folder = tmp_path / "results" / "field"
    cube.rename(folder / "cube.zarr")
    (text,) = cube_warnings(files)
    read: list[Path] = []

    def counted(path: Path) -> list[dict[str, Any]]:
        read.append(path)
        return cube_periods(path)

    monkeypatch.setattr(cubes, "cube_periods", counted)
    assert faulty_products(files, JobParams(files)).warnings()[0] == text
    assert read == [folder / "cube.zarr"]
    assert text.startswith(f"{folder}/cube.zarr keeps y2023, which the configuration does not have")
    records = {p: folder / p / "checksums" / "cube.json" for p in ("y2021", "y2022")}
    lacks = {str(records["y2022"]): f"{folder}/cube.zarr does not have the period y2022"}
    assert cube_faults(files) == lacks
    next((folder / "cube.zarr").glob("scales/c/0/*/*")).unlink()
    faults = cube_faults(files)
    assert list(faults) == [str(path) for path in records.values()]
    assert "cube.zarr is damaged: scales/c/0/" in faults[str(records["y2021"])]
    shutil.rmtree(folder / "cube.zarr")
    assert len(cube_faults(files)) == 2
    assert cube_warnings(files) == []
