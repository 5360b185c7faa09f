"""Open embeddings for a comparison: a product of this program, or a published NumPy tile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from ..errors import TileError
from ..geotessera.pixels import LARGEST_SCALE
from ..geotessera.tiles import LANDMASKS
from ..npy_file import open_array
from ..products.geotiff.writer import Placement, open_raster
from ..products.reading.find import STORE_NAME
from ..products.reading.sample import Parts, open_store
from ..region.grid import Window

ARRAYS = "stitched_representation.npy"
SAME_PRODUCT = "A and B are the same product"
_YEAR = re.compile(r"20\d\d")
_CHUNK = 256
"""Edge of the windows of files that have no chunks."""


@dataclass(frozen=True)
class Pixels:
    """The embeddings of a window of h x w pixels.

    Attributes:
        values: (h, w, K) float32 embeddings, NaN where there is none.
        codes: (h, w, K) int8; None for float32 embeddings.
        counts: (h, w, 3) valid S2, S1 ascending, S1 descending steps; None if unknown.
    """

    values: NDArray[np.float32]
    codes: NDArray[np.int8] | None
    counts: NDArray[Any] | None

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Which pixels have an embedding, (h, w)."""
        return np.asarray(np.isfinite(self.values).all(axis=-1))


@dataclass(frozen=True)
class Published:
    """Published embeddings, of a calendar year.

    Attributes:
        version: of the dataset, such as `v1.1`; None if it is not known.
        year: None if it is not known.
    """

    version: str | None
    year: int | None


@dataclass(frozen=True)
class Embeddings:
    """Embeddings on a grid, read window by window.

    Attributes:
        name: path or URL, without secrets.
        place: size and position of the grid.
        dim: dimensions.
        quantised: whether int8 codes with scales are stored.
        chunk: edge of a stored chunk, in pixels.
        record: see `products.provenance`; empty for files that state none.
        read: returns the pixels of a window.
        checks: `checks.json` beside the product; empty if there is none.
        published: of embeddings in a published layout without a record; None for others.
    """

    name: str
    place: Placement
    dim: int
    quantised: bool
    chunk: int
    record: dict[str, Any]
    read: Callable[[Window], Pixels]
    checks: dict[str, Any] = field(default_factory=dict)
    published: Published | None = None

    @property
    def period(self) -> tuple[str, str] | None:
        """First and last day, as ISO dates; None if they are not known."""
        start, end = self.record.get("period_start"), self.record.get("period_end")
        if start and end:
            return str(start), str(end)
        if self.published is not None and self.published.year is not None:
            return f"{self.published.year}-01-01", f"{self.published.year}-12-31"
        return None


def same_product(a: Embeddings, b: Embeddings) -> bool:
    """Return whether A and B are one product: the same files, or the Zarr store and the arrays of
    one folder."""
    places = []
    for one in (a, b):
        path = Path(one.name)
        places.append(path.parent if path.name in (STORE_NAME, ARRAYS) else path)
    try:
        return places[0].samefile(places[1])
    except OSError:  # a URL
        return a.name == b.name


def open_embeddings(path: Path) -> Embeddings:
    """Open `embeddings.zarr`, `stitched_representation.npy`, a folder with one of them (the first
    that it has), or a published tile `grid_<lon>_<lat>.npy` or its folder.

    Raises:
        TileError: there is nothing of these, or it cannot be read.
    """
    if not path.exists():
        raise TileError(f"{path} does not exist: check the path.")
    if path.is_dir():
        if (path / STORE_NAME).is_dir():
            return _open_zarr(path / STORE_NAME)
        if (path / "zarr.json").exists():
            return _open_zarr(path)
        if (path / ARRAYS).exists():
            return _open_arrays(path / ARRAYS)
        if (path / f"{path.name}.npy").exists():
            return _open_tile(path / f"{path.name}.npy")
    elif path.name == ARRAYS:
        return _open_arrays(path)
    elif path.suffix == ".npy":
        return _open_tile(path)
    raise TileError(
        f"{path} has no embeddings that can be compared: name {STORE_NAME}, {ARRAYS}, the folder "
        "of a region and period with one of them, or a tile of the geotessera layout "
        "(grid_<lon>_<lat>.npy)."
    )


def _open_zarr(path: Path) -> Embeddings:
    group = open_store(path)
    attributes: dict[str, Any] = group.attrs.asdict()
    codes: Any = group["embeddings"]
    scales: Any = group.get("scales")
    counts: Any = group.get("observation_counts")
    if codes.shape[0] != 1:
        raise TileError(f"{path} has {codes.shape[0]} times: products with one can be compared.")
    parts = Parts(group)
    chunk = int(codes.chunks[-1])

    def read(window: Window) -> Pixels:
        shape = window.shape
        values = np.full((*shape, codes.shape[1]), np.nan, np.float32)
        stored = None if scales is None else np.zeros(values.shape, np.int8)
        counted = None if counts is None else np.zeros((*shape, 3), counts.dtype)
        for piece in _cells(window, chunk):
            rows, columns = piece.slices
            inside = Window(piece.y0 - window.y0, piece.x0 - window.x0, *piece.shape).slices
            if counted is not None:
                counted[inside] = np.moveaxis(parts.read(counts, rows, columns), 0, -1)
            if stored is None:
                values[inside] = np.moveaxis(parts.read(codes, rows, columns), 0, -1)
                continue
            scale = parts.read(scales, rows, columns)
            if np.isfinite(scale).any():
                code = parts.read(codes, rows, columns)
                parts.check_codes(code, scale, codes.fill_value, rows, columns)
                stored[inside] = np.moveaxis(code, 0, -1)
                values[inside] = stored[inside] * scale[..., np.newaxis]
        return Pixels(values, stored, counted)

    crs = pyproj.CRS.from_user_input(attributes.get("proj:code") or attributes["proj:wkt2"])
    height, width = (int(n) for n in attributes["spatial:shape"])
    return Embeddings(
        str(path),
        Placement((height, width), crs.to_wkt(), Affine(*attributes["spatial:transform"])),
        int(codes.shape[1]),
        scales is not None,
        chunk,
        own_record(attributes.get("provenance")),
        read,
        _json(path.with_name("checks.json")),
    )


def _open_arrays(path: Path) -> Embeddings:
    record = _json(path.with_suffix(".json"))
    try:
        affine = Affine(*record["transform"])
        crs = pyproj.CRS.from_user_input(record["crs"]).to_wkt()
    except (LookupError, TypeError, ValueError, pyproj.exceptions.CRSError) as error:
        raise TileError(
            f"{path} has no usable record {path.with_suffix('.json').name} beside it, which states "
            f"its position ({error!r})."
        ) from error
    codes = _array(path, 3)
    placement = Placement((codes.shape[0], codes.shape[1]), crs, affine)
    counts = path.with_name(f"{path.stem}_counts.npy")
    counts_file = counts if counts.exists() else None
    return _of_arrays(path, codes, placement, counts_file, own_record(record), None)


def _open_tile(path: Path) -> Embeddings:
    mask = f"{path.stem}.tiff"
    places = [path.with_name(mask), *(parent / LANDMASKS / mask for parent in path.parents[:4])]
    landmask = next((place for place in places if place.is_file()), None)
    if landmask is None:
        raise TileError(
            f"The position of {path} is not known: put its land mask {mask} beside it (in a store "
            f"it is in {LANDMASKS})."
        )
    try:
        with open_raster(landmask) as raster:
            if raster.crs is None:
                raise TileError(f"{landmask} has no CRS: copy it again.")
            placement = Placement(
                (raster.height, raster.width), raster.crs.to_wkt(), raster.transform
            )
    except RasterioError as error:
        raise TileError(f"{landmask} cannot be read ({error}): copy it again.") from error
    # Of a store that this program has written.
    records = (own_record(_json(parent / "provenance.json")) for parent in path.parents[:4])
    record = next(filter(None, records), {})
    folder = path.parent.parent.name  # <year>/grid_<lon>_<lat>/grid_<lon>_<lat>.npy
    year = int(folder) if _YEAR.fullmatch(folder) else None
    published = None if record else Published(None, year)
    tile = _of_arrays(path, _array(path, 3), placement, None, record, LARGEST_SCALE)
    return replace(tile, published=published)


def _of_arrays(
    path: Path,
    codes: NDArray[Any],
    place: Placement,
    counts_file: Path | None,
    record: dict[str, Any],
    largest_scale: float | None,
) -> Embeddings:
    """Return embeddings in .npy files; scales are beside the codes."""
    quantised = codes.dtype == np.int8
    if not quantised and codes.dtype != np.float32:
        raise TileError(f"{path} has values of type {codes.dtype}: int8 or float32 are embeddings.")
    scales = _array(path.with_name(f"{path.stem}_scales.npy"), 2) if quantised else None
    counts = None if counts_file is None else _array(counts_file, 3)
    for name, array in (("codes", codes), ("scales", scales), ("counts", counts)):
        if array is not None and array.shape[:2] != place.shape:
            raise TileError(
                f"The {name} of {path} have {array.shape[0]} x {array.shape[1]} pixels, its grid "
                f"has {place.shape[0]} x {place.shape[1]}: copy the files again."
            )

    def read(window: Window) -> Pixels:
        counted = None if counts is None else np.asarray(counts[window.slices])
        if scales is None:
            return Pixels(np.asarray(codes[window.slices]), None, counted)
        scale = np.array(scales[window.slices], np.float32)
        if largest_scale is not None:
            with np.errstate(invalid="ignore"):
                scale[~((scale > 0) & (scale < largest_scale))] = np.nan
        stored = np.asarray(codes[window.slices])
        return Pixels(stored * scale[..., np.newaxis], stored, counted)

    checks = _json(path.with_name("checks.json"))
    return Embeddings(
        str(path), place, int(codes.shape[2]), quantised, _CHUNK, record, read, checks
    )  # fmt: skip


def _cells(window: Window, edge: int) -> list[Window]:
    """Return the parts of a window in each chunk of a grid."""

    def cuts(start: int, length: int) -> list[tuple[int, int]]:
        first = start - start % edge
        bounds = range(first, start + length, edge)
        return [(max(start, b), min(start + length, b + edge)) for b in bounds]

    return [
        Window(y0, x0, y1 - y0, x1 - x0)
        for y0, y1 in cuts(window.y0, window.height)
        for x0, x1 in cuts(window.x0, window.width)
    ]


def _array(path: Path, axes: int) -> NDArray[Any]:
    try:
        array = open_array(path)
    except (OSError, ValueError, EOFError) as error:
        raise TileError(f"{path} cannot be read ({error}): copy it again.") from error
    if not isinstance(array, np.memmap) or array.ndim != axes:
        raise TileError(f"{path} is no array with {axes} axes: copy it again.")
    return array


def own_record(document: Any) -> dict[str, Any]:
    """Return a record that `products.provenance` made; empty if it is of another program."""
    if not isinstance(document, dict):
        return {}
    parts = [document.get(name) for name in ("model", "software", "min_observations")]
    sources = document.get("sources")
    if not isinstance(sources, list) or not all(isinstance(e, dict) for e in (*parts, *sources)):
        return {}
    known = all({"sensor", "provider", "collection"} <= set(source) for source in sources)
    return document if known else {}


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object in a file; empty if there is none."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
