"""A small product whose classes are known, and labels for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from tessera_flow.products.stores.zarr_store import write_zarr

from .products_region import Region, make_region

HEIGHT, WIDTH, FIELD = 120, 100, 10
LEFT, TOP = 600_000, 5_700_000
NAMES = ("crop", "water", "wood")
DIM = 16


@dataclass
class Labelled:
    """The product.

    Attributes:
        store: embeddings.zarr.
        region: its contents; a square of 20 x 20 pixels in a corner has no embedding.
        classes: (HEIGHT, WIDTH) 0, 1, 2; fields of 10 x 10 pixels.
        numbers: (HEIGHT, WIDTH) a linear function of the embeddings, with noise.
    """

    store: Path
    region: Region
    classes: np.ndarray
    numbers: np.ndarray


def labelled_region(folder: Path, noise: float = 1.5) -> Labelled:
    """Write a product in which each class has a mean embedding; pixels have noise about it."""
    random = np.random.default_rng(5)
    fields = random.integers(0, 3, (HEIGHT // FIELD, WIDTH // FIELD))
    classes = fields.repeat(FIELD, 0).repeat(FIELD, 1)
    means = random.normal(size=(3, DIM))
    values = means[classes] + noise * random.normal(size=(HEIGHT, WIDTH, DIM))
    numbers = values[..., 0] * 3 - values[..., 1] + 10 + 0.1 * random.normal(size=classes.shape)
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:20, :20] = False
    region = make_region(
        folder / "blocks", 60, DIM, chunk=20, values=values.astype(np.float32), valid=valid
    )
    store = folder / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance, chunk=20)
    return Labelled(store, region, classes, numbers)


def centre(row: float, column: float) -> tuple[float, float]:
    """Return x and y of the centre of a pixel."""
    return LEFT + 10 * (column + 0.5), TOP - 10 * (row + 0.5)


def write_points(
    path: Path, cells: Iterable[tuple[float, float]], values: Iterable[Any], name: str = "cover"
) -> Path:
    """Write a CSV with x, y and a value at the centre of each (row, column)."""
    x, y = zip(*(centre(row, column) for row, column in cells), strict=True)
    table = pa.table({"x": x, "y": y, name: list(values)})
    pyarrow.csv.write_csv(table, path)
    return path


def random_cells(number: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return different pixels with an embedding."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(HEIGHT * WIDTH)
    cells = [(int(n) // WIDTH, int(n) % WIDTH) for n in chosen]
    return [(row, column) for row, column in cells if row >= 20 or column >= 20][:number]
