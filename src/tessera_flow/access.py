"""What it takes to open one address: where it really is, and what may be sent with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Access:
    """How to open one asset now. It can hold secrets, so its `repr` shows nothing.

    Attributes:
        href: address to open, with a signature where the archive wants one.
        gdal: GDAL settings for this address alone, such as the header with a token.
    """

    href: str = field(repr=False)
    gdal: Mapping[str, str] = field(default_factory=dict, repr=False)
