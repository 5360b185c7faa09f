"""The process that embeds blocks for a job: its results, its errors, and how it ends."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.block_file import create_block_file
from tessera_flow.config.configuration import load_config
from tessera_flow.config.model import Model
from tessera_flow.errors import CheckpointError, Stopped
from tessera_flow.inference.block_task import BlockTask
from tessera_flow.inference.worker import embed_block
from tessera_flow.inference.worker_messages import Finished, Setup
from tessera_flow.jobs.journal import JobCost
from tessera_flow.jobs.params import MODEL_KEYS
from tessera_flow.jobs.running.ahead import AheadFiles, WaitingBlock, was_interrupted
from tessera_flow.jobs.running.infer_job import InferJob
from tessera_flow.jobs.running.worker_process import WorkerEnded, WorkerProcess
from tessera_flow.models.weights import fetch_weights
from tessera_flow.region.needed import NOT_NEEDED
from tessera_flow.signals import StopRequest

from ..support import golden
from .test_block_inference import write_patches

pytestmark = pytest.mark.usefixtures("one_thread")

FORMAT = "%(levelname)s %(message)s"


def setup(log: Path) -> Setup:
    return Setup("gpu", "auto", "cpu", str(log), FORMAT)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> BlockTask:
    """A block of 6 patches."""
    folder = tmp_path_factory.mktemp("block")
    write_patches(folder / "patches.zip", golden.tile("main"), 4, np.ones((12, 10), np.uint8))
    record = fetch_weights(str(golden.checkpoint("v2_student_noqk")))
    settings = Model(weights=record.path).model_dump(mode="json", include=MODEL_KEYS)
    settings |= {"origin": [0, 0], "period": ["2021-01-01", "2021-12-31"]}
    return BlockTask(
        *("b000_000", str(folder / "patches.zip"), str(folder / "out.zip"), record, settings),
        made_from={"infer": "a"},
        source="tiles",
        block_edge=12,
        batch_size=1024,
        threads=1,
    )


@pytest.fixture(scope="module")
def stop() -> StopRequest:
    return StopRequest()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "job.log"


@pytest.fixture(scope="module")
def worker(stop: StopRequest, log: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(setup(log), stop) as process:
        yield process


def test_results_have_the_bytes_of_a_process_of_their_own(
    worker: WorkerProcess, task: BlockTask, log: Path, tmp_path: Path
) -> None:
    embed_block(task.to(tmp_path / "expected.zip"), "cpu", StopRequest())
    first = worker.embed(task.to(tmp_path / "first.zip"))
    worker.embed(task.to(tmp_path / "second.zip"), tmp_path / "logs" / "second.log")
    expected = (tmp_path / "expected.zip").read_bytes()
    assert (tmp_path / "first.zip").read_bytes() == expected
    assert (tmp_path / "second.zip").read_bytes() == expected
    assert first.seconds > 0 and first.peak_mb > 100
    assert log.read_text().count("loading the model") == 1
    assert log.read_text().count("patch ") == 9
    assert (tmp_path / "logs" / "second.log").read_text().count("patch ") == 9


def test_an_error_of_a_block_is_raised_in_the_job(
    worker: WorkerProcess, task: BlockTask, tmp_path: Path
) -> None:
    """The worker continues with the next block."""
    record = dataclasses.replace(task.record, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="SHA-256"):
        worker.embed(dataclasses.replace(task, record=record).to(tmp_path / "bad.zip"))
    worker.embed(task.to(tmp_path / "good.zip"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.zip"]


def test_a_request_to_stop_is_passed_on(
    worker: WorkerProcess, stop: StopRequest, task: BlockTask, tmp_path: Path
) -> None:
    """The worker stops when its patch is finished, and the next attempt resumes there."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def stop_when_it_embeds() -> None:
        with fifo.open() as lines:
            for line in lines:
                if "patches to embed" in line:
                    stop._handle(signal.SIGTERM, None)

    thread = threading.Thread(target=stop_when_it_embeds)
    thread.start()
    with pytest.raises(Stopped, match=r"[1-8] of 9 patches are kept"):
        worker.embed(task.to(tmp_path / "out.zip"), fifo)
    thread.join()
    stop.received = False
    worker.embed(task.to(tmp_path / "out.zip"), tmp_path / "log")
    assert "of 9 patches were finished before" in (tmp_path / "log").read_text()


def test_a_killed_worker_is_a_message(task: BlockTask, tmp_path: Path) -> None:
    with WorkerProcess(setup(tmp_path / "log"), StopRequest()) as worker:
        os.kill(worker.process, signal.SIGKILL)
        with pytest.raises(WorkerEnded, match=r"was ended by SIGKILL \(out of memory\?\)"):
            worker.embed(task.to(tmp_path / "out.zip"))
    assert not Path(f"/proc/{worker.process}").exists()


def test_a_result_is_taken_over_only_for_the_same_inputs(
    task: BlockTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights, settings, patches, origin and what the file states decide; threads do not. What was
    logged is not lost."""
    caplog.set_level(logging.INFO)
    task = task.to(tmp_path / "b.zip")
    files, log = AheadFiles(tmp_path / "b.zip"), tmp_path / "log"
    files.folder.mkdir()

    def kept_for(other: BlockTask) -> bool:
        files.embeddings.write_bytes(b"result")
        log.write_text("in float32, because ...")
        files.write_record(other.key(), Finished(3.0, 200), log)
        log.write_text("")  # as Snakemake does
        taken = files.take_over(task)
        assert (taken == Finished(3.0, 200)) == (tmp_path / "b.zip").exists()
        (tmp_path / "b.zip").unlink(missing_ok=True)
        return taken is not None

    changes = [
        {"record": dataclasses.replace(task.record, sha256="1" * 64)},
        {"settings": {**task.settings, "origin": [0, 12]}},
        {"made_from": {"infer": "b"}},
        {"block": "b000_001"},
        {"block_edge": 24},
    ]
    assert kept_for(dataclasses.replace(task, threads=4))
    assert "in float32, because ..." in caplog.text
    assert not any(kept_for(dataclasses.replace(task, **change)) for change in changes)
    other = tmp_path / "patches.zip"
    write_patches(other, golden.tile("main"), 5, np.ones((12, 10), np.uint8))
    assert not kept_for(task.of_copy(other))
    files.record.write_text("{")
    assert files.take_over(task) is None
    files.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "patches.zip"]


def test_a_copy_that_cannot_be_kept_fails_no_finished_block(tmp_path: Path) -> None:
    """As on a full disk: the record of the copy cannot be written."""
    output = tmp_path / "b000_000.zip"
    output.write_bytes(b"embeddings")
    files = AheadFiles(output)
    (files.record / "in its place").mkdir(parents=True)
    (tmp_path / "log").touch()
    files.keep("key", Finished(1.0, 1), tmp_path / "log")
    assert output.read_bytes() == b"embeddings"


def test_a_block_is_claimed_by_one_job(tmp_path: Path) -> None:
    """The lock ends with the process that holds it; a word in it stays."""
    files = AheadFiles(tmp_path / "b.zip")
    ends, holder = os.pipe(), os.fork()
    if holder == 0:
        with files.claimed() as lock:
            assert lock is not None
            lock.write("word")
            lock.flush()
            os.write(ends[1], b"x")
            signal.pause()
    os.read(ends[0], 1)
    with files.claimed() as lock:
        assert lock is None
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with files.claimed() as lock:
        assert lock is not None and was_interrupted(lock)


def waiting(folder: Path, since: int = 0) -> WaitingBlock:
    """A block whose output is temporary."""
    paths = [str(folder / name) for name in ("patches", "weights", "computed/b.zip", "b.zip")]
    return WaitingBlock("here", "then", "b000_000", *paths, settings={}, since=since)


@pytest.mark.parametrize("name", ["computed/b.zip", "b.zip"])
def test_a_block_waits_until_it_is_embedded_by_this_run(tmp_path: Path, name: str) -> None:
    """Also if what its job has written is gone again, because the holes are filled."""
    assert not waiting(tmp_path).ready
    (tmp_path / "patches").touch()
    assert waiting(tmp_path).ready
    (tmp_path / "computed").mkdir()
    (tmp_path / name).touch()
    written = (tmp_path / name).stat().st_mtime_ns
    assert waiting(tmp_path, written + 1).ready and not waiting(tmp_path, written).ready


def test_a_block_without_holes_is_left_alone(task: BlockTask, tmp_path: Path) -> None:
    """Its own job does not look for files that another job made for it: none may stay."""
    with create_block_file(tmp_path / "patches", {NOT_NEEDED: True}):
        pass
    config = load_config(
        {
            "regions": {"here": {"roi": [5.1, 52.0, 5.102, 52.002]}},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "model": {"weights": "v2-nano"},
        }
    )
    job = InferJob(config, "gpu", StopRequest(), JobCost(), "log", 0)
    (tmp_path / "computed").mkdir()
    with WorkerProcess(setup(tmp_path / "log"), StopRequest()) as worker:
        assert job._embed_if_free(worker, task, waiting(tmp_path)) == 0
    assert list((tmp_path / "computed").iterdir()) == []
