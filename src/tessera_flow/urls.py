"""Addresses of assets: made absolute, and freed of anything secret."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

_ADDRESS = re.compile(r"\b(?:https?|ftp|s3|gs|az)://[^\s'\"<>()]+")
_QUERY = re.compile(r"(/[^\s'\"<>()?]*)\?[^\s'\"<>()]+")
_SHORTEST_SECRET = 4


def absolute_href(href: str, base: str) -> str:
    """Resolve `href` against the document it stands in; `file://` becomes a path."""
    if href.startswith("file://"):
        return url2pathname(urlsplit(href).path)
    # Imported here: the rest of this module serves where pystac would be a slow import.
    from pystac.utils import make_absolute_href

    return make_absolute_href(href, base, start_is_dir=False)


def public_href(href: str) -> str:
    """The address without user name, password, query and fragment.

    Signatures and tokens travel in these parts, so this is the only form of an address that
    may be written to a file, a log or a message. Paths are returned as they are.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https", "ftp", "s3", "gs", "az"):
        return href
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def redacted(text: str, *addresses: str) -> str:
    """A message without what `public_href` takes off an address.

    Args:
        text: what a library or a service says; every address in it loses its secret parts.
        addresses: addresses in use; their passwords and query values become `***` wherever
            they stand, since a service can repeat them.
    """
    text = _ADDRESS.sub(lambda match: public_href(match[0]), text)
    text = _QUERY.sub(r"\1", text)
    for address in addresses:
        for secret in _secrets(address):
            text = text.replace(secret, "***")
    return text


def _secrets(address: str) -> Iterator[str]:
    if not is_url(address):
        return
    parts = urlsplit(address)
    for value in (parts.password or "", *(value for _, value in parse_qsl(parts.query))):
        for form in (value, unquote(value)):
            if len(form) >= _SHORTEST_SECRET:
                yield form


class _Redactor(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        return True


def keep_secrets_out_of_log(logger: str) -> None:
    """Free the messages of another library's logger of what is secret in addresses."""
    logging.getLogger(logger).addFilter(_Redactor())


def is_url(href: str) -> bool:
    """True for http(s) addresses, False for paths."""
    return href.startswith(("http://", "https://"))


def absolute_location(location: str) -> str:
    """A document's address as given, a path made absolute (`~` expanded)."""
    if is_url(location):
        return location
    if location.startswith("file://"):
        return url2pathname(urlsplit(location).path)
    return os.path.abspath(os.path.expanduser(location))
