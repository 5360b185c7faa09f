"""Methods that predict a class or a number, and how uncertain it is, from embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ..config.maps import Map

_ITERATIONS = 2000
_WORKING_MEMORY = 64

METHODS = {
    ("linear", "class"): "logistic regression",
    ("linear", "number"): "ridge regression",
    ("nearest", "class"): "nearest neighbours",
    ("nearest", "number"): "nearest neighbours",
    ("random_forest", "class"): "random forest",
    ("random_forest", "number"): "random forest",
}

UNCERTAINTY = {
    "class": "1 minus the probability of the mapped class, by the method, in percent",
    ("linear", "number"): "standard error of a prediction: the cross-validated RMSE, enlarged by "
    "the distance from the labels (leverage)",
    ("nearest", "number"): "standard deviation of the neighbours, weighted as the prediction",
    ("random_forest", "number"): "standard deviation of the trees",
}


class Predictor(Protocol):
    """A method that has learned."""

    def predict(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return (n,) values (class positions or numbers) and (n,) uncertainties."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread in small pieces: results do not depend on the cores."""
    with threadpool_limits(1), sklearn.config_context(working_memory=_WORKING_MEMORY):
        yield


def fit(
    settings: Map,
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    spread: float = 1.0,
    threads: int = 1,
) -> Predictor:
    """Learn a method.

    Args:
        settings: the method and its parameters.
        x: (m, K) embeddings.
        y: (m,) class positions, or numbers.
        spread: error of a prediction (the cross-validated RMSE), for the uncertainty of `linear`.
        threads: for a random forest; the result does not depend on it.
    """
    if settings.predict == "number":
        return _fit_number(settings, x, y, spread, threads)
    classes = y.astype(np.int64)
    if (classes == classes[0]).all():
        return _OneClass(int(classes[0]))
    model: Any
    if settings.method == "linear":
        regression = LogisticRegression(C=1 / settings.penalty, max_iter=_ITERATIONS)
        model = make_pipeline(StandardScaler(), regression)
    elif settings.method == "nearest":
        neighbours = min(settings.neighbours, len(x))
        model = KNeighborsClassifier(neighbours, weights="distance", algorithm="brute")
    else:
        model = RandomForestClassifier(settings.trees, random_state=settings.seed, n_jobs=threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # see `converged`
        model.fit(x.astype(np.float64) if settings.method == "linear" else x, classes)
    if settings.method == "random_forest":
        model.n_jobs = 1  # the sum over trees depends on their order
    return _Classifier(model)


def converged(model: Predictor) -> bool:
    """Return whether a logistic regression has converged; True for other methods."""
    steps = getattr(getattr(model, "model", None), "named_steps", {})
    regression = steps.get("logisticregression")
    return regression is None or int(regression.n_iter_.max()) < _ITERATIONS


@dataclass(frozen=True)
class _OneClass:
    """Training data of one class only, in a fold."""

    position: int

    def predict(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        return np.full(len(x), self.position), np.zeros(len(x))


@dataclass(frozen=True)
class _Classifier:
    model: Any

    def predict(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        probability = self.model.predict_proba(x)
        best = probability.argmax(axis=1)
        uncertainty = 100 * (1 - np.take_along_axis(probability, best[:, None], axis=1)[:, 0])
        return self.model.classes_[best], uncertainty.astype(np.float64)


def _fit_number(
    settings: Map, x: NDArray[np.float32], y: NDArray[np.float64], spread: float, threads: int
) -> Predictor:
    if settings.method == "linear":
        scaler = StandardScaler().fit(x)
        z = scaler.transform(x).astype(np.float64)
        model = Ridge(alpha=settings.penalty).fit(z, y)
        gram = z.T @ z + settings.penalty * np.eye(z.shape[1])
        return _Ridge(scaler, model, np.linalg.inv(gram), len(x), spread)
    if settings.method == "nearest":
        neighbours = min(settings.neighbours, len(x))
        nearest = KNeighborsRegressor(neighbours, weights="distance", algorithm="brute").fit(x, y)
        return _Neighbours(nearest, y)
    forest = RandomForestRegressor(settings.trees, random_state=settings.seed, n_jobs=threads)
    return _Forest(forest.fit(x, y))


@dataclass(frozen=True)
class _Ridge:
    scaler: Any
    model: Any
    inverse: NDArray[np.float64]
    labels: int
    spread: float

    def predict(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        z = self.scaler.transform(x).astype(np.float64)
        leverage = 1 / self.labels + np.einsum("nk,nk->n", z @ self.inverse, z)
        return self.model.predict(z), self.spread * np.sqrt(1 + leverage)


@dataclass(frozen=True)
class _Neighbours:
    model: Any
    values: NDArray[np.float64]

    def predict(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        distance, index = self.model.kneighbors(x)
        exact = distance == 0
        with np.errstate(divide="ignore"):
            weights = np.where(exact.any(axis=1, keepdims=True), exact, 1 / distance)
        weights = weights / weights.sum(axis=1, keepdims=True)
        values = self.values[index]
        mean = (weights * values).sum(axis=1)
        variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
        return mean, np.sqrt(variance)


@dataclass(frozen=True)
class _Forest:
    model: Any

    def predict(self, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        total, squares = np.zeros(len(x)), np.zeros(len(x))
        shift = float(self.model.estimators_[0].tree_.value[0].mean())  # keeps squares small
        for tree in self.model.estimators_:
            values = tree.predict(x) - shift
            total += values
            squares += values**2
        number = len(self.model.estimators_)
        mean = total / number
        return mean + shift, np.sqrt(np.maximum(squares / number - mean**2, 0))
