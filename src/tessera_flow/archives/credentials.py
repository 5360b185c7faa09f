"""Tokens: read from the environment or from a file of the user's, and kept nowhere."""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
from pathlib import Path

from ..errors import CredentialsError

log = logging.getLogger(__name__)

EARTHDATA_TOKEN = "EARTHDATA_TOKEN"
"""Environment variable with an Earthdata Login bearer token."""

EARTHDATA_TOKEN_FILE = "EARTHDATA_TOKEN_FILE"
"""Environment variable with the path of a file that holds the token."""

DEFAULT_TOKEN_FILE = "~/.edl_bearer_token"

# What may stand in a token (RFC 6750); a line break could smuggle in another header.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def earthdata_token() -> str:
    """The Earthdata Login bearer token, read anew at every call: a user can renew it while
    a run goes on.

    From the variable EARTHDATA_TOKEN, else from the file named by EARTHDATA_TOKEN_FILE
    (default `~/.edl_bearer_token`).

    Raises:
        CredentialsError: there is none, or it is no token.
    """
    given = os.environ.get(EARTHDATA_TOKEN, "").strip()
    if given:
        return _checked(given, f"The environment variable {EARTHDATA_TOKEN}")
    path = Path(os.environ.get(EARTHDATA_TOKEN_FILE) or DEFAULT_TOKEN_FILE).expanduser()
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise CredentialsError(
            "OPERA scenes need an Earthdata Login token, and there is none: make one at "
            f"https://urs.earthdata.nasa.gov (Generate Token) and put it into {path}, readable by "
            f"you alone, or into the environment variable {EARTHDATA_TOKEN}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        raise CredentialsError(
            f"Cannot read the Earthdata Login token from {path} ({reason}): check the file."
        ) from None
    warn_if_shared(path)
    return _checked(text, f"The file {path}")


def _checked(text: str, where: str) -> str:
    token = re.sub(r"^bearer\s+", "", text, flags=re.IGNORECASE)
    if not _TOKEN.fullmatch(token):
        raise CredentialsError(
            f"{where} does not hold an Earthdata Login token: it must be the token alone, on one "
            "line."
        )
    return token


@functools.cache
def warn_if_shared(path: Path) -> None:
    """Say once, in the log, that others can read a file with credentials."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("others can read %s, which holds credentials: run `chmod 600 %s`", path, path)
