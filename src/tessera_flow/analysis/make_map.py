"""Make a map of a class or a number from labels and a store of embeddings."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from .. import __version__
from ..atomic import write_text
from ..config.maps import OF_METHODS, Map
from ..errors import LabelError
from ..products.reading.sample import open_store
from .accuracy import REPEATS, Accuracy, cross_validate
from .class_names import class_colours, write_class_names
from .folds import Folds, make_folds
from .label_files import labels_sha256
from .label_states import MEANINGS
from .labels import Labels, read_labels
from .methods import METHODS, UNCERTAINTY, converged, fit, one_thread
from .pixels import LabelledPixels, label_pixels
from .rasters import EmbeddingStore, MapSummary, write_rasters

logger = logging.getLogger(__name__)

_MAX_CONFLICTS = 1000


@dataclass(frozen=True)
class MapFiles:
    """The files of a map.

    Attributes:
        map: GeoTIFF.
        names: `<map>.aux.xml` with the names of classes.
        uncertainty: GeoTIFF.
        labels: CSV of what became of each label.
        record: JSON of accuracy, parameters and provenance.
    """

    map: Path
    names: Path
    uncertainty: Path
    labels: Path
    record: Path

    @classmethod
    def below(cls, folder: Path) -> MapFiles:
        """Return the files with their usual names."""
        return cls(
            folder / "map.tif",
            folder / "map.tif.aux.xml",
            folder / "uncertainty.tif",
            folder / "label_states.csv",
            folder / "map.json",
        )


def make_map(
    name: str, store: Path, settings: Map, files: MapFiles, threads: int = 1, prefix: str = ""
) -> dict[str, Any]:
    """Learn from labels, estimate the accuracy, and write the map.

    Results do not depend on `threads`.

    Args:
        name: of the map.
        store: embeddings.zarr.
        settings: labels, method and parameters.
        files: to write.
        threads: cores.
        prefix: of the keys in messages, see `read_labels`.

    Returns:
        The record, as it is in `files.record`.

    Raises:
        LabelError: the labels cannot be used.
        TileError: the store is damaged.
        OutputError: a file cannot be written.
    """
    labels = read_labels(settings, prefix)
    group = open_store(store)
    embeddings = EmbeddingStore(group)
    pixels = label_pixels(group, labels, settings.pixels_per_polygon)
    _check_variety(labels, pixels, settings)
    labels, pixels = _present_classes(labels, pixels)
    folds = make_folds(pixels, labels, settings, embeddings.metres)
    with one_thread():
        accuracy = cross_validate(pixels, labels, folds, settings, threads)
        spread = accuracy.scores.get("rmse", 1.0)
        model = fit(settings, pixels.embeddings, pixels.values, spread, threads)
        warnings = [*labels.warnings, *folds.warnings]
        if not converged(model):
            warnings.append(
                "The logistic regression has not converged: set penalty higher, or use more labels."
            )
        product: Any = group.attrs.asdict().get("provenance", {})
        tags = _tags(name, labels, settings, product)
        summary = write_rasters(
            files.map, files.uncertainty, embeddings, model, labels, tags, threads
        )
    codes = labels.codes if labels.classes else ()
    write_class_names(files.names, labels.classes, codes, summary.of_classes)
    write_text(files.labels, _label_table(labels, pixels, folds, accuracy))
    record: dict[str, Any] = {
        "name": name,
        "predict": settings.predict,
        "method": METHODS[settings.method, settings.predict],
        "parameters": _parameters(settings),
        "labels": _label_record(labels, pixels, settings),
        "classes": _class_record(labels, accuracy, summary, embeddings.metres),
        "accuracy": _accuracy_record(accuracy, folds, pixels, labels),
        "map": _map_record(summary, settings, embeddings.metres),
        "warnings": warnings,
        "software": {"tessera-flow": __version__, "scikit-learn": sklearn.__version__},
        "product": product,
    }
    record = {key: _without_nan(value) for key, value in record.items()}
    write_text(files.record, json.dumps(record, indent=1) + "\n")
    for text in warnings:
        logger.warning("%s", text)
    return record


def _check_variety(labels: Labels, pixels: LabelledPixels, settings: Map) -> None:
    """Refuse labels of one class, or of one number."""
    different = np.unique(pixels.values)
    if len(different) > 1:
        return
    counts = pixels.counts()
    used = counts.get("ok", 0)
    lost = ", ".join(f"{n} {MEANINGS[state]}" for state, n in counts.items() if state != "ok")
    what = (
        f"the class {labels.classes[int(different[0])]}"
        if labels.classes
        else f"the number {different[0]:g}"
    )
    raise LabelError(
        f"{settings.labels}: all {used} {labels.noun} that can be used have {what} in column "
        f"{settings.column}{f' ({lost})' if lost else ''}: a map needs at least two."
    )


def _present_classes(labels: Labels, pixels: LabelledPixels) -> tuple[Labels, LabelledPixels]:
    """Return the labels without classes that no used pixel has, and a warning about them."""
    if not labels.classes:
        return labels, pixels
    present = np.unique(pixels.values.astype(np.int64))
    lost = [name for n, name in enumerate(labels.classes) if n not in present]
    if not lost:
        return labels, pixels
    text = f"No label of {', '.join(lost)} can be used: the map does not contain it."
    if len(lost) > 1:
        text = f"No label of the classes {', '.join(lost)} can be used: they are not in the map."
    to_new = np.full(len(labels.classes), np.nan)
    to_new[present] = np.arange(len(present))
    known = np.isfinite(labels.values)
    values = np.full(len(labels.values), np.nan)
    values[known] = to_new[labels.values[known].astype(np.int64)]
    return (
        replace(
            labels,
            values=values,
            classes=tuple(labels.classes[n] for n in present),
            codes=tuple(labels.codes[n] for n in present),
            warnings=(*labels.warnings, text),
        ),
        replace(pixels, values=to_new[pixels.values.astype(np.int64)]),
    )


def _parameters(settings: Map) -> dict[str, Any]:
    names = (OF_METHODS[settings.method], "folds", "fold_block", "pixels_per_polygon", "seed")
    return settings.model_dump(include=set(names))


def _tags(name: str, labels: Labels, settings: Map, product: Mapping[str, Any]) -> dict[str, str]:
    method = METHODS[settings.method, settings.predict]
    tags = {
        "TIFFTAG_IMAGEDESCRIPTION": f"Map {name} of {settings.column} by {method} of TESSERA "
        f"embeddings, {product.get('region', '')}, {product.get('period', '')}",
        "TIFFTAG_SOFTWARE": f"tessera-flow {__version__}",
        "MAP": name,
        "LABELS_SHA256": labels_sha256(settings.labels),
        "METHOD": method,
        "PARAMETERS": json.dumps(_parameters(settings)),
        "PROVENANCE": json.dumps(product, sort_keys=True),
        "UNCERTAINTY": _uncertainty_text(settings),
    }
    if labels.classes:
        pairs = zip(labels.codes, labels.classes, strict=True)
        tags["CLASSES"] = json.dumps({str(code): text for code, text in pairs}, ensure_ascii=False)
    return tags


def _uncertainty_text(settings: Map) -> str:
    if settings.predict == "class":
        return UNCERTAINTY["class"]
    return UNCERTAINTY[settings.method, "number"]


def _label_record(labels: Labels, pixels: LabelledPixels, settings: Map) -> dict[str, Any]:
    conflicts = [
        {"row": row, "column": column, "labels": [n + 1 for n in owners]}
        for row, column, owners in pixels.conflicts[:_MAX_CONFLICTS]
    ]
    return {
        "file": Path(settings.labels).name,
        "sha256": labels_sha256(settings.labels),
        "column": settings.column,
        "kind": labels.noun,
        "number": len(labels.values),
        "states": pixels.counts(),
        "pixels": len(pixels.rows),
        "pixels_with_different_classes": len(pixels.conflicts),
        "conflicts": conflicts,
        "pixels_with_several_numbers": pixels.averaged,
        "polygons_with_more_pixels": pixels.capped,
    }


def _class_record(
    labels: Labels, accuracy: Accuracy, summary: MapSummary, metres: float
) -> list[dict[str, Any]]:
    return [
        {
            "value": labels.codes[n],
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*class_colours(len(labels.classes))[n]),
            "map_pixels": summary.of_classes[n],
            "map_km2": summary.of_classes[n] * metres**2 / 1e6,
            **accuracy.classes[n],
        }
        for n, name in enumerate(labels.classes)
    ]


def _accuracy_record(
    accuracy: Accuracy, folds: Folds, pixels: LabelledPixels, labels: Labels
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "scores": dict(accuracy.scores),
        "folds": [dict(scores) for scores in accuracy.folds],
        "spatial_blocks": folds.blocks,
        "learning_curve": {
            "score": "balanced_accuracy" if labels.classes else "r2",
            "labels": "per class" if labels.classes else "in all",
            "draws": REPEATS,
            "points": [asdict(point) for point in accuracy.curve],
        },
    }
    if labels.classes:
        record["confusion"] = accuracy.confusion.tolist()
    return record


def _map_record(summary: MapSummary, settings: Map, metres: float) -> dict[str, Any]:
    return {
        "pixels": summary.pixels,
        "km2": summary.pixels * metres**2 / 1e6,
        "low": summary.low,
        "high": summary.high,
        "mean_uncertainty": summary.uncertainty,
        "uncertainty": _uncertainty_text(settings),
    }


def _label_table(labels: Labels, pixels: LabelledPixels, folds: Folds, accuracy: Accuracy) -> str:
    """Return a CSV with a row for each label of the file, in its order.

    `predicted` is by the model of the other folds: the class of most pixels of the label, or
    their mean.
    """
    fold = np.full(len(labels.values), -1)
    fold[pixels.owner] = folds.fold
    by_label: dict[int, list[float]] = {}
    for owner, value in zip(pixels.owner.tolist(), accuracy.predicted.tolist(), strict=True):
        by_label.setdefault(owner, []).append(value)

    def text(value: float) -> str:
        if not math.isfinite(value):
            return ""
        return labels.classes[int(value)] if labels.classes else repr(float(value))

    def predicted(row: int) -> str:
        values = by_label.get(row)
        if not values:
            return ""
        if labels.classes:
            return text(float(np.bincount(np.array(values, np.int64)).argmax()))
        return text(float(np.mean(values)))

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["label", "value", "state", "pixels", "fold", "predicted"])
    for row, value in enumerate(labels.values.tolist()):
        used = int(pixels.used[row])
        writer.writerow(
            [row + 1, text(value), pixels.states[row], used, fold[row] + 1 if used else "",
             predicted(row)]
        )  # fmt: skip
    return stream.getvalue()


def _without_nan(value: Any) -> Any:
    """Return a document with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
