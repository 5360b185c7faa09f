"""Published or computed: the layer of a filled store in samples, exports and `open_product`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import rasterio
import rioxarray  # noqa: F401
import shapely
import xarray as xr
import zarr

from tessera_flow import open_product
from tessera_flow.cli.main import main
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import make_region
from .test_fill import filled_region
from .test_sample_polygons import write_polygons

LEFT, TOP = 600_000, 5_700_000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    """Return the origin (60, 60) and a folder with a store: the right and a corner are computed,
    five rows have no embedding."""
    folder = tmp_path_factory.mktemp("filled")
    computed = np.zeros((60, 60), bool)
    computed[:, 41:], computed[:7, :7] = True, True
    (folder / "blocks").mkdir()
    inputs = filled_region(folder / "blocks", computed, 0.1)
    origin = np.where(computed, 2, 1)
    origin[50:55] = 0
    for name, path in inputs["blocks"].items():
        window = inputs["grid"].product_window(inputs["grid"].block(name)).slices
        rewrite(path, np.where(origin[window] == 0, 0, origin[window]))
    names = ("grid", "blocks", "provenance")
    write_zarr(folder / "embeddings.zarr", *(inputs[name] for name in names), chunk=15)
    return origin, folder


def rewrite(path: Path, origin: np.ndarray) -> None:
    """Set the origin of a block, and take the embeddings of pixels without one."""
    from tessera_flow.block_file import create_array, create_block_file, open_block_file

    with open_block_file(path) as group:
        arrays = {name: np.asarray(group[name][:]) for name in ("embeddings", "scales")}
        attributes = group.attrs.asdict()
    arrays["embeddings"][origin == 0], arrays["scales"][origin == 0] = 0, np.nan
    with create_block_file(path, attributes) as group:
        for name, data in (*arrays.items(), ("origin", origin.astype(np.uint8))):
            chunk = (15, 15, *data.shape[2:])
            fill = np.nan if name == "scales" else 0
            create_array(group, name, data.shape, chunk, data.dtype, fill)[...] = data


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store of a region without this layer, of the same model."""
    folder = tmp_path_factory.mktemp("other")
    region = make_region(folder / "blocks", 100, dim=128)
    write_zarr(folder / "embeddings.zarr", region.grid, region.blocks, region.provenance, 50)
    return folder


def sampled(tmp_path: Path, features: Path, *stores: Path, crs: str = "EPSG:32631") -> Any:
    out = tmp_path / "out.parquet"
    options = [] if features.suffix == ".gpkg" else ["--crs", crs, "--x", "x", "--y", "y"]
    arguments = ["sample", *map(str, stores), str(features), *options, "--out", str(out)]
    assert main(arguments) == 0
    return pq.read_table(out)


def test_open_product(filled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    origin, folder = filled
    product = open_product(folder)
    np.testing.assert_array_equal(product.origin[0], origin)
    assert product.origin.attrs["flag_meanings"] == "none published computed"
    assert (np.isnan(product.embeddings[0, 0]).values == (origin == 0)).all()
    product[["origin"]].astype(np.int16).to_netcdf(tmp_path / "o.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "o.nc") as read:
        np.testing.assert_array_equal(read.origin[0], origin)


def test_sample_of_points(filled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    origin, folder = filled
    rows, columns = np.mgrid[0:60:3, 0:60:2].reshape(2, -1)
    x, y = LEFT + 10 * columns + 5, TOP - 10 * rows - 5
    lines = [f"{a},{b}" for a, b in zip(x, y, strict=True)]
    points = tmp_path / "points.csv"
    points.write_text("\n".join(["x,y", *lines, f"{LEFT - 500},{TOP}", ""]))
    table = sampled(tmp_path, points, folder)
    names = np.array(["none", "published", "computed"])
    assert table["origin"].to_pylist() == [*names[origin[rows, columns]], "none"]
    assert set(table["origin"].to_pylist()) == set(names)
    assert table["state"].to_pylist()[-1] == "outside"
    assert table.column_names[:6] == ["x", "y", "row", "column", "state", "origin"]


def test_sample_of_stores_with_and_without(
    filled: tuple[np.ndarray, Path], other: Path, tmp_path: Path
) -> None:
    """What is not known is empty, in whichever order the stores are named."""
    points = tmp_path / "points.csv"
    points.write_text(f"x,y\n{LEFT + 455},{TOP - 305}\n{LEFT + 205},{TOP - 205}\n")
    for stores, expected in (
        ((folder := filled[1], other), ["computed", "published", None, None]),
        ((other, folder), [None, None, "computed", "published"]),
    ):
        table = sampled(tmp_path, points, *stores)
        assert table["origin"].to_pylist() == expected
        counts = [value is None for value in table["s2_valid"].to_pylist()]
        assert counts == [value is not None for value in expected]
    assert "origin" not in sampled(tmp_path, points, other).column_names
    for name in ("out.csv", "out.gpkg"):
        arguments = ["sample", str(other), str(folder), str(points), "--crs", "EPSG:32631"]
        out = tmp_path / name
        assert main([*arguments, "--x", "x", "--y", "y", "--out", str(out)]) == 0
    written = pyarrow.csv.read_csv(tmp_path / "out.csv")
    assert written["origin"].to_pylist() == ["", "", "computed", "published"]


def test_sample_of_polygons(filled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    """The number of computed pixels, of those with an embedding."""
    origin, folder = filled
    windows = [(0, 0, 12, 12), (30, 35, 29, 20), (10, 10, 5, 5), (50, 0, 4, 9)]
    shapes = [
        shapely.box(LEFT + 10 * x, TOP - 10 * (y + h), LEFT + 10 * (x + w), TOP - 10 * y)
        for y, x, h, w in windows
    ]
    table = sampled(tmp_path, write_polygons(tmp_path / "p.gpkg", shapes), folder)
    parts = [origin[y : y + h, x : x + w] for y, x, h, w in windows]
    assert table["pixels"].to_pylist() == [int((part > 0).sum()) for part in parts]
    assert table["pixels_computed"].to_pylist() == [int((part == 2).sum()) for part in parts]
    assert table["pixels_computed"].to_pylist()[0] == 49
    assert "origin" not in table.column_names


def read_export(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        with rasterio.open(path.with_stem(f"{path.stem}_origin")) as file:
            assert (file.dtypes, file.nodata, file.count) == (("uint8",), 0, 1)
            assert file.colormap(1)[2] == (239, 138, 98, 255)
            assert file.tags()["MEANINGS"] == "0 none, 1 published, 2 computed, 3 both"
            return file.read(1)
    if path.suffix == ".npy":
        return np.load(path.with_stem(f"{path.stem}_origin"))
    if path.suffix == ".zarr":
        data = xr.open_zarr(path, consolidated=False)
    else:
        data = xr.open_dataset(path, engine="scipy")
    with data:
        assert data.origin.attrs["flag_meanings"] == "none published computed both"
        assert data.origin.rio.crs.to_epsg() == 32631
        return data.origin.values


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr", ".nc"])
def test_exports(
    filled: tuple[np.ndarray, Path], tmp_path: Path, suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    origin, folder = filled
    out = tmp_path / f"e{suffix}"

    def export(*options: str) -> np.ndarray:
        arguments = ["export", str(folder), "--out", str(out), "--bands", "0,3", *options]
        assert main(arguments) == 0
        return read_export(out)

    np.testing.assert_array_equal(export(), origin)
    named = f"{tmp_path}/e_origin{suffix}: which embeddings are published (1), computed (2)"
    assert (named in capsys.readouterr().out) == (suffix in (".tif", ".npy"))
    # Cells of 4 x 4 pixels: of both if they differ, none unless half have an embedding.
    cells = np.zeros((15, 15), int)
    for row, column in np.ndindex(15, 15):
        part = origin[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        known = set(part[part > 0].tolist())
        if (part > 0).sum() >= 8:
            cells[row, column] = known.pop() if len(known) == 1 else 3
    assert {0, 1, 2, 3} - set(np.unique(cells)) == set()
    np.testing.assert_array_equal(export("--coarser", "4"), cells)
    # Nearest neighbour onto pixels of 15 m.
    places = np.floor((15 * np.arange(40) + 7.5) / 10).astype(int)
    moved = export("--crs", "EPSG:32631", "--pixel", "15")
    np.testing.assert_array_equal(moved, origin[np.ix_(places, places)])


def test_a_second_file_does_not_stay_from_an_earlier_export(
    filled: tuple[np.ndarray, Path], other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("e.tif", "e.npy"):
        out, second = tmp_path / name, (tmp_path / name).with_stem("e_origin")
        arguments = ["--out", str(out), "--bands", "0"]
        assert main(["export", str(filled[1]), *arguments]) == 0
        assert second.exists()
        assert main(["export", str(other), *arguments]) == 0
        assert out.exists() and not second.exists()
        second.write_text("of somebody else")
        for product in (filled[1], other):
            assert main(["export", str(product), *arguments]) == 1
            assert f"{second} exists and is no export" in capsys.readouterr().err
        assert second.read_text() == "of somebody else"


def test_damage_of_the_layer_is_an_error(
    filled: tuple[np.ndarray, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    store = Path(shutil.copytree(filled[1] / "embeddings.zarr", tmp_path / "embeddings.zarr"))
    shard = next(path for path in (store / "origin" / "c").rglob("*") if path.is_file())
    shard.unlink()
    assert main(["export", str(store), "--out", str(tmp_path / "e.npy")]) == 1
    assert f"{shard.relative_to(store)} is missing" in capsys.readouterr().err
    assert not (tmp_path / "e.npy").exists()


def test_record_of_the_export(filled: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    assert main(["export", str(filled[1]), "--out", str(tmp_path / "e.npy")]) == 0
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["export"]["origin"] == "0 none, 1 published, 2 computed, 3 both"
    assert zarr.open_group(filled[1] / "embeddings.zarr", mode="r")["origin"].shape == (1, 60, 60)
