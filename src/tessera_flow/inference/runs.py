"""The stages of a run: rows of a tile on their way through a device. See `feed`.

Shapes in the comments: P pixels of the run, N pixels of a pass, L steps of a sequence.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models.family import Model
from ..models.layers import Encoder
from ..models.on_device import (
    Choices,
    DeviceStream,
    draw_positions,
    position_table,
    quantize_on_device,
    sequence_lengths,
)
from ..models.sampling import BIN_STEP, LARGEST_BIN
from ..sensors.needed_values import NeededValues
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .batching import TOKENS_PER_PIXEL, TokenLimit
from .device_series import SeriesRequest, SeriesResult
from .embedding import Embedding, InferenceOptions, require_finite
from .inputs import Days, DeviceSteps, sentinel1_days, sentinel1_stacks, sentinel2_days
from .tile import TileArrays
from .transfers import Event, Transfers

logger = logging.getLogger(__name__)

RUN_BYTES = 3 * 2**30
"""Most memory of the device for stored values and vectors of the runs on it."""

ALMOST_FULL = 0.9
"""Share of a pass from which pixels of one length are not encoded together with others."""

_LENGTHS = LARGEST_BIN // BIN_STEP
_NOT_SELECTED = _LENGTHS + 1


@dataclass(frozen=True)
class PixelPass:
    """Pixels of one forward pass: (N,) int64, numbered in their run."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, pixels: slice) -> PixelPass:
        """Return a subset of the pixels."""
        return PixelPass(self.pixels[pixels])


@dataclass(frozen=True)
class Sensor:
    """One sensor of the P pixels of a run, on the device.

    Attributes:
        number: 0 for Sentinel-2, 1 for Sentinel-1.
        encoder: its encoder.
        steps: the stored values.
        choices: the steps that sequences are made from.
        table: see `position_table`; empty for a random rule.
        order: (P,) int64, pixels in order of the length of their sequences, last those without
            an embedding.
        starts: (`_NOT_SELECTED` + 1,) int64, where each length starts in `order`, in bins.
    """

    number: int
    encoder: Encoder
    steps: DeviceSteps
    choices: Choices
    table: Tensor
    order: Tensor
    starts: Tensor


class Item(NamedTuple):
    """A tile to embed.

    Attributes:
        tile: its arrays. Those that `Transfers.allocate` made are copied to the device directly.
        origin: (row, column) in the region's grid of its upper left pixel.
        series: what to count and summarise of its time series.
    """

    tile: TileArrays
    origin: tuple[int, int]
    series: SeriesRequest | None = None


@dataclass
class Output:
    """The arrays of an `Embedding`, to be filled.

    Attributes:
        values, scales, counts, pixels: as in `Embedding`.
        series: as in `Embedding`.
        rows_left: number of rows that are not filled.
    """

    values: NDArray[Any]
    scales: NDArray[np.float32] | None
    counts: NDArray[np.uint16]
    series: SeriesResult | None
    rows_left: int
    pixels: int = 0

    @classmethod
    def of(cls, item: Item, dim: int, dtype: str) -> Output:
        """Return arrays of the shape of a tile, not initialised."""
        height, width = item.tile.shape
        scales = np.empty((height, width), np.float32) if dtype == "int8" else None
        values = np.empty((height, width, dim), dtype)
        counts = np.empty((height, width, 3), np.uint16)
        series = None if item.series is None else SeriesResult.of(item.series, item.tile.shape)
        return cls(values, scales, counts, series, height)

    def embedding(self) -> Embedding:
        """Return the arrays, which are filled."""
        return Embedding(self.values, self.scales, self.counts, self.pixels, self.series)


@dataclass
class Run:
    """Rows of a tile on their way through the device.

    Attributes:
        output: of the tile.
        rows: of the tile.
        sensors: of its pixels.
        positions: rows (P,) and columns (P,) int64 in the region's grid.
        counts: (P, 3) int16, on the device.
        starts: (2, `_NOT_SELECTED` + 1) int64, by sensor: where each length starts in `order`;
            valid after `event`.
        event: the end of what was started.
        series: what was requested of the time series; valid after `event`.
        results: counts, codes or values, scales; set by the second stage.
    """

    output: Output
    rows: slice
    sensors: list[Sensor]
    positions: tuple[Tensor, Tensor]
    counts: Tensor
    starts: NDArray[np.int64]
    event: Event
    series: list[NDArray[Any]]
    results: tuple[NDArray[Any], ...] = ()


def together(left: list[tuple[int, Tensor]], limit: TokenLimit) -> list[tuple[int, list[Tensor]]]:
    """Divide what is left of pixels of each length into as few passes as possible.

    Args:
        left: length of the sequences and pixels, in ascending order of lengths.
        limit: of a pass.

    Returns:
        The largest length and the pixels of each pass.
    """
    passes: list[tuple[int, list[Tensor]]] = []
    room = 0
    for length, pixels in reversed(left):
        remaining = pixels
        while len(remaining):
            if not room:
                room = limit.size(length)
                passes.append((length, []))
            passes[-1][1].append(remaining[:room])
            room, remaining = room - len(remaining[:room]), remaining[room:]
    return passes


class Stages:
    """The three stages of a run, for one model."""

    def __init__(self, model: Model, options: InferenceOptions, transfers: Transfers) -> None:
        rule = model.family.rule
        self.dim = options.dim or model.sizes.dims[-1]
        self._model, self._rule, self._options = model, rule, options
        self._transfers = transfers
        pixels = min(options.batch_size, model.max_pixels)
        self._limit = TokenLimit(pixels * TOKENS_PER_PIXEL)
        self._repeats = options.repeat_times if rule.random else 1
        self._tables: dict[int, Tensor] = {}
        with torch.inference_mode():
            encoders = (model.s2, model.s1)
            self._absent = [encoder.absent(rule.absent_length) for encoder in encoders]

    def runs(self, tile: TileArrays) -> list[slice]:
        """Split the rows of a tile into runs of about the same size."""
        height, width = tile.shape
        s2, s1 = len(tile.doys), len(tile.sar_ascending_doy) + len(tile.sar_descending_doy)
        bands: float = s2 * 2 * len(BANDS)
        if isinstance(tile.bands, NeededValues):  # with their places, which are summed up first
            bands = tile.bands.values.nbytes / (height * width) + s2 * 8
        stored = bands + s2 + s1 * 2 * len(CHANNELS)
        vectors = sum(absent.shape[1] for absent in self._absent) * 4
        pixel_bytes = 3 * (stored + 2 * (s2 + s1)) + vectors + 8 * self._model.sizes.repr_dim
        allowed = min(RUN_BYTES, self._transfers.free_bytes() // 3)
        number = max(1, min(height, math.ceil(height * width * pixel_bytes / max(1, allowed))))
        edges = [height * i // number for i in range(number + 1)]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    @torch.inference_mode()
    def start(self, item: Item, rows: slice, output: Output) -> Run:
        """Copy rows of a tile to the device, and count and order their pixels there."""
        with self._transfers.ahead():
            return self._start(item, rows, output)

    def _start(self, item: Item, rows: slice, output: Output) -> Run:
        tile, origin = item.tile, item.origin
        model, rule, upload = self._model, self._rule, self._transfers.upload
        width = tile.shape[1]
        pixels = (rows.stop - rows.start) * width
        day = rule.empty_orbit_day
        stacks = sentinel1_stacks(tile, rows, day)
        inside = None if tile.roi is None else upload(tile.roi[rows]).view(pixels) != 0
        s2_valid = upload(tile.masks[:, rows]).view(len(tile.doys), pixels) == 1
        s2, places, has_value = self._bands(tile, rows, s2_valid, inside)
        s1 = upload(*stacks).view(sum(map(len, stacks)), pixels, len(CHANNELS))
        valid = (s2_valid, s1.any(dim=2))
        ascending = len(stacks[0])
        counts = [v.sum(0) for v in (valid[0], valid[1][:ascending], valid[1][ascending:])]
        selected = counts[0] >= self._options.min_s2
        selected &= counts[1] + counts[2] >= self._options.min_s1
        selected &= rule.can_embed(counts[0], counts[1] + counts[2], has_value, len(s1))
        stored_counts = torch.stack(counts, dim=1).to(torch.int16)
        if inside is not None:
            selected &= inside
            stored_counts *= inside[:, None]
        sensors = [
            self._sensor(number, *steps, selected)
            for number, steps in enumerate(
                (
                    (s2, places, valid[0], sentinel2_days(tile, model.statistics)),
                    (s1, None, valid[1], sentinel1_days(tile, model.statistics, day)),
                )
            )
        ]
        number = torch.arange(pixels, device=model.device)
        row = torch.div(number, width, rounding_mode="floor")
        positions = row + (origin[0] + rows.start), number - row * width + origin[1]
        if tile.positions is not None:
            given = upload(np.ascontiguousarray(tile.positions[:, rows])).view(2, pixels)
            positions = given[0], given[1]
        download, series = self._transfers.download, []
        if item.series is not None:
            by_stream = [valid[0], valid[1][:ascending], valid[1][ascending:]]
            series = item.series.start(by_stream, sensors[0].steps, inside, rows, width)
        starts = download(torch.stack([sensor.starts for sensor in sensors]))
        arrays = [download(tensor) for tensor in series]
        event = self._transfers.event()
        return Run(output, rows, sensors, positions, stored_counts, starts, event, arrays)

    def _bands(
        self, tile: TileArrays, rows: slice, valid: Tensor, inside: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Callable[[], Tensor]]:
        """Copy digital numbers of rows of a tile to the device.

        Returns:
            `raw` and `places` of `DeviceSteps`; numbers that were not kept are 0. And a function
            that returns (P,) bool, whether any number of a pixel is not 0.
        """
        upload, bands, (steps, pixels) = self._transfers.upload, tile.bands, valid.shape
        if not isinstance(bands, NeededValues):
            s2 = upload(bands[:, rows]).view(steps, pixels, len(BANDS))
            return s2, None, lambda: s2.any(dim=2).any(dim=0)
        zero = np.zeros((1, len(BANDS)), np.uint16)
        values = upload(zero, *bands.parts(rows))
        kept = valid | ~valid.any(dim=0)  # as `needed_values.kept_steps`
        if inside is not None:
            kept &= inside
        places = kept.view(-1).cumsum(0, dtype=torch.int32).view(steps, pixels).mul_(kept)
        return values, places, lambda: upload(bands.has_value[rows]).view(pixels)

    def _sensor(
        self,
        number: int,
        raw: Tensor,
        places: Tensor | None,
        valid: Tensor,
        days: Days,
        selected: Tensor,
    ) -> Sensor:
        """Order the pixels of one sensor by the length of their sequences."""
        rule, device = self._rule, raw.device
        choices = Choices.of(valid, rule)
        bins = torch.div(choices.lengths(rule), BIN_STEP, rounding_mode="floor")
        key = torch.where(selected, bins, _NOT_SELECTED).to(torch.int16)
        key, order = torch.sort(key, stable=True)
        edges = torch.arange(_NOT_SELECTED + 1, dtype=torch.int16, device=device)
        day, mean, divisor = (self._transfers.upload(array) for array in days)
        return Sensor(
            number,
            (self._model.s2, self._model.s1)[number],
            DeviceSteps(raw, number == 0, day, mean, divisor, places),
            choices,
            self._table(len(valid)),
            order,
            torch.searchsorted(key, edges),
        )

    def _table(self, dates: int) -> Tensor:
        if dates not in self._tables:
            rule = self._rule
            table = np.empty((0, 0), np.int16) if rule.random else position_table(rule, dates)
            self._tables[dates] = self._transfers.upload(table)
        return self._tables[dates]

    @torch.inference_mode()
    def compute(self, run: Run) -> Run:
        """Start all forward passes of a run; the numbers of pixels of each length are known."""
        run.event.wait()
        self._transfers.follow(run.event)
        pixels, model = len(run.counts), self._model
        results = self._results(pixels)
        total = None
        if self._repeats > 1:
            total = torch.zeros((pixels, model.sizes.repr_dim), device=model.device)
        for repeat in range(self._repeats):
            vectors = [self._encode(run, sensor, repeat) for sensor in run.sensors]
            last = repeat == self._repeats - 1
            selected = run.sensors[0].order[: run.starts[0, _NOT_SELECTED]]
            function = partial(self._fuse, vectors, total, results if last else None)
            self._run_passes(selected, BIN_STEP, function)
        download = self._transfers.download
        run.results = tuple(download(tensor) for tensor in (run.counts, *results))
        run.event = self._transfers.event()
        if self._limit.reduced:
            model.max_pixels = max(1, self._limit.tokens // TOKENS_PER_PIXEL)
        return run

    def _results(self, pixels: int) -> list[Tensor]:
        """Return values (P, K) and for int8 scales (P,), without any embedding."""
        device, shape = self._model.device, (pixels, self.dim)
        nan = float("nan")
        if self._options.dtype != "int8":
            return [torch.full(shape, nan, device=device)]
        return [
            torch.zeros(shape, dtype=torch.int8, device=device),
            torch.full((pixels,), nan, device=device),
        ]

    def _vectors(self, sensor: Sensor, pixels: int) -> Tensor:
        """Return vectors (P, D) of pixels without any step of a sensor."""
        return self._absent[sensor.number].repeat(pixels, 1)

    def _encode(self, run: Run, sensor: Sensor, repeat: int) -> Tensor:
        """Return the vectors (P, D) of a sensor; those of other pixels are not defined."""
        vectors = self._vectors(sensor, len(run.counts))
        stream = DeviceStream(self._options.seed, *run.positions, sensor.number, repeat)
        starts = run.starts[sensor.number]
        left: list[tuple[int, Tensor]] = []
        for number in range(1, _LENGTHS + 1):
            pixels = sensor.order[starts[number] : starts[number + 1]]
            length = number * BIN_STEP
            size = self._limit.size(length)
            alone = len(pixels) - len(pixels) % size
            if len(pixels) - alone >= ALMOST_FULL * size:
                alone = len(pixels)
            function = partial(self._encode_pass, sensor, stream, length, vectors, False)
            self._run_passes(pixels[:alone], length, function)
            if alone < len(pixels):
                left.append((length, pixels[alone:]))
        for length, parts in together(left, self._limit):
            mixed = len(parts) > 1
            function = partial(self._encode_pass, sensor, stream, length, vectors, mixed)
            self._run_passes(torch.cat(parts) if mixed else parts[0], length, function)
        return vectors

    def _run_passes(
        self, pixels: Tensor, length: int, function: Callable[[PixelPass], None]
    ) -> None:
        start = 0
        while start < len(pixels):
            size = self._limit.size(length)
            self._limit.run(PixelPass(pixels[start : start + size]), function, length)
            start += size

    def _encode_pass(
        self,
        sensor: Sensor,
        stream: DeviceStream,
        length: int,
        vectors: Tensor,
        mixed: bool,
        batch: PixelPass,
    ) -> None:
        """Compute the vectors of the pixels of a pass, whose sequences have a length, or if mixed
        at most that."""
        pixels, rule, choices = batch.pixels, self._rule, sensor.choices
        counts = choices.counts[pixels]
        if rule.random:
            dates = len(choices.cumulative)
            words = stream.words(pixels, max(dates, length))
            positions = draw_positions(counts, dates, length, words)
        else:
            positions = sensor.table[counts, :length]
        steps = choices.steps(pixels, positions)
        lengths = sequence_lengths(counts) if mixed else None
        values, days = sensor.steps.sequences(pixels, steps)
        vectors.index_copy_(0, pixels, sensor.encoder(values, days, lengths=lengths))

    def _fuse(
        self,
        vectors: list[Tensor],
        total: Tensor | None,
        results: list[Tensor] | None,
        batch: PixelPass,
    ) -> None:
        """Fuse the vectors of both sensors; quantise in the last repeat."""
        pixels = batch.pixels
        embeddings = self._model.fusion(*(v.index_select(0, pixels) for v in vectors))
        if total is not None:
            embeddings = total.index_select(0, pixels) + embeddings
        if total is not None and results is None:
            # Nothing follows that could lack memory: a repeated pass must not add twice.
            total.index_copy_(0, pixels, embeddings)
        if results is None:
            return
        if total is not None:
            embeddings = embeddings / torch.full_like(embeddings, self._repeats)
        embeddings = embeddings[:, : self.dim]
        new = [embeddings]
        if len(results) == 2:
            new = list(quantize_on_device(embeddings, self._model.family.quantizer))
        for result, values in zip(results, new, strict=True):
            result.index_copy_(0, pixels, values)

    def abandon(self) -> None:
        """Wait for what was started before its memory is released; nobody takes the results."""
        self._transfers.wait_for_all()

    def finish(self, run: Run) -> Output:
        """Wait for the results of a run, and add them to its tile's arrays.

        Raises:
            NotFiniteError: embeddings are not finite numbers.
        """
        run.event.wait()
        output, rows = run.output, run.rows
        counts, values, *scales = run.results
        pixels = int(run.starts[0, _NOT_SELECTED])
        require_finite(values, scales[0] if scales else None, pixels)
        output.counts = _with_rows(output.counts, rows, counts.view(np.uint16))
        output.values = _with_rows(output.values, rows, values)
        if output.scales is not None:
            output.scales = _with_rows(output.scales, rows, scales[0])
        if output.series is not None:
            output.series.add(rows, run.series)
        output.rows_left -= rows.stop - rows.start
        output.pixels += pixels
        return output


def _with_rows(array: NDArray[Any], rows: slice, values: NDArray[Any]) -> NDArray[Any]:
    """Return an array (H, ...) with these rows; values of all rows are not copied."""
    values = values.reshape(rows.stop - rows.start, *array.shape[1:])
    if len(values) == len(array):
        return values
    array[rows] = values
    return array
