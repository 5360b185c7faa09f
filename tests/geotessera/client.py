"""Ask the unmodified geotessera client about Zarr stores; run with its own Python (3.12).

    python client.py QUESTIONS.json > ANSWERS.json

A question is {"store": folder or URL, "points": [[lon, lat], ...], "year": int, "boxes": [...]}.
Vectors of points are complete, in units of 1 / 1024. Mosaics of boxes are given by shape,
transform, CRS, number of valid pixels, and SHA-256 of their little-endian float32 bytes, with
-9999 for NaN.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from geotessera.store import GeoTesseraZarr
from obstore.store import HTTPStore
from zarr.storage import ObjectStore


def ask(question: dict[str, Any]) -> dict[str, Any]:
    location = question["store"]
    if location.startswith("http://"):  # the client opens https only, but takes an open store
        options = {"allow_http": True}
        http = HTTPStore.from_url(location, client_options=options)
        location = ObjectStore(http, read_only=True)
    client = GeoTesseraZarr(location)
    year, points = question["year"], [tuple(point) for point in question["points"]]
    vectors = client.sample_points(points, year, search_px=0)
    probes = [client.probe(*point, year, search_px=0) for point in points]
    for vector, (value, _) in zip(vectors, probes, strict=True):
        expected = np.full(128, np.nan, np.float32) if value is None else value
        np.testing.assert_array_equal(vector, expected.astype(np.float32))
    return {
        "years": client.years,
        "model": client.model_version,
        "vectors": [None if np.isnan(v).all() else exact(v) for v in vectors],
        "states": [state for _, state in probes],
        "mosaics": [mosaic(client, box, year) for box in question["boxes"]],
    }


def exact(vector: np.ndarray) -> list[int]:
    """Return a vector in units of 1 / 1024, in which the values of the stores are integers."""
    integers = [round(float(n) * 1024) for n in vector]
    assert [n / 1024 for n in integers] == vector.tolist()
    return integers


def mosaic(client: GeoTesseraZarr, box: list[float], year: int) -> dict[str, Any]:
    values, transform, crs = client.read_region(tuple(box), year)
    filled = np.where(np.isnan(values), -9999, values).astype("<f4")
    return {
        "shape": list(values.shape),
        "transform": [float(v) for v in list(transform)[:6]],
        "crs": crs,
        "valid": int(np.isfinite(values).all(axis=-1).sum()),
        "sha256": hashlib.sha256(np.ascontiguousarray(filled).tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    questions = json.loads(Path(sys.argv[1]).read_text())
    answers = {name: ask(question) for name, question in questions.items()}
    version = importlib.metadata.version("geotessera")
    json.dump({"geotessera": version, "answers": answers}, sys.stdout)
