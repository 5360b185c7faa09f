"""Read the embeddings of a region from its block files, piece by piece.

Every product is made from this view. It holds a few open files and the requested window, so
memory does not grow with the block or the region.
"""

from __future__ import annotations

import copy
import math
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import open_block_file
from ..errors import TileError
from ..geotessera.fill import FILL, FillRecord
from ..inference.block_embeddings import mask_dtype
from ..inference.series import SUMMARY
from ..region.grid import Block, RegionGrid, Window, tiling
from ..sensors.levels import Jump
from .inference_record import BlockInference, InferenceRecord
from .provenance import Provenance
from .tile_facts import TILE_FACTS, TileFact

COUNT_KINDS = ("s2_valid", "s1_ascending", "s1_descending")
WINDOW_BYTES = 32 * 2**20
_OPEN_FILES = 32
_NAMES_IN_MESSAGE = 10


class RegionBlocks:
    """Read the block files of one region as one array per name; a context manager.

    Entering it opens every file once and compares it with the grid, so that a bad block is
    reported before anything is written.

    Attributes:
        grid: the region's grid.
        shape: (height, width) of the product grid.
        edge: edge of a block on the product grid, in pixels.
        dim: K, dimensions of an embedding.
        dtype: int8 or float32.
        filled: whether some embeddings are published and others computed.
        counted: whether the number of observations of each embedding is known.
        months: the months (`YYYY-MM`) of the bits of the array `months`; empty without this array.
    """

    def __init__(
        self,
        grid: RegionGrid,
        blocks: Mapping[str, Path],
        provenance: Provenance | None = None,
        values_only: bool = False,
    ) -> None:
        """Set up the view; see `__enter__` for the checks.

        Args:
            grid: the region's grid.
            blocks: embeddings file of every block of `grid`, by block id.
            provenance: if given, K and dtype must match it, and it decides whether the blocks have
                counts and months; without it, they have counts.
            values_only: only embeddings and scales are read, so that `provenance` may be of another
                period.

        Raises:
            TileError: a block of the grid has no file in `blocks`, or it does not exist.
            ValueError: `blocks` names a block that the grid does not have.
        """
        known = {block.id for block in grid.blocks}
        if unknown := sorted(set(blocks) - known):
            raise ValueError(f"region {grid.name} has no block {', '.join(unknown)}")
        missing = [b.id for b in grid.blocks if b.id not in blocks or not blocks[b.id].exists()]
        if missing:
            raise TileError(_missing_message(grid, missing))
        self.grid = grid
        self.shape: tuple[int, int] = (
            int(grid.product_geobox.shape[0]),
            int(grid.product_geobox.shape[1]),
        )
        self.edge = grid.block_size // grid.downsample_rate
        self.dim = 0
        self.dtype: np.dtype[Any] = np.dtype("int8")
        self._paths = dict(blocks)
        self._provenance = provenance
        self.counted = not values_only and (provenance is None or provenance.counted)
        self.filled = not values_only and provenance is not None and provenance.fill is not None
        self.months: list[str] = []
        if provenance is not None and not values_only:
            self.months = provenance.months
        self._windows = {block.id: grid.product_window(block) for block in grid.blocks}
        self._cells = {
            (window.y0 // self.edge, window.x0 // self.edge): block_id
            for block_id, window in self._windows.items()
        }
        self._open: OrderedDict[str, tuple[ExitStack, zarr.Group]] = OrderedDict()

    def __enter__(self) -> RegionBlocks:
        """Check every file; raises TileError, naming the block."""
        try:
            for block in self.grid.blocks:
                self._check(block)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every open file."""
        self.close()

    @contextmanager
    def another(self) -> Iterator[RegionBlocks]:
        """Return a view of the same blocks with its own open files, for another thread."""
        twin = copy.copy(self)
        twin._open = OrderedDict()
        try:
            yield twin
        finally:
            twin.close()

    def close(self) -> None:
        """Close every open file."""
        while self._open:
            self._open.popitem()[1][0].close()

    @property
    def quantised(self) -> bool:
        """Whether embeddings are int8 codes with one scale per pixel."""
        return self.dtype == np.int8

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays in every block."""
        scales = ("scales",) if self.quantised else ()
        counts = ("counts",) if self.counted else ()
        months = ("months",) if self.months else ()
        origin = ("origin",) if self.filled else ()
        return ("embeddings", *scales, *counts, *months, *origin)

    def trailing(self, name: str) -> tuple[int, ...]:
        """Shape of one pixel of the array `name`: (K,), () or (3,)."""
        single = {"embeddings": (self.dim,), "scales": (), "origin": ()}
        return single.get(name, (len(COUNT_KINDS),))

    def array_dtype(self, name: str) -> np.dtype[Any]:
        """Data type of the array `name`."""
        return {
            "embeddings": self.dtype,
            "scales": np.dtype("float32"),
            "counts": np.dtype("uint16"),
            "months": mask_dtype(len(self.months)),
            "origin": np.dtype("uint8"),
        }[name]

    def nodata(self, name: str) -> float:
        """Value of the array `name` in pixels without an embedding: NaN for floats, else 0."""
        return float("nan") if self.array_dtype(name).kind == "f" else 0

    def pixel_bytes(self, name: str) -> int:
        """Bytes of one pixel of the array `name`."""
        return self.array_dtype(name).itemsize * int(np.prod(self.trailing(name), dtype=np.int64))

    @property
    def piece_edge(self) -> int:
        """Edge of squares of complete chunks of the blocks' files that are cheap to read, as of
        `pieces`."""
        chunk = self.patch_shape(self.grid.blocks[0].id)[0]
        most = math.isqrt(WINDOW_BYTES // self.pixel_bytes("embeddings"))
        return chunk * max(1, most // chunk)

    def pieces(self, max_bytes: int = WINDOW_BYTES) -> Iterator[tuple[str, Window, Window]]:
        """Split all blocks into windows that are cheap to read.

        A window consists of complete chunks of the block's file. Its embeddings take at most
        `max_bytes`, or one chunk if that is larger.

        Yields:
            (block id, window in the block, the same window in the region), block by block.
        """
        for block_id, window in self._windows.items():
            chunks = self._array(block_id, "embeddings").chunks
            height, width = _piece_shape(
                window.shape, (chunks[0], chunks[1]), self.pixel_bytes("embeddings"), max_bytes
            )
            for y0 in range(0, window.height, height):
                for x0 in range(0, window.width, width):
                    h, w = min(height, window.height - y0), min(width, window.width - x0)
                    yield (
                        block_id,
                        Window(y0, x0, h, w),
                        Window(window.y0 + y0, window.x0 + x0, h, w),
                    )

    def empty_cells(self) -> Iterator[Window]:
        """Yield the cells of the block grid that have no block, as windows of the region."""
        for window in tiling(*self.shape, self.edge):
            if (window.y0 // self.edge, window.x0 // self.edge) not in self._cells:
                yield window

    def read(self, block_id: str, name: str, window: Window) -> NDArray[Any]:
        """Read the array `name` in a window of one block: (height, width) + `trailing(name)`.

        Raises:
            TileError: the block's file is missing or damaged.
        """
        try:
            data = self._array(block_id, name)[window.slices]
        except TileError:
            raise
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, KeyError) as error:
            raise TileError(
                f"Block {block_id}: {name} in {self._paths[block_id]} cannot be read ({error}): "
                "delete that file and run again."
            ) from error
        return np.asarray(data)

    def skipped(self, block_id: str) -> bool:
        """Return whether a block has no embeddings because it failed."""
        return bool(self._group(block_id).attrs.get("skipped", False))

    def patch_shape(self, block_id: str) -> tuple[int, int]:
        """Return the (height, width) of the patches in which a block was embedded."""
        chunks = self._array(block_id, "embeddings").chunks
        return int(chunks[0]), int(chunks[1])

    def steps_outside_period(self, block_id: str) -> int:
        """Return the number of time steps of a block that are outside the period.

        Raises:
            TileError: the block's file is missing or damaged.
        """
        steps: Any = self._group(block_id).attrs.get("steps_outside_period", 0)
        return int(steps)

    def missing_scenes(self, block_id: str) -> dict[str, dict[str, list[dict[str, str]]]]:
        """Return the missing or corrupt scenes of a block: by sensor `left_out` and `replaced`.

        The form is that of `missing_scenes.MissingScenes.attributes`. Empty for tile folders
        and published embeddings, which have no list of scenes.

        Raises:
            TileError: the block's file is missing or damaged.
        """
        record: Any = self._group(block_id).attrs.get("missing_scenes", {})
        return dict(record)

    def tile_facts(self, block_id: str) -> list[TileFact]:
        """Return the facts about the tile folders of a block; none for other sources.

        Raises:
            TileError: the block's file is missing or damaged.
        """
        record: Any = self._group(block_id).attrs.get(TILE_FACTS, [])
        return [TileFact.from_json(document) for document in record]

    def fill_record(self) -> FillRecord:
        """Return what of the region was published and what was computed.

        Raises:
            TileError: a block's file is missing or damaged.
        """
        total = FillRecord()
        for block_id in self._windows:
            record: Any = self._group(block_id).attrs.get(FILL)
            if record is not None:  # the block was not skipped
                try:
                    total += FillRecord.of_json(record)
                except TileError as error:
                    path = self._paths[block_id]
                    raise TileError(f"Block {block_id}, {path}: {error}: delete it.") from error
        return total

    def level_jumps(self, block_id: str) -> list[Jump]:
        """Return the days whose Sentinel-2 values differ by about 1000 from the days around them.

        Raises:
            TileError: the block's file is missing or damaged.
        """
        record: Any = self._group(block_id).attrs.get("level_jumps", [])
        return [Jump.from_json(document) for document in record]

    def summary(self, block_id: str) -> dict[str, Any] | None:
        """Return the arrays and attributes of the summary of a block's time series (see
        `inference.series.write_summary`); None if the block has none.

        Raises:
            TileError: the block's file is missing or damaged.
        """
        group = self._group(block_id).get(SUMMARY)
        if not isinstance(group, zarr.Group):
            return None
        try:
            arrays = {name: np.asarray(array[...]) for name, array in group.arrays()}
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, KeyError) as error:
            raise TileError(
                f"Block {block_id}: {SUMMARY} in {self._paths[block_id]} cannot be read ({error}): "
                "delete that file and run again."
            ) from error
        return {**group.attrs.asdict(), **arrays}

    def inference(self) -> InferenceRecord:
        """Return in which precision and on which device each block was computed.

        Raises:
            TileError: a block's file is missing or damaged.
        """
        return InferenceRecord.of(
            (block_id, BlockInference.of(self._group(block_id).attrs.asdict()))
            for block_id in self._windows
        )

    def read_region(self, name: str, window: Window) -> NDArray[Any] | None:
        """Read the array `name` in a window of the region, nodata outside the blocks.

        Returns:
            (height, width) + `trailing(name)`, or None if no block touches the window.

        Raises:
            TileError: a block's file is missing or damaged.
        """
        result: NDArray[Any] | None = None
        for row in range(window.y0 // self.edge, (window.y0 + window.height - 1) // self.edge + 1):
            first, last = window.x0 // self.edge, (window.x0 + window.width - 1) // self.edge
            for column in range(first, last + 1):
                block_id = self._cells.get((row, column))
                if block_id is None:
                    continue
                place = self._windows[block_id]
                y0, x0 = max(window.y0, place.y0), max(window.x0, place.x0)
                y1 = min(window.y0 + window.height, place.y0 + place.height)
                x1 = min(window.x0 + window.width, place.x0 + place.width)
                inside = Window(y0 - place.y0, x0 - place.x0, y1 - y0, x1 - x0)
                data = self.read(block_id, name, inside)
                if inside.shape == window.shape:
                    return data
                if result is None:
                    result = np.full(
                        window.shape + self.trailing(name),
                        self.nodata(name),
                        self.array_dtype(name),
                    )
                result[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0] = data
        return result

    def _group(self, block_id: str) -> zarr.Group:
        if block_id in self._open:
            self._open.move_to_end(block_id)
            return self._open[block_id][1]
        stack = ExitStack()
        try:
            group = stack.enter_context(open_block_file(self._paths[block_id]))
        except TileError as error:
            raise TileError(f"Block {block_id}: {error}") from error
        self._open[block_id] = (stack, group)
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1][0].close()
        return group

    def _array(self, block_id: str, name: str) -> zarr.Array[Any]:
        try:
            array = self._group(block_id)[name]
        except KeyError:
            array = None
        if not isinstance(array, zarr.Array):
            raise TileError(
                f"Block {block_id}: {self._paths[block_id]} has no array {name!r}: delete that "
                "file and run again."
            )
        return array

    def _check(self, block: Block) -> None:
        """Compare one file with the grid, with the first block and with the provenance."""
        embeddings = self._array(block.id, "embeddings")
        if not self.dim:
            self._set_type(block.id, embeddings)
        window = self._windows[block.id]
        for name in self.names:
            array = self._array(block.id, name)
            expected = window.shape + self.trailing(name)
            if array.shape != expected or array.dtype != self.array_dtype(name):
                raise TileError(
                    f"Block {block.id}: {name} in {self._paths[block.id]} is {array.shape} "
                    f"{array.dtype}, expected {expected} {self.array_dtype(name)} (as the grid "
                    f"and block {self.grid.blocks[0].id} have it): delete that file and run again."
                )

    def _set_type(self, block_id: str, embeddings: zarr.Array[Any]) -> None:
        """Set K and dtype from the first block."""
        dtype = np.dtype(embeddings.dtype)
        if embeddings.ndim != 3 or dtype not in (np.dtype("int8"), np.dtype("float32")):
            raise TileError(
                f"Block {block_id}: embeddings in {self._paths[block_id]} is {embeddings.shape} "
                f"{dtype}, expected (height, width, dimensions) int8 or float32: delete that file "
                "and run again."
            )
        self.dim, self.dtype = int(embeddings.shape[2]), dtype
        if self._provenance is not None:
            stated = self._provenance.model
            if (stated.dim, stated.dtype) != (self.dim, self.dtype.name):
                raise TileError(
                    f"Block {block_id}: {self._paths[block_id]} holds {self.dim} dimensions of "
                    f"{self.dtype}, but model.dim is {stated.dim} and model.dtype {stated.dtype}: "
                    "delete that file and run again."
                )


def _missing_message(grid: RegionGrid, missing: list[str]) -> str:
    shown = ", ".join(missing[:_NAMES_IN_MESSAGE])
    more = len(missing) - _NAMES_IN_MESSAGE
    return (
        f"Region {grid.name}: {len(missing)} of {len(grid.blocks)} blocks have no embeddings "
        f"file: {shown}{f' and {more} more' if more > 0 else ''}. Run again to compute them."
    )


def _piece_shape(
    shape: tuple[int, int], chunks: tuple[int, int], pixel_bytes: int, max_bytes: int
) -> tuple[int, int]:
    """Return (height, width) of complete chunks, as wide and then as high as `max_bytes` allows."""
    height, width = chunks
    while width < shape[1] and height * (width + chunks[1]) * pixel_bytes <= max_bytes:
        width += chunks[1]
    if width >= shape[1]:
        while height < shape[0] and (height + chunks[0]) * shape[1] * pixel_bytes <= max_bytes:
            height += chunks[0]
    return height, width
