"""Embed tiles on a GPU so that it does not wait for this machine.

The pixels of a tile are embedded in *runs* of rows that fit the memory of the device. Each run
passes three stages:

1. `start`: its stored integers and masks are copied to the device, which counts valid steps,
   decides which pixels get an embedding, and orders them by the length of their sequences.
2. `compute`: the numbers of pixels of each length have come back, and the forward passes are
   started. Each pass chooses its observations, standardises, encodes and, at the end, quantises
   on the device. A sequence is filled to its bin with copies, as the models were trained, so no
   attention is masked, and there are as few shapes as bins.
3. `finish`: codes and scales have come back.

While a run is in stage 2, the next one is in stage 1 on another stream, so copies and
computation overlap. This machine reads, copies and writes; it does no work per pixel.

All of it also runs on a CPU, where it is tested; `embed` is faster there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator

import torch

from ..errors import ConfigError
from ..models.family import Model
from .embedding import Embedding, InferenceOptions
from .runs import Item, Output, Run, Stages
from .transfers import Transfers

logger = logging.getLogger(__name__)


def embed_tiles(
    tiles: Iterable[Item],
    model: Model,
    options: InferenceOptions,
    transfers: Transfers | None = None,
) -> Iterator[Embedding]:
    """Embed tiles one after the other; see `embed.embed_tile`.

    The next tile is requested before the embedding of a tile is returned, and a tile is kept only
    until it is on the device.

    Args:
        tiles: tiles. Arrays that `transfers.allocate` made are copied to the device directly.
        model: the model, on its device.
        options: how to embed.
        transfers: copies to and from the device.

    Yields:
        An embedding for each tile, in order.

    Raises:
        ConfigError: the device does not have enough memory for one row or one pixel.
        NotFiniteError: embeddings are not finite numbers.
    """
    stages = Stages(model, options, transfers or Transfers(model.device))
    started: deque[Run] = deque()
    computed: deque[Run] = deque()

    def advance(ahead: int) -> Iterator[Embedding]:
        """Continue until `ahead` runs are left before the second and before the third stage."""
        while len(started) > ahead:
            try:
                computed.append(stages.compute(started.popleft()))
            except torch.OutOfMemoryError as error:
                raise ConfigError(
                    "The GPU does not have enough memory for the vectors of a patch: use smaller "
                    "patches (grid.patch_size), another device, or run no other program on it."
                ) from error
        while len(computed) > ahead:
            output = stages.finish(computed.popleft())
            if not output.rows_left:
                yield output.embedding()

    try:
        for item in tiles:
            output = Output.of(item, stages.dim, options.dtype)
            waiting = deque(stages.runs(item.tile))
            while waiting:
                rows = waiting.popleft()
                try:
                    started.append(stages.start(item, rows, output))
                except torch.OutOfMemoryError:
                    waiting.extendleft(reversed(_halves(rows)))
                    yield from advance(0)
                    continue
                if waiting:
                    yield from advance(1)
            del item  # before the next one is requested
            yield from advance(1)
        yield from advance(0)
    except BaseException:  # also if the caller takes no more embeddings
        stages.abandon()
        raise


def _halves(rows: slice) -> list[slice]:
    """Split rows that do not fit the memory of the device.

    Raises:
        ConfigError: it is one row.
    """
    size = rows.stop - rows.start
    if size == 1:
        raise ConfigError(
            "The GPU does not have enough memory for one row of pixels: use smaller patches "
            "(grid.patch_size), another device, or run no other program on this GPU."
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = rows.start + size // 2
    logger.warning("out of memory with %d rows of pixels: continuing with %d", size, -(-size // 2))
    return [slice(rows.start, middle), slice(middle, rows.stop)]
