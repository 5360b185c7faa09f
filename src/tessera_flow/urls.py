"""Make URLs of assets absolute, and remove secrets from them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
_QUERY = re.compile(r"(/[^\s'\"<>()?]*)\?[^\s'\"<>()]+")
_SHORTEST_SECRET = 4


def absolute_href(href: str, base: str) -> str:
    """Return an absolute URL or path.

    On a disk `#`, `?` and `%` are characters like others, so paths are not treated as URLs. Only if
    a path with `%` does not exist but its decoded form does, that one is returned. A `#` in an
    http(s) URL is part of its path, since servers never receive a fragment.

    Args:
        href: URL, path or `file://` URL, absolute or relative to `base`.
        base: URL or absolute path of the document that contains `href`.
    """
    if href.startswith("/vsicurl/"):
        href = href.removeprefix("/vsicurl/")
    for prefix, scheme in _VSI_SCHEMES.items():
        if href.startswith(prefix):
            return scheme + href.removeprefix(prefix)
    if href.lower().startswith("file:"):
        return _path_of_file_url(href)
    if _SCHEME.match(href):
        return _quoted(href) if is_url(href) else href
    if not is_url(base):
        folder = os.path.dirname(base)
        return _existing(os.path.normpath(os.path.join(folder, href)))
    if href.startswith("/") and not href.startswith("//") and os.path.exists(_existing(href)):
        return _existing(href)  # a service on this machine or cluster that lists its disk
    return urljoin(base, _quoted(href))


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_VSI_SCHEMES = {"/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://"}
_HOST = re.compile(r"[^:]*(:\d*)?|\[[0-9A-Fa-f:.]*\](:\d*)?")
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_SECRET_NAME = re.compile(r"sig|token|key|secret|pass|pwd|credential|auth|sas$", re.I)
_RASTER_NAME = re.compile(r"[^=&]*\.(tiff?|jp2)", re.I)


def _quoted(href: str) -> str:
    """Return a URL or relative reference in which `#`, and `?` in a file name, are escaped."""
    href = href.replace("#", "%23").replace(" ", "%20")
    path, mark, query = href.partition("?")
    return f"{path}%3F{query}" if mark and _RASTER_NAME.fullmatch(query) else href


def _path_of_file_url(url: str) -> str:
    """Return the path of a `file:` URL, also of one whose special characters are not escaped."""
    path = url[len("file:") :]
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return path if "%" not in path or os.path.exists(path) else unquote(path)


def _existing(path: str) -> str:
    """Return a path, decoded if it exists only in this form."""
    if "%" in path and not os.path.exists(path) and os.path.exists(unquote(path)):
        return unquote(path)
    return path


def public_href(href: str) -> str:
    """Return the URL without user name, password, query and fragment.

    Signatures and tokens are in these parts, so only this form of a URL may be written to a file, a
    log or a message. This holds for every scheme, also in GDAL's `/vsi...` paths. Other paths are
    returned unchanged.
    """
    if href.startswith("/vsi"):
        start, mark, remainder = href.partition("?")[0].partition("://")
        return f"{start}{mark}{_without_user(remainder)}" if mark else start
    if not _SCHEME.match(href) or href[:8].lower() == "file:///":
        return href
    scheme, _, remainder = href.partition("://")
    return f"{scheme}://{_without_user(re.split('[?#]', remainder, maxsplit=1)[0])}"


def _without_user(rest: str) -> str:
    """Return a URL without its scheme and without user name and password, which can contain `/`."""
    host, slash, path = rest.partition("/")
    if "@" not in host and not _HOST.fullmatch(host) and "@" in path:
        return rest.rpartition("@")[2]
    return f"{host.rpartition('@')[2]}{slash}{path}"


def stated_secret(url: str) -> str | None:
    """Return what in a URL is a password or token: `a user name or password`, or the name of a
    parameter; None if nothing is. A value `${NAME}`, a variable of the environment, is none.
    """
    if not _SCHEME.match(url):
        return None
    rest = url.partition("://")[2]
    query = rest.partition("#")[0].partition("?")[2]
    if rest.partition("?")[0] != _without_user(rest.partition("?")[0]):
        user = rest.partition("?")[0].rpartition("@")[0]
        if any(part and not _VARIABLE.fullmatch(part) for part in user.split(":")):
            return "a user name or password"
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if _SECRET_NAME.search(name) and value and not _VARIABLE.fullmatch(value):
            return f"the parameter {name}"
    return None


def redacted(text: str, *urls: str) -> str:
    """Return a message without the secret parts of URLs.

    Args:
        text: message of a library or a service; `public_href` is applied to every URL in it.
        urls: URLs in use; their passwords and query values become `***` anywhere in the text,
            since a service can repeat them.
    """
    text = _URL.sub(lambda match: public_href(match[0]), text)
    text = _QUERY.sub(r"\1", text)
    for url in urls:
        for secret in _secrets(url):
            text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> Iterator[str]:
    if not is_url(url):
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    for value in (parts.password or "", *(value for _, value in parse_qsl(parts.query))):
        for form in (value, unquote(value)):
            if len(form) >= _SHORTEST_SECRET:
                yield form


class _Redactor(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        return True


def keep_secrets_out_of_log(logger: str) -> None:
    """Remove the secret parts of URLs from the messages of another library's logger."""
    logging.getLogger(logger).addFilter(_Redactor())


def is_url(href: str) -> bool:
    """Return True for http(s) URLs, False for paths."""
    return href[:8].lower().startswith(("http://", "https://"))


def absolute_location(location: str) -> str:
    """Return a URL unchanged, a path made absolute (`~` expanded)."""
    if is_url(location):
        return location
    if location.lower().startswith("file:"):
        return _path_of_file_url(location)
    return os.path.abspath(os.path.expanduser(location))
