"""Jobs of a configuration, counted by dry runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import shapely

from tessera_flow.jobs.running.work_lock import WorkLock
from tests.support.pipeline import write_polygon
from tests.support.workflow import (
    LEFT,
    REPOSITORY,
    TOP,
    box,
    document,
    job_counts,
    plan,
    snakemake,
    write_config,
)

PRODUCTS = {"stitch_zarr": 1, "stitch_arrays": 1, "preview": 1}
ENTRIES = [REPOSITORY / "Snakefile", REPOSITORY / "workflow" / "Snakefile"]
YEAR = ("2023-01-01", "2023-12-31")


def jobs(blocks: int, slices: int, sensors: int = 2, **products: int) -> dict[str, int]:
    """Return the jobs of one region and one period."""
    return {
        "roi": 1,
        "items": sensors,
        "weights": 1,
        "download": blocks * slices * sensors,
        "stack": blocks * sensors,
        "retile": blocks,
        "infer": blocks,
        **(products or PRODUCTS),
    }


def prepared(folder: Path, start: str, end: str, **sections: Any) -> dict[str, Any]:
    """Write a region of 2 x 2 blocks and a configuration.

    Scenes are not needed: blocks follow from the region alone.
    """
    box(folder / "roi.geojson", (0, 50), (0, 40))
    (folder / "weights.pt").touch()
    settings = document(folder, start, end)
    for name, keys in sections.items():
        settings.setdefault(name, {}).update(keys)
    write_config(folder, settings)
    return settings


@pytest.mark.parametrize(
    ("days", "sections", "expected"),
    [
        (YEAR, {}, jobs(4, 3)),
        (("2023-07-01", "2024-06-30"), {}, jobs(4, 3)),
        (("2023-12-01", "2024-01-31"), {"download": {"slice_months": 1}}, jobs(4, 2)),
        (YEAR, {"download": {"slice_months": 2}}, jobs(4, 6)),
        (("2023-03-05", "2023-03-05"), {}, jobs(4, 1)),
        (YEAR, {"sentinel1": {"enabled": False}}, jobs(4, 3, sensors=1)),
        (YEAR, {"sentinel1": {"orbits": "descending"}}, jobs(4, 3)),
        (
            YEAR,
            {"sentinel2": {"enabled": False}, "model": {"min_observations": {"s2": 0}}},
            jobs(4, 3, sensors=1),
        ),
        (YEAR, {"grid": {"block_size": 2000}}, jobs(1, 3)),
        (YEAR, {"products": {"formats": ["zarr"]}}, jobs(4, 3, stitch_zarr=1)),
        (YEAR, {"products": {"formats": ["arrays"]}}, jobs(4, 3, stitch_arrays=1)),
        (
            YEAR,
            {"products": {"formats": ["preview", "arrays"]}},
            jobs(4, 3, preview=1, stitch_arrays=1),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) and "roi" not in value else "",
)
def test_jobs_of_one_region_and_period(
    tmp_path: Path, days: tuple[str, str], sections: dict[str, Any], expected: dict[str, int]
) -> None:
    prepared(tmp_path, *days, **sections)
    assert plan(tmp_path) == expected


@pytest.mark.parametrize(
    ("size", "arguments", "threads"),
    [(25, [], 2), (2000, [], 8), (2000, ["--set-threads", "infer_cpu=3"], 3)],
)
def test_few_blocks_use_all_cores(
    tmp_path: Path, size: int, arguments: list[str], threads: int
) -> None:
    prepared(tmp_path, "2023-01-01", "2023-01-31", grid={"block_size": size})
    snakefile = tmp_path / "Snakefile"
    snakefile.write_text(
        f'include: "{REPOSITORY}/workflow/Snakefile"\n'
        'print("THREADS", workflow.get_rule("infer_cpu").resources["_cores"].raw)\n'
    )
    options = ("--dry-run", "--cores", "8", *arguments)
    done = snakemake(tmp_path, *options, snakefile=snakefile)
    assert f"THREADS {threads}\n" in done.stdout, done.stdout


def test_several_regions_and_periods(tmp_path: Path) -> None:
    """here: 4 blocks, two periods; corner: 3 blocks of 4, as one holds none of its pixels;
    one period of its own."""
    settings = prepared(tmp_path, *YEAR)
    corner = shapely.Polygon(
        [(0, 0), (500, 0), (500, -200), (200, -200), (200, -400), (0, -400)],
    )
    write_polygon(tmp_path / "corner.geojson", shapely.affinity.translate(corner, LEFT, TOP))
    settings["periods"]["short"] = {"start": "2024-11-15", "end": "2025-02-14"}
    settings["regions"]["corner"] = {"roi": "corner.geojson", "periods": ["short"]}
    write_config(tmp_path, settings)
    assert plan(tmp_path) == {
        "roi": 2,
        "items": 2 * 2 + 2,
        "weights": 1,
        "download": 4 * 2 * (3 + 1) + 3 * 2 * 1,
        "stack": 4 * 2 * 2 + 3 * 2,
        "retile": 4 * 2 + 3,
        "infer": 4 * 2 + 3,
        "stitch_zarr": 3,
        "stitch_arrays": 3,
        "preview": 3,
    }


def test_every_product_has_its_rule(tmp_path: Path) -> None:
    """The VRT has the arrays made, the report the preview and the checks."""
    formats = ["zarr", "vrt", "cog", "counts", "stac", "geotessera", "tiles", "report"]
    prepared(tmp_path, "2023-01-01", "2023-01-31", products={"formats": formats})
    assert plan(tmp_path) == jobs(
        4, 1, stitch_zarr=1, vrt=1, cog=1, stitch_arrays=1, counts=1, stac_item=1,
        stac_collection=1, geotessera=1, export_tiles=4, list_tiles=1, report=1, checks=1,
        preview=1, index=1,
    )  # fmt: skip


def test_change_is_mapped_where_there_is_a_previous_period(tmp_path: Path) -> None:
    """Colours of all periods are those of the first one, so the preview of a period alone needs
    its embeddings too."""
    settings = prepared(tmp_path, *YEAR, products={"formats": ["preview", "change"]})
    settings["periods"]["later"] = {"start": "2024-01-01", "end": "2024-12-31"}
    settings["periods"]["short"] = {"start": "2024-07-01", "end": "2024-08-31"}
    write_config(tmp_path, settings)
    jobs_of_all = plan(tmp_path)
    assert {k: jobs_of_all[k] for k in ("preview", "change", "infer")} == {
        "preview": 3, "change": 1, "infer": 12,
    }  # fmt: skip
    alone = plan(tmp_path, "results/here/short/preview.png")
    assert (alone["preview"], alone["infer"], "change" in alone) == (1, 8, False)


def test_tile_folders_take_the_place_of_scenes(tmp_path: Path) -> None:
    tiles = {"location": "tiles/{region}/{period}"}
    settings = prepared(tmp_path, *YEAR, products={"formats": ["zarr"]}, tiles=tiles)
    write_config(tmp_path, settings | {"source": "tiles"})
    assert plan(tmp_path) == {"roi": 1, "weights": 1, "import_tiles": 4, "infer": 4,
                              "stitch_zarr": 1}  # fmt: skip


def test_published_embeddings_replace_inference(tmp_path: Path) -> None:
    """No scenes, no weights, one job for each block; the default products except the counts."""
    settings = prepared(tmp_path, *YEAR)
    for key in ("model", "products", "sentinel2", "sentinel1"):
        del settings[key]
    (tmp_path / "weights.pt").unlink()
    write_config(tmp_path, settings | {"source": "geotessera"})
    products = {"stitch_zarr": 1, "stitch_arrays": 1, "vrt": 1, "preview": 1, "stac_item": 1,
                "stac_collection": 1, "report": 1, "checks": 1, "index": 1}  # fmt: skip
    assert plan(tmp_path) == {"roi": 1, "store_tiles": 1, "import_embeddings": 4, **products}
    assert plan(tmp_path, "lists") == {"store_tiles": 1, "lists": 1}


def test_float32_has_no_scales_file(tmp_path: Path) -> None:
    prepared(tmp_path, "2023-01-01", "2023-01-31", model={"dtype": "float32"})
    output = snakemake(tmp_path, "--dry-run", "--quiet", "host").stdout  # shows the reasons
    assert job_counts(output) == jobs(4, 1)
    assert "stitched_representation_counts.npy" in output
    assert "representation_scales" not in output


@pytest.mark.parametrize("entry", ENTRIES, ids=["Snakefile", "workflow/Snakefile"])
def test_both_entries_plan_the_same_with_the_default_profile(tmp_path: Path, entry: Path) -> None:
    """From a foreign folder, and with another working directory than the current one."""
    prepared(tmp_path, "2023-01-01", "2023-01-31")
    done = snakemake(tmp_path, "--dry-run", snakefile=entry)
    assert job_counts(done.stdout) == jobs(4, 1)
    assert "profiles/default" in done.stdout


@pytest.mark.parametrize("name", ["generic", "local", "slurm", "test"])
def test_profiles_plan_the_same(tmp_path: Path, name: str) -> None:
    """Every key is an option of Snakemake or of the executor; none changes what is computed."""
    prepared(tmp_path, "2023-01-01", "2023-01-31")
    profile = REPOSITORY / "profiles" / name
    assert plan(tmp_path, "--profile", str(profile)) == jobs(4, 1)


def test_lint_is_clean_and_no_rule_runs_python_inline() -> None:
    """Except that rules have no conda environment: the workflow runs in the environment that
    Snakemake runs in (docs/environments.md)."""
    configuration = REPOSITORY / "tests" / "lint" / "config.yaml"
    done = snakemake(REPOSITORY, "--lint", "--configfile", str(configuration))
    titles = set(re.findall(r"^    \* (.*)$", done.stdout, re.MULTILINE))
    assert titles == {"Specify a conda environment or container for each rule.:"}, done.stdout
    rules = sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
    assert len(rules) == 19
    for path in rules:
        assert not re.search(r"^\s*(run|shell):", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            {
                "grid": {"blok_size": 25},
                "periods": {"then": {"start": "2023-02-01", "end": "2023-01-31"}},
                "model": {"weights": "weights.pt", "dim": "many"},
                "download": {"threads": 0},
            },
            [
                "Unknown key grid.blok_size: did you mean grid.block_size?",
                "periods.then: end 2023-01-31 is before start 2023-02-01",
                "model.dim is 'many' (text), but must be one of 16, 32, 64, 128.",
                "download.threads is 0 (whole number), but must be at least 1.",
            ],
        ),
        (
            {"regions": {"here": {"roi": "bowtie.geojson"}}},
            ["bowtie.geojson: feature 1 is not a valid polygon (Self-intersection"],
        ),
        (
            {"paths": {"work": "weights.pt"}},
            ["Cannot write weights.pt (Not a directory)", "check that its folder exists"],
        ),
    ],
    ids=["several-keys", "bowtie", "work-is-a-file"],
)
def test_bad_input_is_refused_with_messages_and_without_traceback(
    tmp_path: Path, change: dict[str, Any], messages: list[str]
) -> None:
    """Nothing is written. More such input: tests/e2e/test_thirty_failures.py."""
    settings = prepared(tmp_path, "2023-01-01", "2023-01-31")
    bowtie = shapely.Polygon([(0, 0), (500, -400), (500, 0), (0, -400)])
    write_polygon(tmp_path / "bowtie.geojson", shapely.affinity.translate(bowtie, LEFT, TOP))
    write_config(tmp_path, settings | change)
    before = set(tmp_path.iterdir())
    done = snakemake(tmp_path, "--cores", "1")
    assert done.returncode != 0
    for message in messages:
        assert done.stdout.count(message) == 1, done.stdout
    assert "Traceback" not in done.stdout
    written = {path.name for path in set(tmp_path.iterdir()) - before}
    assert written <= {".snakemake", ".cache", "work"}
    assert {path.name for path in tmp_path.glob("work/*")} <= {"plan"}


def test_a_second_folder_can_look_at_files_that_it_must_not_replace(tmp_path: Path) -> None:
    """The mask of the region was made by a run in another folder; its settings are unknown."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    work = first / "work"
    prepared(second, *YEAR, paths={"work": str(work)})
    mask = work / "here" / "roi.tif"
    mask.parent.mkdir(parents=True)
    mask.touch()
    lock = WorkLock(work)
    lock.acquire(first)
    lock.release()
    refusal = f"roi.tif was made by the run in {first}, which has the same paths.work"
    done = snakemake(second, "--dry-run")
    assert done.returncode == 0, done.stdout
    assert f"WARNING: {mask.parent}/{refusal}" in done.stdout
    assert job_counts(done.stdout)["roi"] == 1
    done = snakemake(second, "--cores", "1", "status")
    assert done.returncode == 0, done.stdout
    assert refusal not in done.stdout
    for arguments in ([], ["--no-hooks"], ["status", "all"]):
        done = snakemake(second, "--cores", "1", *arguments)
        assert (done.returncode, refusal in done.stdout) == (1, True), done.stdout
    assert mask.read_bytes() == b""
