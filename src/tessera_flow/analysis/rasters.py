"""Write a map and its uncertainty, window by window, as cloud-optimised GeoTIFFs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import zarr
from affine import Affine
from numpy.typing import NDArray

from ..concurrency import ordered_map
from ..products.geotiff.writer import Placement, cog_writer
from ..products.reading.sample import Parts
from ..region.grid import Window, tiling
from .class_names import NO_UNCERTAINTY, class_colours
from .labels import Labels

if TYPE_CHECKING:
    from .methods import Predictor

WINDOW = 256
"""Edge of a window, in pixels; a multiple of the chunks of the store below or at it."""


@dataclass(frozen=True)
class MapSummary:
    """What a map contains.

    Attributes:
        pixels: with a prediction.
        of_classes: number of pixels of each class, in the order of `Labels.classes`.
        uncertainty: mean over the pixels; NaN without any.
        low, high: smallest and largest number; NaN for classes.
    """

    pixels: int
    of_classes: tuple[int, ...]
    uncertainty: float
    low: float
    high: float


class EmbeddingStore:
    """Read dequantised embeddings from a store, window by window.

    Attributes:
        place: size and position of its grid.
        metres: edge of a pixel.
    """

    def __init__(self, group: zarr.Group) -> None:
        """Read the metadata.

        Raises:
            TileError: the record of the store, or metadata, are damaged.
        """
        attributes: dict[str, Any] = group.attrs.asdict()
        crs = pyproj.CRS.from_user_input(attributes.get("proj:code") or attributes["proj:wkt2"])
        height, width = (int(n) for n in attributes["spatial:shape"])
        affine = Affine(*attributes["spatial:transform"])
        self.place = Placement((height, width), crs.to_wkt(), affine)
        self.metres = abs(affine.a) * float(crs.axis_info[0].unit_conversion_factor)
        self._embeddings: Any = group["embeddings"]
        self._scales: Any = group.get("scales")
        self._parts = Parts(group)

    def windows(self) -> list[Window]:
        """Return windows of complete chunks that cover the grid."""
        chunk = int(self._embeddings.chunks[-1])
        return list(tiling(*self.place.shape, max(1, WINDOW // chunk) * chunk))

    def read(self, window: Window) -> NDArray[np.float32] | None:
        """Return (height * width, K) embeddings, NaN where there is none; None if all are.

        Raises:
            TileError: a part of the store is missing or damaged.
        """
        rows, columns = window.slices
        if self._scales is not None:
            scales = self._parts.read(self._scales, rows, columns)
            if not np.isfinite(scales).any():
                return None
        codes = self._parts.read(self._embeddings, rows, columns)
        values = codes.astype(np.float32)
        if self._scales is not None:
            self._parts.check_codes(codes, scales, self._embeddings.fill_value, rows, columns)
            values *= scales
        return np.ascontiguousarray(values.reshape(len(values), -1).T)


def write_rasters(
    output: Path,
    uncertainty: Path,
    store: EmbeddingStore,
    model: Predictor,
    labels: Labels,
    tags: Mapping[str, str],
    threads: int = 1,
) -> MapSummary:
    """Predict every pixel with an embedding, and write the map and its uncertainty.

    Args:
        output: GeoTIFF of the map: uint8 values of the classes, 0 without an embedding, with a
            colour table; or float32 numbers, NaN without.
        uncertainty: GeoTIFF of the uncertainty: of classes uint8 percent, 255 without an
            embedding; of numbers float32 in their unit, NaN without.
        store: the embeddings.
        model: the method, which has learned.
        labels: classes and their values.
        tags: of both files.
        threads: windows that are predicted at a time; the bytes do not depend on it.

    Raises:
        TileError: a part of the store is missing or damaged.
        OutputError: a file cannot be written.
    """
    codes = np.array(labels.codes, np.uint8)
    total = _Totals(len(codes))
    classes = bool(labels.classes)

    def predict(window: Window) -> _Piece | None:
        return _predict(store, window, model, codes if classes else None)

    with ExitStack() as stack:
        write_map = stack.enter_context(
            cog_writer(
                output,
                store.place,
                "uint8" if classes else "float32",
                ["class" if classes else "number"],
                tags,
                "MODE" if classes else "AVERAGE",
                0 if classes else float("nan"),
                _colour_table(labels.codes) if classes else None,
            )
        )
        write_uncertainty = stack.enter_context(
            cog_writer(
                uncertainty,
                store.place,
                "uint8" if classes else "float32",
                ["uncertainty"],
                tags,
                "AVERAGE",
                NO_UNCERTAINTY if classes else float("nan"),
            )
        )
        pieces = stack.enter_context(closing(ordered_map(predict, store.windows(), threads)))
        for piece in pieces:
            if piece is not None:
                write_map(piece.window, piece.values[np.newaxis])
                write_uncertainty(piece.window, piece.uncertainty[np.newaxis])
                total.add(piece, codes)
    return total.summary()


@dataclass(frozen=True)
class _Piece:
    window: Window
    values: NDArray[Any]
    uncertainty: NDArray[Any]
    valid: NDArray[np.bool_]


def _predict(
    store: EmbeddingStore, window: Window, model: Predictor, codes: NDArray[np.uint8] | None
) -> _Piece | None:
    pixels = store.read(window)
    if pixels is None:
        return None
    valid: NDArray[np.bool_] = np.asarray(np.isfinite(pixels).all(axis=1))
    if not valid.any():
        return None
    predicted, spread = model.predict(pixels if valid.all() else pixels[valid])
    values: NDArray[Any]
    uncertainty: NDArray[Any]
    if codes is not None:
        values = np.zeros(len(valid), np.uint8)
        uncertainty = np.full(len(valid), NO_UNCERTAINTY, np.uint8)
        values[valid] = codes[predicted]
        uncertainty[valid] = np.rint(np.clip(spread, 0, 100))
    else:
        values = np.full(len(valid), np.nan, np.float32)
        uncertainty = values.copy()
        values[valid], uncertainty[valid] = predicted, spread
    shape = window.shape
    return _Piece(window, values.reshape(shape), uncertainty.reshape(shape), valid.reshape(shape))


class _Totals:
    """Sums over the pieces of a map."""

    def __init__(self, classes: int) -> None:
        self.pixels, self.sum = 0, 0.0
        self.of_classes = np.zeros(classes, np.int64)
        self.low, self.high = float("inf"), float("-inf")

    def add(self, piece: _Piece, codes: NDArray[np.uint8]) -> None:
        self.pixels += int(piece.valid.sum())
        self.sum += float(piece.uncertainty[piece.valid].sum(dtype=np.float64))
        values = piece.values[piece.valid]
        if len(codes):
            self.of_classes += np.bincount(values, minlength=256)[codes]
        else:
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    def summary(self) -> MapSummary:
        none = float("nan")
        numbers = bool(self.pixels) and not len(self.of_classes)
        return MapSummary(
            self.pixels,
            tuple(self.of_classes.tolist()),
            self.sum / self.pixels if self.pixels else none,
            float(self.low) if numbers else none,
            float(self.high) if numbers else none,
        )


def _colour_table(codes: Sequence[int]) -> dict[int, tuple[int, int, int, int]]:
    colours = zip(codes, class_colours(len(codes)), strict=True)
    return {0: (0, 0, 0, 0), **{code: (*colour, 255) for code, colour in colours}}
