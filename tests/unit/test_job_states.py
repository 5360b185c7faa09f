"""The end of each job of a run is learned, also after `squeue` and accounting were away for long.

A submission that was interrupted is found again. `sbatch`, `squeue` and `sacct` are scripts here.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tessera_flow.errors import ConfigError, OutputError
from tessera_flow.jobs.running.submission import (
    _PROGRAMS,
    PROGRAMS,
    RECORD,
    SILENT,
    _run_of,
    install,
)
from tessera_flow.jobs.state.preflight import refuse_orphans, submit_from
from tessera_flow.jobs.state.status import unanswered_states

from .test_submission import Queue

pytestmark = pytest.mark.usefixtures("programs")
RUN = "run_1"
SUBMIT = ["sbatch", "--parsable", "--job-name", RUN, "--comment", "rule_infer_b0", "--wrap=x"]
# As the executor calls them.
QUERY = ["squeue", "--format=%i|%T", "--states=all", "--noheader", "--name", RUN]
ACCOUNT = [
    *("sacct", "-X", "--parsable2", "--clusters", "all", "--noheader"),
    *("--format=JobIdRaw,State", "--endtime", "now", "--name", RUN),
]
STATES = """\
#!/bin/sh
echo "$@" >> "$Q/{name}.calls"
[ ! -f "$Q/{name}.away" ] || {{ echo "Unable to contact slurm controller" >&2; exit 1; }}
[ ! -f "$Q/{name}" ] || cat "$Q/{name}"
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue(tmp_path, monkeypatch)
    queue.behave("accept; echo $id")
    return queue


@pytest.fixture
def programs(queue: Queue) -> Path:
    """The folder of the scripts; `squeue` and `sacct` print files, unless they are away."""
    for name in ("squeue", "sacct"):
        (queue.folder / "programs" / name).write_text(STATES.format(name=name))
        (queue.folder / "programs" / name).chmod(0o755)
    folder = queue.folder / PROGRAMS
    install(folder)
    return folder


def call(command: list[str]) -> tuple[int, list[str], str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_states_are_passed_on(queue: Queue) -> None:
    assert call(SUBMIT) == (0, ["101"], "")
    (queue.folder / "squeue").write_text("101|RUNNING\n99|PENDING\n")
    assert call(QUERY) == (0, ["101|RUNNING", "99|PENDING"], "")
    assert queue.lines("sacct.calls") == []


def test_without_an_answer_jobs_are_taken_as_running(
    queue: Queue, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line and no error: the executor forgets the jobs of a query that fails."""
    monkeypatch.chdir(queue.folder)
    call(SUBMIT)
    for name, query in (("squeue", QUERY), ("sacct", ACCOUNT)):
        away = queue.folder / f"{name}.away"
        away.touch()
        message = "Unable to contact slurm controller\n"
        assert call(query) == (0, [], message)
        silent = programs / f"{RUN}{SILENT}"
        assert silent.read_text() == message
        (line,) = unanswered_states()
        assert "(Unable to contact slurm controller): its jobs are taken as running" in line
        away.unlink()
        (queue.folder / name).write_text("101|RUNNING\n")
        assert call(query) == (0, ["101|RUNNING"], "")
        assert not silent.exists() and unanswered_states() == []


@pytest.mark.parametrize(
    ("accounting", "state"),
    [
        ("101|COMPLETED", "COMPLETED"),
        ("101|CANCELLED by 0", "CANCELLED"),
        ("101|TIMEOUT", "TIMEOUT"),
    ],
)
def test_a_job_that_is_not_listed_any_more_has_ended(
    queue: Queue, accounting: str, state: str
) -> None:
    """`squeue` was away for longer than MinJobAge, and the job ended meanwhile: whoever waits for
    it waits forever."""
    call(SUBMIT)
    call(SUBMIT)
    (queue.folder / "sacct").write_text(f"{accounting}\n")
    (queue.folder / "squeue").write_text("102|RUNNING\n")
    for _ in range(2):  # the executor may not have read the first answer
        assert sorted(call(QUERY)[1]) == [f"101|{state}", "102|RUNNING"]
    (line,) = queue.lines("sacct.calls")
    assert "--jobs 101" in line


def wait(programs: Path, seconds: int) -> None:
    """Let a run's jobs be missing in the queue for some more seconds."""
    record = programs / f"{RUN}{RECORD}"
    lines = [line.split(" ") for line in record.read_text().splitlines()]
    for line in lines:
        if line[0] == "?" and line[2] != "-":
            line[2] = str(int(line[2]) - seconds)
    record.write_text("".join(" ".join(line) + "\n" for line in lines))


@pytest.mark.parametrize("accounting", ["101|RUNNING", "", None])
def test_a_job_of_which_no_end_is_known_is_cancelled_after_minutes(
    queue: Queue, programs: Path, accounting: str | None
) -> None:
    """Accounting does not know of the end (yet), or is away. Before the job is run again, it is
    cancelled: a controller that does not list it may run it."""
    call(SUBMIT)
    (queue.folder / "sacct").write_text(f"{accounting}\n")
    if accounting is None:
        (queue.folder / "sacct.away").touch()
    assert call(QUERY) == (0, [], "")  # taken as running
    wait(programs, 290)
    assert call(QUERY) == (0, [], "")
    assert queue.lines("cancelled") == []
    wait(programs, 20)
    cancel = queue.folder / "programs" / "scancel"
    answering = cancel.read_text()
    cancel.write_text('#!/bin/sh\necho "Unable to contact slurm controller" >&2; exit 1\n')
    assert call(QUERY) == (0, [], "")
    cancel.write_text(answering)
    for _ in range(2):
        assert call(QUERY) == (0, ["101|FAILED"], "")
    assert queue.lines("cancelled") == ["101"]


def test_a_job_that_an_old_answer_does_not_list_is_not_lost(queue: Queue, programs: Path) -> None:
    """Some sites put a program in the place of `squeue` that repeats an answer for a while."""
    call(SUBMIT)
    assert call(QUERY)[1] == []
    (queue.folder / "squeue").write_text("101|RUNNING\n")
    assert call(QUERY)[1] == ["101|RUNNING"]
    wait(programs, 3600)
    (queue.folder / "squeue").write_text("")
    assert call(QUERY)[1] == []
    assert queue.lines("cancelled") == []


@pytest.mark.parametrize(
    "said",
    [
        "echo Welcome to site 7; echo $id",
        "echo Submitted batch job $id for 24 h",  # it does not pass on `--parsable`
        "echo $id; echo 2 nodes are down >&2",
    ],
)
def test_a_program_of_the_site_in_the_place_of_sbatch(queue: Queue, said: str) -> None:
    """The executor would look for the number in what it says, and take the job for a failure."""
    queue.behave(f"accept; {said}; cut -d'|' -f1,2 <$Q/queue >$Q/squeue")
    status, out, _ = call(SUBMIT)
    assert (status, out) == (0, ["101"])
    (queue.folder / "squeue").write_text("")
    (queue.folder / "sacct").write_text("101|TIMEOUT\n")
    assert call(QUERY)[1] == ["101|TIMEOUT"]  # the job is known


def test_notices_beside_the_states_are_left_out(queue: Queue) -> None:
    call(SUBMIT)
    squeue = queue.folder / "programs" / "squeue"
    squeue.write_text(
        '#!/bin/sh\necho "old conf" >&2; echo "Maintenance | Friday"; echo "101|RUNNING"\n'
    )
    assert "101|RUNNING" in call(QUERY)[1]
    # With a part of the states, a call that fails is no answer.
    squeue.write_text('#!/bin/sh\necho "102|RUNNING"; echo "error" >&2; exit 1\n')
    assert call(QUERY)[:2] == (0, [])


def test_the_calls_of_the_executor_are_recognised() -> None:
    """Its calls are passed on as they are if a later version writes them otherwise."""
    plugin = "snakemake_executor_plugin_slurm"
    query = pytest.importorskip(f"{plugin}.job_status_query")
    submit = pytest.importorskip(f"{plugin}.submit_string")
    job = SimpleNamespace(resources={}, threads=1)
    names = dict.fromkeys(("slurm_logfile", "account", "partition", "workdir"), "a")
    params = {**names, "run_uuid": "run", "comment_str": "rule_a"}
    for text in (
        query.query_job_status_squeue("run"),
        query.query_job_status_sacct("run"),
        submit.get_submit_command(job, params),
    ):
        words = shlex.split(text)
        assert _run_of(words, _PROGRAMS[words[0]].needs) == "run"


def test_completed_jobs_are_not_asked_for_again(queue: Queue) -> None:
    """Also after the controller has forgotten them: a run has thousands."""
    call(SUBMIT)
    (queue.folder / "squeue").write_text("101|COMPLETED\n")
    call(QUERY)
    (queue.folder / "squeue").write_text("")
    assert call(QUERY)[1] == ["101|COMPLETED"]
    assert queue.lines("sacct.calls") == []


def test_accounting_states_are_those_that_the_executor_knows(queue: Queue) -> None:
    """It takes `CANCELLED by 0` for a running job."""
    (queue.folder / "sacct").write_text("7|CANCELLED by 0\n8|COMPLETED\n")
    assert call(ACCOUNT)[1] == ["7|CANCELLED", "8|COMPLETED"]


def test_a_job_of_another_cluster_is_asked_for_there(queue: Queue) -> None:
    queue.behave('accept; echo "$id;far"')
    call([*SUBMIT[:1], "--clusters", "far", *SUBMIT[1:]])
    (queue.folder / "squeue").write_text("CLUSTER: far\n101|PENDING\n")
    assert call(QUERY)[1] == ["101|PENDING"]
    assert queue.lines("squeue.calls") == [" ".join([*QUERY[1:], "--clusters", "far"])]


def test_other_calls_are_passed_on(queue: Queue) -> None:
    (queue.folder / "squeue").write_text("anything\n")
    assert call(["squeue", "--me"]) == (0, ["anything"], "")
    (queue.folder / "squeue.away").touch()
    assert call(["squeue", "--me"])[0] == 1


@pytest.mark.parametrize("accepted", [True, False])
def test_an_interrupted_submission_is_found_by_the_next(queue: Queue, accepted: bool) -> None:
    """`sbatch` is killed after, or before, the controller has accepted the job."""
    queue.behave(f'{"accept;" if accepted else ""} touch "$Q/started"; exec sleep 30')
    with subprocess.Popen(SUBMIT, stderr=subprocess.DEVNULL) as process:
        while not (queue.folder / "started").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    listed = (line.rpartition("|")[0] for line in queue.lines("queue"))
    (queue.folder / "squeue").write_text("".join(f"{line}\n" for line in listed))
    queue.behave("accept; echo $id")
    other = ["rule_infer_b1" if word == "rule_infer_b0" else word for word in SUBMIT]
    assert call(other) == (0, ["102"], "")
    assert call(SUBMIT) == (0, ["101" if accepted else "103"], "")
    assert len(queue.lines("calls")) == (2 if accepted else 3)
    assert call(SUBMIT)[1] == ["103" if accepted else "104"]  # it is another attempt now


@pytest.mark.parametrize("words", [["-M", "far"], ["-Mfar"], []])
def test_clusters_that_the_run_does_not_know_of_are_refused(
    queue: Queue, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not words:
        monkeypatch.setenv("SBATCH_CLUSTERS", "far")
    status, out, error = call([*SUBMIT[:-1], *words, SUBMIT[-1]])
    assert (status, out) == (1, []) and "slurm_cluster: NAME" in error
    assert queue.lines("calls") == []


def test_old_records_are_deleted(programs: Path) -> None:
    old, new = programs / f"old{RECORD}", programs / f"new{RECORD}"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    install(programs)
    assert not old.exists() and new.exists()


def test_an_earlier_run_is_not_forgotten_while_squeue_is_away(queue: Queue, programs: Path) -> None:
    (queue.folder / "squeue.away").touch()
    refuse_orphans(queue.folder)  # no job was ever submitted here
    (programs / f"run{RECORD}").touch()
    with pytest.raises(OutputError, match=r"squeue does not answer now \(Unable to contact"):
        refuse_orphans(queue.folder)
    (queue.folder / "squeue.away").unlink()
    refuse_orphans(queue.folder)
    # Without the prefix of profiles/slurm, in the name of another run.
    (queue.folder / "squeue").write_text(
        f"7|x|{queue.folder}|rule_a_submission_1\n8|x|{queue.folder}|rule_a\n9|x|/|a_submission_2\n"
    )
    with pytest.raises(OutputError, match=r": scancel 7\. "):
        refuse_orphans(queue.folder)


def test_an_earlier_run_on_another_cluster_is_found(queue: Queue, programs: Path) -> None:
    (programs / f"run{RECORD}").write_text("+ m rule_a\n= m 7 far\n")
    (queue.folder / "squeue").write_text(f"CLUSTER: far\n7|x|{queue.folder}|a_submission_1\n")
    with pytest.raises(OutputError, match="scancel 7; scancel --clusters far 7"):
        refuse_orphans(queue.folder)
    assert [line.endswith("--clusters far") for line in queue.lines("squeue.calls")] == [0, 1]


def test_job_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="slurm-array-jobs: download is not possible"):
        submit_from(tmp_path, "download")


def test_scripts_that_cannot_be_written_are_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".snakemake").touch()
    with pytest.raises(OutputError, match=str(folder / PROGRAMS)):
        submit_from(folder, None)
