"""Lock the working folder, so that two runs do not delete or replace each other's files.

Snakemake's own lock is in the folder that it is started in; several such folders can share
`paths.work`. The lock states who holds it, which Snakemake's does not.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import errno
import getpass
import json
import logging
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from ...atomic import output_error
from ...errors import ConfigError, OutputError
from ..processes import State, process_start, process_state, slurm_job_has_ended, this_slurm_job

logger = logging.getLogger(__name__)

NO_LOCK = "TESSERA_FLOW_NO_LOCK"
"""Variable of the environment: 1 for a run that neither takes nor respects the lock, because the
other one works on other regions or periods."""

LOCK = "lock.json"
LAST_RUN = "last_run.json"

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
"""Codes of an `OSError` by which a file system states that it has no hard links."""


@dataclass(frozen=True)
class Holder:
    """The run that holds a lock.

    Attributes:
        folder: in which its Snakemake was started.
        work: the locked folder.
        user, host, process: of its Snakemake.
        started: start of the process, in ticks since the machine started; processes that got
            the same number later have another.
        time: when it took the lock (ISO, UTC).
        cluster, job: Slurm job that its Snakemake runs in; empty if it runs in none.
    """

    folder: str
    work: str
    user: str
    host: str
    process: int
    started: int
    time: str
    cluster: str = ""
    job: str = ""

    @classmethod
    def this_run(cls, folder: Path, work: Path) -> Holder:
        """Return this process as a holder."""
        return cls(
            str(folder.resolve()),
            str(work.resolve()),
            _user(),
            socket.gethostname(),
            os.getpid(),
            process_start(os.getpid()) or 0,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            *this_slurm_job(),
        )

    def state(self) -> State:
        """Return whether the run works; on another machine, it is only known of Slurm jobs of this
        user that have ended."""
        if self.host == socket.gethostname():
            return process_state(self.process, self.started)
        ended = self.user == _user() and slurm_job_has_ended(self.cluster, self.job)
        return "ended" if ended else "unknown"

    def is_this_process(self) -> bool:
        """Return whether this process is the holder."""
        this = (socket.gethostname(), os.getpid(), process_start(os.getpid()) or 0)
        return (self.host, self.process, self.started) == this

    def __str__(self) -> str:
        return (
            f"the run in {self.folder} (user {self.user}, process {self.process} on {self.host}, "
            f"since {self.time})"
        )


def lock_is_skipped() -> bool:
    """Return whether the user skips the lock of `paths.work` by `TESSERA_FLOW_NO_LOCK`.

    Raises:
        ConfigError: it has a value that is neither 1 nor 0 nor empty.
    """
    value = os.environ.get(NO_LOCK, "")
    if value not in ("", "0", "1"):
        raise ConfigError(f"{NO_LOCK} is {value!r} in the environment: set it to 1, or unset it.")
    return value == "1"


class WorkLock:
    """The lock of one working folder.

    Attributes:
        path: the file.
    """

    def __init__(self, work: str | os.PathLike[str]) -> None:
        """Take the working folder, which need not exist."""
        self.path = Path(work, LOCK)
        self._mine = ""

    def holder(self) -> Holder | None:
        """Return who holds the lock; None if nobody does.

        Raises:
            OutputError: the file is not a lock.
        """
        text = self._read()
        return None if text is None else self._parsed(text)

    def last_folder(self) -> Path | None:
        """Return the folder of the run that holds the lock, or had it last; None if unknown, or
        if the working folder is a copy of the one that it had."""
        for path in (self.path, self.path.with_name(LAST_RUN)):
            try:
                holder = Holder(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            return Path(holder.folder) if holder.work == str(self.path.parent.resolve()) else None
        return None

    def acquire(self, folder: Path) -> Holder | None:
        """Take the lock for a run in `folder`; it is given back at the end of the process.

        Returns:
            The holder that it was taken from, which was killed; None if it was free.

        Raises:
            OutputError: another run holds it, or it cannot be written.
        """
        text = json.dumps(asdict(Holder.this_run(folder, self.path.parent)), indent=1) + "\n"
        replaced: Holder | None = None
        while not self._create(text):
            other = self._read()
            if other is None:
                continue
            if other == text:
                break  # NFS: the link was made, but its answer was lost, and the repetition fails
            holder = self._parsed(other)
            if holder.is_this_process():
                return None
            self._refuse(holder)
            if self._remove(other):
                replaced = holder
        self._mine = text
        atexit.register(self.release)
        return replaced

    def release(self) -> None:
        """Give the lock back, if this process holds it, and keep it as a record of the last run.

        A lock that cannot be given back is a warning: the files of the run are complete.
        """
        mine, self._mine = self._mine, ""
        try:
            # A child process has a copy of this object, and ends before its parent.
            if mine and self._parsed(mine).is_this_process() and self._read() == mine:
                self._keep_or_remove()
        except (OSError, OutputError) as error:
            logger.warning("%s remains, although its run has ended: %s", self.path, error)

    def _keep_or_remove(self) -> None:
        try:
            os.replace(self.path, self.path.with_name(LAST_RUN))
        except OSError:  # the record is of another user, and the folder has the sticky bit
            self.path.unlink(missing_ok=True)

    def _refuse(self, holder: Holder) -> None:
        """Raise the message about a holder that has not been killed."""
        state = holder.state()
        busy = f"{self.path.parent} (paths.work) is used by {holder}"
        others = (
            " If it works on other regions or periods with the same settings, set "
            f"{NO_LOCK}=1 in the environment to skip this check."
        )
        if state == "unknown":
            raise OutputError(
                f"{busy}. Whether it still runs cannot be seen from "
                f"{socket.gethostname()}: wait until it has ended; if it was killed, remove its "
                f"lock and run again: rm {self.path}.{others}"
            )
        if state == "running":
            raise OutputError(
                f"{busy}, which is running: wait until it has ended, or set another paths.work. To "
                f"stop it: kill -INT {holder.process}.{others}"
            )

    def _create(self, text: str) -> bool:
        """Write the lock with its content at once; False if there is one."""
        temporary = self.path.with_name(f".{LOCK}.{uuid.uuid4().hex[:12]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            try:
                os.link(temporary, self.path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with self.path.open("x", encoding="utf-8") as handle:
                    handle.write(text)
            finally:
                temporary.unlink()
        except FileExistsError:
            return False
        except OSError as error:
            raise output_error(self.path, error) from error
        return True

    def _remove(self, text: str) -> bool:
        """Remove the lock of a run that was killed, but not one that another run takes now."""
        aside = self.path.with_name(f".{LOCK}.{uuid.uuid4().hex[:12]}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise output_error(self.path, error) from error
        try:
            if aside.read_text(encoding="utf-8") != text:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.path)
                return False
        finally:
            aside.unlink()
        return True

    def _read(self) -> str | None:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._no_lock() from error

    def _parsed(self, text: str) -> Holder:
        try:
            holder = Holder(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise self._no_lock() from error
        texts = (holder.user, holder.host, holder.cluster, holder.job)
        numbers = (holder.process, holder.started)
        if {*map(type, texts)} != {str} or {*map(type, numbers)} != {int}:
            raise self._no_lock()
        return holder

    def _no_lock(self) -> OutputError:
        return OutputError(
            f"{self.path} cannot be read, so it does not state which run uses the folder. If no "
            f"run works in it, remove it and run again: rm {self.path}"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return str(os.getuid())
