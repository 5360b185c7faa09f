"""Earth Search v1 (Element 84), and archives whose items imitate it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..errors import ItemError
from ..sensors.sentinel2 import BANDS, SCL, Preprocessing
from .provider import Provider, offset_by_baseline, processing_baseline
from .signing import Access


@dataclass(frozen=True)
class Bucket:
    """Where assets lie, and whether ESA's offset is still in their pixels."""

    name: str
    region: str
    offset_in_pixels: bool


BUCKETS = (
    Bucket("sentinel-cogs", "us-west-2", offset_in_pixels=False),
    Bucket("sentinel-s2-l2a", "eu-central-1", offset_in_pixels=True),
    Bucket("e84-earth-search-sentinel-data", "us-west-2", offset_in_pixels=True),
)
"""The offset rule. `raster:bands` does not tell: it says -0.1 even where the offset has been
removed."""

_BY_NAME = {bucket.name: bucket for bucket in BUCKETS}
_VIRTUAL_HOST = re.compile(r"(?P<bucket>[a-z0-9.-]+?)\.s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com")
_PATH_HOST = re.compile(r"s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com")


@dataclass(frozen=True)
class EarthSearch(Provider):
    """No credentials. Asset keys are names; each also exists as `<name>-jp2`, a JPEG 2000 file
    in a bucket that the reader pays for, which is never used."""

    name: str = "earth-search"
    endpoint: str = "https://earth-search.aws.element84.com/v1"
    collections: Mapping[str, str] = field(default_factory=lambda: {"sentinel2": "sentinel-2-l2a"})
    s2_assets: Mapping[str, str] = field(
        default_factory=lambda: {
            "B04": "red",
            "B02": "blue",
            "B03": "green",
            "B08": "nir",
            "B8A": "nir08",
            "B05": "rededge1",
            "B06": "rededge2",
            "B07": "rededge3",
            "B11": "swir16",
            "B12": "swir22",
            SCL: "scl",
        }
    )

    def boa_offset(self, item: Mapping[str, Any], preprocessing: Preprocessing) -> int:
        """See `Provider.boa_offset`: by the bucket; `reference` never subtracts here.

        A local copy tells its bucket by `earthsearch:s3_path`, else says what is in the pixels
        by `earthsearch:boa_offset_applied`, else by the name of its collection.
        """
        if preprocessing == "as_published" or offset_by_baseline(item) == 0:
            return 0
        return offset_by_baseline(item) if self._offset_in_pixels(item) else 0

    def _offset_in_pixels(self, item: Mapping[str, Any]) -> bool:
        properties = item["properties"]
        hrefs = [item["assets"][self.s2_assets[band]]["href"] for band in BANDS]
        found = {_BY_NAME[name].offset_in_pixels for name in _buckets(hrefs)}
        if len(found) > 1:
            raise ItemError(
                f"The bands of item {item['id']} lie in buckets with and without the BOA offset: "
                "mend or remove the item."
            )
        found = found or {
            _BY_NAME[name].offset_in_pixels
            for name in _buckets([str(properties.get("earthsearch:s3_path", ""))])
        }
        if found:
            return found.pop()
        if isinstance(properties.get("earthsearch:boa_offset_applied"), bool):
            return not properties["earthsearch:boa_offset_applied"]
        if item.get("collection") == "sentinel-2-c1-l2a":
            return True
        raise ItemError(
            f"Item {item['id']} of baseline {processing_baseline(item):05.2f} does not tell "
            "whether the BOA offset is still in its pixels: add earthsearch:s3_path or "
            "earthsearch:boa_offset_applied to it."
        )

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`: an `s3://` address of a known bucket is opened by https."""
        parts = urlsplit(href)
        bucket = _BY_NAME.get(parts.netloc) if parts.scheme == "s3" else None
        if bucket is None:
            return Access(href)
        return Access(f"https://{bucket.name}.s3.{bucket.region}.amazonaws.com{parts.path}")


def _buckets(hrefs: list[str]) -> Iterator[str]:
    """The known buckets that addresses name."""
    for href in hrefs:
        parts = urlsplit(href)
        host = parts.hostname or ""
        virtual = _VIRTUAL_HOST.fullmatch(host)
        if parts.scheme == "s3":
            name = host
        elif virtual:
            name = virtual["bucket"]
        elif _PATH_HOST.fullmatch(host):
            name = parts.path.lstrip("/").partition("/")[0]
        else:
            continue
        if name in _BY_NAME:
            yield name
