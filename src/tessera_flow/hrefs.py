"""Addresses of assets: made absolute, and freed of anything secret."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname


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
