"""Microsoft Planetary Computer, and local archives with items in its format."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from ..dates import utc_date
from ..sensors.sentinel2 import BANDS, SCL, Preprocessing
from .boa_offset import (
    OffsetRule,
    StatedOffset,
    confirm_declared,
    rule_by_baseline,
    rule_by_user,
)
from .credentials import warn_if_shared
from .provider import Provider
from .signing import Access

LAST_DAY_WITHOUT_OFFSET = datetime.date(2022, 1, 25)
"""The published pipeline subtracts the offset only from scenes after this day."""

BLOB_STORAGE = ".blob.core.windows.net"
SIGNING_RETRIES = 4
"""Retries of the signing service per call. Reads have retries of their own and call again."""


@dataclass(frozen=True)
class Mpc(Provider):
    """Planetary Computer: pixels as published by ESA; assets need a short-lived signature (SAS)."""

    name: str = "mpc"
    endpoint: str = "https://planetarycomputer.microsoft.com/api/stac/v1"
    collections: Mapping[str, str] = field(
        default_factory=lambda: {"sentinel2": "sentinel-2-l2a", "sentinel1": "sentinel-1-rtc"}
    )
    s2_assets: Mapping[str, str] = field(
        default_factory=lambda: {key: key for key in (*BANDS, SCL)}
    )
    s1_assets: Mapping[str, str] = field(default_factory=lambda: {"vv": "vv", "vh": "vh"})
    # RTC images are on a 10 m grid in their UTM zone, so `nearest` (the default of Provider) fits.

    def offset_rule(
        self, item: Mapping[str, Any], preprocessing: Preprocessing, stated: StatedOffset = "auto"
    ) -> OffsetRule:
        """See `Provider.offset_rule`. Depends on the baseline; with `as_published` on the date.

        An item that states another offset than that of its baseline (`raster:bands` and the
        like) is confirmed by its pixels.
        """
        if preprocessing == "as_published":
            day = utc_date(item["properties"]["datetime"])
            return OffsetRule.of(day > LAST_DAY_WITHOUT_OFFSET, "published rule")
        rule = rule_by_user(item, stated) or rule_by_baseline(item)
        return rule if rule.by == "configuration" else confirm_declared(item, self.s2_assets, rule)

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`. URLs of Planetary Computer storage are signed."""
        parts = urlsplit(href)
        if not (parts.hostname or "").endswith(BLOB_STORAGE) or parts.query:
            return Access(href)
        account = str(parts.hostname).removesuffix(BLOB_STORAGE)
        container = parts.path.lstrip("/").partition("/")[0]
        try:
            return Access(f"{href}?{_sas_token(account, container, fresh)}")
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return Access(href)  # a storage account of someone else
            raise


_lock = threading.Lock()


def _sas_token(account: str, container: str, fresh: bool) -> str:
    """Return the signature for a container.

    All threads share one request; the cache of the library keeps the signature until shortly
    before it expires.
    """
    from planetary_computer import sas
    from planetary_computer.settings import SETTINGS_ENV_FILE, Settings

    key = f"{Settings.get().sas_url}/{account}/{container}"
    warn_if_shared(Path(SETTINGS_ENV_FILE).expanduser())
    with _lock:
        if fresh:
            sas.TOKEN_CACHE.pop(key, None)
        return str(sas.get_token(account, container, retry_total=SIGNING_RETRIES).token)
