"""Checks of finished embeddings: seams, impossible values, constant dimensions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ..support.products_region import (
    Region,
    change,
    check,
    dequantised,
    failures,
    landscape,
    make_region,
)

WHOLE = np.ones((120, 100), bool)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_valid_embeddings_pass_and_are_counted(tmp_path: Path, dtype: str) -> None:
    region = make_region(tmp_path / "blocks", 60, dtype=dtype)
    checks = check(region, tmp_path)
    assert (checks.state, checks.headline, checks.messages) == ("pass", "All checks passed.", [])
    assert checks.embedded == checks.region_pixels == region.valid.sum()
    assert sum(block.embedded for block in checks.blocks) == region.valid.sum()
    assert sum(block.observed for block in checks.blocks) == region.valid.sum()
    assert 0.9 < checks.seam_score < 1.1
    if dtype == "int8":
        codes = np.abs(region.embeddings[region.valid].astype(int))
        np.testing.assert_allclose(checks.saturated_percent, 100 * (codes >= 127).mean())
    document = json.loads((tmp_path / "checks.json").read_text())
    assert document["configuration_sha256"] == region.provenance.configuration_sha256
    assert document["seam_score"] == checks.seam_score
    assert (document["state"], document["headline"]) == ("pass", "All checks passed.")
    assert all(check["state"] == "pass" for check in document["checks"])


def expected_borders(region: Region, block: int, patch: int) -> dict[tuple[str, ...], np.ndarray]:
    """Compute the pairs (across, inside) of all borders on the whole array at once."""
    values = np.full((*region.valid.shape, 16), np.nan)
    values[region.valid] = dequantised(region)
    borders: dict[tuple[str, ...], list[np.ndarray]] = {}
    for axis in (0, 1):
        lines = np.moveaxis(values, axis, 0)
        steps = np.abs(np.diff(lines, axis=0)).mean(axis=-1)
        for at in range(1, len(lines)):
            if (at % block) % patch or len(lines) - at < 3:
                continue
            for along in range(lines.shape[1]):
                pair = [steps[at - 1, along], (steps[at - 3, along] + steps[at + 1, along]) / 2]
                if not np.isfinite(lines[at - 3 : at + 3, along]).all():
                    continue
                cells = [(at - 1) // block, at // block], [along // block]
                rows, columns = cells if axis == 0 else cells[::-1]
                key = tuple(dict.fromkeys(f"b{r:03d}_{c:03d}" for r in rows for c in columns))
                borders.setdefault(key, []).append(np.array(pair))
    return {key: np.array(pairs) for key, pairs in borders.items()}


@pytest.mark.parametrize(("block", "patch"), [(50, 25), (60, 25), (100, 100), (64, 500)])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_seam_score_is_the_ratio_of_medians_over_all_borders(
    tmp_path: Path, block: int, patch: int, dtype: str
) -> None:
    region = make_region(tmp_path / "blocks", block, chunk=patch, dtype=dtype)
    checks = check(region, tmp_path)
    expected = expected_borders(region, block, patch)
    assert {b.blocks: b.pairs for b in checks.borders if b.pairs} == {
        key: len(pairs) for key, pairs in expected.items()
    }
    for border in checks.borders:
        if border.pairs:
            across, inside = np.median(expected[border.blocks], axis=0)
            np.testing.assert_allclose((border.across, border.inside), (across, inside), rtol=1e-4)
            np.testing.assert_allclose(border.ratio, across / inside, rtol=1e-4)
    weighted = np.array([len(p) * np.median(p, axis=0) for p in expected.values()]).sum(axis=0)
    np.testing.assert_allclose(checks.seam_score, weighted[0] / weighted[1], rtol=1e-4)


@pytest.mark.parametrize("corner", [50, 51])
def test_pixels_of_20_m_are_no_seam(tmp_path: Path, corner: int) -> None:
    """Next to an edge, where 20 m pixels are repeated, neighbours are equal or they are not."""
    coarse = landscape(61, 51, 16)
    values = coarse.repeat(2, axis=0).repeat(2, axis=1)[corner - 50 :, corner - 50 :][:120, :100]
    values = values + 0.01 * np.random.default_rng(0).normal(size=values.shape)
    region = make_region(
        tmp_path / "blocks", 50, valid=WHOLE, values=values.astype(np.float32), dtype="float32"
    )
    assert 0.9 < check(region, tmp_path).seam_score < 1.1


def test_seam_between_patches_is_found(tmp_path: Path) -> None:
    values = landscape(120, 100, 16)
    values[25:50, :50] += 3.0
    region = make_region(tmp_path / "blocks", 50, valid=WHOLE, values=values)
    checks = check(region, tmp_path)
    ratios = {border.blocks: border.ratio for border in checks.borders}
    assert ratios["b000_000",] > 2 > 1.2 > ratios["b001_001",]
    assert checks.state == "fail"


def test_single_border_with_a_seam_is_a_warning(tmp_path: Path) -> None:
    """The seam is 1 % of all borders, so the score of the region passes."""
    values = landscape(300, 300, 16)
    ramp = np.linspace(2, 0, 100)
    values[:100, 100:200] += (ramp[:, None] * ramp / 2)[..., None]
    region = make_region(tmp_path / "blocks", 100, valid=np.ones((300, 300), bool), values=values)
    checks = check(region, tmp_path, seam=1.5)
    assert checks.seam_score < 1.5
    (message,) = checks.messages
    assert re.fullmatch(r"The difference across that of .*b000_001.* is [\d.]+ times .*", message)
    assert (checks.state, checks.headline) == ("warn", "Of 19 checks, 1 with a warning.")


def test_seam_fails_and_its_worst_border_is_named(tmp_path: Path) -> None:
    values = landscape(120, 100, 16)
    values[:50, 50:] += 3.0
    region = make_region(tmp_path / "blocks", 50, valid=WHOLE, values=values)
    checks = check(region, tmp_path)
    assert checks.seam_score > 1.5
    (message,) = failures(checks)
    assert message.startswith(f"The seam score is {checks.seam_score:.2f}, above 1.5; the worst")
    assert "b000_001" in message
    assert failures(check(region, tmp_path, seam=100)) == []


def test_impossible_values_are_reported(tmp_path: Path) -> None:
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE)
    change(region, "b000_000", values=np.zeros((4, 16), np.int8))
    change(region, "b001_000", scales=np.array([np.inf, -1.0, 0.0], np.float32))
    checks = check(region, tmp_path)
    assert (checks.non_finite, checks.all_zero) == (3, 4)
    assert failures(checks) == [
        "3 pixels have a value that is not finite.",
        "4 pixels have an embedding of zeros.",
    ]


def test_constant_dimensions_and_saturation_are_reported(tmp_path: Path) -> None:
    values = landscape(120, 100, 16)
    values[..., 5] = 0.0
    values[..., 8:] = values[..., 8:9]  # half of the codes are the largest of their pixel
    values[..., 8:] *= 40
    region = make_region(tmp_path / "blocks", 60, valid=WHOLE, values=values)
    checks = check(region, tmp_path)
    assert checks.constant == [5]
    assert checks.saturated_percent > 45
    assert [re.sub(r"[\d.]+ %", "N %", s, count=1) for s in failures(checks)] == [
        "1 dimensions are the same everywhere: 5.",
        "N % of the codes are at an end of their range, more than 10 %.",
    ]


def test_one_block_has_no_seam_and_half_a_float_is_not_finite(tmp_path: Path) -> None:
    values = landscape(120, 100, 16)
    values[3, 4, 7] = np.inf
    region = make_region(
        tmp_path / "blocks", 500, dtype="float32", valid=WHOLE, values=values, chunk=500
    )
    checks = check(region, tmp_path)
    assert checks.seam_score is None and checks.borders == []
    assert checks.messages == ["1 pixels have a value that is not finite."]
