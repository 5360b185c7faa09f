"""Checks of finished embeddings, and the report."""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from jinja2 import UndefinedError

from tessera_flow.products.geotiff.preview import write_preview
from tessera_flow.products.report.overview import overview, scale_bar, sites
from tessera_flow.products.report.page import render, write_report
from tessera_flow.products.report.summary import (
    MissingScene,
    excluded_scenes,
    missing_counts,
    read_block_records,
    read_warnings,
    rule_costs,
    summarise_observations,
)
from tessera_flow.products.skipped_blocks import write_skip_list, write_skipped_block
from tessera_flow.scenes.manifest import Manifest, SourceItem

from ..support.products_region import (
    Region,
    check,
    failures,
    landscape,
    make_region,
    write_block,
)

WHOLE = np.ones((120, 100), bool)


@pytest.mark.parametrize("block_size", [50, 64, 500])
def test_maps_histograms_and_means_of_counts(
    tmp_path: Path, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera_flow.products.report.summary.MAP_EDGE", 80)
    region = make_region(tmp_path / "blocks", block_size)
    observations = summarise_observations(region.grid, region.blocks, region.provenance)
    for kind, name in enumerate(("s2_valid", "s1_ascending", "s1_descending")):
        counts = region.counts[..., kind]
        expected = np.where(region.valid, counts, np.nan)[::3, ::3]
        np.testing.assert_array_equal(observations.maps[name], expected)
        starts, pixels = observations.histograms[name]
        expected = counts[region.valid]
        assert pixels == np.histogram(expected, [*starts, 10**6])[0].tolist()
        np.testing.assert_allclose(observations.means[name], expected.mean())


def test_costs_from_benchmark_files(tmp_path: Path) -> None:
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    (tmp_path / "infer").mkdir()
    for name, row in (
        ("infer/a", "10.5\t0:00:10\t563.3\t1\t1\t1\t2.0\t1.0\t64\t11.4"),
        ("infer/b", "4.5\t0:00:04\t600.1\t1\t1\t1\t0.5\t1.5\t64\t8.6"),
        ("counts", "0.1\t0:00:00\t-\t-\t-\t-\t-\t-\t-\tNA"),
    ):
        (tmp_path / f"{name}.bench.tsv").write_text(f"{head}{row}\n")
    counts, infer = rule_costs(tmp_path)
    assert (infer.rule, infer.jobs, infer.seconds, infer.memory_mb) == ("infer", 2, 15.0, 600.1)
    assert (infer.cpu_seconds, infer.read_mb, infer.written_mb) == (20.0, 2.5, 2.5)
    assert (counts.jobs, counts.seconds, counts.memory_mb) == (1, 0.1, None)


def scene(name: str, day: str) -> SourceItem:
    return SourceItem(name, datetime.date.fromisoformat(day), None, 0, None, {})


def manifests() -> list[Manifest]:
    scenes = tuple(scene(f"A{n}", day) for n, day in enumerate(
        ["2023-07-01", "2023-07-01", "2023-07-09", "2024-06-30"]))  # fmt: skip
    why = "older copy of the acquisition in S2_"
    out = (("S2_1_X", f"{why}9_Y"), ("S2_2_X", f"{why}8_Y"), ("S2_3", "has no <B04>"))
    return [Manifest("sentinel2", scenes, out), Manifest("sentinel1", (), ())]


def test_reasons_of_excluded_scenes_are_grouped() -> None:
    assert [row[:3] for row in excluded_scenes(manifests())] == [
        ("sentinel2", "older copy of the acquisition in …", 2),
        ("sentinel2", "has no <B04>", 1),
    ]


def miss(region: Region, block: str, sensor: str, **entries: list[dict[str, str]]) -> None:
    """Rewrite a block, with missing scenes in its record."""
    window = region.grid.product_window(region.grid.block(block)).slices
    arrays = (region.embeddings[window], region.scales[window], region.counts[window])
    missing_scenes = {"missing_scenes": {sensor: {"left_out": [], "replaced": []} | entries}}
    write_block(region.blocks[block], *arrays, 25, missing_scenes)


def test_days_with_another_offset_fail_a_check_once_for_all_blocks(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60)
    days = {"first": "2023-05-06", "last": "2023-05-06"}
    for block, shift in zip([block.id for block in region.grid.blocks], (980, 1020), strict=False):
        window = region.grid.product_window(region.grid.block(block)).slices
        arrays = (region.embeddings[window], region.scales[window], region.counts[window])
        jumps = [days | {"change": shift, "items": ["S2A_x"]}]
        write_block(region.blocks[block], *arrays, 25, {"level_jumps": jumps})
    checks = check(region, tmp_path)
    assert checks.messages == [
        "2023-05-06: the Sentinel-2 values of all bands are about 1000 above those of the days "
        "around it (S2A_x). This can be an offset that was not removed: sentinel2.boa_offset. "
        "(2 blocks)"
    ]
    (jump,) = json.loads((tmp_path / "checks.json").read_text())["level_jumps"]
    assert (jump["first"], jump["change"], jump["blocks"]) == ("2023-05-06", 1000, 2)


def test_missing_scenes_of_all_blocks_are_collected(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    gone = {"item": "S2_B", "date": "2023-08-02", "reason": "asset B05: HTTP 404"}
    early = {"item": "S2_A", "date": "2023-07-02", "reason": "asset SCL: corrupt"}
    swapped = {
        "item": "S2_C",
        "date": "2023-07-01",
        "reason": "asset B02: gone",
        "duplicate": "S2_D",
    }
    miss(region, "b000_000", "sentinel2", left_out=[early, gone], replaced=[swapped])
    miss(region, "b001_001", "sentinel2", left_out=[gone])
    miss(region, "b001_000", "sentinel1", left_out=[early | {"item": "S1"}])
    records = read_block_records(region.grid, region.blocks, region.provenance)
    assert records.missing == (
        MissingScene("sentinel1", "S1", "2023-07-02", "asset SCL: corrupt", "", 1),
        MissingScene("sentinel2", "S2_A", "2023-07-02", "asset SCL: corrupt", "", 1),
        MissingScene("sentinel2", "S2_B", "2023-08-02", "asset B05: HTTP 404", "", 2),
        MissingScene("sentinel2", "S2_C", "2023-07-01", "asset B02: gone", "S2_D", 1),
    )
    assert missing_counts(records.missing) == (3, 1)
    assert missing_counts(records.missing, "sentinel2") == (2, 1)


def test_acquisition_counts_once_however_many_duplicates_are_missing() -> None:
    def replaced(item: str, duplicate: str) -> MissingScene:
        return MissingScene("sentinel2", item, "2023-07-01", "gone", duplicate, 1)

    chain = [replaced("A", "B"), replaced("B", "C"), replaced("X", "Y")]
    assert missing_counts(chain) == (0, 2)
    assert missing_counts([*chain, replaced("C", "")]) == (1, 1)


def compute(region: Region, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write blocks again, with attributes."""
    for block, attributes in records.items():
        window = region.grid.product_window(region.grid.block(block)).slices
        assert region.scales is not None
        arrays = (region.embeddings[window], region.scales[window], region.counts[window])
        write_block(region.blocks[block], *arrays, 25, attributes)


GPU = {
    "precision": "bf16",
    "device": "cuda (NVIDIA A100)",
    "fallback": None,
    "compared": {"pixels": 40, "cosine": 0.99995},
}
REPLACED = {
    "precision": "float32",
    "device": "cuda (NVIDIA A100)",
    "fallback": "in bf16 it differs too much on 16 pixels of this block "
    "(cosine 0.99 instead of 0.9999)",
    "compared": {"pixels": 16, "cosine": 0.9999999},
}


def test_inference_is_recorded_by_block_without_skipped_ones(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    compute(region, {"b000_000": GPU, "b001_000": REPLACED, "b001_001": {"skipped": True}})
    record = read_block_records(region.grid, region.blocks, region.provenance).inference
    assert record.groups == {
        (None, None): ("b000_001",),
        ("bf16", "cuda (NVIDIA A100)"): ("b000_000",),
        ("float32", "cuda (NVIDIA A100)"): ("b001_000",),
    }
    assert record.precisions == {"bf16": 1, "float32": 1, None: 1}
    assert record.fallbacks == {"b001_000": REPLACED["fallback"]}
    assert record.compared == (56, 0.99995)
    assert record.warnings == [
        "The blocks were computed in different precisions: bf16 on cuda (NVIDIA A100) (1 block), "
        "float32 on cuda (NVIDIA A100) (1 block), precision not recorded on a device not recorded "
        "(1 block). Codes differ by up to 4 between float32 and bf16 or fp16. Set "
        "model.precision to one of them to compute all blocks in it.",
        "Float32 replaced a faster precision in 1 of 3 blocks (b001_000): in bf16 it "
        "differs too much on 16 pixels of this block (cosine 0.99 instead of 0.9999).",
    ]


def test_one_precision_gives_no_warning(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    compute(region, dict.fromkeys(region.blocks, GPU))
    record = read_block_records(region.grid, region.blocks, region.provenance).inference
    assert record.warnings == [] and record.text == "bf16 on cuda (NVIDIA A100) (4 blocks)"


def test_mixed_precisions_are_warned_of_in_checks_and_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    compute(region, {**dict.fromkeys(region.blocks, GPU), "b001_000": REPLACED})
    inputs = (region.grid, region.blocks, region.provenance)
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    (tmp_path / "logs").mkdir()
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png",
        manifests(), {"maps": ["maps/kinds/map.html"]}, tmp_path / "logs",
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert '<p>Maps made from these embeddings: <a href="maps/kinds/map.html">kinds</a></p>' in text
    printed = text[text.index("@media print") : text.index("</style>")]
    assert ".map { max-height: 190px; }" in printed
    assert "details:not([open]) { display: none; }" in printed
    page = " ".join(Page((tmp_path / "report.html").read_text()).text.split())
    assert "bf16 on cuda (NVIDIA A100) (3 blocks), float32 on cuda (NVIDIA A100) (1 block)" in page
    assert "136 pixels, smallest cosine 0.999950" in page
    assert "computed in different precisions" in caplog.text
    checks = json.loads((tmp_path / "checks.json").read_text())
    assert checks["inference"]["fallbacks"] == {"b001_000": REPLACED["fallback"]}
    assert checks["inference"]["blocks"][1]["blocks"] == ["b001_000"]


def test_page_shows_missing_scenes_and_skipped_blocks(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    entry = {"item": "S2_1_X", "date": "2023-07-02", "reason": "asset B05 of item S2_1_X <missing>"}
    miss(region, "b000_000", "sentinel2", left_out=[entry])
    skipped = region.grid.product_window(region.grid.block("b001_001"))
    write_skipped_block(region.blocks["b001_001"], skipped.shape, 25, 16, "int8", months=12)
    skip_list = tmp_path / "skipped_blocks.json"
    write_skip_list(skip_list, region.grid, {"b001_001": "asset B02 of item S2_2: HTTP 403"})
    inputs = (region.grid, region.blocks, region.provenance)
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    mask = WHOLE.astype(np.uint8)
    mask[:10] = 0
    profile = {"driver": "GTiff", "height": 120, "width": 100, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "roi.tif", "w", **profile) as file:
        file.write(mask, 1)
    (tmp_path / "logs").mkdir()
    line = (
        "2026-01-02 03:04:05,678 WARNING S2_1_X is left out: asset B05 of item S2_1_X <missing>\n"
    )
    (tmp_path / "logs" / "download.log").write_text(line)
    at = "2026-01-02 03:04:05,678"
    failed = "Blocks without embeddings because they failed: b001_001."
    (tmp_path / "logs" / "infer.log").write_text(
        f"{at} ERROR asset B02 of item S2_2: HTTP 403\n{at} WARNING field, y2023: {failed}\n"
    )
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png",
        manifests(), {}, tmp_path / "logs", tmp_path / "roi.tif", skip_list,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    shown = " ".join(Page(text).text.split())
    assert "Missing or corrupt scenesleft out: 1, replaced by a duplicate: 0" in shown
    assert "fail: Blocks without embeddings because they failed: b001_001." in shown
    assert "Sentinel-22023-07-021S2_1_X left out: asset B05 <missing>" in shown
    assert "b001_001asset B02 of item S2_2: HTTP 403" in shown
    assert "b001_001: skipped. asset B02 of item S2_2: HTTP 403" in shown
    assert "1 block failed and contains no embeddings." in shown
    assert "Warnings in the logs" not in shown, "shown above, with the blocks"
    # The preview and the image in true colour show where blocks are missing.
    x, y, height, width = skipped.x0, skipped.y0, *skipped.shape
    outline = f'class="left-out" x="{x}" y="{y}" width="{width}" height="{height}"'
    assert text.count(outline) == 1 + ('id="colours-image"' in text)
    assert "Dashed: blocks that failed and were skipped." in shown
    (image,) = re.findall(r'<image href="data:image/png;base64,([^"]+)"', text)
    with rasterio.MemoryFile(base64.b64decode(image)) as memory, memory.open() as file:
        red = file.read(1)
    expected = np.where(mask > 0, 255, 198)
    expected[skipped.slices] = 255
    embedded = np.ones((120, 100), bool)
    embedded[skipped.slices] = False
    expected[embedded] = 80
    np.testing.assert_array_equal(red, expected)


@pytest.mark.parametrize(
    ("width", "metres", "bar"),
    [
        (100, 10.0, (20.0, "200 m")),
        (170, 10.0, (20.0, "200 m")),
        (200, 10.0, (50.0, "500 m")),
        (4000, 10.0, (1000.0, "10 km")),
        (30000, 10.0, (5000.0, "50 km")),
        (2, 10.0, (0.5, "5 m")),
        (1, 1.0, (1.0, "1 m")),
    ],
)
def test_scale_bar_is_a_round_length(width: int, metres: float, bar: tuple[float, str]) -> None:
    assert scale_bar(width, metres) == bar


def test_preview_is_first_with_area_period_model_and_corners(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    inputs = (region.grid, region.blocks, region.provenance)
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    layout = overview(region.grid, region.provenance, tmp_path / "p.png", 11_000)
    assert (layout.width, layout.height, layout.bar) == (100, 120, (20.0, "200 m"))
    assert layout.lines == (
        "1.1 km² inside the region.", "2023-07-01 to 2024-06-30.", "Model v2-nano, 16 dimensions."
    )  # fmt: skip
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(601_000, 5_698_800)
    assert layout.corners[1] == f"{lat:.4f}° N, {lon:.4f}° E"
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png",
        manifests(), {}, tmp_path / "logs",
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    image = base64.b64encode((tmp_path / "p.png").read_bytes()).decode()
    assert text.index('class="status') < text.index(image) < text.index("<h2>")
    assert text.count(image) == 1
    shown = " ".join(Page(text).text.split())
    assert "1.2 km² inside the region. 2023-07-01 to 2024-06-30." in shown
    assert layout.corners[0] in shown and "200 m ↑ N" in shown


def test_far_sites_are_shown_enlarged(tmp_path: Path) -> None:
    valid = np.zeros((100, 300), bool)
    valid[:20, :40] = valid[60:100, 260:] = True
    region = make_region(tmp_path / "blocks", 20, valid=valid)
    assert sites(region.grid) == [(260, 60, 40, 40), (0, 0, 40, 20)]
    inputs = (region.grid, region.blocks, region.provenance)
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png",
        [], {}, tmp_path / "logs",
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert 'viewBox="260 60 40 40"' in text and 'viewBox="0 0 40 20"' in text
    assert text.count('<use href="#preview-image"/>') == 2
    assert "The 2 largest sites of the region are side by side." in text
    valid[:60] = True
    assert sites(make_region(tmp_path / "more", 20, valid=valid).grid) == []


def test_each_warning_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "infer").mkdir()
    for name in ("a", "b"):
        (tmp_path / "infer" / f"{name}.log").write_text(
            "2026-01-02 03:04:05,678 WARNING S2_1 is left out: gone\n"
            "2026-01-02 03:04:05,678 INFO patch\n"
        )
    assert read_warnings(tmp_path) == ["S2_1 is left out: gone (2 times)"]


class Page(HTMLParser):
    """Collect the text of a page, the resources that a browser would fetch, and the links."""

    VOID = ("meta", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "a":
            self.links += [v for k, v in attrs if k == "href" and not v.startswith("#")]
        else:
            self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_page_has_no_external_resources_and_shows_the_results(tmp_path: Path, dtype: str) -> None:
    values = landscape(120, 100, 16)
    values[:50, 50:] += 3.0
    region = make_region(tmp_path / "blocks", 50, valid=WHOLE, values=values, dtype=dtype)
    inputs = (region.grid, region.blocks, region.provenance)
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    checks = check(region, tmp_path)
    (tmp_path / "logs").mkdir()
    for folder in ("one", "two"):
        write_report(
            tmp_path / folder / "report.html", *inputs, tmp_path / "checks.json",
            tmp_path / "p.png", manifests(), {"zarr": ["embeddings.zarr"]}, tmp_path / "logs",
        )  # fmt: skip
    text = (tmp_path / "one" / "report.html").read_text()
    assert text == (tmp_path / "two" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.fetched and all(f.startswith("data:image/png;base64,") for f in page.fetched)
    assert page.links == ["embeddings.zarr"]
    assert "@import" not in text and "url(#ramp)" in text and "<script src" not in text
    assert "default-src 'none'; img-src data:" in text
    shown = " ".join(page.text.split())
    assert checks.headline in shown and checks.state == "fail"
    assert f"fail: {failures(checks)[0]}" in shown
    assert "12,000 (100.0 % of the region)" in shown
    assert "has no <B04>" in shown and "older copy of the acquisition in …" in shown
    assert "b000_001: 2,500 of 2,500 px with an embedding, 2,500 observed" in shown
    assert "Sentinel-2, 2023-07: 2" in shown and "Sentinel-2, 2024-06: 1" in shown
    assert "from 4 Sentinel-2 L2A scenes (mpc, sentinel-2-l2a) and 0 Sentinel-1 RTC" in shown
    assert "Of 7 Sentinel-2 L2A scenes found, 3 were excluded before download." in shown
    assert "ab" * 32 in shown and "arXiv:2506.20380" in shown
    assert ("ds.embeddings * ds.scales" in shown) == (dtype == "int8")
    assert "GeoTessera" not in shown


def test_warnings_about_the_scenes_are_in_the_summary_and_not_again_in_the_logs(
    tmp_path: Path,
) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    warning = "No Sentinel-1 scene exists here: <all> embeddings are without radar."
    inputs = (region.grid, region.blocks, replace(region.provenance, warnings=(warning,)))
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    (tmp_path / "logs" / "items").mkdir(parents=True)
    (tmp_path / "logs" / "items" / "sentinel1.log").write_text(
        f"2026-01-02 03:04:05,678 WARNING {warning}\n"
    )
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png",
        manifests(), {}, tmp_path / "logs",
    )  # fmt: skip
    page = Page((tmp_path / "report.html").read_text())
    shown = " ".join(page.text.split())
    assert f"Warnings about the region and the scenes: {warning}" in shown
    assert "Warnings in the logs" not in shown
    # In the summary, in the methods and in the complete record.
    assert page.text.count(warning) == 3


def test_page_of_a_region_without_embeddings(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    for block in region.grid.blocks:
        shape = region.grid.product_window(block).shape
        write_block(
            region.blocks[block.id], np.zeros((*shape, 16), np.int8),
            np.full(shape, np.nan, np.float32), np.zeros((*shape, 3), np.uint16), 25,
        )  # fmt: skip
    inputs = (region.grid, region.blocks, region.provenance)
    assert check(region, tmp_path).messages == ["No pixel has an embedding."]
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png", [],
        {}, tmp_path / "logs",
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert "No pixel has an embedding." in text
    assert "no scenes" not in text and "does not name scenes" not in text
    assert "which do not name scenes" in text


def test_names_and_reasons_are_escaped(tmp_path: Path) -> None:
    """Names come from the configuration, reasons from servers: neither may become markup."""
    script = '<script>alert("x")</script>'
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    provenance = replace(region.provenance, region=script)
    inputs = (region.grid, region.blocks, provenance)
    miss(region, "b000_000", "sentinel2", left_out=[
        {"item": "S2_A", "date": "2023-07-02", "reason": f"asset B05: {script}"}
    ])  # fmt: skip
    write_preview(tmp_path / "p.tif", tmp_path / "p.png", *inputs)
    check(region, tmp_path)
    skip_list = tmp_path / "skipped_blocks.json"
    write_skip_list(skip_list, region.grid, {"b001_001": script})
    excluded = [Manifest("sentinel2", (), (("S2_B", script),))]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text(f"2026-01-02 03:04:05,678 WARNING {script} of a log\n")
    write_report(
        tmp_path / "report.html", *inputs, tmp_path / "checks.json", tmp_path / "p.png", excluded,
        {"zarr": [f"{script}.zarr"]}, tmp_path / "logs", skip_list=skip_list,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    page = Page(text)
    # Title twice, missing scene, skipped block in the map and the table, excluded scene, warning,
    # product file, region in the record (quotes escaped by JSON).
    assert page.text.count(script) == 8
    assert text.count("&lt;script&gt;") == 9


def test_missing_value_in_the_template_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'legend' is undefined"):
        render(title="field")
