"""Block files state what they were made from; files of other settings are refused or made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tessera_flow.block_file import create_block_file, made_from
from tessera_flow.errors import OutputError, TileError
from tessera_flow.jobs.block_attributes import read_attributes
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.made_from import Expected, expected_of, settings_hash
from tessera_flow.jobs.outdated import outdated_files
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.work_lock import WorkLock

from .test_run_files import layout

RUN = ("here", "then")


def prepared(folder: Path, **changes: object) -> RunFiles:
    """Write lists, the record of the weights and the mask of a run, with their job logs."""
    folder.mkdir(parents=True, exist_ok=True)
    files = layout(folder, **changes)
    params = JobParams(files)
    jobs: list[tuple[str, tuple[str, ...], str, object]] = [
        (files.paths.roi.format(region="here"), ("here",), "roi", params.roi("here")),
        (files.paths.weights, (), "weights", params.weights()),
    ]
    for sensor in ("sentinel2", "sentinel1"):
        path = files.paths.items.format(region="here", period="then", sensor=sensor)
        jobs.append((path, RUN, f"items {sensor}", params.items(*RUN, sensor)))
    for name, log, job, settings in jobs:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"sha256": "ab" * 32, "of": job}))
        with record_job(files.job_log_file(*log), job, settings=settings_hash(settings)):
            pass
    return files


def embed(files: RunFiles) -> list[Path]:
    """Write the files of all blocks as the chain of jobs does, without arrays."""
    expected = expected_of(files.config, *RUN)
    paths = []
    for block in files.grids["here"].blocks:
        stacks = []
        for sensor in ("sentinel2", "sentinel1"):
            slices = [Path(p) for p in files.slice_files(*RUN, sensor, block.id)]
            for path in slices:
                write(path, expected.of_job("download", sensor, []))
            stacks.append(Path(files.stack_files(*RUN, block.id)[sensor]))
            write(stacks[-1], expected.of_job("stack", sensor, slices))
        patches = Path(files.paths.patches.format(region="here", period="then", block=block.id))
        write(patches, expected.of_job("retile", None, stacks))
        paths.append(files.embeddings_file(*RUN, block.id))
        write(paths[-1], expected.of_job("infer_cpu", None, [patches]))
    return paths


def write(path: Path, record: dict[str, str]) -> None:
    with made_from(record), create_block_file(path, {}):
        pass


def test_the_record_of_a_block_has_every_step(tmp_path: Path) -> None:
    files = prepared(tmp_path)
    paths = embed(files)
    expected = Expected(files, JobParams(files), *RUN)
    assert read_attributes(paths[0])["made_from"] == expected.steps
    assert set(expected.steps) == {
        "region", "items sentinel2", "items sentinel1", "download sentinel2",
        "download sentinel1", "stack", "retile", "infer", "weights",
    }  # fmt: skip
    assert expected.check(paths) == expected.steps
    with create_block_file(tmp_path / "other.zip", {}):
        pass
    assert "made_from" not in read_attributes(tmp_path / "other.zip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "the list of scenes of sentinel2"),
        ({"seed": 5}, r"the settings of the model \(hash \w{10}, here \w{10}\)"),
        ({"sections": {"preprocessing": "as_published"}}, "the settings of download of sentinel2"),
        ({"rate": 2}, "the settings of stack"),
        ({"sections": {"grid": {"block_size": 20, "patch_size": 4}}}, "the settings of retile"),
    ],
)
def test_blocks_of_other_settings_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    paths = embed(prepared(tmp_path))
    other = layout(tmp_path, **changes)
    if not changes:
        manifest = Path(other.manifests(*RUN)[0])
        manifest.write_text(manifest.read_text() + " ")
    expected = expected_of(other.config, *RUN)
    with pytest.raises(TileError, match=rf"{paths[0]} was not made with .*{message}.*paths.work"):
        expected.check(paths)


def test_blocks_without_a_record_are_refused_but_skipped_ones_are_not(tmp_path: Path) -> None:
    files = prepared(tmp_path)
    expected = expected_of(files.config, *RUN)
    with create_block_file(tmp_path / "a.zip", {}):
        pass
    with create_block_file(tmp_path / "b.zip", {"skipped": True}):
        pass
    with pytest.raises(TileError, match="does not state what it was made from"):
        expected.check([tmp_path / "a.zip"])
    assert expected.check([tmp_path / "b.zip"]) == {}
    (tmp_path / "c.zip").write_bytes(b"PK")
    with pytest.raises(TileError, match="not a complete block file"):
        expected.check([tmp_path / "c.zip"])


def outdated(files: RunFiles, folder: Path, recorded: bool = False) -> list[str]:
    found = outdated_files(files, JobParams(files), lambda path: recorded, folder)
    work = Path(files.config.paths.work)
    return sorted({Path(path).relative_to(work).as_posix().split("/b0")[0] for path in found})


def test_files_that_snakemake_has_no_record_of(tmp_path: Path) -> None:
    """Its folder was removed; what the files state decides."""
    files = prepared(tmp_path)
    embed(files)
    assert outdated(files, tmp_path) == []
    changed = layout(tmp_path, seed=5)
    assert outdated(changed, tmp_path) == ["here/then/embeddings", "weights.json"]
    assert outdated(changed, tmp_path, recorded=True) == []
    later = layout(tmp_path, periods={"then": {"start": "2022-01-01", "end": "2022-12-31"}})
    assert outdated(later, tmp_path)[-2:] == [
        "here/then/items/sentinel1.json",
        "here/then/items/sentinel2.json",
    ]
    # Not recorded is not the same.
    shutil.rmtree(tmp_path / "work" / "here" / "job_log")
    assert outdated(files, tmp_path) == ["here/roi.tif"]


def test_files_of_a_run_in_another_folder_are_not_replaced(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    files = prepared(tmp_path)
    embed(files)
    first.mkdir()
    lock = WorkLock(files.config.paths.work)
    lock.acquire(first)
    lock.release()
    assert outdated(files, second) == []
    changed = layout(tmp_path, seed=5)
    with pytest.raises(OutputError, match=rf"made by the run in {first}, which has the same pa"):
        outdated(changed, second)
    assert outdated(changed, first)
    # A copy of the working folder is nobody else's.
    shutil.rmtree(first)
    assert outdated(changed, second)
