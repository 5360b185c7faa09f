"""States of the checks: coverage of the region and the period, and the headline."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_flow.errors import TileError
from tessera_flow.jobs.state.check_results import check_lines
from tessera_flow.products.checks.embeddings import Checks, write_checks
from tessera_flow.products.checks.states import headline, worst
from tessera_flow.products.skipped_blocks import write_skipped_block
from tessera_flow.scenes.manifest import Manifest, SourceItem

from ..support.products_region import Region, make_region, write_block, write_mask

WHOLE = np.ones((120, 100), bool)
PERIOD = [f"{2023 + (n > 11)}-{n % 12 + 1:02d}" for n in range(6, 18)]
"""Months of the period of `make_region`."""


def region_of(folder: Path, **changes: Any) -> Region:
    return make_region(folder / "blocks", 60, valid=WHOLE, **changes)


def rewrite(
    region: Region,
    counts: np.ndarray | None = None,
    months: np.ndarray | None = None,
    attributes: dict[str, dict[str, Any]] | None = None,
    missing: np.ndarray | None = None,
) -> None:
    """Write the blocks with other counts, masks and attributes, without some embeddings."""
    for block in region.grid.blocks:
        window = region.grid.product_window(block).slices
        scales = region.scales[window].copy()
        if missing is not None:
            scales[missing[window]] = np.nan
        write_block(
            region.blocks[block.id], region.embeddings[window], scales,
            (region.counts if counts is None else counts)[window], 25,
            (attributes or {}).get(block.id),
            None if months is None else months[window],
        )  # fmt: skip


def scenes(sensor: str, months: list[str]) -> Manifest:
    days = [datetime.date.fromisoformat(f"{month}-03") for month in months]
    return Manifest(
        sensor, tuple(SourceItem(f"A{d}", d, None, 0, None, {}) for d in days), ()
    )  # fmt: skip


def run(region: Region, folder: Path, *manifests: Manifest, **changes: Any) -> Checks:
    return write_checks(
        folder / "checks.json", region.grid, region.blocks,
        replace(region.provenance, **changes),
        write_mask(region, folder / "mask.tif"), manifests, 1.5, 10.0,
    )  # fmt: skip


def states(checks: Checks) -> dict[str, tuple[str, str]]:
    """Return (state, result) by name of the checks that do not pass."""
    return {c.name: (c.state, c.result) for c in checks.checks if c.state != "pass"}


S2_MONTHS = "Months without a scene or a clear observation of Sentinel-2"
S1_MONTHS = "Months without a scene or an observation of Sentinel-1"


@pytest.mark.parametrize(("missing", "state"), [(1, "warn"), (5, "warn"), (6, "fail"), (7, "fail")])
def test_months_without_a_scene(tmp_path: Path, missing: int, state: str) -> None:
    region = region_of(tmp_path)
    lists = scenes("sentinel2", PERIOD[missing:]), scenes("sentinel1", PERIOD)
    checks = run(region, tmp_path, *lists)
    assert states(checks) == {S2_MONTHS: (state, f"{missing} of 12")}
    (message,) = checks.messages
    expected = f"{missing} of 12 months are without: no Sentinel-2 scene in 2023-07"
    assert message.startswith(expected)
    assert checks.state == state
    months = json.loads((tmp_path / "checks.json").read_text())["months"]["sentinel2"]
    assert [month["scene_days"] for month in months] == [0] * missing + [1] * (12 - missing)
    assert [month["pixels_percent"] for month in months] == [100.0] * 12


def test_months_without_a_clear_observation(tmp_path: Path) -> None:
    """Every month has scenes, but four of eight are covered by clouds."""
    region = region_of(tmp_path)
    months = np.full((120, 100, 3), 0xFFF, np.uint16)
    months[..., 0] = 0b001111001111
    months[:1, :50, 0] |= 0b10000  # under 1 % of the pixels
    months[:10, :, 0] |= 0b100000
    rewrite(region, months=months)
    every = scenes("sentinel2", PERIOD), scenes("sentinel1", PERIOD)
    checks = run(region, tmp_path, *every)
    assert states(checks) == {S2_MONTHS: ("warn", "3 of 12")}
    (message,) = checks.messages
    assert message == (
        "3 of 12 months are without: scenes but no valid Sentinel-2 observation in "
        "2023-11, 2024-05, 2024-06."
    )
    coverage = checks.months["sentinel2"]
    np.testing.assert_allclose(coverage[4].pixels_percent, 100 * 50 / 12000)
    np.testing.assert_allclose(coverage[5].pixels_percent, 100 / 12)
    assert checks.steps["sentinel2"].median_months == 8
    rewrite(region, months=months & 0xFF)
    fewer = run(region, tmp_path, *every, period_start="2023-10-15", period_end="2024-05-31")
    # The months of the masks count from October; of eight, October is incomplete.
    assert [month.complete for month in fewer.months["sentinel2"]] == [False] + [True] * 7


def test_radar_months_are_never_more_than_a_warning_and_directions_are_added(
    tmp_path: Path,
) -> None:
    region = region_of(tmp_path)
    months = np.full((120, 100, 3), 0xFFF, np.uint16)
    months[..., 1], months[..., 2] = 0b0000_0000_0011, 0b0000_0000_0100
    rewrite(region, months=months)
    checks = run(region, tmp_path)
    assert states(checks) == {S1_MONTHS: ("warn", "9 of 12")}
    assert [m.scene_days for m in checks.months["sentinel1"]] == [None] * 12


def test_valid_steps_are_summarised_over_the_embeddings(tmp_path: Path) -> None:
    region = region_of(tmp_path)
    counts = np.zeros((120, 100, 3), np.uint16)
    random = np.random.default_rng(0)
    counts[..., 0] = random.integers(10, 40, (120, 100))
    counts[..., 1:] = random.integers(1, 30, (120, 100, 2))
    missing = np.zeros((120, 100), bool)
    missing[:1, :60] = True
    counts[missing] = 1
    rewrite(region, counts, missing=missing)
    checks = run(region, tmp_path)
    optical, radar = counts[~missing][:, 0], counts[~missing][:, 1:].sum(axis=-1)
    steps = checks.steps
    for sensor, values in (("sentinel2", optical), ("sentinel1", radar)):
        assert steps[sensor].median == np.percentile(values, 50, method="inverted_cdf")
        assert steps[sensor].percentile_5 == np.percentile(values, 5, method="inverted_cdf")
    np.testing.assert_allclose(steps["sentinel2"].fewer_percent, 100 * (optical < 15).mean())
    assert states(checks) == {
        "Valid Sentinel-2 observations of an embedding": (
            "warn", f"median {steps['sentinel2'].median}, 5th percentile 11")
    }  # fmt: skip
    assert "fewer than 15 valid Sentinel-2 observations" in checks.messages[0]


@pytest.mark.parametrize(
    ("pixels", "state", "shown"),
    [(6, "pass", "99.9 %"), (121, "warn", "98.9 %"), (6001, "fail", "49.9 %")],
)
def test_share_is_of_the_region_not_of_the_blocks(
    tmp_path: Path, pixels: int, state: str, shown: str
) -> None:
    """Pixels outside the region do not count, also in blocks that are mostly outside."""
    region = region_of(tmp_path)
    missing = np.zeros(12000, bool)
    missing[:pixels] = True
    rewrite(region, missing=missing.reshape(120, 100))
    checks = run(region, tmp_path)
    assert checks.region_pixels == 12000 and checks.embedded == 12000 - pixels
    share = checks.checks[0]
    assert (share.name, share.state, share.result) == (
        "Share of the region with an embedding", state, shown)  # fmt: skip
    region.valid = ~missing.reshape(120, 100)
    checks = run(region, tmp_path)
    assert checks.region_pixels == checks.embedded and checks.checks[0].state == "pass"


def test_missing_and_disabled_sensors(tmp_path: Path) -> None:
    region = region_of(tmp_path)
    counts = region.counts.copy()
    counts[..., 1:] = 0
    rewrite(region, counts, np.where(counts > 0, 0xFFF, 0).astype(np.uint16))
    empty = scenes("sentinel2", PERIOD), Manifest("sentinel1", (), ())
    checks = run(region, tmp_path, *empty)
    assert states(checks) == {"Embeddings without Sentinel-1": ("warn", "all")}
    only = tuple(s for s in region.provenance.sources if s.sensor == "sentinel2")
    checks = run(region, tmp_path, empty[0], sources=only)
    assert states(checks) == {"Embeddings without Sentinel-1": ("warn", "disabled")}
    counts[:60, :, 1] = 20
    rewrite(region, counts, np.where(counts > 0, 0xFFF, 0).astype(np.uint16))
    checks = run(region, tmp_path)
    assert states(checks) == {"Embeddings without Sentinel-1": ("warn", "50.0 %")}
    assert "cannot be compared with the others" in checks.messages[0]


def test_mixed_precision_missing_scenes_days_outside_and_warnings(tmp_path: Path) -> None:
    region = region_of(tmp_path)
    gone = {"item": "S2_A", "date": "2023-08-02", "reason": "asset B05: HTTP 404"}
    names = [block.id for block in region.grid.blocks]
    attributes: dict[str, dict[str, Any]] = {name: {"precision": "float32"} for name in names}
    attributes[names[0]] = {"precision": "bf16", "steps_outside_period": 3}
    for name in names[:2]:
        attributes[name]["missing_scenes"] = {"sentinel2": {"left_out": [gone], "replaced": []}}
    rewrite(region, attributes=attributes)
    checks = run(region, tmp_path, warnings=("No scene in June.",))
    assert states(checks) == {
        "Precision of the inference": ("warn", "bf16, float32"),
        "Listed scenes left out because they were missing or corrupt": ("warn", "1"),
        "Time steps outside the period": ("warn", "3"),
        "Warnings about the scenes or tiles": ("warn", "1"),
    }
    assert "precisions: float32 on a device not recorded (" in " ".join(checks.messages)


def test_skipped_block_fails_and_its_precision_does_not_count(tmp_path: Path) -> None:
    region = region_of(tmp_path)
    last = region.grid.blocks[-1]
    write_skipped_block(
        region.blocks[last.id], region.grid.product_window(last).shape, 25, 16, "int8", months=12
    )
    checks = run(region, tmp_path)
    assert states(checks) == {
        "Share of the region with an embedding": ("warn", "80.0 %"),
        "Blocks without embeddings because they failed": ("fail", "1"),
    }
    assert checks.headline == "Of 19 checks, 1 failed and 1 with a warning."
    assert checks.state == "fail"


def test_unknown_months_are_a_warning(tmp_path: Path) -> None:
    """Tile folders state no years: in a period of two years the months are not certain."""
    region = region_of(tmp_path)
    tiles = (replace(region.provenance.sources[0], sensor="both", provider="tiles"),)
    checks = run(region, tmp_path, sources=tiles, period_end="2025-06-30")
    assert states(checks) == {
        S2_MONTHS: ("warn", "not known"), S1_MONTHS: ("warn", "not known"),
    }  # fmt: skip


def test_headline_is_the_worst() -> None:
    assert worst(["pass", "warn", "pass"]) == "warn"
    assert worst(["warn", "fail", "pass"]) == "fail"
    assert worst([]) == "pass"

    def text(*names: str) -> str:
        return headline([{"state": name} for name in names])

    assert text("pass", "pass") == "All checks passed."
    assert text("pass", "warn", "warn") == "Of 3 checks, 2 with warnings."
    assert text("fail", "pass") == "Of 2 checks, 1 failed."
    assert text("fail", "fail", "warn") == "Of 3 checks, 2 failed and 1 with a warning."


def test_terminal_shows_the_headline_and_the_first_messages(tmp_path: Path) -> None:
    from .test_run_files import layout

    files = layout(tmp_path)
    path = Path(files.paths.checks.format(region="here", period="then"))
    assert check_lines(files) == []
    path.parent.mkdir(parents=True)
    document = {
        "state": "fail",
        "headline": "Of 7 checks, 1 failed and 5 with warnings.",
        "checks": [
            *({"state": "warn", "messages": [f"w{n}"]} for n in range(5)),
            {"state": "fail", "messages": ["broken"]},
            {"state": "pass", "messages": []},
        ],
    }
    path.write_text(json.dumps(document))
    lines = [
        "Checks of here, then: FAIL. Of 7 checks, 1 failed and 5 with warnings.",
        "  fail: broken", "  warn: w0", "  warn: w1", "  warn: w2",
        "  and 2 more: see report.html",
    ]  # fmt: skip
    assert check_lines(files) == lines
    assert check_lines(files, {str(path)}) == lines
    assert check_lines(files, {"other"}) == []


def test_terminal_shows_how_many_sites_have_no_embedding(tmp_path: Path) -> None:
    from .test_run_files import layout

    files = layout(tmp_path)
    record = Path(files.paths.sites_record)
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"rows": 5, "states": {"ok": 3, "no scenes": 2}}))
    (line,) = check_lines(files)
    table = files.paths.sites
    assert line == f"Sites: 3 of 5 have embeddings (no scenes: 2; column reason of {table})."
    record.write_text(json.dumps({"rows": 5, "states": {"ok": 5}}))
    assert check_lines(files) == ["Sites: 5 of 5 have embeddings."]
    assert check_lines(files, {"other"}) == []
    record.write_text("{")
    assert check_lines(files) == [f"{record} cannot be read: delete it and run again."]


def test_folders_beside_the_tiles(tmp_path: Path) -> None:
    region = region_of(tmp_path)
    lists = scenes("sentinel2", PERIOD), scenes("sentinel1", PERIOD)
    inputs: dict[str, Any] = {
        "output": tmp_path / "checks.json",
        "grid": region.grid,
        "blocks": region.blocks,
        "provenance": region.provenance,
        "mask": write_mask(region, tmp_path / "mask.tif"),
        "manifests": lists,
        "max_seam": 1.5,
        "max_saturated": 10.0,
        "tile_list": tmp_path / "tiles.json",
    }
    name = "Folders beside the tiles that are none of this run"
    (tmp_path / "tiles.json").write_text('{"other_folders": []}')
    checks = write_checks(**inputs)
    assert [check.state for check in checks.checks if check.name == name] == ["pass"]
    (tmp_path / "tiles.json").write_text('{"other_folders": ["0_0_9_9", "mine"]}')
    checks = write_checks(**inputs)
    assert states(checks) == {name: ("warn", "2")}
    (message,) = checks.messages
    assert "2 folders that are no tiles of this run: 0_0_9_9, mine. Move" in message
    (tmp_path / "tiles.json").write_text("[]")
    with pytest.raises(TileError, match=r"tiles\.json cannot be read"):
        write_checks(**inputs)
