"""The Python snippets of docs/outputs.md run and read the right pixels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.jobs.paths import PathPatterns
from tessera_flow.products.arrays import write_arrays
from tessera_flow.products.geotiff.change import write_change
from tessera_flow.products.geotiff.cog import write_cogs
from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.geotiff.vrt import write_vrt
from tessera_flow.products.stores.cube import add_period
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import make_region

PAGE = Path(__file__).parents[2] / "docs" / "outputs.md"


def test_snippets_read_the_right_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    region = make_region(tmp_path / "blocks", 100, dim=128, valid=np.ones((230, 170), bool))
    inputs = (region.grid, region.blocks, region.provenance)
    files = {
        name: Path(pattern.format(region="my_region", period="y2023", block="{block}", map="m"))
        for name, pattern in vars(PathPatterns.below("work", "results")).items()
        if pattern.startswith("results/")
    }
    monkeypatch.chdir(tmp_path)
    write_zarr(files["zarr"], *inputs, preview_stretch=2.0)
    add_period(files["cube"], "y2023", files["zarr"])
    write_arrays(
        files["arrays"], files["scales"], files["counts"], files["arrays_provenance"], *inputs
    )
    write_preview(files["preview"], files["preview_png"], *inputs)
    write_change(files["change"], *inputs, region.blocks, "y2022")
    write_vrt(
        files["vrt"], files["vrt_codes"], files["arrays"], files["scales"],
        region.grid, region.provenance,
    )  # fmt: skip
    write_cogs(files["cog"], None, *inputs)
    write_geotessera(files["geotessera"], *inputs)

    page = PAGE.read_text(encoding="utf-8")
    for path in files.values():
        if path.parent.name == "checksums":
            assert "`checksums/`" in page
            continue
        assert f"`{path.name.removesuffix('{block}.json')}" in page, (
            f"{path.name} is not on the page"
        )
    namespace: dict[str, Any] = {}
    snippets = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(snippets) == 11
    # That of the geotessera client is run by tests/geotessera: it needs another Python.
    for snippet in snippets:
        if "import GeoTesseraZarr" not in snippet:
            exec(snippet, namespace)
    vectors = region.embeddings * region.scales[..., None]
    np.testing.assert_array_equal(namespace["vector"], vectors[100, 50])
    np.testing.assert_array_equal(namespace["series"].values[0], vectors[100, 50])
    np.testing.assert_array_equal(namespace["one"][0], vectors[100, 50])
    np.testing.assert_array_equal(namespace["pixel"], vectors[100, 50])
    assert (namespace["x"], namespace["y"]) == (600_505, 5_698_995)
    assert namespace["alpha"].min() == 255
    assert namespace["image"].shape == (230, 170, 3) and namespace["image"].min() >= 1
    assert namespace["july"].shape == (1, 230, 170) and bool((namespace["july"] == 1).all())
    assert namespace["first"][0, 0] == vectors[100, 50, 0]
