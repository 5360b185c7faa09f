"""Compare embeddings with a single image and with the raw series, by one cross-validation.

python examples/compare_inputs.py results/R/P labels.csv --column cover --fold-block 200

The product `tiles` of the same run must be in the folder. Labels are points or polygons with a
class. Each kind of features is learned by the same method from the same pixels in the same folds
as the map of `tessera-flow map`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera_flow.analysis.accuracy import cross_validate
from tessera_flow.analysis.folds import make_folds
from tessera_flow.analysis.labels import read_labels
from tessera_flow.analysis.pixels import LabelledPixels, label_pixels
from tessera_flow.analysis.rasters import EmbeddingStore
from tessera_flow.config.maps import Map
from tessera_flow.products.reading.sample import open_store
from tessera_flow.tile_folders.format import find_tile_folders, folder_origin, read_tile_folder


def raw_features(tiles: Path, pixels: LabelledPixels) -> dict[str, NDArray[np.float32]]:
    """Return features of the same pixels without an encoder, from the tile folders.

    The ten bands of the day with most clear pixels, and all valid time steps of the year (0 where
    cloudy).
    """
    folders = find_tile_folders(tiles)
    days = sorted({int(day) for folder in folders for day in read_tile_folder(folder).doys})
    series = np.zeros((len(pixels.rows), len(days), 10), np.float32)
    clear = np.zeros((len(pixels.rows), len(days)), bool)
    for folder in folders:
        tile = read_tile_folder(folder)
        y0, x0 = folder_origin(folder)
        x1, y1 = (int(number) for number in folder.name.split("_")[2:])
        row, column = pixels.rows, pixels.columns
        here = np.flatnonzero((row >= y0) & (row < y1) & (column >= x0) & (column < x1))
        where = (row[here] - y0, column[here] - x0)
        for step, day in enumerate(tile.doys):
            valid = tile.masks[step][where] > 0
            series[here[valid], days.index(int(day))] = tile.bands[step][where][valid]
            clear[here[valid], days.index(int(day))] = True
    best = clear.sum(axis=0).argmax()
    return {
        f"one image (day {days[best]})": series[:, best],
        "raw series of the year": series.reshape(len(series), -1),
    }


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Print and return (accuracy, balanced accuracy) by kind of features."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("product", type=Path, help="folder of a region and period, with tiles")
    parser.add_argument("labels")
    parser.add_argument("--column", default="class")
    parser.add_argument("--crs")
    parser.add_argument("--fold-block", type=float, default=1000.0)
    arguments = parser.parse_args(argv)

    settings = Map(
        labels=arguments.labels,
        column=arguments.column,
        crs=arguments.crs,
        fold_block=arguments.fold_block,
    )
    group = open_store(arguments.product / "embeddings.zarr")
    labels = read_labels(settings)
    pixels = label_pixels(group, labels, settings.pixels_per_polygon)
    folds = make_folds(pixels, labels, settings, EmbeddingStore(group).metres)
    kinds = {"embeddings": pixels.embeddings}
    kinds |= raw_features(arguments.product / "tiles", pixels)
    results = {}
    for name, features in kinds.items():
        accuracy = cross_validate(replace(pixels, embeddings=features), labels, folds, settings)
        scores = accuracy.scores["accuracy"], accuracy.scores["balanced_accuracy"]
        results[name] = scores
        print(f"{name:28} accuracy {scores[0]:.3f}, balanced {scores[1]:.3f}")
    return results


if __name__ == "__main__":
    main()
