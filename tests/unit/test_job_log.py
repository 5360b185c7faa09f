"""Job logs: records of jobs, and what is read from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera_flow.errors import ConfigError, ItemError, OutputError, Stopped
from tessera_flow.inference.device import job_device
from tessera_flow.jobs.in_flight import ALL_OF_IT, InFlight
from tessera_flow.jobs.journal import job_log_path, read_job_log, record_job, unfinished
from tessera_flow.jobs.plan.estimate import make_estimate
from tessera_flow.jobs.plan.simulate import Limits
from tessera_flow.jobs.running.staging import staged
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.jobs.state.status import command_line, end_of_run, status
from tessera_flow.models.checkpoint import inspect_checkpoint
from tessera_flow.signals import stop_requests

from .test_run_files import layout


def test_every_attempt_is_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    path = job_log_path(tmp_path, "here", "then", "b000_001")
    assert path == tmp_path / "here" / "then" / "job_log" / "b000_001.jsonl"
    with pytest.raises(ItemError), record_job(path, "download sentinel2 s", 1):
        raise ItemError("no scene")
    with pytest.raises(ZeroDivisionError), record_job(path, "retile"):
        1 / 0  # noqa: B018
    first, second = read_job_log(path)
    assert (first.job, first.rule, first.state, first.attempts, first.why()) == (
        "download sentinel2 s", "download", "failed", 1, "no scene",
    )  # fmt: skip
    assert "ZeroDivisionError" in second.why() and "Traceback" in second.why()
    with record_job(path, "download sentinel2 s", 2):
        pass
    first, second = read_job_log(path)
    assert (first.state, first.attempts) == ("done", 2)
    assert unfinished([first, second]) == [second]
    assert "no scene" in path.read_text()


def test_killed_job_is_recognised_by_its_missing_end(tmp_path: Path) -> None:
    """Its process does not exist any more; an incomplete last line is ignored."""
    path = tmp_path / "b.jsonl"
    code = f"""
        import os, signal, sys
        from pathlib import Path
        from tessera_flow.jobs.journal import read_job_log, record_job
        with record_job(Path({str(path)!r}), "infer_cpu"):
            assert read_job_log(Path({str(path)!r}))[0].running
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    with path.open("a") as handle:
        handle.write('{"job": "infer_cpu", "state": "do')
    (record,) = read_job_log(path)
    assert record.state == "started" and not record.running
    assert unfinished([record]) == [record]
    assert "was killed" in record.why()


def test_a_process_that_got_the_number_of_a_killed_job_is_not_the_job(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    with record_job(path, "infer_cpu"):
        pass
    line = json.loads(path.read_text().splitlines()[0])
    assert line["process"] == os.getpid() and line["process_started"] > 0
    path.write_text(json.dumps(line) + "\n")
    assert read_job_log(path)[0].running
    path.write_text(json.dumps(line | {"process_started": line["process_started"] - 1}) + "\n")
    assert not read_job_log(path)[0].running


def test_a_job_that_proc_hides_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid, /proc shows no process of another user."""
    monkeypatch.setattr("tessera_flow.jobs.processes.PROC", tmp_path / "hidden")
    with record_job(tmp_path / "b.jsonl", "infer_cpu"):
        assert read_job_log(tmp_path / "b.jsonl")[0].running


def test_an_interrupted_job_is_not_done(tmp_path: Path) -> None:
    """Ctrl-C reaches the jobs of a run, too. Counted as done, the seconds of the job would enter
    the estimate, and its block would not count as failed."""
    path = tmp_path / "b.jsonl"
    # Background processes of a shell ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), record_job(path, "infer_cpu"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
    (record,) = read_job_log(path)
    assert (record.state, record.seconds) == ("interrupted", 0.0)
    assert unfinished([record]) == [record]
    assert record.why() == "Interrupted (KeyboardInterrupt). Run again to continue."


@pytest.mark.parametrize(
    "wrong",
    [{"time": "yesterday"}, {"time": 5}, {"job": 5}, {"reason": ["a"]}, {"reason": " \n"}, {}],
)
def test_a_damaged_record_stops_neither_status_nor_plan(tmp_path: Path, wrong: object) -> None:
    run = layout(tmp_path, sections={"jobs": {"on_failed_block": "skip"}})
    line = {"job": "infer_cpu", "state": "failed", "time": "2026-01-01T00:00:00+00:00",
            "host": "h", "process": 1, "attempt": 1, "seconds": 1.0}  # fmt: skip
    assert isinstance(wrong, dict)
    names = [block.id for block in run.grids["here"].blocks[:2]]
    for name, state in zip(names, ("failed", "done"), strict=True):
        path = run.job_log_file("here", "then", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(line | {"state": state} | wrong) + "\n")
    done = run.embeddings_file("here", "then", names[1])
    done.parent.mkdir(parents=True)
    done.touch()
    assert status(run).startswith("1 of ")
    for made in (run.paths.roi.format(region="here"), *run.all_manifests(), run.weights_record()):
        Path(str(made)).parent.mkdir(parents=True, exist_ok=True)
        Path(str(made)).touch()
    planned = make_estimate(run, Schedule(run), Limits(jobs=10))
    assert planned.blocks_left == len(run.grids["here"].blocks) - 1
    assert set(run.skipped_blocks("here", "then").values()) <= {"no reason recorded", "['a']"}


def test_time_left_is_that_of_the_blocks_that_have_not_failed(tmp_path: Path) -> None:
    """Two blocks were finished within 36 s. A failed block may fail again: it takes no time."""
    run = layout(tmp_path)
    names = [block.id for block in run.grids["here"].blocks]

    def ended(name: str, state: str, clock: str) -> None:
        path = run.job_log_file("here", "then", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"job": "infer_cpu", "host": "h", "process": 1, "attempt": 1, "seconds": 1.0,
                 "state": state, "time": f"2026-01-01T{clock}+00:00", "reason": "gone"}  # fmt: skip
        path.write_text(json.dumps(entry) + "\n")

    for name, clock in zip(names, ("00:00:00", "00:00:36"), strict=False):
        ended(name, "done", clock)
        done = run.embeddings_file("here", "then", name)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    for name in names[2:-1]:
        ended(name, "failed", "00:00:40")
    assert "\n100.0 blocks per hour recently; about 36 s left.\n" in status(run)
    ended(names[-1], "failed", "00:00:50")
    assert " left." not in status(run)


def test_job_killed_on_another_machine_has_failed_at_the_end_of_the_run(
    tmp_path: Path,
) -> None:
    """On a compute node the process cannot be looked up. During the run the job counts as running;
    at the end of the run, and for skipped blocks, it has failed. An interrupted job has not."""
    run = layout(tmp_path, sections={"jobs": {"on_failed_block": "skip"}})
    killed, interrupted = [block.id for block in run.grids["here"].blocks[:2]]
    line = {"job": "infer_gpu", "state": "started", "time": "2026-01-01T00:00:00+00:00",
            "host": "node7", "process": 1, "attempt": 1}  # fmt: skip
    for name, lines in (
        (killed, [line]),
        (interrupted, [line, line | {"state": "interrupted", "seconds": 1.0, "reason": "Ctrl"}]),
    ):
        path = run.job_log_file("here", "then", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    assert "  running infer: 1\n" in status(run)
    running, _, failed = status(run).partition("Failed:\n")
    assert f"here then {killed}: infer_gpu for " in running
    assert f"here then {killed}" not in failed
    summary = end_of_run(run, ["snakemake"])
    assert f"here then {killed}: infer_gpu (1 attempt): was killed (out of memory" in summary
    assert list(run.skipped_blocks("here", "then")) == [killed]


def test_unwritable_job_log_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with record_job(tmp_path / "file" / "b.jsonl", "stack"):
        pass
    assert read_job_log(tmp_path / "file" / "b.jsonl") == []


def test_sigterm_ends_a_job_at_once_or_at_the_next_check() -> None:
    with pytest.raises(Stopped, match="no partial file remains"), stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
    reached = []
    with (
        pytest.raises(Stopped, match=r"SIGTERM; 2 of 3 are kept\. Run again"),
        stop_requests() as s,
    ):
        s.wait_for_check()
        s.check("1 of 3 are kept")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append(s.received)
        s.check("2 of 3 are kept")
    assert reached == [True]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_while_weights_are_read_is_not_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised between two statements of whatever runs, which takes other errors for damage."""
    torch.save({"a": torch.ones(3)}, tmp_path / "weights.pt")
    load = torch.load

    def stopped(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", stopped)
    log = tmp_path / "job.jsonl"
    with pytest.raises(Stopped), stop_requests(), record_job(log, "infer_cpu"):
        inspect_checkpoint(tmp_path / "weights.pt")
    (record,) = read_job_log(log)
    assert (record.state, record.reason[:18]) == ("stopped", "Stopped by SIGTERM")


def test_number_of_admitted_blocks_is_limited(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in "abcd"}
    files["a"].touch()  # of an earlier run, to be made again
    gate = InFlight(2)
    assert [gate.claim(name, files[name]) for name in "abcab"] == [1, 1, ALL_OF_IT, 1, 1]
    files["b"].write_text("new")
    gate._updated = 0.0
    assert [gate.claim(name, files[name]) for name in "cd"] == [1, ALL_OF_IT]
    files["a"].unlink()
    gate._updated = 0.0
    assert gate.claim("d", files["d"]) == ALL_OF_IT
    files["a"].write_text("made again")
    os.utime(files["a"], ns=(1, 1))
    gate._updated = 0.0
    assert gate.claim("d", files["d"]) == 1


def test_blocks_are_admitted_in_the_order_expected(tmp_path: Path) -> None:
    """Not in the order of the requests: where nothing runs yet, Snakemake starts the block of the
    highest priority, even one that claims everything, together with the admitted ones."""
    files = {name: tmp_path / name for name in "abcde"}
    gate = InFlight(2)
    gate.expect(files.items())
    assert [gate.claim(name, files[name]) for name in "edcba"] == [ALL_OF_IT] * 3 + [1, 1]
    files["a"].touch()
    files["c"].touch()
    gate._updated = 0.0
    assert [gate.claim(name, files[name]) for name in "edb"] == [ALL_OF_IT, 1, 1]


def test_inputs_are_copied_to_the_nodes_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "b.zip").write_text(name)
    files = [tmp_path / name / "b.zip" for name in ("one", "two")]
    assert staged(files, None) == files
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    copies = staged(files, "$NODE_DISK/jobs")
    assert [copy.read_text() for copy in copies] == ["one", "two"]
    assert all(copy.is_relative_to(tmp_path / "disk" / "jobs") for copy in copies)
    with pytest.raises(ConfigError, match=r"jobs\.scratch .* \$NOWHERE is not set"):
        staged(files, "$NOWHERE/x")
    with pytest.raises(OutputError, match="Cannot write"):
        staged(files, str(files[0]))


def test_gpu_job_without_a_gpu_fails_or_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(*arguments: Any) -> str:
        with job_device(*arguments) as name:
            return name

    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.xpu.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"for a GPU, but PyTorch .* finds none on .*cpu_gpu"):
        job("gpu", "auto")
    assert job("gpu", "auto", "cpu") == "cpu"
    monkeypatch.setattr("torch.xpu.is_available", lambda: True)
    monkeypatch.setattr("tessera_flow.inference.device.probe", lambda name: None)
    assert job("gpu", "auto") == "xpu"
    assert job("cpu", "auto") == "cpu"
    with pytest.raises(ConfigError, match="finds none"):
        job("gpu", "cuda")


def test_printed_commands_have_no_secrets() -> None:
    printed = command_line(
        [
            "/bin/snakemake",
            "--config",
            "sentinel2={location: 'https://me:hunter2@a.org/stac?sig=abc123', provider: local}",
            "sentinel1={location: /vsicurl/https://b.org/c?token=abc123}",
            "geotessera={api_key: abc123, version: v1}",
            "-c2",
        ]
    )
    assert "hunter2" not in printed and "abc123" not in printed and "me:" not in printed
    assert "https://***@a.org/stac?***" in printed and "provider: local}" in printed
    assert "version: v1}" in printed and printed.endswith(" -c2")
