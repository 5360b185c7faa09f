"""The explorer of the report in a browser: clicks, pointer and keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.report.page import write_report

from ..support.products_region import check, make_region

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in _NAMES if (path := shutil.which(name))), "")
RAMP = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs Chromium")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1200,900", "--virtual-time-budget=3000", "--dump-dom",
)  # fmt: skip

STEPS = """
<script>
addEventListener("load", () => {
  const find = (name) => document.getElementById(`explorer-${name}`);
  const map = find("map"), base = find("base"), states = {};
  const at = (canvas, row, column) => {
    const box = canvas.getBoundingClientRect();
    return { clientX: box.left + ((column + 0.5) / canvas.width) * box.width,
             clientY: box.top + ((row + 0.5) / canvas.height) * box.height };
  };
  const send = (canvas, type, row, column) =>
    canvas.dispatchEvent(new MouseEvent(type, at(canvas, row, column)));
  const key = (name) => map.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  const keep = (name) => {
    const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
    states[name] = { selected: find("selected").textContent, pointed: find("hovered").textContent,
                     low: find("low").textContent, pixels: Array.from(pixels) };
  };
  send(map, "mousemove", 30, 20); keep("pointed");
  send(base, "click", 20, 40); keep("clicked");
  key("ArrowDown"); key("ArrowRight"); keep("keys");
  send(map, "click", 30, 58); key("ArrowRight"); keep("left of the gap");
  key("ArrowRight"); keep("right of the gap");
  send(map, "click", 30, 70); keep("click in the gap");
  key("ArrowRight"); for (let n = 0; n < 30; n++) key("ArrowRight"); keep("edge");
  send(map, "mousemove", 30, 70); keep("pointer in the gap");
  map.dispatchEvent(new MouseEvent("mouseleave")); keep("away");
  states.requests = performance.getEntriesByType("resource").length;
  const result = document.createElement("pre");
  result.id = "states";
  result.textContent = JSON.stringify(states);
  document.body.append(result);
});
</script>
"""


def in_browser(page: Path, folder: Path) -> dict[str, Any]:
    """Open a page, run `STEPS` in it, and return what they kept."""
    text = page.read_text()
    changed = folder / "steps.html"
    changed.write_text(text.replace("</body>", STEPS + "</body>"))
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", changed.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    (found,) = re.findall(r'<pre id="states">(.*?)</pre>', done.stdout, re.DOTALL)
    states: dict[str, Any] = json.loads(unescape(found))
    return states


def test_clicks_pointer_and_keys(tmp_path: Path) -> None:
    """What is shown is the cosine to the selected pixel, also below a pointer that does not move;
    arrow keys pass over pixels without an embedding."""
    valid = np.ones((60, 100), bool)
    valid[20:50, 60:80] = False
    region = make_region(tmp_path / "blocks", 100, valid=valid)
    inputs = (region.grid, region.blocks, region.provenance)
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png", [], {},
        tmp_path / "logs",
    )  # fmt: skip
    states = in_browser(tmp_path / "report.html", tmp_path)
    assert states.pop("requests") == 0
    expected = {
        "pointed": None, "clicked": (20, 40), "keys": (21, 41), "left of the gap": (30, 59),
        "right of the gap": (30, 80), "click in the gap": (30, 80), "edge": (30, 99),
        "pointer in the gap": (30, 99), "away": (30, 99),
    }  # fmt: skip
    other = {"pointer in the gap": "no embedding here", "away": ""}
    units = np.where(valid[..., None], region.embeddings, 1).astype(np.float64)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    for name, selected in expected.items():
        state = states[name]
        place = re.search(r"row (\d+), column (\d+)$", state["selected"])
        assert place is not None
        row, column = int(place[1]), int(place[2])
        assert selected in (None, (row, column)), name
        cosines = units @ units[row, column]
        similarity = f"similarity {cosines[30, 20]:.3f} at "
        assert state["pointed"] == other.get(name, state["pointed"])
        assert name in other or state["pointed"].startswith(similarity), name
        low = np.sort(cosines[valid])[int(0.02 * (valid.sum() - 1))]
        assert float(state["low"]) == pytest.approx(low, abs=0.0051)
        share = np.clip((cosines - low) / (1 - low), 0, 1)[..., None] * 4
        first = np.minimum(share.astype(int), 3)[..., 0]
        colours = RAMP[first] + (share - first[..., None]) * (RAMP[first + 1] - RAMP[first])
        shown = np.array(state["pixels"]).reshape(60, 100, 4)
        np.testing.assert_array_equal(shown[..., 3], 255 * valid)
        np.testing.assert_allclose(shown[valid][:, :3], colours[valid], atol=0.51)
