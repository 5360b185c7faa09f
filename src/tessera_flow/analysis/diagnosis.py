"""State from the records of two products what may explain that their embeddings differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..geotessera.same_model import EARLIER_CELL
from .compare import Comparison
from .compared import Embeddings

SAME, DIFFERENT, UNKNOWN = "same", "different", "unknown"

_V1_1 = "v1.1"

_CELL_COSINES, _CELL_EQUAL = (0.99, 0.9995), (0.05, 0.40)
"""Ranges of the mean cosine and of the share of equal codes that fit the other cell."""


@dataclass(frozen=True)
class Finding:
    """One property of A and B.

    Attributes:
        name: of the property.
        a, b: its value; `unknown` if the record does not state it.
        state: `same`, `different` or `unknown` (at least one value is).
        meaning: what follows from it; empty if nothing does.
    """

    name: str
    a: str
    b: str
    state: str
    meaning: str = ""


def diagnose(a: Embeddings, b: Embeddings, measured: Comparison) -> list[Finding]:
    """Return the properties that decide the values of embeddings."""
    return [
        *_models(a, b),
        *_inputs(a, b),
        *_counts(measured),
        *_recurrent_cell(a, b, measured),
    ]


def _finding(name: str, values: Sequence[Any], meaning: str = "") -> Finding:
    """Return a finding about the values of A and B."""
    a, b = (UNKNOWN if value in (None, "", UNKNOWN) else str(value) for value in values)
    if UNKNOWN in (a, b):
        return Finding(name, a, b, UNKNOWN)
    return Finding(name, a, b, SAME if a == b else DIFFERENT, "" if a == b else meaning)


def _models(a: Embeddings, b: Embeddings) -> Iterator[Finding]:
    first, second = (one.record.get("model", {}) for one in (a, b))

    def both(name: str, key: str, meaning: str = "") -> Finding:
        return _finding(name, (first.get(key), second.get(key)), meaning)

    yield both("model", "name")
    if a.published is not None or b.published is not None:
        yield _finding("published dataset", (_dataset(a), _dataset(b)))
    yield _finding(
        "family",
        (_family(a), _family(b)),
        "Embeddings of different families are not comparable by cosine.",
    )
    yield both("weights (SHA-256)", "sha256", "Other weights give embeddings that are not "
               "comparable by cosine.")  # fmt: skip
    yield _finding("dimensions", (a.dim, b.dim), "Cosines and codes are not compared.")
    stored = ["int8" if one.quantised else "float32" for one in (a, b)]
    yield _finding("stored as", stored, "int8 rounds each value to a 127th of the largest one.")
    precision = "Precisions other than float32 deviate within docs/equivalence.md."
    yield both("precision (configured)", "precision", precision)
    yield _finding("precision (used)", (_precisions(a), _precisions(b)), precision)
    yield _finding("statistics", _stated(first, second, "statistics"),
                   "The inputs are standardised differently.")  # fmt: skip
    yield _finding("heads", _stated(first, second, "heads"))
    draws = "Observations are drawn at random (v1.0 only)."
    yield both("seed of draws", "seed", draws)
    yield both("number of draws", "repeat_times", draws)


def _dataset(one: Embeddings) -> str:
    """Return version and year of a published dataset, or that there is none."""
    if one.published is None:
        return "not one"
    return f"{one.published.version or 'version unknown'}, {one.published.year or 'year unknown'}"


def _family(one: Embeddings) -> str | None:
    """Return the family of a model; of a published dataset that states its version v1.1 it is
    known, too: v1 and v2 have several."""
    if one.record:
        family: str | None = one.record["model"].get("family")
        return family
    return _V1_1 if one.published is not None and one.published.version == _V1_1 else None


def _stated(first: dict[str, Any], second: dict[str, Any], key: str) -> list[Any]:
    """Return a value that a record may state as none."""
    return [
        UNKNOWN if not m.get("sha256") else "default" if m.get(key) is None else m[key]
        for m in (first, second)
    ]


def _precisions(one: Embeddings) -> str | None:
    """Return in which precision the blocks were computed, from `checks.json`."""
    groups = one.checks.get("inference", {}).get("blocks", [])
    names = {group.get("precision") for group in groups if isinstance(group, dict)}
    return ", ".join(sorted(name for name in names if name)) or None


def _inputs(a: Embeddings, b: Embeddings) -> Iterator[Finding]:
    periods = [None if one.period is None else " to ".join(one.period) for one in (a, b)]
    yield _finding("period", periods, "Other observations enter.")
    yield _finding("preprocessing", [one.record.get("preprocessing") for one in (a, b)],
                   "docs/fidelity.md lists what differs, offsets included.")  # fmt: skip
    sources = [
        "; ".join(f"{s['sensor']}: {s['provider']} {s['collection']}".strip()
                  for s in one.record.get("sources", ()))
        for one in (a, b)
    ]  # fmt: skip
    yield _finding("sources", sources, "Archives process and offset scenes differently.")
    jumps = [len(one.checks["level_jumps"]) if "level_jumps" in one.checks else None
             for one in (a, b)]  # fmt: skip
    yield _finding("Sentinel-2 days that are 1000 off", jumps, "The offset of scenes is wrong.")
    least = [
        ", ".join(f"{k} {v}" for k, v in one.record.get("min_observations", {}).items())
        for one in (a, b)
    ]
    yield _finding("least observations", least, "Other pixels have an embedding.")
    software = [one.record.get("software", {}).get("tessera-flow") for one in (a, b)]
    yield _finding("tessera-flow", software)


def _counts(measured: Comparison) -> Iterator[Finding]:
    if measured.counts_equal is None or measured.counts_mean is None:
        yield Finding("observation counts", UNKNOWN, UNKNOWN, UNKNOWN)
        return
    kinds = ("Sentinel-2", "Sentinel-1 ascending", "Sentinel-1 descending")
    for kind, equal, (a, b) in zip(kinds, measured.counts_equal, measured.counts_mean, strict=True):
        state = SAME if equal == 1 else DIFFERENT
        meaning = "" if equal == 1 else f"The same at {100 * equal:.1f} % of the pixels."
        yield Finding(f"mean {kind} observations", f"{a:.1f}", f"{b:.1f}", state, meaning)


def _recurrent_cell(a: Embeddings, b: Embeddings, measured: Comparison) -> Iterator[Finding]:
    """Yield which recurrent cell v1.1 used; for other models nothing."""
    cells = [_cell(one) for one in (a, b)]
    if not any(cells):
        return
    texts = [cell or UNKNOWN for cell in cells]
    published = [one for one, cell in zip((a, b), cells, strict=True) if cell == _PUBLISHED]
    meaning = ""
    if len(published) == 1:
        meaning = EARLIER_CELL
        if measured.cosines is not None and measured.codes is not None:
            cosine, equal = measured.cosines.mean, measured.codes.equal
            fits = (
                _CELL_COSINES[0] <= cosine <= _CELL_COSINES[1]
                and _CELL_EQUAL[0] <= equal <= _CELL_EQUAL[1]
            )
            numbers = f"A mean cosine of {cosine:.4f} and {100 * equal:.1f} % of equal codes"
            meaning += f" {numbers} {'fit' if fits else 'do not fit'} this."
    state = UNKNOWN if None in cells else SAME if texts[0] == texts[1] else DIFFERENT
    yield Finding("recurrent cell", texts[0], texts[1], state, meaning)


_OWN, _PUBLISHED = "that of the model", "published: before October 2026 that of torch.nn.GRU"


def _cell(one: Embeddings) -> str | None:
    """Return which recurrent cell computed embeddings of v1.1; None if it is unknown or another
    model."""
    model = one.record.get("model", {})
    if not one.record:
        published = one.published is not None and one.published.version in (None, _V1_1)
        return _PUBLISHED if published else None
    if model.get("family") == _V1_1:
        return _OWN
    dataset = any(source.get("provider") == "geotessera" for source in one.record["sources"])
    return _PUBLISHED if dataset and not model.get("sha256") else None
