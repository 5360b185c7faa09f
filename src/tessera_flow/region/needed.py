"""Find the pixels of a block that must be computed because nothing is published for them.

The unit is the patch: a patch with a hole is computed as a whole, so that its codes are those of a
run without published embeddings, and published pixels beside the hole can be compared. The files of
a block without a hole are empty and marked, so that each later step ends at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..block_file import create_block_file, get_array, open_block_file
from .grid import tiling

log = logging.getLogger(__name__)

HOLES = "holes"
"""Array (H, W) uint8 of a block of published embeddings: 1 where nothing is published."""
NOT_NEEDED = "not_needed"
"""Attribute of a file of a block, or of a step after it, in which nothing is to be computed."""


def passed_on(inputs: Iterable[str | Path], output: str | Path) -> bool:
    """Write a marked file if the files that a step reads are marked; return whether they are.

    Args:
        inputs: files of a block; all or none are marked. Empty: nothing is published.
        output: file of the step.

    Raises:
        TileError: an input is missing or damaged.
        OutputError: the output cannot be written.
    """
    paths = list(inputs)
    for path in paths:
        with open_block_file(path) as group:
            if not group.attrs.get(NOT_NEEDED):
                return False
    if not paths:
        return False
    with create_block_file(output, {NOT_NEEDED: True}):
        log.info("nothing to do: every pixel of this block is published")
    return True


def needed_pixels(inside: NDArray[np.bool_], published: str | Path | None) -> NDArray[np.bool_]:
    """Return the pixels of a block that must be computed.

    Args:
        inside: (H, W) pixels of the region, in the grid of the scenes or of the products.
        published: the block of published embeddings; None: all pixels are computed.

    Returns:
        (H, W): `inside`, in patches with a hole.

    Raises:
        TileError: the file is missing or damaged.
    """
    if published is None:
        return inside
    with open_block_file(published) as group:
        attributes: dict[str, Any] = group.attrs.asdict()
        if attributes.get(NOT_NEEDED):
            return np.zeros_like(inside)
        holes = np.asarray(get_array(group, HOLES)[:]) > 0
    rate = 1 if inside.shape == holes.shape else int(attributes["downsample_rate"])
    needed = np.zeros(inside.shape, bool)
    for patch in tiling(holes.shape[0], holes.shape[1], int(attributes["patch_size"])):
        if holes[patch.slices].any():
            rows, columns = (slice(part.start * rate, part.stop * rate) for part in patch.slices)
            needed[rows, columns] = True
    return inside & needed
