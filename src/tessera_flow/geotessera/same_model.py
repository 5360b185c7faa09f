"""Decide whether the model of a store is the one that computes its holes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..config.configuration import Config
from ..config.model import Model
from ..errors import ConfigError
from ..models.published import PUBLISHED
from ..models.weights_record import WeightsRecord
from .manifest import StoreManifest
from .metadata import described
from .stores import Store

EARLIER_CELL = (
    "All embeddings published as v1.1 before October 2026 were computed with another recurrent "
    "cell (that of torch.nn.GRU) than the model was trained with, which this program uses. That "
    "alone gives a mean cosine of about 0.997 and 15 % of equal codes."
)
_KEY = "geotessera.assume_same_model"
_FAMILIES = {
    "v1": ("v1.0", "v1.0-qat"),
    "v1.1": ("v1.1",),
    "v2": ("v2-student", "v2-teacher"),
}
"""Families of checkpoints by version of the dataset."""
_DRAWN = ("v1.0", "v1.0-qat")


@dataclass(frozen=True)
class Weights:
    """What is known of the weights of a run; None before they are downloaded or read.

    Attributes:
        name: published name or path in the configuration.
        sha256: of the checkpoint file.
        family: of the model.
        dim: dimensions that would be stored.
    """

    name: str
    sha256: str | None = None
    family: str | None = None
    dim: int | None = None


def require_same_model(
    store: StoreManifest, weights: Weights, model: Model, preprocessing: str, assumed: bool
) -> tuple[Literal["sha256", "assumed"], tuple[str, ...]]:
    """Return how it is known that a store was computed with these weights, and warnings.

    Args:
        store: the store's list, or what of it is known: `location`, `version`, `variant`, `model`.
        weights: of the run.
        model, preprocessing: sections of the configuration.
        assumed: `geotessera.assume_same_model`.

    Raises:
        ConfigError: it is another model, or the store does not state its weights and nothing is
            assumed.
    """
    stated = dict(store.model or {})
    differences = [*_differences(store, stated, weights, model)]
    if differences:
        raise ConfigError(
            f"geotessera.fill is compute, but {store.location} was not computed with the model of "
            f"this run: {'; '.join(differences)}. Computed and published embeddings would not be "
            "comparable. Set model to that of the store, or geotessera.fill to nodata."
        )
    warnings = []
    other = stated.get("preprocessing", "unknown")
    if other not in ("unknown", preprocessing):
        warnings.append(
            f"The published embeddings were made with preprocessing: {other}, the computed ones "
            f"with {preprocessing}."
        )
    if stated.get("sha256"):
        return "sha256", tuple(warnings)
    cell = f" {EARLIER_CELL}" if "v1.1" in (store.version, weights.family) else ""
    if not assumed:
        raise ConfigError(
            f"geotessera.fill is compute, but {store.location} does not state the SHA-256 of the "
            f"weights that it was computed with, so it cannot be compared with model.weights "
            f"({weights.name}).{cell} If you know that it is the same model, state it: {_KEY}: "
            "true. Otherwise set geotessera.fill to nodata."
        )
    warnings.insert(
        0,
        f"That the published embeddings were computed with {weights.name} is a statement in the "
        f"configuration ({_KEY}); the store does not state its weights.{cell}",
    )
    return "assumed", tuple(warnings)


def with_same_model(store: StoreManifest, config: Config, record: WeightsRecord) -> StoreManifest:
    """Return the list of a store with how it is known that its model is that of a run, and with
    warnings about it; raises as `require_same_model`."""
    weights = _weights(config, record)
    assumed = config.geotessera.assume_same_model
    how, warnings = require_same_model(store, weights, config.model, config.preprocessing, assumed)
    return replace(store, same_model=how, warnings=(*store.warnings, *warnings))


def check_same_model(
    store: Store, config: Config, year: int, sha256: str | None, record: WeightsRecord | None
) -> tuple[str, ...]:
    """Refuse holes of a store that are known, before anything runs, to need another model.

    Args:
        store: the store.
        config: of the region and period.
        year: calendar year.
        sha256: of the weights, if they are a file.
        record: of the weights, if it exists.

    Returns:
        Warnings, as of `require_same_model` and `StoreManifest.days_warning`; none if the store is
        not known yet.

    Raises:
        ConfigError: see `require_same_model`.
        ItemError: see `metadata.described`.
    """
    known = described(store, year)
    if known is None:
        return ()
    weights = Weights(config.model.weights or "", sha256, dim=config.model.dim)
    if record is not None and sha256 in (None, record.sha256):
        weights = _weights(config, record)
    assumed = config.geotessera.assume_same_model
    texts = require_same_model(known, weights, config.model, config.preprocessing, assumed)[1]
    days = known.days_warning()
    return texts if days is None else (*texts, days)


def _weights(config: Config, record: WeightsRecord) -> Weights:
    dim = config.model.dim or record.dims[-1]
    return Weights(config.model.weights or record.path, record.sha256, record.family, dim)


def _differences(
    store: StoreManifest, stated: Mapping[str, Any], weights: Weights, model: Model
) -> Iterator[str]:
    """Yield what of the store's model is known to be different."""
    sha256 = stated.get("sha256")
    if sha256 and weights.sha256 and sha256 != weights.sha256:
        yield f"its weights ({stated.get('name', 'unnamed')}) have the SHA-256 {sha256}, " + (
            f"model.weights ({weights.name}) {weights.sha256}"
        )
        return
    families = (str(stated["family"]),) if sha256 and "family" in stated else _FAMILIES.get(
        store.version or "", ()
    )  # fmt: skip
    if weights.family and families and weights.family not in families:
        own = f"model.weights ({weights.name}) of {weights.family}"
        yield f"it is of {' or '.join(families)}, {own}"
    published = PUBLISHED.get(weights.name)
    letter = (store.variant or "").partition("2B-")[2][:1]
    if published and letter and not published.repository.endswith(f"-{letter}"):
        yield f"it is variant {store.variant}, model.weights {weights.name}"
    if weights.dim not in (None, 128):
        yield f"it has 128 dimensions, model.weights ({weights.name}) {weights.dim} (model.dim)"
    if sha256:
        of_draws = ("seed", "repeat_times") if weights.family in _DRAWN else ()
        for key in ("statistics", "heads", *of_draws):
            if key in stated and stated[key] != getattr(model, key):
                yield f"its {key} is {stated[key]}, model.{key} is {getattr(model, key)}"
