"""Divide labelled pixels into folds by spatial blocks, for the cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from ..config.maps import Map
from ..errors import LabelError
from .labels import Labels
from .pixels import LabelledPixels


@dataclass(frozen=True)
class Folds:
    """Folds of labelled pixels.

    Attributes:
        fold: (m,) int64 fold of each pixel, from 0.
        number: of folds with pixels.
        blocks: number of spatial blocks with labels.
        warnings: classes that are in one block only, and so are never known where they are
            tested.
    """

    fold: NDArray[np.int64]
    number: int
    blocks: int
    warnings: tuple[str, ...]


def spatial_blocks(pixels: LabelledPixels, edge_pixels: float) -> NDArray[np.int64]:
    """Return the (m,) number of the spatial block of each pixel, in the order of their positions.

    All pixels of a label are in the block of their mean position.

    Args:
        pixels: the pixels.
        edge_pixels: edge of a block, in pixels of the grid.
    """
    _, index = np.unique(pixels.owner, return_inverse=True)
    number = np.bincount(index)
    cells = [
        np.floor((np.bincount(index, position + 0.5) / number) / edge_pixels).astype(np.int64)
        for position in (pixels.rows, pixels.columns)
    ]
    _, blocks = np.unique(np.stack(cells, axis=1), axis=0, return_inverse=True)
    result: NDArray[np.int64] = blocks.ravel()[index].astype(np.int64)
    return result


def make_folds(pixels: LabelledPixels, labels: Labels, settings: Map, metres: float) -> Folds:
    """Divide pixels into folds: complete spatial blocks, with similar shares of each class.

    Args:
        pixels: the pixels.
        labels: their labels.
        settings: `folds`, `fold_block` and `seed`.
        metres: edge of a pixel.

    Raises:
        LabelError: there are fewer labels, or fewer spatial blocks with labels, than folds.
    """
    used = len(np.unique(pixels.owner))
    if used < settings.folds:
        raise LabelError(
            f"{used} {labels.noun} can be used, fewer than the {settings.folds} folds of the "
            "cross-validation: add labels, or set folds lower."
        )
    blocks = spatial_blocks(pixels, settings.fold_block / metres)
    number = int(blocks.max()) + 1
    if number < settings.folds:
        raise LabelError(
            f"The labels are in {number} spatial blocks of {settings.fold_block:g} m, fewer than "
            f"the {settings.folds} folds of the cross-validation: set fold_block or folds lower "
            "(--fold-block, --folds). "
            "(Labels that are too near to each other give an accuracy that is too high.)"
        )
    kind = StratifiedGroupKFold if labels.classes else GroupKFold
    splitter = kind(n_splits=settings.folds, shuffle=True, random_state=settings.seed)
    classes = pixels.values.astype(np.int64) if labels.classes else np.zeros(len(blocks), np.int64)
    fold = np.full(len(blocks), -1, np.int64)
    with warnings.catch_warnings():
        # About classes with fewer members than folds: see below.
        warnings.filterwarnings("ignore", message="The least populated class")
        try:
            for n, (_, test) in enumerate(splitter.split(classes[:, None], classes, blocks)):
                fold[test] = n
        except ValueError as error:
            raise LabelError(
                f"Every class has fewer pixels than the {settings.folds} folds of the "
                "cross-validation: add labels, or set folds lower."
            ) from error
    present, fold = np.unique(fold, return_inverse=True)
    if len(present) < 2:
        raise LabelError(
            f"The labels cannot be divided into folds by spatial blocks of {settings.fold_block:g} "
            "m, because nearly all are in one block: set fold_block lower."
        )
    return Folds(fold, len(present), number, tuple(_single_blocks(classes, blocks, labels)))


def _single_blocks(
    classes: NDArray[np.int64], blocks: NDArray[np.int64], labels: Labels
) -> list[str]:
    single = [
        name
        for n, name in enumerate(labels.classes)
        if (classes == n).any() and len(np.unique(blocks[classes == n])) == 1
    ]
    if not single:
        return []
    return [
        f"All labels of {', '.join(single)} are in one spatial block: the cross-validation counts "
        "them as wrong, because the other blocks do not know the class."
    ]
