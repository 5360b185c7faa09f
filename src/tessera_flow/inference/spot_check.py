"""Compare a few pixels of each patch with float32 on the CPU, while a block is computed.

The reference of docs/equivalence.md is float32 on a CPU. What runs in bf16, in fp16 or on a GPU is
compared with it on real pixels as well: the stored values of a few pixels, half of them evenly
spread, half of them chosen because rounding shows there first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import NotFiniteError, ToleranceError
from ..models.family import Model
from ..models.quantize import dequantize, quantize
from ..models.statistics import ChannelStatistics
from ..sensors.needed_values import NeededValues
from ..sensors.sentinel1 import CHANNELS
from ..sensors.sentinel2 import BANDS
from .device import describe, precision_name
from .embed import Embedding, InferenceOptions, embed_tile
from .model import PreparedModel
from .tile import TileArrays, flat_pixels
from .tolerance import FLOAT32, HALF, Agreement, Comparison, cosines

TYPICAL_PIXELS = 8
"""Pixels of a patch that are compared, evenly spread."""
EXTREMES = 2
"""Further pixels of a patch for each kind of extreme value."""
SAMPLE_PIXELS = 2048
"""Pixels of a patch from which these are chosen, in evenly spread runs of `NEIGHBOURS`."""
NEIGHBOURS = 8
"""Pixels of a run: they are read from memory together, which takes a third of the time of as many
single ones."""

CODES_FOR_SHARES = 8192
"""Codes of typical pixels from which shares of equal codes are compared with their limits."""


@dataclass(frozen=True)
class Sample:
    """Pixels of a patch, spread inside the region, so that the patch need not be kept.

    Attributes:
        rows, columns: (N,) of the patch.
        tile: a tile of one row with these pixels.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    tile: TileArrays

    @classmethod
    def of(cls, tile: TileArrays) -> Sample:
        """Copy the pixels from a patch."""
        inside = np.arange(tile.shape[0] * tile.shape[1])
        if tile.roi is not None:
            inside = np.flatnonzero(tile.roi)
        if len(inside) > SAMPLE_PIXELS:
            first = _spread(len(inside) - NEIGHBOURS + 1, SAMPLE_PIXELS // NEIGHBOURS)
            inside = inside[(first[:, np.newaxis] + np.arange(NEIGHBOURS)).reshape(-1)]
        rows, columns = np.divmod(inside, tile.shape[1])
        return cls(rows, columns, _pixels(tile, rows, columns))


def check_patch(
    sample: Sample,
    embedding: Embedding,
    prepared: PreparedModel,
    options: InferenceOptions,
    origin: tuple[int, int],
) -> Comparison:
    """Compare some pixels of a patch with the reference.

    Args:
        sample: of the patch.
        embedding: its embeddings, as they will be stored.
        prepared: the model that made them.
        options: the options that they were made with.
        origin: (row, column) in the region's grid of the patch's upper left pixel.

    Returns:
        The comparison; empty if the model is the reference itself, or no pixel of the sample has
        an embedding.

    Raises:
        ToleranceError: the number of observations of a pixel differs, or it has no embedding.
    """
    reference = prepared.reference
    if reference is None:
        return Comparison()
    chosen, typical = choose_pixels(sample, embedding, reference)
    if not len(chosen):
        return Comparison()
    rows, columns = sample.rows[chosen], sample.columns[chosen]
    expected = _embed(sample, chosen, reference, options, origin)
    stored = embedding.values[rows, columns]
    if not np.array_equal(expected.counts[0], embedding.counts[rows, columns]) or not (
        np.isfinite(expected.values).all()
    ):
        raise ToleranceError("it counts other observations than the CPU in pixels of this block")
    exact = expected.values[0].astype(np.float32)
    quantizer = reference.family.quantizer
    if embedding.scales is None:
        codes, scales = quantize(stored.astype(np.float32), quantizer)
        similar = cosines(exact, stored.astype(np.float32))
    else:
        codes, scales = stored.astype(np.int8), embedding.scales[rows, columns]
        # Without what rounding to codes takes from the reference as well.
        rounding = cosines(exact, dequantize(*quantize(exact, quantizer)))
        similar = np.minimum(1, cosines(exact, dequantize(codes, scales)) + (1 - rounding))
    return Comparison.of(exact, codes, scales, similar, typical, quantizer)


def require_tolerance(prepared: PreparedModel, comparison: Comparison) -> None:
    """Check what was measured so far.

    Raises:
        ToleranceError: it exceeds the tolerance of the precision.
    """
    measured = comparison.agreement
    if comparison.codes < CODES_FOR_SHARES:
        measured = replace(measured, equal=1.0, within_one=1.0)
    violations = tolerance(prepared.model).violations(measured)
    if violations:
        raise ToleranceError(
            f"it differs too much on {comparison.pixels} pixels of this block "
            f"({', '.join(violations)})"
        )


def tolerance(model: Model) -> Agreement:
    """Return the tolerance of a model's precision, compared with float32 on a CPU."""
    return FLOAT32 if model.dtype == torch.float32 else HALF


def refusal(prepared: PreparedModel, error: ToleranceError) -> ToleranceError:
    """Return the complete message for a model that must not be replaced by float32."""
    precision = precision_name(prepared.model.dtype)
    if isinstance(error, NotFiniteError):
        remedy = (
            "set precision to float32 or auto"
            if precision != "float32"
            else "the weights do not fit these time series, or one of them is damaged"
        )
        return ToleranceError(
            f"In {precision} on {describe(prepared.model.device)}, with the weights "
            f"{prepared.spec.checkpoint}, {error}: {remedy}."
        )
    remedy = (
        "set precision to float32 or auto"
        if precision != "float32"
        else "embed on a CPU (device: cpu), and please report it with the device and its driver"
    )
    return ToleranceError(
        f"In {precision} on {describe(prepared.model.device)}, compared with float32 on a CPU, "
        f"{error}: {remedy} (docs/equivalence.md)."
    )


def record(comparison: Comparison) -> dict[str, float | int]:
    """Return what a block file records: `pixels`, and the values of `Agreement`."""
    return {"pixels": comparison.pixels, **asdict(comparison.agreement)}


def choose_pixels(
    sample: Sample, embedding: Embedding, model: Model
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose pixels of a sample that have an embedding, always the same ones.

    Returns:
        (N,) their numbers in the sample, and (N,) bool: whether a pixel is one of the evenly
        spread ones. The others have the highest and lowest radar values, the largest range of
        them, the highest optical values, and the fewest steps.
    """
    stored = embedding.values[..., 0] if embedding.scales is None else embedding.scales
    defined = np.flatnonzero(np.isfinite(stored[sample.rows, sample.columns]))
    spread = defined[_spread(len(defined), TYPICAL_PIXELS)]
    extremes = [
        defined[np.argsort(score[defined], kind="stable")[:EXTREMES]]
        for score in _scores(sample, embedding, model)
    ]
    others = np.setdiff1d(np.concatenate(extremes), spread)
    return np.concatenate([spread, others]), np.arange(len(spread) + len(others)) < len(spread)


def _scores(sample: Sample, embedding: Embedding, model: Model) -> list[NDArray[Any]]:
    """Return (N,) scores of each kind of extreme; the lowest are the most extreme."""
    tile, statistics = sample.tile, model.statistics
    counts = embedding.counts[sample.rows, sample.columns].astype(np.int64)
    vv = np.concatenate(
        [
            np.where(stack.any(axis=-1), _standardised(stack, values, CHANNELS), np.nan)[:, 0]
            for stack, values in (
                (tile.sar_ascending, statistics.ascending),
                (tile.sar_descending, statistics.descending),
            )
        ]
    )
    blue = _standardised(tile.bands_of(slice(0, 1)), statistics.sentinel2, BANDS)
    brightest, _ = _extremes(np.where(tile.masks == 1, blue, np.nan)[:, 0])
    highest, lowest = _extremes(vv)
    few = [counts[:, 0], counts[:, 1:].sum(axis=1)]
    return [*few, -highest, lowest, lowest - highest, -brightest]


def _standardised(
    stack: NDArray[Any], statistics: ChannelStatistics, names: Sequence[str]
) -> NDArray[np.float32]:
    """Return the standardised values of the first band of (T, 1, N, C): (T, 1, N) float32."""
    mean, divisor = statistics.in_order(names)
    result: NDArray[np.float32] = (stack[..., 0].astype(np.float32) - mean[0]) / divisor[0]
    return result


def _extremes(series: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the highest and lowest value of (T, N) without NaN; 0 where there is none."""
    known = np.isfinite(series)
    highest = np.where(known, series, -np.inf).max(axis=0, initial=-np.inf)
    lowest = np.where(known, series, np.inf).min(axis=0, initial=np.inf)
    some = known.any(axis=0)
    return np.where(some, highest, 0), np.where(some, lowest, 0)


def _spread(length: int, number: int) -> NDArray[np.int64]:
    """Return at most `number` indices below `length`, evenly spread."""
    if length <= number:
        return np.arange(length)
    return np.linspace(0, length - 1, number).astype(np.int64)


def _embed(
    sample: Sample,
    chosen: NDArray[np.int64],
    reference: Model,
    options: InferenceOptions,
    origin: tuple[int, int],
) -> Embedding:
    """Embed pixels of a sample in float32: values (1, N, K), counts (1, N, 3)."""
    options = replace(options, dtype="float32")
    row = np.zeros_like(chosen)
    if not reference.family.rule.random:
        return embed_tile(_pixels(sample.tile, row, chosen), reference, options)
    # Random draws follow from the position of a pixel.
    single = [
        embed_tile(
            _pixels(sample.tile, row[:1], chosen[n : n + 1]),
            reference,
            options,
            (origin[0] + int(sample.rows[number]), origin[1] + int(sample.columns[number])),
        )
        for n, number in enumerate(chosen)
    ]
    return Embedding(
        np.concatenate([one.values for one in single], axis=1),
        None,
        np.concatenate([one.counts for one in single], axis=1),
        sum(one.pixels for one in single),
    )


def _pixels(tile: TileArrays, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> TileArrays:
    """Return a tile of one row that consists of these pixels."""

    pixels = rows * tile.shape[1] + columns

    def taken(stack: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = np.take(flat_pixels(stack), pixels, axis=1)[:, None]
        return result

    return replace(
        tile,
        bands=(
            tile.bands.of_pixels(pixels)
            if isinstance(tile.bands, NeededValues)
            else taken(tile.bands)
        ),
        masks=taken(tile.masks),
        sar_ascending=taken(tile.sar_ascending),
        sar_descending=taken(tile.sar_descending),
        roi=None,
        positions=None if tile.positions is None else taken(tile.positions),
    )
