"""Jobs that a finished run plans after one change: the changed step, later steps, no others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.workflow import (
    CHECKPOINT,
    REPOSITORY,
    Changes,
    box,
    change,
    plan,
    product_bytes,
    run,
    write_config,
)

ZARR, ARRAYS, PREVIEW = {"stitch_zarr": 1}, {"stitch_arrays": 1}, {"preview": 1}
PRODUCTS = ZARR | ARRAYS | PREVIEW
INFER = {"infer": 4} | PRODUCTS
RETILE = {"retile": 4} | INFER
ONE_SENSOR = {"items": 1, "download": 8, "stack": 4} | RETILE
BOTH_SENSORS = {"items": 2, "download": 16, "stack": 8} | RETILE
REGION = {"roi": 1} | BOTH_SENSORS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"products.zarr_chunk": 10}, ZARR),
        ({"products.zarr_preview": False}, ZARR),
        ({"products.preview_stretch": 5.0}, ZARR | PREVIEW),
        ({"products.formats": ["zarr"]}, {}),
        ({"model.dim": 16}, INFER),
        ({"model.dtype": "float32"}, INFER),
        ({"model.min_observations": {"s2": 2}}, INFER),
        ({"model.min_observations": {"s1": 1}}, RETILE),
        ({"grid.patch_size": 25}, RETILE),
        ({"preprocessing": "as_published"}, ONE_SENSOR),
        ({"sentinel2.max_cloud": 50.0}, ONE_SENSOR),
        ({"sentinel1.orbits": "ascending"}, ONE_SENSOR),
        ({"sentinel1.enabled": False}, RETILE),
        ({"periods.then.sentinel1": {"enabled": False}}, RETILE),
        ({"regions.here.sentinel1": {"orbits": "ascending"}}, ONE_SENSOR),
        ({"periods.then.min_observations": {"s2": 2}}, INFER),
        ({"periods.then.sentinel1": {"orbits": "both"}, "regions.here.sentinel2": {}}, {}),
        ({"periods.then.end": "2021-09-29"}, BOTH_SENSORS),
        ({"periods.then.end": "2021-10-31"}, BOTH_SENSORS | {"download": 24}),
        (
            {
                "download.threads": 1,
                "download.timeout": 5.0,
                "download.attempts": 2,
                "model.batch_size": 7,
                "model.device": "cpu",
                "model.cache": "weights",
                "paths.keep": [],
            },
            {},
        ),
        (
            {
                "jobs.cpu_gpu": [0, 1],
                "jobs.on_missing_gpu": "cpu",
                "jobs.max_disk_gb": 1.0,
                "jobs.scratch": "$TMPDIR",
                "jobs.local_rules": ["download"],
                "jobs.on_failed_block": "skip",
            },
            {},
        ),
        # The provenance in the products changes, but no block.
        ({"download.on_empty_block": "nodata"}, PRODUCTS),
        (
            {"periods.later": {"start": "2021-08-01", "end": "2021-08-31"}},
            BOTH_SENSORS | {"download": 8},
        ),
        (
            {
                "regions.there": {"roi": "there.geojson"},
                "periods.later": {"start": "2021-08-01", "end": "2021-08-31"},
                "regions.here.periods": ["then"],
                "regions.there.periods": ["then"],
            },
            {
                "roi": 1,
                "items": 2,
                "download": 4,
                "stack": 2,
                "retile": 1,
                "infer": 1,
            }
            | PRODUCTS,
        ),
    ],
    ids=lambda value: "+".join(value) if value and "infer" not in value else "",
)
def test_changed_keys(finished: Path, changes: Changes, expected: dict[str, int]) -> None:
    box(finished / "there.geojson", (0, 20), (0, 20))
    change(finished, changes)
    assert plan(finished) == expected


def test_intermediate_files_are_kept_where_the_configuration_says_so(finished_run: Path) -> None:
    """tests/e2e/test_resume.py asserts the files that the default deletes."""
    run = finished_run / "work" / "here" / "then"
    counts = {
        name: len(list((run / name).rglob("*.zip"))) for name in ("slices", "stack", "patches")
    }
    assert counts == {"slices": 4 * 2 * 2, "stack": 4 * 2, "patches": 4}


def test_only_an_added_format_is_made(finished: Path) -> None:
    for path in (finished / "results" / "here" / "then").glob("stitched_*"):
        path.unlink()
    change(finished, {"products.formats": ["preview", "zarr"]})
    assert plan(finished) == {}
    change(finished, {"products.formats": ["preview", "zarr", "arrays"]})
    assert plan(finished) == ARRAYS


def test_a_deleted_product_or_embedding_is_made_again(finished: Path) -> None:
    (finished / "results" / "here" / "then" / "preview.png").unlink()
    assert plan(finished) == PREVIEW
    (finished / "work" / "here" / "then" / "embeddings" / "b000_001.zip").unlink()
    assert plan(finished) == {"infer": 1} | PRODUCTS


def test_damaged_products_are_made_again(finished: Path) -> None:
    """As after a power cut, an interrupted copy, or files deleted by age on a scratch disk."""
    before = product_bytes(finished)
    products = finished / "results" / "here" / "then"
    shard = next(p for p in (products / "embeddings.zarr/embeddings/c").rglob("*") if p.is_file())
    shard.unlink()
    assert plan(finished) == ZARR
    with (products / "stitched_representation_counts.npy").open("r+b") as handle:
        handle.truncate(1000)
    (products / "checksums" / "preview.json").write_text('{"files": {')
    assert plan(finished) == PRODUCTS
    assert plan(finished, "work/here/roi.tif") == {}
    assert plan(finished, "results/here/then/embeddings.zarr") == ZARR
    output = run(finished)
    name = shard.relative_to(products / "embeddings.zarr")
    assert f"embeddings.zarr is damaged: {name} is missing: it is made again." in output
    assert "stitched_representation_counts.npy has 1000 bytes instead of 12128" in output
    assert product_bytes(finished) == before
    assert plan(finished) == {}


def test_products_state_their_settings_without_snakemakes_records(finished: Path) -> None:
    """Its folder is removed to get rid of a lock."""
    shutil.rmtree(finished / ".snakemake")
    assert plan(finished) == {}
    for folder in list((finished / "work").rglob("job_log")):
        shutil.rmtree(folder)
    assert plan(finished) == {}
    change(finished, {"products.preview_stretch": 5.0})
    assert plan(finished) == ZARR | PREVIEW
    change(finished, {"products.preview_stretch": None, "periods.then.end": "2021-09-29"})
    assert plan(finished) == BOTH_SENSORS


def test_the_region_file_counts_by_its_geometry(finished: Path) -> None:
    roi = finished / "roi.geojson"
    text = roi.read_text()
    roi.write_text(json.dumps(json.loads(text), indent=3))
    assert roi.read_text() != text
    assert plan(finished) == {}
    moved = finished / "moved" / "region.geojson"
    moved.parent.mkdir()
    roi.rename(moved)
    change(finished, {"regions.here.roi": str(moved)})
    assert plan(finished) == {}
    box(moved, (0, 49), (0, 40))
    assert moved.read_text() != text
    assert plan(finished) == REGION


def test_weights_count_by_their_content(finished: Path) -> None:
    os.utime(finished / "weights.pt")
    assert plan(finished) == {}
    shutil.copy(CHECKPOINT.with_name("v2_student_qk.pt"), finished / "weights.pt")
    assert plan(finished) == {"weights": 1} | INFER


def test_a_changed_comment_reruns_nothing(finished: Path, tmp_path: Path) -> None:
    """The workflow is copied, run from there, and every kind of source file in it changed."""
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("workflow", "src", "profiles", "envs"):
        shutil.copytree(REPOSITORY / name, repository / name, symlinks=True, ignore=ignored)
    shutil.copy(REPOSITORY / "Snakefile", repository)
    entry = repository / "Snakefile"
    assert plan(finished, snakefile=entry) == {}
    for name in (
        "Snakefile",
        "workflow/rules/infer.smk",
        "workflow/rules/common.smk",
        "workflow/scripts/infer.py",
        "workflow/scripts/adaptor.py",
        "src/tessera_flow/inference/embed.py",
    ):
        path = repository / name
        path.write_text("# A comment.\n" + path.read_text())
    assert plan(finished, snakefile=entry) == {}
    assert plan(finished, "--rerun-triggers", "code", snakefile=entry)["infer"] == 4


def test_the_order_of_keys_and_defaults_written_out_change_nothing(finished: Path) -> None:
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    settings["products"] = {"formats": ["zarr", "arrays", "preview"], "zarr_chunk": 100}
    settings["preprocessing"] = "corrected"
    write_config(finished, dict(reversed(settings.items())))
    assert plan(finished) == {}


def test_force_in_a_finished_folder_leaves_no_lock(finished: Path) -> None:
    before = product_bytes(finished)
    run(finished, "--force")
    assert product_bytes(finished) == before
    assert not list((finished / ".snakemake").glob("locks/*"))
    assert not (finished / "work" / "lock.json").exists()


def test_quiet_all_shows_errors_of_the_configuration(finished: Path) -> None:
    change(finished, {"model.dtyp": "int8"})
    assert "model.dtyp" in run(finished, "--quiet", "all", fails=True)
    change(finished, {"model.dtyp": None, "download.on_empty_block": "nodata"})
    assert "made with other settings" in run(finished, "--quiet", "all", fails=True)


def test_products_of_other_settings_are_replaced_only_by_force(finished: Path) -> None:
    """A dry run is allowed; a run is refused before anything is deleted."""
    change(finished, {"download.on_empty_block": "nodata", "products.formats": ["zarr"]})
    before = product_bytes(finished)
    output = run(finished, fails=True)
    assert "embeddings.zarr was made with other settings" in output
    assert "run with --force to replace it." in output
    assert "Traceback" not in output
    assert product_bytes(finished) == before
    run(finished, "--force")
    changed = product_bytes(finished)
    assert changed.keys() == before.keys()
    assert changed != before
