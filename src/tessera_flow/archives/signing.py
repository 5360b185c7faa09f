"""Describe access to one URL: the signed URL, and the GDAL options that the archive requires."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Access:
    """Access to one object, including secrets, which its repr does not show.

    Attributes:
        href: URL to open; may be signed.
        gdal: GDAL options for this URL only. For http(s) URLs, only `GDAL_HTTP_HEADERS` (lines
            `Name: value`) and `GDAL_HTTP_BEARER` are used.
        advice: what a rejected request may mean, added to the error.
    """

    href: str = field(repr=False)
    gdal: Mapping[str, str] = field(default_factory=dict, repr=False)
    advice: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers in `gdal`."""
        lines = re.split(r"[\r\n]+", self.gdal.get("GDAL_HTTP_HEADERS", ""))
        pairs = (line.partition(":") for line in lines if ":" in line)
        headers = {name.strip(): value.strip() for name, _, value in pairs}
        if bearer := self.gdal.get("GDAL_HTTP_BEARER"):
            headers["Authorization"] = f"Bearer {bearer}"
        return headers


class GivesAccess(Protocol):
    """Type of `Provider.access`."""

    def __call__(self, href: str, fresh: bool = False) -> Access:
        """Return access to `href`; `fresh` requests a new signature after a rejected one."""
        ...
