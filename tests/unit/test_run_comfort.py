"""What a user meets beside a run: interrupts, locks, boxes in the wrong order, the line's width."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pydantic_core import PydanticCustomError
from snakemake.logging import LogEvent

from tessera_flow.cli.main import main
from tessera_flow.cli.run import makes_products
from tessera_flow.cli.run_request import place_text
from tessera_flow.config.bounding_box import bounding_box
from tessera_flow.jobs.running.work_lock import Holder, WorkLock
from tessera_flow.jobs.state.preflight import locked_message
from tessera_flow.jobs.state.progress import RunProgress, megabytes_of

from .test_progress import LINE, error, handler, job, record

ROOT = Path(__file__).resolve().parents[2]
BOX = "5.1,52.0,5.11,52.01"
DAY = "INFO day 3 of 9: 2021-06-03, 20 % valid (so far {:.1f} MB in 120 requests)\n"


def test_rate_of_downloads(tmp_path: Path) -> None:
    """From the logs of running and of finished downloads."""
    log = tmp_path / "a.log"
    assert megabytes_of(log) == 0
    log.write_text(DAY.format(10) + DAY.format(12.5))
    assert megabytes_of(log) == 12.5
    run = RunProgress(0.0)
    run.count({"download": 2, "infer_cpu": 1})
    run.started(1, "download", [str(log)], 0.0)
    assert "; 12 MB read" in run.line(0.0)
    log.write_text(DAY.format(72.5))
    assert "; 72 MB read, 3.0 MB/s" in run.line(20.0)
    run.finished(1, 30.0)
    assert run.line(30.0).endswith("; 72 MB read")
    other = tmp_path / "b.log"
    run.started(2, "download", [str(other)], 31.0)
    other.write_text(DAY.format(100))
    # 172.5 - 72.5 MB since 30 s, the oldest sample of the last minute.
    assert "; 172 MB read, 1.7 MB/s" in run.line(90.0)


def test_a_line_fits_the_terminal(tmp_path: Path) -> None:
    """Steps that do not run are left out first, then the block, the MB and all steps."""
    log = tmp_path / "b000_001.log"
    log.write_text(LINE)
    run = RunProgress(0.0)
    run.count({"download": 6, "stack": 2, "retile": 1, "infer_cpu": 2, "report": 1})
    run.started(1, "infer_cpu", [str(log)], 0.0)
    whole = run.line(60.0)
    assert len(whole) > 120
    for width in range(20, len(whole) + 20):
        line = run.line(60.0, width)
        assert len(line) <= width
        assert line.startswith("1 min: 0 of 12 jobs"[:width])
    assert run.line(60.0, 200) == whole
    assert run.line(60.0, len(whole) - 1) == (
        "1 min: 0 of 12 jobs done; infer 0/2 (1 running); block b000_001: 5 of 16 patches, "
        "1,300 px/s"
    )


def test_the_line_has_the_width_of_the_terminal_of_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Standard output may be a pipe, which has no width."""
    import fcntl
    import struct
    import termios

    above, below = pty.openpty()
    try:
        fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 133, 0, 0))
        with os.fdopen(below, "w", closefd=False) as stream:
            shown = handler(stream, monkeypatch)  # type: ignore[arg-type]
            assert shown._width() == 132
            shown.close()
    finally:
        os.close(above)
        os.close(below)
    stream = io.StringIO()
    shown = handler(stream, monkeypatch)
    monkeypatch.setenv("COLUMNS", "97")
    assert shown._width() == 96
    shown.close()


def test_a_run_of_185_jobs_prints_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events in the order in which Snakemake sends them."""
    stream = io.StringIO()
    shown = handler(stream, monkeypatch)
    shown.emit(record(None, text="Using workflow specific profile profiles/default"))
    shown.emit(record(None, text="Building DAG of jobs..."))
    shown.emit(record(LogEvent.RUN_INFO, stats={"download": 150, "infer_cpu": 35, "total": 185}))
    for number in range(185):
        rule = "download" if number < 150 else "infer_cpu"
        shown.emit(record(None, text="Select jobs to execute..."))
        shown.emit(record(None, text="Execute 1 jobs..."))
        shown.emit(record(LogEvent.JOB_INFO, **job(number, rule)))
        shown.emit(record(LogEvent.JOB_STARTED, jobs=[number]))
        shown.emit(record(None, text="Removing temporary output work/a.zip."))
        text = f"Finished jobid: {number} (Rule: {rule})"
        shown.emit(record(LogEvent.JOB_FINISHED, text=text, job_id=number))
        shown.emit(record(LogEvent.PROGRESS, done=number + 1, total=185))
    shown.emit(record(None, text="Complete log(s): .snakemake/log/x.log"))
    shown.close()
    lines = [line for line in stream.getvalue().splitlines() if " jobs done; " not in line]
    assert len(lines) == 3, lines
    assert stream.getvalue().splitlines()[-1].startswith("0 s: 185 of 185 jobs done;")


@pytest.mark.parametrize("first", ["Terminating processes on user request, this", None])
def test_jobs_that_an_interrupt_ends_are_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str | None
) -> None:
    stream = io.StringIO()
    shown = handler(stream, monkeypatch)
    if first:
        shown.emit(record(None, text=first))
    died = "RuleException:\nCommand 'python x.py' died with <Signals.SIGINT: 2>."
    shown.emit(record(LogEvent.ERROR, logging.ERROR, died))
    shown.emit(error(tmp_path / "b.log"))
    last = "WorkflowError:\nAt least one job did not complete successfully."
    shown.emit(record(LogEvent.ERROR, logging.ERROR, last))
    shown.emit(record(LogEvent.ERROR, logging.ERROR, "the disk is full"))
    shown.close()
    assert stream.getvalue().splitlines() == ([first] if first else []) + ["the disk is full"]


def test_an_interrupted_job_prints_no_traceback() -> None:
    code = "import sys; sys.path.insert(0, 'workflow/scripts'); import adaptor; raise {}('x')"
    ended = {}
    for name in ("KeyboardInterrupt", "ValueError"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], cwd=ROOT, capture_output=True, text=True
        )
        ended[name] = (done.returncode, done.stderr)
    assert ended["KeyboardInterrupt"] == (-2, "")
    assert ended["ValueError"][1].endswith("ValueError: x\n")


def test_the_command_that_unlocks_is_that_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WorkLock(tmp_path)
    killed = replace(Holder.this_run(tmp_path, tmp_path), process=2**22 + 1)
    lock.path.write_text(json.dumps(asdict(killed)))
    text = locked_message(lock, tmp_path, ["/bin/snakemake", "--cores", "2", "-n"])
    assert text and text.endswith("run again: snakemake --cores 2 --unlock")
    monkeypatch.setenv("TESSERA_FLOW_COMMAND", "tessera-flow run --out 'my run'")
    text = locked_message(lock, tmp_path, ["/bin/snakemake", "-n"])
    assert text and text.endswith("run again: tessera-flow run --out 'my run' -- --unlock")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--forcerun", "items"], True),
        ([], True),
        (["--unlock"], False),
        (["--summary"], False),
        (["-npr"], False),
        (["--report=x.html"], False),
    ],
)
def test_only_a_run_shows_its_products(words: list[str], expected: bool) -> None:
    assert makes_products(False, words) == expected
    assert not makes_products(True, words)


@pytest.mark.parametrize(
    ("box", "meant"),
    [
        ((52.1, 5.3, 52.0, 5.1), "52, 5.1, 52.1, 5.3"),
        ((5.1, 5.3, 52.0, 52.1), "5.1, 52, 5.3, 52.1"),  # west, east, south, north
        ((-33.9, 151.0, -33.8, 151.2), "151, -33.9, 151.2, -33.8"),
    ],
)
def test_the_box_that_was_meant(box: tuple[float, ...], meant: str) -> None:
    if box[0] == 5.1:
        # This order is a valid box by itself: it is named instead.
        assert bounding_box(box) == list(box)
        return
    with pytest.raises(PydanticCustomError, match=re.escape(f"; perhaps {meant} is meant")):
        bounding_box(box)


def test_a_new_run_says_where_its_box_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Latitudes first is a valid box elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"x")
    swapped = ["--roi", "52.0,5.1,52.01,5.11", "--year", "2023", "--weights", "weights.pt"]
    assert main(["init", *swapped]) == 0
    assert capsys.readouterr().err == (
        "The box is from 52 E to 52.01 E and from 5.1 N to 5.11 N. (With latitudes first, it would "
        "be 5.1,52,5.11,52.01.)\n"
    )
    assert place_text([-151.2, -33.9, -151.0, -33.8]) == (
        "The box is from 151.2 W to 151 W and from 33.9 S to 33.8 S."
    )


def test_a_run_is_found_from_inside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"x")
    new = ["--roi", BOX, "--year", "2023", "--weights", "weights.pt", "--out", "fens"]
    assert main(["init", *new]) == 0
    assert main(["status"]) == 1
    assert "tessera-run has no run" in capsys.readouterr().err
    for place in ("fens", "fens/config"):
        monkeypatch.chdir(tmp_path / place)
        assert main(["status"]) == 0
        assert "0 of 1 blocks have embeddings." in capsys.readouterr().out
    # A region is for a new run, never for one above.
    monkeypatch.chdir(tmp_path / "fens")
    assert main(["init", *new[:-2], "--weights", str(tmp_path / "weights.pt")]) == 0
    assert (tmp_path / "fens" / "tessera-run" / "config" / "config.yaml").exists()


def test_the_mask_of_a_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (BOX, "-3.1,50.0,-3.09,50.01"):
        out = tmp_path / "mask.tif"
        assert main(["roi", text, "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        width, height = map(int, re.findall(r": (\d+) x (\d+) px of 10", printed)[0])
        assert 60 < width < 80 and 105 < height < 120
    assert main(["roi", "5.3,52.1,5.1,52.0", "--out", str(out)]) == 1
    assert "perhaps 5.1, 52, 5.3, 52.1 is meant." in capsys.readouterr().err
