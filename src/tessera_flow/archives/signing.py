"""How one address is opened: signed, and with what else the archive asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Access:
    """The way to one object, secrets included; its repr shows none of them.

    Attributes:
        href: address to open; may be signed.
        gdal: GDAL options for this address alone. `GDAL_HTTP_HEADERS` (lines `Name: value`)
            and `GDAL_HTTP_BEARER` count for http(s) addresses, all of them for others.
    """

    href: str = field(repr=False)
    gdal: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that `gdal` asks for."""
        lines = re.split(r"[\r\n]+", self.gdal.get("GDAL_HTTP_HEADERS", ""))
        pairs = (line.partition(":") for line in lines if ":" in line)
        headers = {name.strip(): value.strip() for name, _, value in pairs}
        if bearer := self.gdal.get("GDAL_HTTP_BEARER"):
            headers["Authorization"] = f"Bearer {bearer}"
        return headers


class GivesAccess(Protocol):
    """What `access` of a provider looks like."""

    def __call__(self, href: str, fresh: bool = False) -> Access:
        """The way to `href`; `fresh` asks for a new signature, since one was refused."""
        ...
