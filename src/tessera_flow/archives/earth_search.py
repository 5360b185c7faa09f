"""Earth Search v1 (Element 84), and local archives with items in its format."""

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
    """S3 bucket with assets, and whether the pixels still contain ESA's offset."""

    name: str
    region: str
    offset_in_pixels: bool


BUCKETS = (
    Bucket("sentinel-cogs", "us-west-2", offset_in_pixels=False),
    Bucket("sentinel-s2-l2a", "eu-central-1", offset_in_pixels=True),
    Bucket("e84-earth-search-sentinel-data", "us-west-2", offset_in_pixels=True),
)
"""Known buckets; they determine the offset. `raster:bands` does not: it has -0.1 even if the offset
has been removed."""

_BY_NAME = {bucket.name: bucket for bucket in BUCKETS}
_VIRTUAL_HOST = re.compile(r"(?P<bucket>[a-z0-9.-]+?)\.s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com")
_PATH_HOST = re.compile(r"s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com")


@dataclass(frozen=True)
class EarthSearch(Provider):
    """Earth Search; no credentials.

    Asset keys are names of bands. Each asset also exists as `<name>-jp2`, a JPEG 2000 file in a
    requester-pays bucket, which is never used.
    """

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
        """See `Provider.boa_offset`. It depends on the bucket; 0 with `as_published`.

        For local files the bucket is that of `earthsearch:s3_path`; without it,
        `earthsearch:boa_offset_applied` or the name of the collection determines the offset.
        """
        if preprocessing == "as_published" or offset_by_baseline(item) == 0:
            return 0
        return offset_by_baseline(item) if self._offset_in_pixels(item) else 0

    def _offset_in_pixels(self, item: Mapping[str, Any]) -> bool:
        properties = item["properties"]
        hrefs = [item["assets"][self.s2_assets[band]]["href"] for band in BANDS]
        in_pixels = {_BY_NAME[name].offset_in_pixels for name in _buckets(hrefs)}
        if len(in_pixels) > 1:
            raise ItemError(
                f"The bands of item {item['id']} are in buckets with and without the BOA offset: "
                "fix or remove the item."
            )
        in_pixels = in_pixels or {
            _BY_NAME[name].offset_in_pixels
            for name in _buckets([str(properties.get("earthsearch:s3_path", ""))])
        }
        if in_pixels:
            return in_pixels.pop()
        if isinstance(properties.get("earthsearch:boa_offset_applied"), bool):
            return not properties["earthsearch:boa_offset_applied"]
        if item.get("collection") == "sentinel-2-c1-l2a":
            return True
        raise ItemError(
            f"Item {item['id']} of baseline {processing_baseline(item):05.2f} does not state "
            "whether its pixels contain the BOA offset: add earthsearch:s3_path or "
            "earthsearch:boa_offset_applied to it."
        )

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`. `s3://` URLs of known buckets are opened by HTTPS."""
        parts = urlsplit(href)
        bucket = _BY_NAME.get(parts.netloc) if parts.scheme == "s3" else None
        if bucket is None:
            return Access(href)
        return Access(f"https://{bucket.name}.s3.{bucket.region}.amazonaws.com{parts.path}")


def _buckets(hrefs: list[str]) -> Iterator[str]:
    """Yield the known buckets in URLs."""
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
