"""Progress of a run: lines of the logger plugin, patches of a running block, status."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.logging import LogEvent

from tessera_flow.jobs.product_files import ProductFiles
from tessera_flow.jobs.running.machine import default_limits, limit_files, memory_mb, slurm_memory
from tessera_flow.jobs.state.outdated import DAMAGED, outdated_text
from tessera_flow.jobs.state.progress import (
    Patches,
    RunProgress,
    minutes_text,
    patches_of,
    step_of,
)
from tessera_flow.jobs.state.status import end_of_run, status

from .test_run_files import layout

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from snakemake_logger_plugin_tessera_flow import LogHandler, LogHandlerSettings

LINE = (
    "2026-01-01 00:00:00,000 INFO patch p0000_0500 (5 of 16): 240000 of 250000 pixels embedded in "
    "184.6 s (1300 per s)\n"
)
EMPTY = "2026-01-01 00:00:00,000 INFO 16 patches to embed on cpu\n"
BEFORE = "2026-01-01 00:00:00,000 INFO 4 of 16 patches were finished before\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EMPTY, None),
        (BEFORE + EMPTY, Patches(4, 16, 0.0)),
        (BEFORE + EMPTY + LINE, Patches(5, 16, 1300.0)),
        (LINE.replace("(5 of", "(4 of") + LINE + "WARNING x", Patches(5, 16, 1300.0)),
        (LINE + LINE.replace("(5 of", "(6 of")[:-20], Patches(5, 16, 1300.0)),
        ("x" * 100_000 + "\n" + LINE, Patches(5, 16, 1300.0)),
    ],
)
def test_patches_in_a_log(tmp_path: Path, text: str, expected: Patches | None) -> None:
    (tmp_path / "b.log").write_text(text)
    assert patches_of(tmp_path / "b.log") == expected


def test_no_log_no_patches(tmp_path: Path) -> None:
    assert patches_of(tmp_path / "absent.log") is None
    assert str(Patches(5, 16, 1300.0)) == "5 of 16 patches, 1,300 px/s"


def test_names_of_steps() -> None:
    rules = ["download", "maps_infer_gpu", "import_tiles", "import_embeddings", "roi", "checks"]
    assert [step_of(rule) for rule in rules] == [
        "download", "infer", "import", "import", "others", "others",
    ]  # fmt: skip
    assert [minutes_text(s) for s in (29, 59.6, 90, 3599, 3660)] == [
        "29 s",
        "1 min",
        "2 min",
        "1 h 00 min",
        "1 h 01 min",
    ]


def test_counts_of_a_run(tmp_path: Path) -> None:
    """Two downloads at a time of 10 s each; then the time left of every step is known."""
    run = RunProgress(0.0)
    run.count({"download": 4, "infer_cpu": 1, "infer_gpu": 1, "report": 1, "roi": 1})
    run.started(1, "download", ["a.log"], 0.0)
    run.started(2, "download", ["b.log"], 0.0)
    assert run.line(5.0) == "5 s: 0 of 8 jobs done; download 0/4 (2 running), infer 0/2, others 0/2"
    run.finished(1, 10.0)
    run.failed(2)
    run.started(3, "download", [], 10.0)
    assert "download 1/4 (1 running, 1 failed)" in run.line(11.0)
    run.started(2, "download", [], 12.0)  # its second attempt
    assert "download 1/4 (2 running)," in run.line(12.0)
    run.finished(2, 20.0)
    run.finished(3, 20.0)
    run.finished(99, 20.0)  # not of this run
    assert run.seconds_left(20.0) is None  # no block has been embedded
    log = tmp_path / "b000_001.log"
    log.write_text(LINE)
    run.started(4, "infer_cpu", [str(log)], 20.0)
    line = run.line(40.0)
    assert "; block b000_001: 5 of 16 patches, 1,300 px/s" in line
    # 64 s of each inference; 48 busy seconds in 40.
    left = run.seconds_left(40.0)
    expected = (10 * 28 / 30 + 64 + 64 - 20) / (48 / 40)
    assert left == pytest.approx(expected, rel=0.05)
    assert line.endswith(f"about {minutes_text(left)} left")


def test_no_time_left_after_a_failure_has_ended_the_run() -> None:
    run = RunProgress(0.0)
    run.count({"download": 2, "infer_cpu": 3})
    for job, rule in enumerate(["download", "download", "infer_cpu", "infer_cpu"]):
        run.started(job, rule, [], 10.0 * job)
        if job < 3:
            run.finished(job, 10.0 * job + 10)
    assert run.line(31.0).endswith("about 19 s left")
    run.failed(3)
    assert run.line(40.0) == "40 s: 3 of 5 jobs done; download 2/2, infer 1/3 (1 failed)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(event: LogEvent | None, level: int = logging.INFO, text: str = "", **values: Any) -> Any:
    made = logging.LogRecord("snakemake", level, "x", 1, text, None, None)
    made.__dict__.update(values)
    if event is not None:
        made.event = event
    return made


def handler(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> LogHandler:
    settings = {
        "printshellcmds": False, "nocolor": True, "quiet": set(), "debug_dag": False,
        "verbose": False, "show_failed_logs": True, "stdout": False, "dryrun": False,
    }  # fmt: skip
    name = "stdout" if changes.get("dryrun") else "stderr"
    monkeypatch.setattr(sys, name, stream)
    return LogHandler(SimpleNamespace(**{**settings, **changes}), LogHandlerSettings(interval=0.05))


STATS = {"download": 2, "infer_cpu": 1, "total": 3}


def job(number: int, rule: str = "download", **more: Any) -> dict[str, Any]:
    return {
        "jobid": number,
        "rule_name": rule,
        "rule_msg": "Reading",
        "log": [],
        "indent": False,
    } | more


def error(log: Path) -> Any:
    values = {"input": [], "output": ["o.zip"], "log": [str(log)], "conda_env": None,
              "shellcmd": None, "aux": {}, "rule_msg": None}  # fmt: skip
    return record(LogEvent.JOB_ERROR, logging.ERROR, "Error in rule", **job(2) | values)


def test_routine_is_one_line_and_errors_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.log").write_text("ERROR the archive is down\n")
    stream = io.StringIO()
    shown = handler(stream, monkeypatch)
    for text in (
        "Select jobs to execute...",
        "Execute 2 jobs...",
        "None",
        "Building DAG of jobs...",
    ):
        shown.emit(record(None, text=text))
    shown.emit(record(LogEvent.RUN_INFO, text="Job stats", stats=STATS))
    for number in (1, 2):
        shown.emit(record(LogEvent.JOB_INFO, **job(number)))
    shown.emit(record(LogEvent.JOB_FINISHED, job_id=1))
    shown.emit(record(LogEvent.PROGRESS, done=1, total=3))
    shown.emit(error(tmp_path / "b.log"))
    shown.emit(record(None, text="something new of Snakemake"))
    shown.emit(record(None, logging.WARNING, "a warning"))
    deadline = time.monotonic() + 10
    while "1 of 3 jobs done" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    shown.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "3 jobs: download 2, infer_cpu 1"
    text = "\n".join(line for line in lines if " jobs done; " not in line)
    assert "Error in rule download:" in text and f"log: {tmp_path / 'b.log'}" in text
    assert "ERROR the archive is down" in text
    assert "something new of Snakemake\na warning" in text
    assert "Finished" not in text and "Select jobs" not in text and "Reading" not in text
    assert "1 of 3 jobs done; download 1/2 (1 failed), infer 0/1" in lines[-1]


def test_a_terminal_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    shown = handler(stream, monkeypatch)
    shown.emit(record(LogEvent.RUN_INFO, stats=STATS))
    shown._show()
    shown._show()
    shown.emit(record(None, logging.WARNING, "a warning"))
    shown.close()
    text = stream.getvalue()
    assert text.count("\n") == 3  # the jobs, the warning, the last state
    assert "\r\x1b[Ka warning\n" in text


def test_a_dry_run_has_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    shown = handler(stream, monkeypatch, dryrun=True)
    shown.emit(record(LogEvent.RUN_INFO, stats=STATS))
    for number in range(500):
        shown.emit(record(LogEvent.JOB_INFO, **job(number)))
    shown.emit(record(LogEvent.RUN_INFO, stats=STATS))
    shown.close()
    assert stream.getvalue() == "3 jobs: download 2, infer_cpu 1\n"


def test_status_has_the_steps_and_the_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = layout(tmp_path)
    blocks = [block.id for block in files.grids["here"].blocks]
    total = len(blocks)
    done = files.embeddings_file("here", "then", blocks[0])
    done.parent.mkdir(parents=True)
    done.touch()
    common = {"host": socket.gethostname(), "process": os.getpid(), "attempt": 1}
    records = [
        {"job": "download sentinel2 a", "state": "started"},
        {"job": "download sentinel2 a", "state": "done", "seconds": 1},
        {"job": "download sentinel2 b", "state": "failed", "seconds": 1, "reason": "no scene"},
        {"job": "infer_cpu", "state": "started"},
    ]
    path = files.job_log_file("here", "then", blocks[1])
    path.parent.mkdir(parents=True)
    now = "2026-01-01T00:00:00+00:00"
    path.write_text("".join(json.dumps({"time": now} | common | r) + "\n" for r in records))
    log = files.infer_log("here", "then", blocks[1])
    log.parent.mkdir(parents=True)
    log.write_text(LINE)
    later = {"job": "stitch_zarr", "state": "started"}
    files.job_log_file("here", "then").write_text(json.dumps({"time": now} | common | later) + "\n")
    (product, *others) = ProductFiles(files).all()
    Path(product).parent.mkdir(parents=True)
    Path(product).touch()
    text = status(files)
    assert f"1 of {1 + len(others)} product files exist." in text
    assert "  here then: stitch_zarr for " in text
    per_block = files.jobs_of_block("here", "then")
    assert per_block == {"download": 6, "stack": 2, "retile": 1, "infer": 1}
    assert (
        f"Jobs done of all: download 7/{6 * total} (1 failed), stack 2/{2 * total}, "
        f"retile 1/{total}, infer 1/{total} (1 running)."
    ) in text
    assert f"  here then {blocks[1]}: infer_cpu for " in text
    assert ", 5 of 16 patches, 1,300 px/s\n" in text
    assert f"Failed:\n  here then {blocks[1]}: download sentinel2 b (0 attempts)" not in text
    assert "no scene" in text


def test_damaged_files_are_not_called_files_of_other_settings() -> None:
    outdated = {"a.zip": "it differs in infer", "b.zip": DAMAGED, "c.zip": DAMAGED}
    assert outdated_text(outdated, "made again") == [
        "2 files are damaged (b.zip): made again.",
        "1 file was made with other settings than the present ones (a.zip: it differs in infer): "
        "made again.",
    ]
    assert outdated_text({}, "made again") == []


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path) -> None:
    whole = memory_mb(tmp_path, {})
    assert whole > 500
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert memory_mb(tmp_path, {}) == whole
    (group / "memory.max").write_text("300000000\n")
    assert memory_mb(tmp_path, {}) == 300
    assert default_limits()["mem_mb"] <= 0.8 * whole
    job = group / "slurm" / "job_7"
    job.mkdir(parents=True)
    (job.parent / "memory.max").write_text("200000000\n")
    (job / "memory.max").write_text("max\n")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    cgroup = tmp_path / "proc" / "self" / "cgroup"
    cgroup.write_text("0::/slurm/job_7/step_0\n")
    assert memory_mb(tmp_path, {}) == 200
    assert memory_mb(tmp_path, {"SLURM_MEM_PER_NODE": "100"}) == 104
    cgroup.write_text("9:cpuset:/\n4:cpu,memory:/slurm/job_7\n0::/\n")
    limit = group / "memory" / "slurm" / "job_7" / "memory.limit_in_bytes"
    limit.parent.mkdir(parents=True)
    limit.write_text("9223372036854771712\n")
    assert memory_mb(tmp_path, {}) == 300
    limit.write_text("150000000\n")
    assert memory_mb(tmp_path, {}) == 150


def test_the_files_with_memory_limits_are_those_of_all_cgroups_above() -> None:
    top = ["sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"]
    assert limit_files("") == limit_files("0::/../x\nnonsense\n3:pids:/y") == top
    assert limit_files("0::/a.slice/b\n7:memory:/c\n") == [
        top[0],
        "sys/fs/cgroup/a.slice/b/memory.max",
        "sys/fs/cgroup/a.slice/memory.max",
        top[1],
        "sys/fs/cgroup/memory/c/memory.limit_in_bytes",
    ]


@pytest.mark.parametrize(
    ("variables", "mib"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "4096"}, 4096),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "4"}, 8192),
        ({"SLURM_MEM_PER_CPU": "2048"}, None),
        ({"SLURM_MEM_PER_NODE": "4G"}, None),
    ],
)
def test_memory_of_a_slurm_job(variables: dict[str, str], mib: int | None) -> None:
    assert slurm_memory(variables) == (None if mib is None else mib * 2**20)


def test_a_failed_run_repeats_the_command_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = layout(tmp_path)
    path = files.job_log_file("here", "then", files.grids["here"].blocks[0].id)
    path.parent.mkdir(parents=True)
    line = {"job": "retile", "time": "2026-01-01T00:00:00+00:00", "host": "x", "process": 1}
    states = [{"state": "started"}, {"state": "failed", "seconds": 1, "reason": "no scene"}]
    path.write_text("".join(json.dumps(line | state) + "\n" for state in states))
    for words, more in (
        ("run --out 'my run'", "run --out 'my run' --"),
        ("run --out a -- --quiet", "run --out a -- --quiet"),
    ):
        monkeypatch.setenv("TESSERA_FLOW_COMMAND", f"tessera-flow {words}")
        text = end_of_run(files, ["/bin/snakemake", "--logger", "x"])
        assert f"repeat the command:\n  tessera-flow {words}\n" in text
        assert f"  tessera-flow {more} --config 'jobs={{on_failed_block: skip}}'\n" in text
