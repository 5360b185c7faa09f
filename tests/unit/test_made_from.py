"""Block files state what they were made from; files of other settings are refused or made again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.block_file import create_block_file, made_from, open_block_file
from tessera_flow.errors import OutputError, ReadError, Refused, TileError
from tessera_flow.jobs.block_attributes import read_attributes
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.made_from import Expected, expected_of, settings_hash
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.running.work_lock import WorkLock
from tessera_flow.jobs.state.outdated import outdated_files, refuse_to_replace
from tessera_flow.jobs.state.status import end_of_run

from . import test_run_files
from .test_run_files import YEAR

RUN = ("here", "then")
WEIGHTS = {
    "path": "/w.pt", "sha256": "ab" * 32, "name": None, "url": None, "family": "v2-student",
    "sizes": {}, "dims": [128], "dtype": "int8",
}  # fmt: skip


def layout(
    folder: Path, rate: int = 1, sections: dict[str, object] | None = None, **changes: Any
) -> RunFiles:
    """Return a run of four blocks."""
    grid = {"block_size": 100, "patch_size": 5, "downsample_rate": rate}
    return test_run_files.layout(folder, sections={"grid": grid} | (sections or {}), **changes)


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
        path.write_text(json.dumps(WEIGHTS if job == "weights" else {"of": job}))
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
        "download sentinel1", "stack", "retile", "infer", "weights", "checkpoint",
        "search sentinel2", "search sentinel1",
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
        ({"sections": {"grid": {"block_size": 100, "patch_size": 4}}}, "the settings of retile"),
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
    with pytest.raises(Refused, match=rf"{paths[0]} was not made with .*{message}.*paths.work"):
        expected.check(paths)


def test_blocks_without_a_record_are_refused_but_skipped_ones_are_not(tmp_path: Path) -> None:
    files = prepared(tmp_path)
    expected = expected_of(files.config, *RUN)
    with create_block_file(tmp_path / "a.zip", {}):
        pass
    with create_block_file(tmp_path / "b.zip", {"skipped": True}):
        pass
    with pytest.raises(Refused, match="does not state what it was made from"):
        expected.check([tmp_path / "a.zip"])
    assert expected.check([tmp_path / "b.zip"]) == {}
    (tmp_path / "c.zip").write_bytes(b"PK")
    with pytest.raises(TileError, match="not a complete block file"):
        expected.check([tmp_path / "c.zip"])


def outdated(files: RunFiles, folder: Path, recorded: bool = False) -> list[str]:
    found = outdated_files(files, JobParams(files), lambda path: recorded)
    refuse_to_replace(files, folder, found)
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


def without_job_logs(files: RunFiles) -> None:
    for names in ((), ("here",), RUN):
        shutil.rmtree(files.job_log_file(*names).parent)


def test_without_job_logs_the_blocks_state_what_the_lists_were_made_with(tmp_path: Path) -> None:
    """A job log that cannot be written fails no job, so that nothing may depend on it."""
    files = prepared(tmp_path)
    paths = embed(files)
    without_job_logs(files)
    assert outdated(files, tmp_path) == []
    # One block of any kind is enough.
    for path in (tmp_path / "work").rglob("*.zip"):
        if path != paths[-1]:
            path.unlink()
    assert outdated(files, tmp_path) == []
    later = layout(tmp_path, periods={"then": {"start": "2022-01-01", "end": "2022-12-31"}})
    assert outdated(later, tmp_path) == [
        "here/then/embeddings", "here/then/items/sentinel1.json", "here/then/items/sentinel2.json",
    ]  # fmt: skip
    # The weights were checked with other draws.
    assert outdated(layout(tmp_path, seed=5), tmp_path) == ["here/then/embeddings", "weights.json"]
    # A list whose content no block has seen.
    manifest = Path(files.manifests(*RUN)[0])
    manifest.write_text(manifest.read_text() + " ")
    assert outdated(files, tmp_path) == ["here/then/embeddings", f"here/then/items/{manifest.name}"]


def test_without_job_logs_and_blocks_the_lists_are_made_again(tmp_path: Path) -> None:
    files = prepared(tmp_path)
    without_job_logs(files)
    assert outdated(files, tmp_path) == [
        "here/roi.tif", "here/then/items/sentinel1.json", "here/then/items/sentinel2.json",
        "weights.json",
    ]  # fmt: skip


def test_blocks_of_one_period_are_enough_for_files_of_all(tmp_path: Path) -> None:
    years = YEAR | {"later": {"start": "2022-01-01", "end": "2022-12-31"}}
    files = prepared(tmp_path, periods=years)
    embed(files)
    without_job_logs(files)
    manifest = Path(files.manifests("here", "later")[0])
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    assert outdated(files, tmp_path) == [f"here/later/items/{manifest.name}"]


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


ADAPTOR = Path(__file__).resolve().parents[2] / "workflow/scripts"
JOB = """
import json, sys
from types import SimpleNamespace as Values
sys.path.insert(0, sys.argv[1])
from adaptor import stoppable_job
config, log, path, names = json.loads(sys.argv[2])
class Named(dict):
    items = dict.items
snakemake = Values(
    config=config, log=[log], rule="retile", input=[path], resources={}, params={},
    wildcards=Named(names),
)
with stoppable_job(snakemake):
    print("runs")
"""


def run_job(files: RunFiles, config: dict[str, object], block: str, stack: Path) -> str:
    """Run a job that reads a stack, in a process of its own; return its log."""
    log = stack.with_suffix(".log")
    names = {"region": "here", "period": "then", "block": block}
    arguments = json.dumps([config, str(log), str(stack), names])
    command = [sys.executable, "-c", JOB, str(ADAPTOR), arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    return log.read_text()


@pytest.mark.parametrize("damaged", ["", "weights.json"])
def test_a_refusal_never_becomes_a_hole(tmp_path: Path, damaged: str) -> None:
    """A block is skipped after a failure, not because two configurations share a folder."""
    embed(prepared(tmp_path))
    changes: dict[str, object] = {"jobs": {"on_failed_block": "skip"}}
    files = layout(tmp_path, sections=changes, rate=1 if damaged else 2)
    block = files.grids["here"].blocks[0].id
    files.embeddings_file(*RUN, block).unlink()
    message = "the settings of stack"
    if damaged:
        Path(files.paths.weights).write_text("{")
        message = "weights.json is not a record of weights"
    config = files.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    text = run_job(files, config, block, Path(files.stack_files(*RUN, block)["sentinel2"]))
    assert message in text
    assert "internal error" not in text
    assert [record.state for record in files.failures(*RUN, block)] == ["refused"]
    assert files.skipped_blocks(*RUN) == {}
    summary = end_of_run(layout(tmp_path), ["snakemake"])
    assert message in summary
    assert "on_failed_block" not in summary


NOT_COMPLETE = r"a\.zip is not a complete block file"


def entry(path: Path, change: dict[int, int]) -> None:
    """Change bytes of the central directory's entry of the metadata."""
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x01\x02")
    for offset, value in change.items():
        content[start + offset] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [{8: 1}, {10: 14}, {10: 12}, {10: 8}, {10: 99}, {42: 255, 43: 255}],
    ids=["encrypted", "lzma", "bzip2", "deflated", "unknown", "offset"],
)
def test_damage_of_any_kind_is_named(tmp_path: Path, change: dict[int, int]) -> None:
    path = tmp_path / "a.zip"
    write(path, {"stack": "x"})
    entry(path, change)
    with pytest.raises(TileError, match=NOT_COMPLETE):
        read_attributes(path)
    with (
        pytest.raises(TileError, match=NOT_COMPLETE),
        open_block_file(path),
    ):
        pass


@pytest.mark.parametrize("metadata", ["[]", "5", "null", '{"attributes": 5}', "[" * 10**5])
def test_metadata_of_another_form_are_damage(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", metadata)
    with pytest.raises(TileError, match=NOT_COMPLETE):
        read_attributes(path)
    with (
        pytest.raises(TileError, match=NOT_COMPLETE),
        open_block_file(path),
    ):
        pass


def test_a_file_that_cannot_be_read_is_not_damaged(tmp_path: Path) -> None:
    """Reading a folder fails like reading from a file system with errors."""
    files = prepared(tmp_path)
    (path, *_) = embed(files)
    path.unlink()
    path.mkdir()
    message = rf"{path} cannot be read \(Is a directory\): check the file system"
    with pytest.raises(ReadError, match=message):
        read_attributes(path)
    with pytest.raises(ReadError, match=message), open_block_file(path):
        pass
    with pytest.raises(ReadError, match=message):
        outdated_files(files, JobParams(files), lambda name: False)
