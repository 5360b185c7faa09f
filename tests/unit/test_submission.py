"""Each job is submitted to Slurm once, whatever the controller answers. `sbatch`, `squeue` and
`scancel` are scripts here that keep a queue in a file; tests/slurm has a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tessera_flow.jobs.running.submission import Patience, Record, install, submit

FAST = Patience(pause=0.01, most=0.02, total=60.0)
ARGUMENTS = ["--parsable", "--job-name", "run 1", "--comment", "rule_infer_b0", "--wrap=x"]
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"

SBATCH = r"""
echo x >> "$Q/calls"; n=$(wc -l < "$Q/calls")
while [ $# -gt 0 ]; do
  case $1 in --comment) comment=$2;; --job-name) name=$2;; esac; shift
done
. "$Q/behaviour"
accept() { id=$((100 + n)); echo "$id|$comment|$name" >> "$Q/${1:-queue}"; }
behave
"""
SQUEUE = r"""
[ -z "$SQUEUE_PARTITION" ] || exit 0
echo x >> "$Q/asked"; n=$(wc -l < "$Q/asked")
if [ -f "$Q/deaf" ] && [ "$n" -le "$(cat "$Q/deaf")" ]; then echo "Socket timed out" >&2; exit 1; fi
if [ -f "$Q/late" ] && [ "$n" -ge 2 ]; then cat "$Q/late" >> "$Q/queue"; rm "$Q/late"; fi
touch "$Q/queue"; cut -d'|' -f1,2 "$Q/queue"
"""
SCANCEL = 'echo "$@" >> "$Q/cancelled"\n'


class Queue:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, programs = folder, folder / "programs"
        programs.mkdir()
        for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL}.items():
            (programs / name).write_text("#!/bin/sh\n" + text)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("Q", str(folder))
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def behave(self, body: str) -> None:
        (self.folder / "behaviour").write_text(f"behave() {{ {body}\n}}\n")

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path, monkeypatch)


def fail(text: str) -> str:
    return f'echo "{text}" >&2; exit 1'


def test_an_accepted_job_is_not_asked_for(queue: Queue) -> None:
    queue.behave("accept; echo $id")
    answer = submit(ARGUMENTS, FAST)
    assert (answer.status, answer.out) == (0, "101\n")
    assert queue.lines("asked") == []
    (line,) = queue.lines("queue")
    assert line.split("|")[1].startswith("rule_infer_b0_submission_")


@pytest.mark.parametrize("message", [TIMED_OUT, "sbatch: error: of an unknown kind"])
def test_a_job_in_the_queue_is_recognised(
    queue: Queue, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is submitted, and the answer is an error: the number comes from the queue."""
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")  # a filter of the user
    queue.behave(f"accept; {fail(message)}")
    answer = submit(ARGUMENTS, FAST)
    assert (answer.status, answer.out, answer.error) == (0, "101\n", "")
    assert len(queue.lines("calls")) == 1


def test_jobs_of_other_submissions_are_not_taken_for_it(queue: Queue) -> None:
    """The queue has an earlier attempt of the same job, of the same run."""
    queue.behave("accept; echo $id")
    submit(ARGUMENTS, FAST)
    queue.behave(f"if [ $n = 2 ]; then {fail(TIMED_OUT)}; fi; accept; echo $id")
    assert submit(ARGUMENTS, FAST).out == "103\n"
    assert len(queue.lines("queue")) == 2


def test_refusals_that_pass_are_repeated(queue: Queue) -> None:
    messages = [TIMED_OUT, "Unable to contact slurm controller (connect failure)",
                "AssocMaxSubmitJobLimit", "Slurm temporarily unable to accept job"]  # fmt: skip
    cases = "".join(f"{n}) {fail(text)};; " for n, text in enumerate(messages, 1))
    queue.behave(f"case $n in {cases} esac; accept; echo $id")
    assert submit(ARGUMENTS, FAST).out == "105\n"
    assert len(queue.lines("queue")) == 1


def test_other_refusals_are_passed_on(queue: Queue) -> None:
    text = "sbatch: error: invalid partition specified: gpus"
    queue.behave(fail(text))
    answer = submit(ARGUMENTS, FAST)
    assert (answer.status, answer.error) == (1, f"{text}\n")
    assert len(queue.lines("calls")) == 1


def test_nothing_is_submitted_again_before_the_queue_has_answered(queue: Queue) -> None:
    (queue.folder / "deaf").write_text("5")
    queue.behave(f"accept; {fail(TIMED_OUT)}")
    assert submit(ARGUMENTS, FAST).out == "101\n"
    assert len(queue.lines("asked")) == 6
    assert len(queue.lines("calls")) == 1


def test_the_message_is_passed_on_in_the_end(queue: Queue) -> None:
    queue.behave(fail(TIMED_OUT))
    answer = submit(ARGUMENTS, Patience(pause=0.05, most=0.1, total=2.0))
    assert (answer.status, answer.error) == (1, f"{TIMED_OUT}\n")
    assert len(queue.lines("calls")) > 1


def test_a_request_that_the_controller_reads_late(queue: Queue) -> None:
    """The job is in the queue only when it is asked the second time."""
    queue.behave(f"accept late; {fail(TIMED_OUT)}")
    assert submit(ARGUMENTS, FAST).out == "101\n"
    assert len(queue.lines("calls")) == 1


def test_a_job_that_was_accepted_twice_runs_once(queue: Queue) -> None:
    """It appears after it has been submitted again: the first one is kept."""
    queue.behave(
        f"if [ $n = 1 ]; then accept hidden; {fail(TIMED_OUT)}; fi; "
        'cat "$Q/hidden" >> "$Q/queue"; accept; echo $id'
    )
    assert submit(ARGUMENTS, FAST).out == "101\n"
    assert queue.lines("cancelled") == ["102"]


def test_a_job_of_another_cluster_is_cancelled_there(queue: Queue) -> None:
    """Its number may be that of another job of the user on the cluster of this machine."""
    queue.behave(
        f"if [ $n = 1 ]; then accept hidden; {fail(TIMED_OUT)}; fi; "
        'cat "$Q/hidden" >> "$Q/queue"; accept; echo "$id;far"'
    )
    assert submit(["--clusters", "far", *ARGUMENTS], FAST).out == "101\n"
    assert queue.lines("cancelled") == ["--clusters far 102"]


def test_without_squeue_a_refusal_is_passed_on_at_once(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (queue.folder / "programs" / "squeue").unlink()
    for name in ("wc", "sh"):
        (queue.folder / "programs" / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(queue.folder / "programs"))
    queue.behave(fail("sbatch: error: invalid partition specified: gpus"))
    start = time.monotonic()
    answer = submit(ARGUMENTS, Patience(pause=0.01, most=0.02, total=3.0))
    assert (answer.status, len(queue.lines("calls"))) == (1, 1)
    assert time.monotonic() - start < 2


def test_an_answer_in_another_encoding_is_passed_on(queue: Queue) -> None:
    """Such as a notice of the site; the job is submitted, and must not be taken for a failure."""
    queue.behave(r"accept; printf 'f\374r alle\n' >&2; echo $id")
    answer = submit(ARGUMENTS, FAST)
    assert (answer.status, answer.out, answer.error) == (0, "101\n", "f\\xfcr alle\n")


def test_the_script_is_found_first_and_calls_the_next(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder" / "bin"
    install(folder)
    install(folder)
    assert os.environ["PATH"].split(":").count(str(folder)) == 1
    queue.behave("accept; echo $id")
    run = {"shell": True, "capture_output": True, "text": True, "check": True}
    done = subprocess.run("sbatch --parsable --job-name a --comment 'b c' --wrap=x", **run)  # type: ignore[call-overload]
    assert done.stdout == "101\n"
    assert queue.lines("queue")[0].startswith("101|b c_submission_")
    # A call of another program is passed on as it is.
    subprocess.run("sbatch --comment 'b c' job.sh", **run)  # type: ignore[call-overload]
    assert queue.lines("queue")[1] == "102|b c|"


def test_links_in_the_folder_of_the_scripts_are_not_followed(queue: Queue, tmp_path: Path) -> None:
    """In a run folder of several users, another one can make links to files of this one."""
    folder, precious = tmp_path / "bin", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("kept")
    precious.chmod(0o600)
    for name in (f".sbatch.{os.getpid()}", "a.submissions"):
        (folder / name).symlink_to(precious)
    install(folder)
    Record(folder / "a.submissions").add("+", "mark", "comment")
    assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("kept", 0o600)
    assert (folder / "sbatch").is_file() and not (folder / "sbatch").is_symlink()
    (folder / "a.submissions").unlink()
    Record(folder / "a.submissions").add("=", "mark", "7")
    assert Record(folder / "a.submissions").accepted() == {"7": ""}


def test_an_interrupt_is_no_traceback(queue: Queue, tmp_path: Path) -> None:
    install(tmp_path / "bin")
    queue.behave('touch "$Q/started"; exec sleep 30')
    command = ["sbatch", "--parsable", "--job-name", "a", "--comment", "b", "--wrap=x"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "sbatch was interrupted\n")


def test_without_slurm_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    install(tmp_path / "bin")
    assert not (tmp_path / "bin").exists()
