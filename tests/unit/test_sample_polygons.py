"""`tessera-flow sample`: polygons, several stores, folders of results, GeoPackages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio.features
import shapely
import zarr

from tessera_flow.cli.main import main
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import Region, make_region

LEFT, TOP = 600_000, 5_700_000


def stored(folder: Path, period: str = "y2023", **options: Any) -> Region:
    region = make_region(folder / f"blocks_{period}", 100, **options)
    provenance = replace(region.provenance, period=period)
    target = folder / "results" / "field" / period / "embeddings.zarr"
    write_zarr(target, region.grid, region.blocks, provenance, chunk=25)
    return region


def box(row: float, column: float, height: float, width: float) -> shapely.Polygon:
    """Return a box in pixels, in the CRS of the region."""
    x, y = LEFT + 10 * column, TOP - 10 * row
    return shapely.box(x, y - 10 * height, x + 10 * width, y)


def write_polygons(path: Path, shapes: list[Any], crs: str = "EPSG:32631") -> Path:
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes, object)), [np.arange(len(shapes))], ["site"],
        geometry_type="Unknown", crs=crs,
    )  # fmt: skip
    return path


def values_of(region: Region) -> np.ndarray:
    values = region.embeddings.astype(np.float64)
    if region.scales is not None:
        values = values * region.scales[..., None]
    return values


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_means_of_the_pixels_in_polygons(tmp_path: Path, dtype: str) -> None:
    region = stored(tmp_path, dtype=dtype)
    with_hole = box(120, 10, 60, 100) - box(130, 20, 30, 30)
    shapes = [
        with_hole,
        shapely.MultiPolygon([box(0, 0, 5, 5), box(200, 100, 10, 3)]),  # partly without embedding
        box(0, 0, 10, 10),  # outside the region
        box(225, 160, 20, 20),  # across the edge
        box(150.6, 30.6, 0.3, 0.3),  # no centre of a pixel
        box(500, 0, 3, 3),
        None,
    ]
    path = write_polygons(tmp_path / "sites.gpkg", shapes)
    out = tmp_path / "out.parquet"
    assert main(["sample", str(tmp_path / "results"), str(path), "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert table["state"].to_pylist() == [
        "ok", "ok", "no embedding", "partly outside", "no pixel", "outside", "no coordinates"
    ]  # fmt: skip
    transform = region.grid.product_geobox.affine
    values = values_of(region)
    names = [f"e{k:03d}" for k in range(16)]
    result = np.stack([table[name].to_numpy() for name in names], axis=1)
    for index in (0, 1, 3):
        mask = rasterio.features.rasterize(
            [(shapes[index], 1)], out_shape=region.valid.shape, transform=transform
        ).astype(bool)
        used = mask & region.valid
        assert table["pixels"][index].as_py() == used.sum() > 0
        assert table["pixels_inside"][index].as_py() == mask.sum()
        np.testing.assert_allclose(result[index], values[used].mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            table["s2_valid"][index].as_py(), region.counts[used][:, 0].mean(), rtol=1e-6
        )
    assert np.isnan(result[[2, 4, 5, 6]]).all()
    assert table["site"].to_pylist() == list(range(7))
    assert {"row", "column"}.isdisjoint(table.column_names)


def test_polygons_in_degrees_are_moved_to_the_grid(tmp_path: Path) -> None:
    stored(tmp_path)
    from pyproj import Transformer

    move = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    shape = box(120, 10, 60, 100)
    moved = shapely.transform(
        shapely.segmentize(shape, 50), lambda p: np.column_stack(move.transform(p[:, 0], p[:, 1]))
    )
    path = write_polygons(tmp_path / "a.gpkg", [moved], crs="EPSG:4326")
    out = tmp_path / "out.parquet"
    assert main(["sample", str(tmp_path / "results"), str(path), "--out", str(out)]) == 0
    # A hundredth of a pixel can decide about a centre on the edge; none is on this one.
    assert pq.read_table(out)["pixels_inside"].to_pylist() == [6000]


def test_several_stores_give_a_row_for_each(tmp_path: Path) -> None:
    first = stored(tmp_path)
    second = stored(tmp_path, "y2024", values=first.embeddings.astype(np.float32) + 300)
    points = tmp_path / "p.csv"
    rows, columns = [120, 130], [20, 40]
    points.write_text(
        "id,x,y\n" + "".join(f"{n},{LEFT + 10 * c + 5},{TOP - 10 * r - 5}\n"
                             for n, (r, c) in enumerate(zip(rows, columns, strict=True)))
    )  # fmt: skip
    out = tmp_path / "out.parquet"
    command = ["sample", str(tmp_path / "results"), str(points), "--out", str(out)]
    assert main([*command, "--crs", "EPSG:32631"]) == 0
    table = pq.read_table(out)
    assert table["period"].to_pylist() == ["y2023", "y2023", "y2024", "y2024"]
    assert table["region"].to_pylist() == ["field"] * 4
    assert table["id"].to_pylist() == [0, 1, 0, 1]
    expected = np.concatenate([values_of(r)[rows, columns, 3] for r in (first, second)])
    np.testing.assert_allclose(table["e003"].to_numpy(), expected, rtol=1e-6)
    one = tmp_path / "results" / "field" / "y2024"
    assert main(["sample", str(one), str(points), "--out", str(out), "--crs", "EPSG:32631"]) == 0
    assert "period" not in pq.read_table(out).column_names
    shapes = write_polygons(tmp_path / "far.gpkg", [box(9000, 0, 2, 2)])
    assert main(["sample", str(tmp_path / "results"), str(shapes), "--out", str(out)]) == 1


def test_stores_of_different_models_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path)
    stored(tmp_path, "y2024")
    other = zarr.open_group(tmp_path / "results" / "field" / "y2024" / "embeddings.zarr")
    record: Any = other.attrs["provenance"]
    record["model"]["sha256"] = "cd" * 32
    other.attrs["provenance"] = record
    shapes = write_polygons(tmp_path / "a.gpkg", [box(120, 10, 5, 5)])
    out = str(tmp_path / "out.parquet")
    assert main(["sample", str(tmp_path / "results"), str(shapes), "--out", out]) == 1
    assert "embeddings of different models" in capsys.readouterr().err
    assert main(["sample", str(tmp_path / "none"), str(shapes), "--out", out]) == 1
    assert "none does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["points", "polygons"])
def test_geopackage_has_the_geometries_and_the_table(tmp_path: Path, kind: str) -> None:
    stored(tmp_path)
    stored(tmp_path, "y2024")
    shapes: list[Any] = [box(120, 10, 5, 5), box(130, 20, 3, 4), None]
    if kind == "points":
        shapes = [shape if shape is None else shape.centroid for shape in shapes]
    path = write_polygons(tmp_path / "sites.gpkg", shapes)
    out = tmp_path / "out.gpkg"
    for _ in range(2):  # an existing file is replaced
        assert main(["sample", str(tmp_path / "results"), str(path), "--out", str(out)]) == 0
    meta, table = pyogrio.read_arrow(out, layer="embeddings")
    assert meta["crs"] == "EPSG:32631" and table.num_rows == 6
    written = shapely.from_wkb(table[meta["geometry_name"] or "geom"].to_numpy(False))
    for index, shape in enumerate([*shapes, *shapes]):
        assert written[index] is None if shape is None else written[index].equals(shape)
    assert table["site"].to_pylist() == [0, 1, 2] * 2
    assert table["period"].to_pylist() == ["y2023"] * 3 + ["y2024"] * 3
    assert table["state"].to_pylist() == ["ok", "ok", "no coordinates"] * 2
    assert np.isfinite(table["e015"].to_numpy()[[0, 1, 3, 4]]).all()


def test_points_and_polygons_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path)
    path = write_polygons(tmp_path / "a.gpkg", [box(120, 10, 5, 5), shapely.Point(LEFT, TOP)])
    out = str(tmp_path / "out.csv")
    assert main(["sample", str(tmp_path / "results"), str(path), "--out", out]) == 1
    assert "feature 1 is not a point: use points or polygons only" in capsys.readouterr().err
