"""The methods paragraphs of the report: numbers and deviations, for each mode and source."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.geotessera.manifest import StoredTile, StoreManifest
from tessera_flow.products.inference_record import InferenceRecord
from tessera_flow.products.provenance import Provenance, build_provenance
from tessera_flow.products.report.summary import BlockRecords, MissingScene
from tessera_flow.products.report.text import methods
from tessera_flow.region.grid import RegionGrid
from tessera_flow.scenes.manifest import Manifest, SourceItem

from ..support.products_region import WEIGHTS, cut, inside_mask, make_config


def computed(
    precisions: Mapping[str | None, int], fallbacks: Mapping[str, str] | None = None
) -> InferenceRecord:
    """Return the record of so many blocks of each precision."""
    groups = {
        (name, "cpu"): tuple(f"b{n:03d}_000" for n in range(number))
        for name, number in precisions.items()
    }
    return InferenceRecord(groups, dict(fallbacks or {}))


NOTHING_MISSING = BlockRecords((), computed({"float32": 4}))
RADAR_ONLY = {
    "sentinel2": {"enabled": False},
    "model": {"weights": "nano.pt", "dim": 16, "min_observations": {"s2": 0, "s1": 1}},
}
PUBLISHED_OFFSET = "by date (after 2022-01-25), for Planetary Computer only"


@pytest.fixture(scope="module")
def grid() -> RegionGrid:
    return cut((230, 170), inside_mask(230, 170), 100)


def record(grid: RegionGrid, **changes: Any) -> Provenance:
    return build_provenance(grid, make_config(**changes), "field", "y2023", WEIGHTS)


def scenes(count: int, offsets: int, orbit: str | None = None) -> tuple[SourceItem, ...]:
    day = datetime.date(2023, 7, 1)
    return tuple(
        SourceItem(f"A{n}", day, None, 1000 if n < offsets else 0, orbit, {}) for n in range(count)
    )


def manifests(offsets: int = 7) -> list[Manifest]:
    excluded = (("S2_old", "older duplicate"), ("S2_bad", "lists no asset B04"))
    return [
        Manifest("sentinel2", scenes(20, offsets), excluded),
        Manifest("sentinel1", scenes(9, 0, "ascending"), ()),
    ]


def missing(sensor: str, item: str, duplicate: str = "") -> MissingScene:
    return MissingScene(sensor, item, "2023-07-01", "HTTP 404", duplicate, 2)


def text(*arguments: Any, **options: Any) -> str:
    return " ".join(methods(*arguments, **options))


def test_corrected_names_its_deviations(grid: RegionGrid) -> None:
    result = text(record(grid), manifests(), NOTHING_MISSING)
    assert "(preprocessing: corrected)" in result
    assert "subtracted from every scene whose pixels contain it, from any provider" in result
    assert "(7 of the 20 listed scenes); 0 (no data) remains 0" in result
    assert "all other values are at least 1" in result
    assert "published pipeline subtracts it by date, for Planetary Computer only" in result
    assert "Pixels without data were excluded from resampling" in result
    assert PUBLISHED_OFFSET not in result and "took part in the resampling" not in result


def test_sensor_without_scenes_is_counted_but_not_described(grid: RegionGrid) -> None:
    optical, radar = manifests()
    without = [optical, replace(radar, items=())]
    result = text(record(grid), without, NOTHING_MISSING)
    assert "and 0 Sentinel-1 RTC scenes (mpc, sentinel-1-rtc)" in result
    assert "backscatter" not in result and "backscatter" in text(
        record(grid), manifests(), NOTHING_MISSING
    )


def test_warnings_about_the_scenes_are_a_paragraph(grid: RegionGrid) -> None:
    warnings = ("No radar.", "The period is not over.")
    paragraphs = methods(replace(record(grid), warnings=warnings), manifests(), NOTHING_MISSING)
    assert (
        paragraphs[1]
        == "Warnings about the region and the scenes: No radar. The period is not over."
    )
    assert "Warnings" not in text(record(grid), manifests(), NOTHING_MISSING)


def test_as_published_is_not_called_corrected(grid: RegionGrid) -> None:
    result = text(record(grid, preprocessing="as_published"), manifests(5), NOTHING_MISSING)
    assert "(preprocessing: as_published)" in result
    assert f"{PUBLISHED_OFFSET} (5 of the 20 listed scenes)" in result
    assert "values below 1000 were not changed and 1000 became 0 (no data)" in result
    assert "took part in the resampling, as in the published pipeline" in result
    assert "corrected" not in result and "excluded from resampling" not in result


@pytest.mark.parametrize("mode", ["corrected", "as_published"])
def test_deviations_in_either_mode(grid: RegionGrid, mode: str) -> None:
    result = text(record(grid, preprocessing=mode), manifests(), NOTHING_MISSING)
    for deviation in (
        "of duplicate Sentinel-2 acquisitions only the one with the newest processing baseline",
        "all bands from the first scene with data",
        "a neighbouring UTM zone, were resampled exactly",
        "without a threshold of coverage",
        "the last day of the period is included",
    ):
        assert deviation in result
    assert "(20 log10(x) + 50) * 200" in result
    assert "exact arithmetic" not in result


def test_sensor_that_is_off_is_not_mentioned(grid: RegionGrid) -> None:
    optical = text(record(grid, sentinel1={"enabled": False}), manifests()[:1], NOTHING_MISSING)
    assert "Sentinel-1" not in optical
    radar = text(record(grid, **RADAR_ONLY), manifests()[1:], NOTHING_MISSING)
    assert "offset" not in radar and "9 Sentinel-1 RTC scenes" in radar
    assert "were resampled exactly" in radar


def test_scenes_used_are_those_listed_without_those_left_out(grid: RegionGrid) -> None:
    records = BlockRecords(
        (
            missing("sentinel2", "A1"),
            missing("sentinel2", "A2"),
            missing("sentinel1", "A1"),
            missing("sentinel2", "A3", "D3"),
        ),
        computed({"float32": 4}),
    )
    result = text(record(grid), manifests(), records, 2)
    assert "from 18 Sentinel-2 L2A scenes (mpc, sentinel-2-l2a)" in result
    assert "and 8 Sentinel-1 RTC scenes (mpc, sentinel-1-rtc)" in result
    assert (
        "Of 22 Sentinel-2 L2A scenes found, 2 were excluded before download; 2 of the 20 listed "
        "were missing or corrupt at the archive and left out of one or more blocks; 1 was "
        "replaced by a duplicate acquisition in one or more blocks."
    ) in result
    assert (
        "Of 9 Sentinel-1 RTC scenes found, 0 were excluded before download; 1 of the 9 listed was "
        "missing or corrupt"
    ) in result
    assert "2 blocks failed and contain no embeddings." in result


def test_complete_run_says_so(grid: RegionGrid) -> None:
    complete = [Manifest("sentinel2", scenes(20, 7), ())]
    result = text(record(grid, sentinel1={"enabled": False}), complete, NOTHING_MISSING)
    assert "All scenes found were used." in result
    assert "excluded before" not in result and "failed" not in result


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        ({"float32": 4}, "run in float32."),
        ({"bf16": 4}, "run in bfloat16."),
        ({"fp16": 4}, "run in float16."),
        ({"bf16": 3, "float32": 1}, "run in bfloat16 (3 blocks) and float32 (1 block)."),
        ({None: 4}, "run in a precision that is not recorded."),
    ],
)
def test_precision_is_that_of_the_block_files(
    grid: RegionGrid, precisions: dict[str | None, int], expected: str
) -> None:
    assert expected in text(record(grid), manifests(), BlockRecords((), computed(precisions)))


def test_replaced_precision_is_stated(grid: RegionGrid) -> None:
    replaced = computed({"bf16": 3, "float32": 1}, {"b000_000": "in bf16 it differs too much"})
    result = text(record(grid), manifests(), BlockRecords((), replaced))
    assert (
        "In 1 block a faster precision exceeded the tolerance, and float32 replaced it." in result
    )
    assert "exceeded" not in text(record(grid), manifests(), NOTHING_MISSING)


def test_encoder_and_minimum(grid: RegionGrid) -> None:
    result = text(record(grid), manifests(), NOTHING_MISSING)
    assert f"The encoder was v2-nano (family v2-student; weights SHA-256 {'ab' * 32})" in result
    assert "first 16 dimensions were quantised to int8 with one float32 scale per pixel" in result
    assert "only if it has at least 1 valid Sentinel-2 time step." in result
    assert "at random" not in result
    model = replace(record(grid).model, family="v1.0", dtype="float32", seed=3, repeat_times=5)
    changed = replace(record(grid), model=model, min_observations={"s2": 2, "s1": 4})
    result = text(changed, manifests(), NOTHING_MISSING, rate=3)
    assert "at random, by the seed (3) and the position of the pixel" in result
    assert "the embeddings of 5 samples were averaged" in result
    assert "16 dimensions were stored as float32." in result
    assert "at least 2 valid Sentinel-2 time steps and at least 4 valid Sentinel-1" in result
    assert "Of the rows and columns, one in 3 was kept." in result
    free = replace(changed, min_observations={"s2": 0, "s1": 0})
    assert "No minimum number of observations" in text(free, manifests(), NOTHING_MISSING)


def test_tile_folders_were_prepared_elsewhere(grid: RegionGrid) -> None:
    provenance = record(grid, source="tiles", tiles={"location": "tiles/{period}"})
    assert provenance.preprocessing == "unknown"
    result = text(provenance, [], NOTHING_MISSING, 1)
    assert "from time series in TESSERA tile folders" in result
    assert "170 x 230 pixels of 10 m in EPSG:32631" in result
    assert "record neither their scenes nor their preprocessing" in result
    assert f"weights SHA-256 {'ab' * 32}), run in float32." in result
    assert "1 block failed and contains no embeddings." in result
    for claim in ("offset", "corrected", "resampl", "scenes found"):
        assert claim not in result


def test_warnings_about_tile_folders_are_a_paragraph(grid: RegionGrid) -> None:
    provenance = record(grid, source="tiles", tiles={"location": "tiles/{period}"})
    paragraphs = methods(replace(provenance, warnings=("A.", "B.")), [], NOTHING_MISSING)
    assert paragraphs[1] == "Warnings about the region and the tile folders: A. B."
    assert paragraphs[2].startswith("The encoder was")
    assert "Warnings" not in text(provenance, [], NOTHING_MISSING)


def test_published_embeddings_were_not_computed_here(grid: RegionGrid) -> None:
    transform = tuple(grid.product_geobox.affine)[:6]
    aligned = StoredTile("EPSG:32631", transform, (230, 170), 305, 5105, {}, {})
    other = StoredTile("EPSG:32632", transform, (230, 170), 315, 5105, {}, {})
    store = StoreManifest("npy", "/data/store", "v1", None, 2024, (aligned, other))
    year = {"start": "2024-01-01", "end": "2024-12-31"}
    config = make_config(source="geotessera", model={}, periods={"y2024": year})
    provenance = build_provenance(grid, config, "field", "y2024", None, store=store)
    result = text(provenance, [], BlockRecords((), computed({None: 4})), store=store)
    assert "Published pixel embeddings of 2024 (128 dimensions" in result
    assert "weights not recorded" in result
    assert "taken from /data/store (dataset v1, 2024) with tessera-flow" in result
    assert "2 tiles, on a grid of 170 x 230 pixels of 10 m in EPSG:32631" in result
    assert "pixels of 1 tile on other grids were resampled by nearest neighbour" in result
    assert "records neither the scenes, the preprocessing nor" in result
    for claim in ("offset", "corrected", "encoder", "were computed"):
        assert claim not in result


def test_paragraphs_are_in_the_page_order(grid: RegionGrid, tmp_path: Path) -> None:
    first, second, third = methods(record(grid), manifests(), NOTHING_MISSING)
    assert first.startswith("Pixel embeddings for 2023-07-01 to 2024-06-30 were computed")
    assert second.startswith("Time series were prepared as in the published TESSERA pipeline")
    assert third.startswith("The encoder was")
