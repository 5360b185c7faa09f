"""Write the preview into the Zarr store, at its full size and reduced by factors of two, so that
viewers draw a large region from a few chunks.

Layout: the group `preview` with a group for each level, `0` (the pixels of the product), `1` (half
of the rows and columns), ...; in each `rgb` (channel, Y, X) uint8, 0 without an embedding, the
coordinates and the CRS. The group follows the Zarr conventions `multiscales`, `proj:` and
`spatial:`. Its dimensions have other names than those of the store, because xarray requires equal
coordinates of one name in a group and the groups in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS

from ...concurrency import ordered_map
from ...region.grid import Window, tiling
from ..blocks import RegionBlocks
from ..components import Components, fit_components
from ..provenance import Provenance, product_crs
from .zarr_grid import (
    COMPRESSOR,
    CONVENTIONS,
    MULTISCALES,
    crs_attributes,
    shard_edges,
    spatial_attributes,
    write_place,
)

PREVIEW = "preview"
"""Name of the group."""
ARRAY = "rgb"
"""Name of the array in each level."""
SMALLEST = 512
"""Longest side of the last level, in pixels, at most; and the longest edge of a chunk."""
SHARD = 2048
"""Edge of a shard of the reduced levels, in pixels."""
DIMENSIONS = ("Y", "X")
FILES_OF_LEVEL = 8
"""Files of a level beside its pixels: metadata, coordinates, CRS."""
_STRIP = 256
"""Rows of a reduced level that are computed at a time."""
_PLACE = CONVENTIONS[1:]


def write_overviews(
    store: zarr.Group,
    source: RegionBlocks,
    provenance: Provenance,
    stretch: float,
    threads: int,
    shards: bool,
) -> list[str]:
    """Write the levels; their colours are those of a preview that is fitted to this store alone.

    Args:
        store: the group of the store, which is changed.
        source: the embeddings of the region.
        provenance: of the store.
        stretch: per cent of the scores cut at both ends of each colour.
        threads: shards that are written at a time; each is one thread's alone.
        shards: whether chunks are collected in shards; otherwise each is a file.

    Returns:
        The paths of the groups, those in others first.

    Raises:
        TileError: a block is damaged; it is named.
        OSError: a file cannot be written.
    """
    components = fit_components(source, stretch)
    crs = product_crs(source.grid)
    grids = list(levels(source.shape, source.grid.product_geobox.affine))
    group = store.create_group(
        PREVIEW, attributes=_group_attributes(provenance, components, stretch, grids, crs)
    )
    sizes = _sizes(0, grids[0][0], source.edge)
    array = _create_level(group, "0", grids[0], crs, sizes, shards)
    if components is not None:
        colours = components

        def render(mine: RegionBlocks, window: Window) -> NDArray[np.uint8] | None:
            return _render(mine, colours, window)

        _write_shards(array, sizes[0], threads, render, source)
    for number, grid in enumerate(grids[1:], 1):
        finer, sizes = array, _sizes(number, grid[0], source.edge)
        array = _create_level(group, str(number), grid, crs, sizes, shards)
        if components is not None:

            def reduce(
                _: RegionBlocks, window: Window, finer: zarr.Array[Any] = finer
            ) -> NDArray[np.uint8] | None:
                return _reduced(finer, window)

            _write_shards(array, sizes[0], threads, reduce, source)
    return [*(f"{PREVIEW}/{number}" for number in range(len(grids))), PREVIEW]


def levels(shape: tuple[int, int], affine: Affine) -> Iterator[tuple[tuple[int, int], Affine]]:
    """Yield (height, width) and transform of each level.

    Each has half of the rows and columns of the one before, rounded up, so that the last pixels
    may reach beyond the product; the last one has at most `SMALLEST` on its longer side.
    """
    yield shape, affine
    while max(shape) > SMALLEST:
        shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        affine = affine @ Affine.scale(2)
        yield shape, affine


def number_of_files(shape: tuple[int, int], block_edge: int, shards: bool) -> int:
    """Return the most files of the levels of a region, for blocks of `block_edge` pixels."""
    files = 1
    for number, (sides, _) in enumerate(levels(shape, Affine.identity())):
        edge = _sizes(number, sides, block_edge)[0 if shards else 1]
        files += FILES_OF_LEVEL + -(-sides[0] // edge) * -(-sides[1] // edge)
    return files


def _sizes(number: int, shape: tuple[int, int], block_edge: int) -> tuple[int, int]:
    """Return the edges of a shard and of a chunk of a level: shards of the first are inside one
    block, like those of the store."""
    if number == 0:
        return shard_edges(block_edge, SMALLEST, 3)
    chunk = min(SMALLEST, max(shape))
    return (SHARD if chunk == SMALLEST else chunk), chunk


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the means of 2 x 2 pixels of (3, h, w), over those that are not 0 in all channels.

    A pixel with an embedding has no 0 in any channel. Of an odd number of rows or columns, the last
    pixels are means of the pixels that exist.
    """
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (0, h % 2), (0, w % 2))).astype(np.uint16)
    sums = padded[:, 0::2] + padded[:, 1::2]
    sums = sums[:, :, 0::2] + sums[:, :, 1::2]
    valid = (padded[0] > 0).astype(np.uint16)
    number = valid[0::2] + valid[1::2]
    number = number[:, 0::2] + number[:, 1::2]
    # Halves are rounded up.
    return np.asarray((2 * sums + number) // np.maximum(2 * number, 1), np.uint8)


def _group_attributes(
    provenance: Provenance,
    components: Components | None,
    stretch: float,
    grids: Sequence[tuple[tuple[int, int], Affine]],
    crs: CRS,
) -> dict[str, Any]:
    layout = []
    for number, (shape, affine) in enumerate(grids):
        place = spatial_attributes(DIMENSIONS, shape, affine)
        # A factor for each dimension of the array, as GDAL 3.13 reads and writes it.
        factor = 2.0 if number else 1.0
        entry: dict[str, Any] = {
            "asset": str(number),
            "transform": {"scale": [1.0, factor, factor], "translation": [0.0, 0.0, 0.0]},
            **{key: place[key] for key in ("spatial:shape", "spatial:transform", "spatial:bbox")},
        }
        if number:
            entry |= {"derived_from": str(number - 1), "resampling_method": "average"}
        layout.append(entry)
    return {
        "title": f"Preview of TESSERA embeddings of {provenance.region}, {provenance.period}",
        "comment": "first three principal components as red, green and blue, fitted to this store "
        "alone; 0 without an embedding",
        "pca_variance_shares": []
        if components is None
        else [round(float(share), 6) for share in components.shares],
        "pca_sample_pixels": 0 if components is None else components.pixels,
        "pca_stretch_percent": float(stretch),
        "zarr_conventions": [dict(MULTISCALES), *(dict(one) for one in _PLACE)],
        "multiscales": {"layout": layout, "resampling_method": "average"},
        **crs_attributes(crs),
        **spatial_attributes(DIMENSIONS, *grids[0]),
    }


def _create_level(
    group: zarr.Group,
    name: str,
    grid: tuple[tuple[int, int], Affine],
    crs: CRS,
    sizes: tuple[int, int],
    shards: bool,
) -> zarr.Array[Any]:
    """Create the group of a level with its coordinates; return its array, without pixels.

    Args:
        group: of the preview.
        name: of the level.
        grid: shape and transform.
        crs: of the grid.
        sizes: edges of a shard and of a chunk.
        shards: whether chunks are collected in shards.
    """
    place = {**crs_attributes(crs), **spatial_attributes(DIMENSIONS, *grid)}
    conventions = {"zarr_conventions": [dict(one) for one in _PLACE]}
    level = group.create_group(name, attributes=conventions | place)
    write_place(level, DIMENSIONS, *grid, crs)
    shard, chunk = sizes
    return level.create_array(
        ARRAY,
        shape=(3, *grid[0]),
        chunks=(3, chunk, chunk),
        shards=(3, shard, shard) if shards and shard > chunk else None,
        dtype=np.uint8,
        fill_value=0,
        compressors=COMPRESSOR,
        dimension_names=("channel", *DIMENSIONS),
        attributes={
            "long_name": "first three principal components",
            "comment": "red, green, blue; 0 without an embedding",
            "valid_min": 1,
            "valid_max": 255,
            "grid_mapping": "spatial_ref",
            "coordinates": "spatial_ref",
        },
    )


def _write_shards(
    array: zarr.Array[Any],
    edge: int,
    threads: int,
    pixels: Callable[[RegionBlocks, Window], NDArray[np.uint8] | None],
    source: RegionBlocks,
) -> None:
    """Write `pixels` of each window of `edge` pixels; None writes nothing."""
    windows = list(tiling(array.shape[1], array.shape[2], edge))
    stop = threading.Event()

    def write(several: Sequence[Window]) -> None:
        try:
            with source.another() as mine:
                for window in several:
                    if stop.is_set():
                        return
                    image = pixels(mine, window)
                    if image is not None:
                        array[(slice(None), *window.slices)] = image
        except BaseException:
            stop.set()
            raise

    parts = (windows[n::threads] for n in range(threads))
    list(ordered_map(write, parts, threads, stop=stop))


def _render(
    source: RegionBlocks, components: Components, window: Window
) -> NDArray[np.uint8] | None:
    """Return the colours of a window (3, h, w), patch by patch; None without an embedding."""
    result: NDArray[np.uint8] | None = None
    for part in tiling(*window.shape, source.piece_edge):
        inside = Window(window.y0 + part.y0, window.x0 + part.x0, *part.shape)
        scales = source.read_region("scales", inside) if source.quantised else None
        if source.quantised and (scales is None or not np.isfinite(scales).any()):
            continue
        values = source.read_region("embeddings", inside)
        if values is None:
            continue
        image = components.image(values, scales)
        if result is None:
            result = np.zeros((3, *window.shape), np.uint8)
        # 0 is kept for pixels without an embedding.
        result[(slice(None), *part.slices)] = np.where(image[3] > 0, np.maximum(image[:3], 1), 0)
    return result


def _reduced(finer: zarr.Array[Any], window: Window) -> NDArray[np.uint8] | None:
    """Return a window of the level after `finer`; None without an embedding."""
    rows = slice(2 * window.y0, 2 * (window.y0 + window.height))
    columns = slice(2 * window.x0, 2 * (window.x0 + window.width))
    image = np.asarray(finer[:, rows, columns])
    if not image.any():
        return None
    result = np.empty((3, *window.shape), np.uint8)
    for y in range(0, window.height, _STRIP):
        result[:, y : y + _STRIP] = halved(image[:, 2 * y : 2 * (y + _STRIP)])
    return result
