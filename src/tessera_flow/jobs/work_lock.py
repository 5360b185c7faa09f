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
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from ..atomic import output_error
from ..errors import OutputError

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
    """

    folder: str
    work: str
    user: str
    host: str
    process: int
    started: int
    time: str

    @classmethod
    def this_run(cls, folder: Path, work: Path) -> Holder:
        """Return this process as a holder."""
        return cls(
            str(folder.resolve()),
            str(work.resolve()),
            _user(),
            socket.gethostname(),
            os.getpid(),
            _start_of(os.getpid()) or 0,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    @property
    def here(self) -> bool:
        """Whether the process is, or was, on this machine."""
        return self.host == socket.gethostname()

    @property
    def runs(self) -> bool:
        """Whether the process exists; only known if `here`."""
        return _start_of(self.process) == self.started

    def __str__(self) -> str:
        return (
            f"the run in {self.folder} (user {self.user}, process {self.process} on {self.host}, "
            f"since {self.time})"
        )


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
            holder = self._parsed(other)
            if holder.here and (holder.process, holder.started) == _this_process():
                return None
            self._refuse(holder)
            if self._remove(other):
                replaced = holder
        self._mine = text
        atexit.register(self.release)
        return replaced

    def release(self) -> None:
        """Give the lock back, if this process holds it, and keep it as a record of the last run."""
        if self._mine and self._read() == self._mine and self._holds():
            os.replace(self.path, self.path.with_name(LAST_RUN))
        self._mine = ""

    def _holds(self) -> bool:
        # A child process has a copy of this object, and ends before its parent.
        holder = self._parsed(self._mine)
        return (holder.process, holder.started) == _this_process()

    def _refuse(self, holder: Holder) -> None:
        """Raise the message about a holder that has not been killed."""
        busy = f"{self.path.parent} (paths.work) is used by {holder}"
        if not holder.here:
            raise OutputError(
                f"{busy}. Whether it still runs cannot be seen from {socket.gethostname()}: wait "
                "until it has ended; if it was killed, remove its lock and run again: "
                f"rm {self.path}"
            )
        if holder.runs:
            raise OutputError(
                f"{busy}, which is running: wait until it has ended, or set another paths.work. To "
                f"stop it: kill -INT {holder.process}. If it works on other regions or periods "
                "with the same settings, add --no-hooks to skip this check."
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
            return Holder(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise self._no_lock() from error

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


def _this_process() -> tuple[int, int]:
    return os.getpid(), _start_of(os.getpid()) or 0


def _start_of(process: int) -> int | None:
    """Return when a process started, in ticks; None if it does not exist or has ended."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
