"""Compare two sets of embeddings pixel by pixel, window by window, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..atomic import check_output
from ..errors import OutputError, RegionError
from ..products.geotiff.writer import Placement, cog_writer, open_raster
from ..region.grid import Window, tiling
from ..region.pixel_order import pixel_priority
from .compared import Embeddings, Pixels
from .difference_cells import DifferenceCells
from .structure import Moments, NeighbourSample, effective_rank, neighbour_overlap

NEIGHBOURS, SAMPLE = 10, 2000
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

_BAND = "1 - cosine"
_WINDOW = 256
_BARS = 40
_BINS = 20_000
"""Of the histogram of cosines between -1 and 1: percentiles are exact to 0.0001."""
_ALIGNED = 1e-3
"""Pixels: largest shift of one grid against the other that counts as aligned."""


@dataclass(frozen=True)
class Coverage:
    """Numbers of pixels: of both grids, of their overlap, and there with embeddings."""

    grid_a: int
    grid_b: int
    overlap: int
    in_a: int
    in_b: int
    in_both: int


@dataclass(frozen=True)
class Histogram:
    """Pixels by cosine; the last bar ends at 1.

    Attributes:
        low: lower end of the first bar.
        width: of a bar.
        pixels: of each bar.
        below: with a cosine below the first bar, at most one in a thousand.
    """

    low: float
    width: float
    pixels: list[int]
    below: int


@dataclass(frozen=True)
class Cosines:
    """Cosines of the embeddings of a pixel in A and B, over the pixels that both have.

    Attributes:
        mean, lowest: NaN without pixels.
        percentiles: by number, exact to 0.0001.
        length_ratio: mean length of the embeddings in B over that in A.
        without: pixels of which an embedding is all zeros, which has no cosine.
        histogram: None without pixels.
    """

    mean: float
    lowest: float
    percentiles: dict[int, float]
    length_ratio: float
    without: int
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Codes:
    """Equality of int8 codes, over the pixels that both have.

    Attributes:
        equal: share of equal codes.
        within_one: share of codes that differ by at most 1.
        pixels: share of pixels of which all codes are equal.
        largest: largest difference.
    """

    equal: float
    within_one: float
    pixels: float
    largest: int


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        coverage: see `Coverage`.
        cosines: None if the numbers of dimensions differ.
        codes: None unless both are int8 with the same number of dimensions.
        neighbour_overlap: mean share of the nearest neighbours of a pixel (by cosine, in a sample)
            that A and B have in common; None with too few pixels.
        neighbours, sample: neighbours of a pixel, and pixels in the sample.
        rank_a, rank_b: effective rank, see `structure.effective_rank`; None with too few pixels.
        counts_equal: share of the pixels that both have whose observation counts (S2, S1
            ascending, S1 descending) are the same; None if they are not known.
        counts_mean: mean count in A and in B, by kind, over these pixels.
    """

    coverage: Coverage
    cosines: Cosines | None
    codes: Codes | None
    neighbour_overlap: float | None
    neighbours: int
    sample: int
    rank_a: float | None
    rank_b: float | None
    counts_equal: list[float] | None
    counts_mean: list[tuple[float, float]] | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; numbers that are not finite are null."""
        result: dict[str, Any] = _finite(asdict(self))
        return result


def overlap(a: Placement, b: Placement) -> tuple[Window, Window]:
    """Return the common pixels of two grids, as a window of each.

    Raises:
        RegionError: the grids differ in CRS, size or position of the pixels, or do not overlap.
    """
    faults = []
    crs_a, crs_b = pyproj.CRS.from_wkt(a.crs), pyproj.CRS.from_wkt(b.crs)
    if crs_a != crs_b:
        faults.append(f"A is in {_crs_name(crs_a)}, B in {_crs_name(crs_b)}")
    sizes = [(side.transform.a, side.transform.e) for side in (a, b)]
    if not np.allclose(sizes[0], sizes[1], rtol=1e-9, atol=0):
        texts = [f"{abs(x):g} x {abs(y):g}" for x, y in sizes]
        faults.append(f"a pixel of A is {texts[0]}, one of B {texts[1]} in units of the CRS")
    if any(side.transform.b or side.transform.d for side in (a, b)):
        faults.append("a grid is rotated")
    if not faults:
        _, _, x, _, _, y = tuple(~a.transform @ b.transform)[:6]
        shift = max(abs(x - round(x)), abs(y - round(y)))
        if shift > _ALIGNED:
            faults.append(
                f"the pixels of B are shifted by {x - round(x):.3f} columns and "
                f"{y - round(y):.3f} rows against those of A"
            )
    if faults:
        raise RegionError(
            f"The grids differ: {'; '.join(faults)}. Make both on one grid (regions.NAME.crs and "
            "grid in the configuration); nothing is resampled here."
        )
    x0, y0 = round(x), round(y)
    left, top = max(0, x0), max(0, y0)
    right = min(a.shape[1], x0 + b.shape[1])
    bottom = min(a.shape[0], y0 + b.shape[0])
    if left >= right or top >= bottom:
        raise RegionError(
            f"The grids do not overlap: A covers {_extent(a)}, B {_extent(b)} in "
            f"{_crs_name(crs_a)}."
        )
    shape = bottom - top, right - left
    return Window(top, left, *shape), Window(top - y0, left - x0, *shape)


def compare(
    a: Embeddings,
    b: Embeddings,
    *,
    neighbours: int = NEIGHBOURS,
    sample: int = SAMPLE,
    difference: Path | None = None,
    cells: DifferenceCells | None = None,
) -> Comparison:
    """Compare two sets of embeddings where their grids overlap.

    Args:
        a, b: the embeddings.
        neighbours: number of nearest neighbours of a pixel.
        sample: pixels among which they are searched. They depend on their position only.
        difference: cloud-optimised GeoTIFF to write, 1 - cosine of each pixel of the overlap as
            float32, NaN where one has no embedding. Not written if the dimensions differ.
        cells: of the overlap, to which the windows are added.

    Raises:
        RegionError: see `overlap`.
        TileError: a file is damaged.
        OutputError: the GeoTIFF cannot be written, or another file has its name.
    """
    if difference is not None:
        _check_replaceable(difference)
    in_a, in_b = overlap(a.place, b.place)
    totals = _Totals(a, b, NeighbourSample(sample))
    with ExitStack() as stack:
        write: Callable[[Window, NDArray[Any]], None] | None = None
        if difference is not None and a.dim == b.dim:
            placement = Placement(
                in_a.shape, a.place.crs, a.place.transform @ Affine.translation(in_a.x0, in_a.y0)
            )
            tags = {"A": a.name, "B": b.name}
            write = stack.enter_context(
                cog_writer(difference, placement, "float32", [_BAND], tags, "AVERAGE",
                           float("nan"))
            )  # fmt: skip
        for window in _windows(in_a, a.chunk):
            same = Window(
                window.y0 - in_a.y0 + in_b.y0, window.x0 - in_a.x0 + in_b.x0, *window.shape
            )
            first, second = a.read(window), b.read(same)
            distance = 1 - totals.add(window, first, second)
            target = Window(window.y0 - in_a.y0, window.x0 - in_a.x0, *window.shape)
            if write is not None:
                write(target, distance.astype(np.float32)[np.newaxis])
            if cells is not None:
                cells.add(target, distance, first.valid, second.valid)
    return totals.result(in_a, neighbours)


def _check_replaceable(path: Path) -> None:
    """Refuse to replace what is no map of a comparison."""
    check_output(path)
    if not path.exists():
        return
    try:
        with open_raster(path) as raster:
            ours = raster.descriptions == (_BAND,) and {"A", "B"} <= set(raster.tags())
    except RasterioError:
        ours = False
    if not ours:
        raise OutputError(
            f"{path} exists and is no map of a comparison, so it is not replaced: use another name."
        )


def _windows(area: Window, chunk: int) -> Iterator[Window]:
    """Yield windows of complete chunks, clipped to an area."""
    edge = max(1, _WINDOW // chunk) * min(chunk, _WINDOW)
    y, x = area.y0 - area.y0 % edge, area.x0 - area.x0 % edge
    bottom, right = area.y0 + area.height, area.x0 + area.width
    for window in tiling(bottom - y, right - x, edge):
        top, left = max(area.y0, y + window.y0), max(area.x0, x + window.x0)
        end = y + window.y0 + window.height, x + window.x0 + window.width
        yield Window(top, left, end[0] - top, end[1] - left)


class _Totals:
    """Sums over the windows of a comparison."""

    def __init__(self, a: Embeddings, b: Embeddings, sample: NeighbourSample) -> None:
        self.a, self.b, self.sample = a, b, sample
        self.comparable = a.dim == b.dim
        self.in_a = self.in_b = self.both = 0
        self.moments = Moments(a.dim), Moments(b.dim)
        self.histogram = np.zeros(_BINS + 1, np.int64)
        self.cosines, self.lowest, self.without = 0.0, 1.0, 0
        self.lengths = np.zeros(2)
        self.codes = np.zeros(3, np.int64)
        self.largest = 0
        self.counted, self.equal, self.steps = False, np.zeros(3, np.int64), np.zeros((2, 3))

    def add(self, window: Window, a: Pixels, b: Pixels) -> NDArray[np.float64]:
        """Add a window; return its cosines (h, w), NaN where there is none."""
        both = a.valid & b.valid
        self.in_a += int(a.valid.sum())
        self.in_b += int(b.valid.sum())
        self.both += int(both.sum())
        result = np.full(window.shape, np.nan)
        if a.counts is not None and b.counts is not None:
            self.counted = True
            self.equal += (a.counts == b.counts)[both].sum(axis=0)
            self.steps += [part.counts[both].sum(axis=0) for part in (a, b)]  # type: ignore[index]
        if not both.any():
            return result
        rows, columns = np.nonzero(both)
        priority = pixel_priority(
            (rows + window.y0).astype(np.uint64), (columns + window.x0).astype(np.uint64)
        )
        first, second = a.values[both].astype(np.float64), b.values[both].astype(np.float64)
        self.sample.add(priority, first, second)
        self.moments[0].add(first)
        self.moments[1].add(second)
        if self.comparable:
            result[both] = self._cosines(first, second)
            if a.codes is not None and b.codes is not None:
                self._codes(a.codes[both], b.codes[both])
        return result

    def _cosines(
        self, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        lengths = np.sqrt((first**2).sum(axis=1)), np.sqrt((second**2).sum(axis=1))
        self.lengths += [part.sum() for part in lengths]
        product = lengths[0] * lengths[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines: NDArray[np.float64] = np.clip((first * second).sum(axis=1) / product, -1, 1)
        known = cosines[product > 0]
        self.without += len(cosines) - len(known)
        self.cosines += float(known.sum())
        self.lowest = min(self.lowest, float(known.min(initial=1.0)))
        bins = np.rint((known + 1) / 2 * _BINS).astype(np.int64)
        self.histogram += np.bincount(bins, minlength=_BINS + 1)
        return cosines

    def _codes(self, first: NDArray[np.int8], second: NDArray[np.int8]) -> None:
        steps = np.abs(first.astype(np.int16) - second)
        self.codes += [(steps == 0).sum(), (steps <= 1).sum(), (steps == 0).all(axis=1).sum()]
        self.largest = max(self.largest, int(steps.max()))

    def result(self, area: Window, neighbours: int) -> Comparison:
        values = self.both * self.a.dim
        quantised = self.a.quantised and self.b.quantised and self.comparable and self.both
        shared = neighbour_overlap(self.sample.first, self.sample.second, neighbours)
        counts = self.counted and self.both > 0
        return Comparison(
            coverage=Coverage(
                int(np.prod(self.a.place.shape)),
                int(np.prod(self.b.place.shape)),
                area.height * area.width,
                self.in_a,
                self.in_b,
                self.both,
            ),
            cosines=self._cosine_result() if self.comparable else None,
            codes=Codes(
                float(self.codes[0] / values),
                float(self.codes[1] / values),
                float(self.codes[2] / self.both),
                self.largest,
            )
            if quantised
            else None,
            neighbour_overlap=shared,
            neighbours=neighbours,
            sample=len(self.sample.first),
            rank_a=effective_rank(self.moments[0]),
            rank_b=effective_rank(self.moments[1]),
            counts_equal=(self.equal / self.both).tolist() if counts else None,
            counts_mean=list(zip(*(self.steps / self.both).tolist(), strict=True))
            if counts
            else None,
        )

    def _cosine_result(self) -> Cosines:
        number = self.both - self.without
        if not number:
            nan = float("nan")
            return Cosines(nan, nan, dict.fromkeys(PERCENTILES, nan), nan, self.without)
        reached = np.cumsum(self.histogram)
        percentiles = {
            p: float(2 * np.searchsorted(reached, p / 100 * number) / _BINS - 1)
            for p in PERCENTILES
        }
        return Cosines(
            self.cosines / number,
            self.lowest,
            percentiles,
            float(self.lengths[1] / self.lengths[0]),
            self.without,
            _histogram(self.histogram),
        )


def _histogram(counts: NDArray[np.int64]) -> Histogram:
    """Return bars that contain all but the lowest thousandth of the pixels.

    Args:
        counts: (bins + 1,) pixels by cosine, from -1 to 1.
    """
    from_top = np.cumsum(counts[::-1])
    reached = int(np.searchsorted(from_top, 0.999 * from_top[-1]))
    bins = -(-(reached + 1) // _BARS)
    bars = np.zeros(_BARS * bins, np.int64)
    shown = counts[::-1][: len(bars)]
    bars[: len(shown)] = shown
    width = 2 * bins / _BINS
    return Histogram(
        1 - _BARS * width,
        width,
        bars.reshape(_BARS, bins).sum(axis=1)[::-1].tolist(),
        int(counts.sum() - shown.sum()),
    )


def _crs_name(crs: pyproj.CRS) -> str:
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else crs.name


def _extent(place: Placement) -> str:
    left, top = place.transform @ (0, 0)
    right, bottom = place.transform @ (place.shape[1], place.shape[0])
    return f"x {left:.10g} to {right:.10g} and y {bottom:.10g} to {top:.10g}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
