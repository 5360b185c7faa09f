"""Read access tokens from the environment or from a file of the user; never store them."""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import CredentialsError

log = logging.getLogger(__name__)

EARTHDATA_TOKEN = "EARTHDATA_TOKEN"
"""Environment variable that contains an Earthdata Login bearer token."""

EARTHDATA_TOKEN_FILE = "EARTHDATA_TOKEN_FILE"
"""Environment variable with the path of a file that contains the token."""

DEFAULT_TOKEN_FILE = "~/.edl_bearer_token"

# Characters allowed in a token (RFC 6750); a line break could add another header.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def earthdata_token() -> str:
    """Return the Earthdata Login bearer token.

    It is read at every call, so a user can renew it during a run: from the variable
    EARTHDATA_TOKEN, else from the file in EARTHDATA_TOKEN_FILE (default `~/.edl_bearer_token`).

    Raises:
        CredentialsError: no token is set, or it is not a valid token.
    """
    token = os.environ.get(EARTHDATA_TOKEN, "").strip()
    if token:
        return _checked(token, f"The environment variable {EARTHDATA_TOKEN}")
    path = Path(os.environ.get(EARTHDATA_TOKEN_FILE) or DEFAULT_TOKEN_FILE).expanduser()
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise CredentialsError(
            "OPERA scenes need an Earthdata Login token, but none is set: create one at "
            "https://urs.earthdata.nasa.gov (Generate Token) and write it to the file "
            f"{path}, readable only by you, or set the environment variable {EARTHDATA_TOKEN}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        raise CredentialsError(
            f"Cannot read the Earthdata Login token from {path} ({reason}): check the file."
        ) from None
    warn_if_shared(path)
    return _checked(text, f"The file {path}")


def netrc_login(url: str) -> tuple[str, str] | None:
    """Return user name and password for the host of a URL from the netrc file; None without one.

    The file is the one in the environment variable NETRC, or ~/.netrc. Its entry `default` is not
    used: items can name any host, and S3 refuses a request with a password that it does not know.

    Raises:
        CredentialsError: other users can read the file, and it names the host.
    """
    host = urlsplit(url).hostname
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((p for p in (Path(name).expanduser() for name in paths) if p.exists()), None)
    if host is None or path is None:
        return None
    login = _logins(path).get(host)
    if login is not None and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CredentialsError(
            f"{path} has a password for {host}, but other users can read it: "
            f"run `chmod 600 {path}`."
        )
    return login


def _logins(path: Path) -> dict[str, tuple[str, str]]:
    """Return user name and password by host of a netrc file, without its entry `default`."""
    # Imported here: most users of this module read a token only.
    import netrc

    try:
        hosts = netrc.netrc(str(path)).hosts
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        log.warning("cannot read %s (%s): no password from it is used", path, reason)
        return {}
    except netrc.NetrcParseError as error:  # its text may contain a password
        log.warning("line %s of %s is wrong: no password from it is used", error.lineno, path)
        return {}
    return {
        host.lower(): (login or account, password)
        for host, (login, account, password) in hosts.items()
        if host != "default"
    }


def _checked(text: str, where: str) -> str:
    token = re.sub(r"^bearer\s+", "", text, flags=re.IGNORECASE)
    if not _TOKEN.fullmatch(token):
        raise CredentialsError(
            f"{where} does not contain an Earthdata Login token: it must be the token only, on one "
            "line."
        )
    return token


@functools.cache
def warn_if_shared(path: Path) -> None:
    """Log a warning, once per file, if other users can read a file with credentials."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning(
            "other users can read %s, which has credentials: run `chmod 600 %s`", path, path
        )
