"""Expand `~` and variables of the environment in paths of the configuration."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

log = logging.getLogger(__name__)

_VARIABLE = re.compile(r"\$(\$|\{[^}]*\}|[A-Za-z_][A-Za-z0-9_]*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PER_JOB = re.compile(r"(TMPDIR|TMP|TEMP|JOB_ID|(SLURM|PBS|LSB|OAR|SGE)_\w+)")
"""Variables that schedulers set again for each job."""


def expanded_path(path: str) -> str:
    """Return a path with `~`, `~user`, `$NAME` and `${NAME}` replaced, and `$$` by `$`.

    URLs are returned unchanged.

    Raises:
        ValueError: a variable is not set or empty, or a user does not exist; the text is what the
            path must be instead.
    """
    if _URL.match(path):
        return path
    result = _VARIABLE.sub(_replacement(_warn_per_job), path)
    if not path.startswith("~"):
        return result
    home = os.path.expanduser(result)
    if home.startswith("~"):
        user = result.partition("/")[0]
        raise ValueError(
            f"a path whose {user} is a user of this machine (a folder of that name: ./{user})"
        )
    return home


def url_with_variables(url: str) -> str:
    """Return a URL in which each `${NAME}` is replaced by this variable of the environment.

    The result can contain passwords and tokens: use it for requests, and write it nowhere.

    Raises:
        ValueError: a variable is not set; the text names it, without its value.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise ValueError(f"the variable {match[1]} of the environment is not set")
        return found

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, url) if _URL.match(url) else url


def _warn_per_job(name: str, value: str) -> str:
    if _PER_JOB.fullmatch(name):
        log.warning(
            "A path of the configuration contains $%s (%s), which differs between the jobs of a "
            "cluster: use a folder that all jobs see.",
            name,
            value,
        )
    return value


def expanded_on_node(path: str) -> str:
    """Return a path that may differ between jobs, expanded as by `expanded_path`.

    Raises:
        ValueError: as in `expanded_path`.
    """
    result = _VARIABLE.sub(_replacement(lambda _, value: value), path)
    return os.path.expanduser(result) if path.startswith("~") else result


def _replacement(use: Callable[[str, str], str]) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        name = match[1].strip("{}")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a path in which variables are ${{NAME}} or $NAME; {match[0]} is not one (write "
                "$$ for a plain $)"
            )
        value = os.environ.get(name)
        if not value:
            state = "is not set" if value is None else "is empty"
            raise ValueError(
                f"a path whose variables are set, and ${name} {state} (write $$ for a plain $)"
            )
        return use(name, value)

    return replace
