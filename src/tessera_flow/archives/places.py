"""Decide which files the items of an archive may name.

Items come from others. They may name http, https and s3 URLs, and files in the folders of the
archive itself; nothing else on this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..config.sections import Sentinel1, Sentinel2
from ..urls import absolute_href, absolute_location, is_url, public_href

REFUSED = "tessera-flow:refused"
"""Key of an asset whose URL or path may not be used: the reason."""

CATALOGS = ("catalog.json", "collection.json")
"""Names of the first file of a static catalog in a folder."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Places:
    """The folders in which the files of an archive may be.

    Attributes:
        folders: of a local archive, the folder above the one that holds its list of items or its
            top catalog (that folder itself if the one above contains the home folder or is the
            root); and those that the configuration adds.

    Args:
        location: URL or absolute path of the archive.
        further: folders that the configuration adds.
    """

    def __init__(self, location: str, further: Sequence[str] = ()) -> None:
        self._further = [_absolute(folder) for folder in further]
        self._own = [] if is_url(location) else [_own_folder(location)]
        self.folders = [*self._own, *self._further]

    def find(self, href: str, base: str) -> tuple[str, str]:
        """Return an absolute URL or path, and why it may not be used (empty if it may).

        Args:
            href: URL or path that an item states.
            base: URL or absolute path of the document that contains it.
        """
        found = absolute_href(href, base)
        if is_url(found) or found.lower().startswith("s3://"):
            return found, ""
        if _SCHEME.match(found):
            return found, f"{_scheme(found)} is not supported: only http, https, s3 and paths are"
        if found.startswith("/vsi") or "\0" in found:
            return found, "it is not the path of a file: unpack archives, and name their files"
        path = os.path.normpath(found)
        folders = list(self._further)
        if not is_url(base):
            folders += self._own
        elif _is_this_machine(base) and not href.lower().startswith("file:"):
            folders.append(os.getcwd())
        if any(_is_inside(path, folder) for folder in folders):
            return path, ""
        of_web = "which a service may not name" if is_url(base) else "outside of the archive"
        return path, (
            f"it is a file of this machine, {of_web}. If you trust the archive, add its folder to "
            "`asset_folders` of the sensor"
        )


def archive_folders(source: Sentinel2 | Sentinel1) -> list[str]:
    """Return the folders of a local archive; none of a service without folders of its own."""
    location = absolute_location(source.location or "https://")
    return Places(location, source.asset_folders).folders


def refusal(asset: str, href: str, problem: str) -> str:
    """Return the reason for the message about an asset that may not be used."""
    return f"asset {asset} has the href {public_href(href)}: {problem}"


def _absolute(folder: str) -> str:
    return os.path.abspath(os.path.expanduser(folder))


def _own_folder(location: str) -> str:
    path = _absolute(location)
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    while any(os.path.isfile(os.path.join(folder, "..", name)) for name in CATALOGS):
        parent = os.path.dirname(folder)  # of the catalog that this one is part of
        if parent == folder:
            break
        folder = parent
    above = os.path.dirname(folder)
    home = os.path.expanduser("~")
    shared = above == os.path.dirname(above) or _is_inside(f"{home}{os.sep}x", above)
    return folder if shared else above


def _is_inside(path: str, folder: str) -> bool:
    """Return whether a path is below a folder, as it is written or after links are followed."""
    if path.startswith(f"{folder.rstrip(os.sep)}{os.sep}"):
        return True
    root = os.path.realpath(folder).rstrip(os.sep)
    return os.path.realpath(path).startswith(f"{root}{os.sep}")


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _scheme(text: str) -> str:
    return f"{text.partition(':')[0].lower()}:"
