"""What is particular to each archive of scenes: one small class holds all of it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .access import Access
from .dates import utc_date
from .errors import ConfigError, ItemError
from .sentinel2 import BOA_OFFSET, Arithmetic

FIRST_OFFSET_BASELINE = 4.0
"""ESA adds the BOA offset from processing baseline 04.00 on."""

REFERENCE_LAST_PLAIN_DAY = datetime.date(2022, 1, 25)
"""The published pipeline subtracts the offset from scenes after this day only."""


@dataclass(frozen=True)
class GdalOption:
    """A GDAL setting for reading this archive, with the reason for it."""

    name: str
    value: str
    reason: str


HTTP_OPTIONS = (
    GdalOption(
        "GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR", "no listing of the folder, no sidecars"
    ),
    GdalOption("VSI_CACHE", "FALSE", "each block is read once; a cache only costs memory"),
    GdalOption("GDAL_NUM_THREADS", "1", "reads already run side by side"),
)


@dataclass(frozen=True)
class Mpc:
    """Microsoft Planetary Computer, and archives whose items imitate it."""

    name: str = "mpc"
    endpoint: str = "https://planetarycomputer.microsoft.com/api/stac/v1"
    s2_assets: Mapping[str, str] = field(
        default_factory=lambda: {
            key: key
            for key in (
                "B04",
                "B02",
                "B03",
                "B08",
                "B8A",
                "B05",
                "B06",
                "B07",
                "B11",
                "B12",
                "SCL",
            )
        }
    )
    s1_assets: Mapping[str, str] = field(default_factory=lambda: {"vv": "vv", "vh": "vh"})
    s1_resampling: Literal["bilinear", "nearest"] = "nearest"
    """RTC images are on a 10 m grid of their own zone."""
    gdal_options: tuple[GdalOption, ...] = HTTP_OPTIONS

    def boa_offset(self, item: Mapping[str, Any], arithmetic: Arithmetic) -> int:
        """What to subtract from the digital numbers of a Sentinel-2 item: 0 or 1000.

        Planetary Computer publishes pixels as ESA made them, so the offset is there from
        baseline 04.00 on. `reference` goes by date instead, as the published pipeline does.

        Raises:
            ItemError: the item does not tell its baseline.
        """
        if arithmetic == "reference":
            day = utc_date(item["properties"]["datetime"])
            return BOA_OFFSET if day > REFERENCE_LAST_PLAIN_DAY else 0
        return BOA_OFFSET if processing_baseline(item) >= FIRST_OFFSET_BASELINE else 0

    def access(self, href: str, fresh: bool = False) -> Access:
        """The address with a short-lived read token, for Planetary Computer's own hosts."""
        import planetary_computer
        from planetary_computer import sas

        if fresh:
            # Kept by account and container, and given out until a minute before its end,
            # whatever the archive says of it.
            sas.TOKEN_CACHE.clear()
        return Access(str(planetary_computer.sign_url(href)))


PROVIDERS: Mapping[str, Mpc] = {"mpc": Mpc()}


def provider(kind: str, imitates: str) -> Mpc:
    """The particulars that apply to a source of `kind` (for `local`: of what it imitates).

    Raises:
        ConfigError: there is no such provider.
    """
    key = imitates if kind == "local" else kind
    if key not in PROVIDERS:
        raise ConfigError(f"There is no provider {key!r}; known are {', '.join(PROVIDERS)}.")
    return PROVIDERS[key]


def processing_baseline(item: Mapping[str, Any]) -> float:
    """Processing baseline of a Sentinel-2 item, such as 5.11.

    From `s2:processing_baseline`, else from the product name (`_N0511_`).

    Raises:
        ItemError: neither tells it.
    """
    properties = item["properties"]
    stated = properties.get("s2:processing_baseline")
    if stated is not None and re.fullmatch(r"\d+(\.\d+)?", str(stated)):
        return float(stated)
    named = re.search(r"_N(\d\d)(\d\d)_", str(properties.get("s2:product_uri", "")))
    if named:
        return float(f"{named[1]}.{named[2]}")
    raise ItemError(
        f"Item {item['id']} does not tell its processing baseline (s2:processing_baseline), so its "
        "offset is unknown: complete the item, or set `arithmetic: reference`, which goes by date."
    )
