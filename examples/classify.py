"""Classify land cover from embeddings: print the accuracy and write a class map.

python examples/classify.py results/R/P/embeddings.zarr labels.csv --column cover --out classes.tif

Labels are points with a class: a CSV with lon and lat, or a GeoPackage. A random half of them
trains a logistic regression; the accuracy is that on the other half. With --tiles (the product
`tiles` of the same run) the same is repeated with one Sentinel-2 image and with the raw time
series of the year. Requires scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401 - gives .rio
import xarray as xr
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler

from tessera_flow.products.points import read_points
from tessera_flow.products.sample import Sample, open_store, sample_store
from tessera_flow.tile_folders.format import find_tile_folders, folder_origin, read_tile_folder


def model():
    """Return a linear classifier of standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def accuracies(features: NDArray[np.float32], classes: NDArray[np.int64]) -> tuple[float, float]:
    """Return (accuracy, mean recall of the classes) on the half that was not used for training."""
    train, test = train_test_split(
        np.arange(len(classes)), test_size=0.5, random_state=0, stratify=classes
    )
    predicted = model().fit(features[train], classes[train]).predict(features[test])
    return (
        accuracy_score(classes[test], predicted),
        balanced_accuracy_score(classes[test], predicted),
    )


def raw_features(tiles: Path, sample: Sample) -> dict[str, NDArray[np.float32]]:
    """Return features of the same points without an encoder, from the tile folders.

    The ten bands of the day with most clear points, and all valid time steps of the year (0
    where cloudy).
    """
    points = np.flatnonzero(sample.state == "ok")
    days = sorted({int(d) for folder in find_tile_folders(tiles) for d in
                   read_tile_folder(folder).doys})  # fmt: skip
    series = np.zeros((len(sample.state), len(days), 10), np.float32)
    clear = np.zeros((len(sample.state), len(days)), bool)
    for folder in find_tile_folders(tiles):
        tile = read_tile_folder(folder)
        y0, x0 = folder_origin(folder)
        x1, y1 = (int(number) for number in folder.name.split("_")[2:])
        row, column = sample.rows[points], sample.columns[points]
        here = points[(row >= y0) & (row < y1) & (column >= x0) & (column < x1)]
        where = (sample.rows[here] - y0, sample.columns[here] - x0)
        for step, day in enumerate(tile.doys):
            valid = tile.masks[step][where] > 0
            series[here[valid], days.index(int(day))] = tile.bands[step][where][valid]
            clear[here[valid], days.index(int(day))] = True
    best = clear[points].sum(axis=0).argmax()
    return {
        f"one image (day {days[best]})": series[:, best],
        "raw series of the year": series.reshape(len(series), -1),
    }


def class_map(store: Path, classifier, names: list[str], out: Path) -> None:
    """Classify every pixel, strip by strip, and write a cloud-optimised GeoTIFF.

    uint8: 0 is no embedding, n the n-th name of the tag CLASSES.
    """
    ds = xr.open_zarr(store).isel(time=0)
    result = np.zeros((ds.sizes["y"], ds.sizes["x"]), np.uint8)
    for y in range(0, ds.sizes["y"], 100):
        strip = ds.isel(y=slice(y, y + 100))
        values = strip.embeddings * strip.scales if "scales" in strip else strip.embeddings
        pixels = values.transpose("y", "x", "band").values
        valid = np.isfinite(pixels).all(axis=-1)
        if valid.any():
            result[y : y + 100][valid] = classifier.predict(pixels[valid]) + 1
    raster = xr.DataArray(result, coords={"y": ds.y, "x": ds.x}, dims=("y", "x"))
    raster = raster.rio.write_crs(ds.spatial_ref.attrs["crs_wkt"]).rio.write_nodata(0)
    raster.rio.to_raster(out, driver="COG", tags={"CLASSES": ",".join(names)})


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Print and return the accuracies by kind of features."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--column", default="class")
    parser.add_argument("--tiles", type=Path)
    parser.add_argument("--out", type=Path, default=Path("classes.tif"))
    arguments = parser.parse_args(argv)

    points = read_points(arguments.labels)
    sample = sample_store(open_store(arguments.store), points)
    usable = sample.state == "ok"
    encoder = LabelEncoder()
    classes = encoder.fit_transform(np.array(points.table[arguments.column].to_pylist())[usable])
    kinds = {"embeddings": sample.embeddings}
    if arguments.tiles:
        kinds |= raw_features(arguments.tiles, sample)
    results = {}
    for name, features in kinds.items():
        results[name] = accuracies(features[usable], classes)
        print(f"{name:28} accuracy {results[name][0]:.3f}, balanced {results[name][1]:.3f}")
    classifier = model().fit(sample.embeddings[usable], classes)
    class_map(arguments.store, classifier, [str(c) for c in encoder.classes_], arguments.out)
    print(f"{arguments.out}: {', '.join(map(str, encoder.classes_))}")
    return results


if __name__ == "__main__":
    main()
