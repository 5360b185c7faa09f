"""Microsoft Planetary Computer, and archives whose items imitate it."""

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
from ..sensors.sentinel2 import BANDS, BOA_OFFSET, SCL, Preprocessing
from .credentials import warn_if_shared
from .provider import Provider, offset_by_baseline
from .signing import Access

REFERENCE_LAST_PLAIN_DAY = datetime.date(2022, 1, 25)
"""The published pipeline subtracts the offset from scenes after this day only."""

BLOB_STORAGE = ".blob.core.windows.net"
SIGNING_RETRIES = 4
"""Of the signing service in one call; what reads calls again."""


@dataclass(frozen=True)
class Mpc(Provider):
    """Pixels are as ESA made them; assets on Azure need a short-lived signature (SAS)."""

    name: str = "mpc"
    endpoint: str = "https://planetarycomputer.microsoft.com/api/stac/v1"
    collections: Mapping[str, str] = field(
        default_factory=lambda: {"sentinel2": "sentinel-2-l2a", "sentinel1": "sentinel-1-rtc"}
    )
    s2_assets: Mapping[str, str] = field(
        default_factory=lambda: {key: key for key in (*BANDS, SCL)}
    )
    s1_assets: Mapping[str, str] = field(default_factory=lambda: {"vv": "vv", "vh": "vh"})
    # RTC images are on a 10 m grid of their own zone: `nearest`, as in Provider.

    def boa_offset(self, item: Mapping[str, Any], preprocessing: Preprocessing) -> int:
        """See `Provider.boa_offset`: there from baseline 04.00 on; `reference` goes by date."""
        if preprocessing == "as_published":
            day = utc_date(item["properties"]["datetime"])
            return BOA_OFFSET if day > REFERENCE_LAST_PLAIN_DAY else 0
        return offset_by_baseline(item)

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`: signed for Planetary Computer's own hosts."""
        parts = urlsplit(href)
        if not (parts.hostname or "").endswith(BLOB_STORAGE) or parts.query:
            return Access(href)
        account = str(parts.hostname).removesuffix(BLOB_STORAGE)
        container = parts.path.lstrip("/").partition("/")[0]
        try:
            return Access(f"{href}?{_sas_token(account, container, fresh)}")
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return Access(href)  # a storage account that is not Planetary Computer's
            raise


_lock = threading.Lock()


def _sas_token(account: str, container: str, fresh: bool) -> str:
    """The signature for a container. One request serves all threads; the library's cache
    keeps it until shortly before it expires."""
    from planetary_computer import sas
    from planetary_computer.settings import SETTINGS_ENV_FILE, Settings

    key = f"{Settings.get().sas_url}/{account}/{container}"
    warn_if_shared(Path(SETTINGS_ENV_FILE).expanduser())
    with _lock:
        if fresh:
            sas.TOKEN_CACHE.pop(key, None)
        return str(sas.get_token(account, container, retry_total=SIGNING_RETRIES).token)
