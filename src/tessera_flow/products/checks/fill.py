"""Decide whether published and computed embeddings of one product agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..provenance import Provenance
from .states import BORDER_PAIRS, PASS, WARN, Check
from .values import Values

LEAST_COSINE = 0.999
"""Least mean cosine of published and computed embeddings of the same pixels. The other recurrent
cell of embeddings published as v1.1 gives 0.997."""

HIGHEST_RATIO = 2.0
"""Highest ratio of the median distances (1 - cosine) across the borders of published and computed
pixels and beside them."""


def fill_checks(values: Values, provenance: Provenance) -> Iterator[Check]:
    """Yield the checks of a product in which holes of published embeddings were computed."""
    if values.fill is None or provenance.fill is None:
        return
    yield _same_model(provenance)
    yield _agreement(values, provenance)
    yield _borders(values)


def summary(values: Values, provenance: Provenance) -> dict[str, Any] | None:
    """Return the numbers for `checks.json`; None if no holes were filled."""
    fill, borders = values.fill, values.origin_borders
    if fill is None or provenance.fill is None:
        return None
    return {
        "same_model": provenance.fill.same_model,
        "published": fill.published,
        "computed": fill.computed,
        "neither": fill.missing,
        "without_codes": fill.without_codes,
        "impossible_scales": fill.impossible_scales,
        "agreement": {
            **fill.cosines.summary(),
            "equal_codes_percent": fill.equal_percent,
            "identical": fill.identical,
        },
        "borders": {
            "across": borders.across.summary(),
            "beside": borders.beside.summary(),
            "ratio": borders.ratio,
        },
    }


def _same_model(provenance: Provenance) -> Check:
    name, limit = "Model of the published embeddings", "SHA-256 of the weights"
    if provenance.fill is not None and provenance.fill.same_model == "sha256":
        return Check(name, PASS, "SHA-256 of the weights", limit)
    return Check(name, WARN, "assumed", limit, [
        "That published and computed embeddings are of the same model is assumed by the "
        "configuration (geotessera.assume_same_model)."
    ])  # fmt: skip


def _agreement(values: Values, provenance: Provenance) -> Check:
    name = "Mean cosine of published and computed embeddings of the same pixels"
    limit = f"at least {LEAST_COSINE:g}"
    fill = values.fill
    mean = None if fill is None else fill.cosines.mean
    if fill is None or mean is None:
        proven = provenance.fill is not None and provenance.fill.same_model == "sha256"
        check = Check(name, PASS, "no pixel has both", limit)
        if fill is not None and fill.computed and not proven:
            check.state = WARN
            check.messages = [
                "No pixel is both published and computed, so it is not known whether they agree."
            ]
        return check
    result = f"{mean:.6f} ({fill.compared:,} pixels, {fill.equal_percent:.1f} % of the codes equal)"
    if mean >= LEAST_COSINE:
        return Check(name, PASS, result, limit)
    return Check(name, WARN, result, limit, [
        f"Published and computed embeddings of the same {fill.compared:,} pixels have a mean "
        f"cosine of {mean:.4f}, and {fill.equal_percent:.1f} % of their codes are equal: they were "
        "not made alike (model, recurrent cell, scenes or preprocessing), and origin.tif shows "
        "where one changes to the other."
    ])  # fmt: skip


def _borders(values: Values) -> Check:
    name = "Ratio at the borders of published and computed pixels"
    limit = f"at most {HIGHEST_RATIO:g}"
    ratio, pairs = values.origin_borders.ratio, values.origin_borders.across.pairs
    if ratio is None or pairs < BORDER_PAIRS:
        return Check(name, PASS, f"{pairs:,} pairs, fewer than {BORDER_PAIRS}", limit)
    result = f"{ratio:.2f} ({pairs:,} pairs)"
    if ratio <= HIGHEST_RATIO:
        return Check(name, PASS, result, limit)
    return Check(name, WARN, result, limit, [
        f"The median distance (1 - cosine) of a published pixel to its computed neighbour is "
        f"{ratio:.1f} times that of neighbours beside the border."
    ])  # fmt: skip
