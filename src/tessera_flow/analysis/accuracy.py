"""Estimate the accuracy of a map by cross-validation, and how it grows with the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)

from ..config.maps import Map
from .folds import Folds
from .labels import Labels
from .methods import fit
from .pixels import LabelledPixels

CURVE = (5, 10, 20, 50, 100, 200, 500)
"""Labels of the learning curve: per class, or in all for numbers."""

REPEATS = 3


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy with some labels.

    Attributes:
        labels: drawn per class, or in all for numbers.
        mean, low, high: of the score over the draws; the score is the balanced accuracy of
            classes, and R2 of numbers.
    """

    labels: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the predictions of labelled pixels by models that do not know their fold.

    Attributes:
        predicted: (m,) class position or number.
        scores: by name.
        confusion: (c, c) pixels by class (rows) and predicted class (columns); empty for numbers.
        classes: scores of each class, in their order.
        curve: the learning curve.
        folds: score of each fold.
    """

    predicted: NDArray[np.float64]
    scores: Mapping[str, float]
    confusion: NDArray[np.int64]
    classes: tuple[Mapping[str, float], ...]
    curve: tuple[CurvePoint, ...]
    folds: tuple[Mapping[str, float], ...]


def cross_validate(
    pixels: LabelledPixels, labels: Labels, folds: Folds, settings: Map, threads: int = 1
) -> Accuracy:
    """Predict each fold by a model of the other folds, and compare.

    Args:
        pixels: labelled pixels.
        labels: their labels.
        folds: of the pixels.
        settings: method, parameters and seed.
        threads: for random forests.
    """
    predicted = _predict_folds(pixels, folds, settings, lambda fold: folds.fold != fold, threads)
    true = pixels.values
    of_folds = []
    for n in range(folds.number):
        test = folds.fold == n
        scores = _scores(true[test], predicted[test], labels)
        of_folds.append({"pixels": float(test.sum()), **scores})
    number = len(labels.classes)
    confusion = np.zeros((0, 0), np.int64)
    classes: tuple[Mapping[str, float], ...] = ()
    if labels.classes:
        confusion = confusion_matrix(true, predicted, labels=np.arange(number)).astype(np.int64)
        classes = tuple(_class_scores(true, predicted, number))
    return Accuracy(
        predicted,
        _scores(true, predicted, labels),
        confusion,
        classes,
        tuple(_curve(pixels, labels, folds, settings, threads)),
        tuple(of_folds),
    )


def _predict_folds(
    pixels: LabelledPixels,
    folds: Folds,
    settings: Map,
    known_without: Callable[[int], NDArray[np.bool_]],
    threads: int,
) -> NDArray[np.float64]:
    """Return the prediction of each pixel; `known_without` has the pixels to learn from for each
    fold, of the other folds."""
    predicted = np.full(len(folds.fold), np.nan)
    for n in range(folds.number):
        test = folds.fold == n
        train = known_without(n)
        model = fit(settings, pixels.embeddings[train], pixels.values[train], threads=threads)
        predicted[test] = model.predict(pixels.embeddings[test])[0]
    return predicted


def _scores(
    true: NDArray[np.float64], predicted: NDArray[np.float64], labels: Labels
) -> dict[str, float]:
    if labels.classes:
        # In a fold, a class may be predicted that none of its pixels has.
        present = np.unique(true)
        _, recall, _, _ = precision_recall_fscore_support(
            true, predicted, labels=present, zero_division=0
        )
        agreement = cohen_kappa_score(true, predicted) if len(present) > 1 else float("nan")
        f1 = precision_recall_fscore_support(
            true, predicted, labels=present, zero_division=0, average="macro"
        )[2]
        return {
            "accuracy": float(accuracy_score(true, predicted)),
            "balanced_accuracy": float(np.mean(recall)),
            "f1": float(f1),
            "kappa": float(agreement),
        }
    spread = float(np.var(true))
    return {
        "rmse": float(root_mean_squared_error(true, predicted)),
        "r2": float(r2_score(true, predicted)) if len(true) > 1 and spread else float("nan"),
        "mae": float(mean_absolute_error(true, predicted)),
        "bias": float(np.mean(predicted - true)),
    }


def _class_scores(
    true: NDArray[np.float64], predicted: NDArray[np.float64], number: int
) -> Iterator[dict[str, float]]:
    """Yield user's accuracy (precision), producer's accuracy (recall) and F1 of each class."""
    columns: Any = precision_recall_fscore_support(
        true, predicted, labels=np.arange(number), zero_division=0
    )
    for precision, recall, f1, support in zip(*columns, strict=True):
        yield {
            "users_accuracy": float(precision),
            "producers_accuracy": float(recall),
            "f1": float(f1),
            "pixels": float(support),
        }


def curve_score(true: NDArray[np.float64], predicted: NDArray[np.float64], labels: Labels) -> float:
    """Return the score of the learning curve: balanced accuracy, or R2."""
    if labels.classes:
        return float(balanced_accuracy_score(true, predicted))
    return float(r2_score(true, predicted))


def _curve(
    pixels: LabelledPixels, labels: Labels, folds: Folds, settings: Map, threads: int
) -> Iterator[CurvePoint]:
    """Yield the score with few labels, which are drawn from the other folds with all their pixels.

    Of a class with fewer labels, all are used. Each draw predicts all pixels, fold by fold.
    """
    owners, first = np.unique(pixels.owner, return_index=True)
    of_owner = pixels.values[first] if labels.classes else np.zeros(len(owners))
    groups = [np.flatnonzero(of_owner == value) for value in np.unique(of_owner)]
    owner_fold = folds.fold[first]
    largest = max(sum(owner_fold[group] != n) for group in groups for n in range(folds.number))
    for size in (size for size in CURVE if size < largest):
        scores = []
        for repeat in range(REPEATS):
            random = np.random.default_rng([settings.seed, size, repeat])
            order = random.permutation(len(owners))
            shuffled = [order[np.isin(order, group)] for group in groups]

            drawn = [
                np.concatenate([group[owner_fold[group] != n][:size] for group in shuffled])
                for n in range(folds.number)
            ]
            known = [np.isin(pixels.owner, owners[chosen]) for chosen in drawn]
            predicted = _predict_folds(pixels, folds, settings, known.__getitem__, threads)
            scores.append(curve_score(pixels.values, predicted, labels))
        yield CurvePoint(size, float(np.mean(scores)), min(scores), max(scores))
