"""Make URLs of assets absolute, and remove secrets from them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

_URL = re.compile(r"\b(?:https?|ftp|s3|gs|az)://[^\s'\"<>()]+")
_QUERY = re.compile(r"(/[^\s'\"<>()?]*)\?[^\s'\"<>()]+")
_SHORTEST_SECRET = 4


def absolute_href(href: str, base: str) -> str:
    """Resolve `href` against the URL of its document; `file://` becomes a path."""
    if href.startswith("file://"):
        return url2pathname(urlsplit(href).path)
    # Imported here: pystac is slow to import, and the rest of this module does not need it.
    from pystac.utils import make_absolute_href

    return make_absolute_href(href, base, start_is_dir=False)


def public_href(href: str) -> str:
    """Return the URL without user name, password, query and fragment.

    Signatures and tokens are in these parts, so only this form of a URL may be written to a file, a
    log or a message. Paths are returned unchanged.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https", "ftp", "s3", "gs", "az"):
        return href
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


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
    parts = urlsplit(url)
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
    return href.startswith(("http://", "https://"))


def absolute_location(location: str) -> str:
    """Return a URL unchanged, a path made absolute (`~` expanded)."""
    if is_url(location):
        return location
    if location.startswith("file://"):
        return url2pathname(urlsplit(location).path)
    return os.path.abspath(os.path.expanduser(location))
