"""The published geotessera client, installed for this tier (`make test-geotessera`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from .questions import product_questions, sample_pixels, write_product
from .record import ANSWERS, ROOT, recorded

pytestmark = pytest.mark.geotessera


def client_python() -> str:
    """Return the Python of the client; skip the test if there is none."""
    python = Path(os.environ.get("GEOTESSERA_CLIENT", ROOT / ".venv/geotessera/bin/python"))
    if not python.exists():
        pytest.skip(
            f"NOT TESTED WITH THE GEOTESSERA CLIENT: there is no {python}; `make test-geotessera` "
            "installs it where there is a Python 3.12 and a package registry"
        )
    return str(python)


def test_the_client_answers_as_recorded() -> None:
    """Stores written now, read by the unmodified client from a folder and over HTTP."""
    python = client_python()
    assert recorded(python) == json.loads(ANSWERS.read_text())


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs/outputs.md").read_text()
    (code,) = [
        text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "GeoTessera" in text
    ]
    region, store = write_product("utm_31", tmp_path)
    (lon, lat), *_ = product_questions(region)["points"]
    code = code.replace("results/my_region/y2023/geotessera", str(store))
    code = code.replace("(5.12, 52.03)", f"({lon}, {lat})")
    code += "print((vectors[0] * 1024).astype(int).tolist())"
    done = subprocess.run(
        [client_python(), "-c", code], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    rows, columns = sample_pixels()
    pixel = rows[0], columns[0]
    assert region.scales is not None
    expected = region.embeddings[pixel].astype(np.float32) * region.scales[pixel] * 1024
    assert json.loads(done.stdout) == expected.astype(int).tolist()
