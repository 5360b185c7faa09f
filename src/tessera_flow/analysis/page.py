"""Write the page of a map: one HTML file without external resources.

This module computes the values that the page shows; `map.html.j2` has the markup, `map.css` and
the style sheet of the report the styles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

from ..atomic import write_text
from ..products.geotiff.writer import open_raster
from ..products.report.figures import data_uri, legend_colours, map_png, rgba_png
from ..products.report.overview import scale_bar
from ..products.report.templates import render_template
from .class_names import NO_UNCERTAINTY
from .label_states import MEANINGS
from .learning_curve import CurveChart, curve_chart

EDGE = 1200
"""Longest side of the images in the page, in pixels."""

_MAX_CONFLICTS = 20
_BOUNDED = ("accuracy", "balanced_accuracy", "f1", "kappa", "r2")
_SCORES = {
    "accuracy": ("accuracy", "share of the pixels that are predicted right"),
    "balanced_accuracy": ("balanced accuracy", "mean of the producer's accuracies of the classes"),
    "f1": ("macro F1", "mean of the F1 scores of the classes"),
    "kappa": ("Cohen's kappa", "agreement beyond chance"),
    "rmse": ("RMSE", "root mean square error, in the unit of the labels"),
    "r2": ("R2", "share of the variance that is predicted"),
    "mae": ("mean absolute error", "in the unit of the labels"),
    "bias": ("bias", "mean of prediction minus label"),
}


@dataclass(frozen=True)
class MapImage:
    """An image of a raster; lengths in pixels of the raster.

    Attributes:
        image: data URI.
        width, height: of the raster.
        strip: height of the strip below it, with the scale bar and the arrow to the north.
        bar: length of the scale bar and its text; None for a grid in degrees.
    """

    image: str
    width: int
    height: int
    strip: float
    bar: tuple[float, str] | None


def write_page(
    output: Path, record: Path, map_file: Path, uncertainty: Path, report: str | None = None
) -> None:
    """Write the page.

    Args:
        output: the HTML file, beside the others.
        record: JSON file of `make_map`.
        map_file, uncertainty: its GeoTIFFs.
        report: link to the report of the embeddings.

    Raises:
        OutputError: the file cannot be written.
    """
    document: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    product, accuracy = document["product"], document["accuracy"]
    classes = document["classes"]
    summary = document["map"]
    low, high = summary["low"], summary["high"]
    doubt, least, most = _uncertainty_image(uncertainty, bool(classes))
    values = {
        "title": f"{document['name']}: {product.get('region', '')}, {product.get('period', '')}",
        "headline": _headline(document),
        "warnings": document["warnings"],
        "report": report,
        "classes": classes,
        "map": _class_image(map_file, classes) if classes else _number_image(map_file, low, high),
        "range": None if classes or low is None else (f"{low:.4g}", f"{high:.4g}"),
        "uncertainty": doubt,
        "least_uncertain": f"{least:.3g}",
        "most_uncertain": f"{most:.3g}{' %' if classes else ''}",
        "uncertainty_text": summary["uncertainty"],
        "mean_uncertainty": _number(summary["mean_uncertainty"]),
        "ramp": legend_colours(),
        "scores": _score_rows(accuracy["scores"]),
        "confusion": _confusion(document),
        "of_classes": _class_rows(classes),
        "folds": _fold_rows(accuracy["folds"]),
        "curve": _curve(accuracy["learning_curve"]),
        "curve_labels": accuracy["learning_curve"]["labels"],
        "draws": accuracy["learning_curve"]["draws"],
        "states": _state_rows(document["labels"]),
        "label_notes": _label_notes(document["labels"]),
        "conflicts": _conflict_rows(document["labels"]),
        "methods": methods(document),
        "record": json.dumps(document, indent=1),
        "software": document["software"],
        "km2": f"{summary['km2']:,.4g}",
    }
    write_text(output, render_template("map.html.j2", __package__ or "", **values))


def methods(document: Mapping[str, Any]) -> list[str]:
    """Describe how the map was made, as paragraphs for a paper."""
    labels, parameters, accuracy = (document[k] for k in ("labels", "parameters", "accuracy"))
    product, model = document["product"], document["product"].get("model", {})
    named = ", ".join(
        f"{name} {parameters[name]:g}"
        for name in ("penalty", "neighbours", "trees")
        if name in parameters
    )
    what = "classes" if document["predict"] == "class" else "numbers"
    used = labels["states"].get("ok", 0)
    return [
        f"The map of {labels['column']} was made by {document['method']} ({named}) of the "
        f"embeddings of {model.get('name', 'an unknown model')} "
        f"({model.get('dim', '?')} dimensions) for {product.get('period_start', '?')} to "
        f"{product.get('period_end', '?')}, with scikit-learn "
        f"{document['software']['scikit-learn']} and tessera-flow "
        f"{document['software']['tessera-flow']}, from {used:,} {labels['kind']} with {what} "
        f"({labels['pixels']:,} pixels; SHA-256 of the labels {labels['sha256']}).",
        f"The accuracy is that of a cross-validation with {len(accuracy['folds'])} folds: the "
        f"labels were divided by square blocks of {parameters['fold_block']:g} m "
        f"({accuracy['spatial_blocks']} blocks with labels), all labels of a block and all pixels "
        "of a label are in one fold, and each fold was predicted by a model of the others. Pixels "
        "on both sides of the border of two blocks can still be neighbours. The accuracy is that "
        "of pixels like the labels: of labels that were not drawn at random, it is not that of the "
        f"map. All random draws have the seed {parameters['seed']}.",
    ]


def _headline(document: Mapping[str, Any]) -> str:
    scores, labels = document["accuracy"]["scores"], document["labels"]
    of = (
        f"{len(document['accuracy']['folds'])} spatial folds, {labels['states'].get('ok', 0):,} "
        f"{labels['kind']}"
    )
    if document["classes"]:
        return (
            f"Accuracy {scores['accuracy']:.3f}, balanced accuracy "
            f"{scores['balanced_accuracy']:.3f} ({of})"
        )
    return f"RMSE {scores['rmse']:.4g}, R2 {_number(scores['r2'])} ({of})"


def _read(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return a band, reduced to single pixels of at most `EDGE`, and what an image needs."""
    with open_raster(path) as file:
        height, width = file.shape
        step = max(1, -(-max(height, width) // EDGE))
        shape = -(-height // step), -(-width // step)
        crs = CRS.from_wkt(file.crs.to_wkt())
        metres = abs(file.transform.a) * float(crs.axis_info[0].unit_conversion_factor)
        bar = scale_bar(width, metres) if crs.is_projected else None
        values = file.read(1, out_shape=shape)
    size = {"width": width, "height": height, "strip": 0.045 * max(width, height), "bar": bar}
    return values, size


def _class_image(path: Path, classes: Sequence[Mapping[str, Any]]) -> MapImage:
    values, size = _read(path)
    table = np.zeros((256, 4), np.uint8)
    for entry in classes:
        colour = entry["colour"].removeprefix("#")
        table[entry["value"]] = (*bytes.fromhex(colour), 255)
    return MapImage(data_uri(rgba_png(np.moveaxis(table[values], -1, 0).copy())), **size)


def _number_image(path: Path, low: float | None, high: float | None) -> MapImage:
    values, size = _read(path)
    start, span = low or 0.0, ((high or 0.0) - (low or 0.0)) or 1.0
    return MapImage(data_uri(map_png(values.astype(np.float64) - start, span)), **size)


def _uncertainty_image(path: Path, classes: bool) -> tuple[MapImage, float, float]:
    """Return the image, and the values of its darkest and lightest colour: the 2nd (of classes
    0) and the 98th percentile."""
    values, size = _read(path)
    numbers = np.where(values == NO_UNCERTAINTY, np.nan, values) if classes else values
    numbers = numbers.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    least, most = np.percentile(finite, [2, 98]).tolist() if finite.size else (0.0, 1.0)
    least = 0.0 if classes else least
    return MapImage(data_uri(map_png(numbers - least, most - least or 1.0)), **size), least, most


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _score(name: str, value: float | None) -> str:
    return _share(value) if name in _BOUNDED else _number(value)


def _score_rows(scores: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    return [
        (_SCORES[name][0], _score(name, value), _SCORES[name][1]) for name, value in scores.items()
    ]


def _confusion(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the names, and for each row (text, share of the row, whether right) of each cell."""
    if not document["classes"]:
        return None
    rows = []
    for index, counts in enumerate(document["accuracy"]["confusion"]):
        total = sum(counts) or 1
        cells = [(f"{n:,}", round(n / total, 3), index == k) for k, n in enumerate(counts)]
        rows.append((document["classes"][index]["name"], cells))
    return {"names": [entry["name"] for entry in document["classes"]], "rows": rows}


def _class_rows(classes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            entry["name"],
            f"{entry['pixels']:,.0f}",
            _share(entry["users_accuracy"]),
            _share(entry["producers_accuracy"]),
            _share(entry["f1"]),
        )
        for entry in classes
    ]


def _fold_rows(folds: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    names = [name for name in folds[0] if name != "pixels"]
    head = ["fold", "pixels", *(_SCORES[name][0] for name in names)]
    rows = [
        (n, f"{fold['pixels']:,.0f}", *(_score(name, fold[name]) for name in names))
        for n, fold in enumerate(folds, 1)
    ]
    return {"head": head, "rows": rows}


def _curve(curve: Mapping[str, Any]) -> CurveChart | None:
    points = [(p["labels"], p["mean"], p["low"], p["high"]) for p in curve["points"]]
    return curve_chart(points, _SCORES[curve["score"]][0]) if points else None


def _state_rows(labels: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(f"{n:,}", state, MEANINGS[state]) for state, n in labels["states"].items()]


def _label_notes(labels: Mapping[str, Any]) -> list[str]:
    notes = []
    if number := labels["pixels_with_different_classes"]:
        notes.append(f"{number:,} pixels have labels of different classes and are not used.")
    if number := labels["pixels_with_several_numbers"]:
        notes.append(f"{number:,} pixels have several numbers, of which the mean is used.")
    if number := labels["polygons_with_more_pixels"]:
        notes.append(
            f"{number:,} polygons have more pixels than pixels_per_polygon: some of them are used, "
            "selected by their position."
        )
    return notes


def _conflict_rows(labels: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (entry["row"], entry["column"], ", ".join(map(str, entry["labels"])))
        for entry in labels["conflicts"][:_MAX_CONFLICTS]
    ]
