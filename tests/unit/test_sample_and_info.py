"""`tessera-flow sample` and `tessera-flow info`."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
import zarr
from pyproj import Transformer

from tessera_flow.cli.main import main
from tessera_flow.errors import RegionError, TileError
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.geotiff.counts import write_counts
from tessera_flow.products.reading.description import read_record
from tessera_flow.products.reading.sample import open_store, sample_store
from tessera_flow.products.stores.zarr_store import write_zarr
from tessera_flow.products.tables.points import read_points

from ..support.products_region import Region, make_region, write_mask

TO_LONLAT = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)


class CountingStore(zarr.storage.LocalStore):
    """Record which byte ranges of files are read."""

    reads: ClassVar[Counter[str]] = Counter()

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        if "/c/" in key:
            self.reads[f"{key} {byte_range}"] += 1
        return await super().get(key, prototype, byte_range)


def stored(folder: Path, **options: Any) -> tuple[Region, Path]:
    region = make_region(folder / "blocks", 100, **options)
    store = folder / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance, chunk=25)
    return region, store


def places(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 600_000 + 10 * (columns + 0.3), 5_700_000 - 10 * (rows + 0.8)


def test_sample_does_not_replace_what_is_no_table(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    _, store = stored(tmp_path)
    points = tmp_path / "points.csv"
    points.write_text("lon,lat\n3,51\n")
    folder, link = tmp_path / "folder.csv", tmp_path / "link.csv"
    folder.mkdir()
    (folder / "precious.txt").write_text("kept")
    link.symlink_to(folder / "precious.txt")
    for out, words in (
        (points, "the table of points itself"),
        (folder, "is a folder"),
        (link, "is a link"),
    ):
        assert main(["sample", str(store), str(points), "--out", str(out)]) == 1
        assert words in capsys.readouterr().err
    assert points.read_text() == "lon,lat\n3,51\n"
    assert (folder / "precious.txt").read_text() == "kept" and link.is_symlink()


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_values_counts_and_states_from_a_table_of_lonlat(tmp_path: Path, dtype: str) -> None:
    region, store = stored(tmp_path, dtype=dtype)
    random = np.random.default_rng(5)
    rows, columns = random.integers(0, 230, 300), random.integers(0, 170, 300)
    lon, lat = TO_LONLAT.transform(*places(rows, columns))
    lon[0] = 10.0  # far outside
    table = pa.table({"class": ["a", "b", "c"] * 100, "lon": lon, "lat": lat})
    pyarrow.csv.write_csv(table, tmp_path / "points.csv")
    out = tmp_path / "features.parquet"
    assert main(["sample", str(store), str(tmp_path / "points.csv"), "--out", str(out)]) == 0
    result = pq.read_table(out)
    assert result.column_names[:9] == ["class", "lon", "lat", "row", "column", "state",
                                      "s2_valid", "s1_ascending", "s1_descending"]  # fmt: skip
    assert result["class"].to_pylist() == table["class"].to_pylist()
    features = np.stack([result[f"e{k:03d}"].to_numpy() for k in range(16)], axis=1)
    expected = region.embeddings[rows, columns].astype(np.float32)
    if region.scales is not None:
        expected = expected * region.scales[rows, columns][:, None]
    assert np.isnan(features[0]).all() and result["state"][0].as_py() == "outside"
    np.testing.assert_array_equal(features[1:], expected[1:])
    np.testing.assert_array_equal(result["row"].to_numpy()[1:], rows[1:])
    counts = region.counts[rows, columns]
    np.testing.assert_array_equal(result["s1_ascending"].to_numpy()[1:], counts[1:, 1])
    states = np.array(result["state"].to_pylist())[1:]
    valid = region.valid[rows, columns][1:]
    assert 0 < valid.sum() < len(valid)
    np.testing.assert_array_equal(states == "ok", valid)
    np.testing.assert_array_equal(states == "no embedding", ~valid)


def test_geopackage_in_csv_out(tmp_path: Path) -> None:
    region, store = stored(tmp_path)
    rows, columns = np.array([150, 200]), np.array([130, 20])
    points = shapely.points(*places(rows, columns))
    pyogrio.raw.write(
        tmp_path / "labels.gpkg", shapely.to_wkb(points), [np.array([3, 4])], ["label"],
        geometry_type="Point", crs="EPSG:32631", driver="GPKG",
    )  # fmt: skip
    out = tmp_path / "features.csv"
    assert main(["sample", str(store), str(tmp_path / "labels.gpkg"), "--out", str(out)]) == 0
    result = pyarrow.csv.read_csv(out)
    assert result["label"].to_pylist() == [3, 4]
    expected = region.embeddings[rows, columns] * region.scales[rows, columns][:, None]
    np.testing.assert_allclose(result["e007"].to_numpy(), expected[:, 7], rtol=1e-6)


def test_cells_of_the_users_table_are_written_as_they_are(tmp_path: Path) -> None:
    """A spreadsheet takes `=1+1` as a formula; the table of points is the user's own, and a cell
    that was changed would be another one when the result is joined to it."""
    _, store = stored(tmp_path)
    cells = ["=1+1", "+49 30", "-7.5", "@home", "\ttab"]
    points, out = tmp_path / "points.csv", tmp_path / "out.csv"
    rows = [f'"{cell}",600205,5699805' for cell in cells]
    points.write_text("\n".join(["note,x,y", *rows]) + "\n")
    assert main(["sample", str(store), str(points), "--crs", "EPSG:32631", "--out", str(out)]) == 0
    with out.open(newline="") as handle:
        assert [row["note"] for row in csv.DictReader(handle)] == cells


def test_each_chunk_is_read_once_whatever_the_number_of_points(tmp_path: Path) -> None:
    _, folder = stored(tmp_path)
    store = open_store(CountingStore(folder, read_only=True))
    for number, chunks in ((1, 1), (400, 70)):
        random = np.random.default_rng(0)
        rows, columns = random.integers(0, 230, number), random.integers(0, 170, number)
        x, y = places(rows, columns)
        table = tmp_path / "p.parquet"
        pq.write_table(pa.table({"x": x, "y": y}), table)
        points = read_points(table, crs="EPSG:32631")
        CountingStore.reads.clear()
        sample_store(store, points)
        touched = {(r // 25, c // 25) for r, c in zip(rows, columns, strict=True)}
        assert len(touched) <= chunks
        data = [read for read in CountingStore.reads if "Suffix" not in read]  # without indexes
        assert len(data) <= 3 * len(touched)
        assert sum(n for r, n in CountingStore.reads.items() if r in data) <= 3 * len(touched)
        if number == 1:
            assert sorted(read.split("/")[0] for read in data) == [
                "embeddings", "observation_counts", "scales",
            ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lon,lat\n51.4,4.4\n", "None of the 1 points is in the product, which covers x 600000"),
        (
            "a,b\n1,2\n",
            "has the columns a, b: name the columns of the coordinates with --x and --y",
        ),
        ("x,y\n1,2\n", "give their CRS with --crs, such as EPSG:32631"),
        ("lon,lat\none,two\n", "column lon is not numeric"),
    ],
)
def test_bad_points(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store = stored(tmp_path)
    (tmp_path / "p.csv").write_text(text)
    out = tmp_path / "out.csv"
    assert main(["sample", str(store), str(tmp_path / "p.csv"), "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_polygons_and_missing_files_are_refused(tmp_path: Path) -> None:
    box = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)]))
    pyogrio.raw.write(tmp_path / "a.gpkg", box, [np.array([1])], ["n"], geometry_type="Polygon",
                      crs="EPSG:4326", driver="GPKG")  # fmt: skip
    with pytest.raises(RegionError, match="feature 1 is not a point"):
        read_points(tmp_path / "a.gpkg")
    with pytest.raises(RegionError, match="does not exist"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(TileError, match="is not a Zarr v3 store"):
        open_store(tmp_path / "none.zarr")


def test_products_of_an_earlier_version_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their record has other keys. It still states the settings, so that a run that would replace
    them is refused."""
    region, _ = stored(tmp_path / "results")
    record = region.provenance.to_json()
    record["arithmetic"] = record.pop("preprocessing")
    path = tmp_path / "stitched_representation.json"
    path.write_text(json.dumps(record))
    assert main(["info", str(path)]) == 1
    assert f"{path} was written by an earlier version" in capsys.readouterr().err
    assert read_record(path)["configuration_sha256"] == record["configuration_sha256"]


def test_info_of_a_folder_lists_products_and_prints_the_record_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region, _ = stored(tmp_path / "results")
    inputs = (region.grid, region.blocks, region.provenance)
    folder = tmp_path / "results"
    names = [folder / f"stitched_representation{n}" for n in (".npy", "_scales.npy", "_counts.npy")]
    write_arrays(*names, folder / "stitched_representation.json", *inputs)
    write_counts(folder / "counts.tif", *inputs, write_mask(region, tmp_path / "roi.tif"))
    assert main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("/")[-1] for line in lines[:3]] == [
        "counts.tif", "embeddings.zarr", "stitched_representation.json",
    ]  # fmt: skip
    text = "\n".join(lines[3:])
    assert "field, y2023 (2023-07-01 to 2024-06-30)" in text
    assert "170 x 230 px of 10 m in EPSG:32631, x 600000 to 601700, y 5697700 to 5700000" in text
    assert text.count("weights abababababab") == 1
    assert main(["info", "--json", str(folder / "counts.tif")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {str(folder / "counts.tif"): region.provenance.to_json()}


def test_info_of_a_folder_without_products(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tmp_path)]) == 1
    assert "There is no product in" in capsys.readouterr().err


def test_table_without_points(tmp_path: Path) -> None:
    _, store = stored(tmp_path)
    (tmp_path / "p.csv").write_text("name,lon,lat\n")
    out = tmp_path / "out.csv"
    assert main(["sample", str(store), str(tmp_path / "p.csv"), "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith('"name","lon","lat","row","column","state"')


def test_table_with_embedding_columns_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two columns e000, readers use only the first, that of the other year."""
    _, store = stored(tmp_path)
    (tmp_path / "p.csv").write_text("x,y,e000\n600005,5699995,0.5\n")
    out = tmp_path / "out.csv"
    points = [str(tmp_path / "p.csv"), "--crs", "EPSG:32631"]
    assert main(["sample", str(store), *points, "--out", str(out)]) == 1
    assert "already have the columns e000, which" in capsys.readouterr().err
    assert not out.exists()
