"""Earth Search v1 (Element 84), and local archives with items in its format."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..dates import utc_date
from ..sensors.sentinel2 import BANDS, SCL, Preprocessing
from .boa_offset import (
    OffsetRule,
    StatedOffset,
    confirm_declared,
    rule_by_baseline,
    rule_by_user,
)
from .provider import Provider
from .signing import Access


@dataclass(frozen=True)
class Bucket:
    """S3 bucket with assets, and whether the pixels still contain ESA's offset.

    `as_published_by_esa`: the files are ESA's own, so nothing can have been removed.
    """

    name: str
    region: str
    offset_in_pixels: bool
    as_published_by_esa: bool = False


BUCKETS = (
    Bucket("sentinel-cogs", "us-west-2", offset_in_pixels=False),
    Bucket("sentinel-s2-l2a", "eu-central-1", offset_in_pixels=True, as_published_by_esa=True),
    Bucket("e84-earth-search-sentinel-data", "us-west-2", offset_in_pixels=True),
)
"""Known buckets; they determine the offset. `raster:bands` does not: it has -0.1 even if the offset
has been removed."""

UNCERTAIN_DAYS = (datetime.date(2022, 1, 24), datetime.date(2022, 3, 15))
"""The first products of baseline 04.00 were copied to `sentinel-cogs` with ESA's numbers, and only
some of them were corrected later."""

REQUESTER_PAYS = ("sentinel-s2-l2a", "sentinel-s2-l1c", "sentinel-s1-l1c")
"""Buckets whose readers need an AWS account that pays."""

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

    def offset_rule(
        self, item: Mapping[str, Any], preprocessing: Preprocessing, stated: StatedOffset = "auto"
    ) -> OffsetRule:
        """See `Provider.offset_rule`. It depends on the bucket; none with `as_published`.

        For local files the bucket is that of `earthsearch:s3_path`. The pixels have to confirm
        the bucket where `earthsearch:boa_offset_applied` contradicts it, and in `UNCERTAIN_DAYS`.
        """
        if preprocessing == "as_published":
            return OffsetRule.of(False, "published rule")
        rule = rule_by_user(item, stated) or rule_by_baseline(item)
        if rule.by == "configuration" or not rule.bands:
            return rule
        if rule.doubt:
            return rule
        rule = self._rule_by_bucket(item)
        # Real items state -0.1 whether the offset was removed or not.
        return confirm_declared(item, self.s2_assets, rule, only_zero=True)

    def _rule_by_bucket(self, item: Mapping[str, Any]) -> OffsetRule:
        properties = item["properties"]
        applied = _flag(properties.get("earthsearch:boa_offset_applied"))
        hrefs = {band: str(item["assets"][self.s2_assets[band]]["href"]) for band in BANDS}
        stored = _bucket(str(properties.get("earthsearch:s3_path", "")))
        buckets = {band: _bucket(href) or stored for band, href in hrefs.items()}
        if None in buckets.values():
            return _rule_without_bucket(item, applied, list(hrefs.values()))
        uncertain = UNCERTAIN_DAYS[0] <= utc_date(properties["datetime"]) <= UNCERTAIN_DAYS[1]
        doubtful = frozenset(
            band
            for band, bucket in buckets.items()
            if bucket and not bucket.as_published_by_esa
            and (applied is bucket.offset_in_pixels or (uncertain and not bucket.offset_in_pixels))
        )  # fmt: skip
        present = (band for band, bucket in buckets.items() if bucket and bucket.offset_in_pixels)
        reason = "the date is in the time of the first products of baseline 04.00"
        if applied is not None and not uncertain:
            reason = f"earthsearch:boa_offset_applied is {str(applied).lower()}"
        names = sorted({bucket.name for bucket in buckets.values() if bucket})
        doubt = f"{reason}, but the bucket is {' and '.join(names)}" if doubtful else ""
        return OffsetRule(frozenset(present), "bucket", doubt, doubtful)

    def access(self, href: str, fresh: bool = False) -> Access:
        """See `Provider.access`. `s3://` URLs of known buckets are opened by HTTPS."""
        parts = urlsplit(href)
        bucket = _BY_NAME.get(parts.netloc) if parts.scheme == "s3" else None
        if bucket is None:
            return Access(href)
        return Access(f"https://{bucket.name}.s3.{bucket.region}.amazonaws.com{parts.path}")


def _flag(value: Any) -> bool | None:
    """Return a flag that may be stored as text; None if it is neither true nor false."""
    return {"true": True, "false": False}.get(str(value).strip().lower())


def _rule_without_bucket(
    item: Mapping[str, Any], applied: bool | None, hrefs: list[str]
) -> OffsetRule:
    if applied is not None:
        doubt = "only earthsearch:boa_offset_applied states it, which is wrong in some items"
        return OffsetRule.of(not applied, "flag", doubt)
    if item.get("collection") == "sentinel-2-c1-l2a":
        return OffsetRule.of(True, "collection")
    doubt = "neither a bucket (earthsearch:s3_path) nor earthsearch:boa_offset_applied states it"
    if all(href.lower().endswith(".jp2") for href in hrefs):
        return OffsetRule.of(True, "baseline", doubt)  # a file of ESA
    return OffsetRule.of(True, "baseline", doubt, keep_undecided=False)


def paid_bucket(href: str) -> str | None:
    """Return the bucket of a URL if its readers have to pay, else None."""
    name = _bucket_name(href)
    return name if name in REQUESTER_PAYS else None


def _bucket(href: str) -> Bucket | None:
    """Return the known bucket of a URL, or None."""
    return _BY_NAME.get(_bucket_name(href))


def _bucket_name(href: str) -> str:
    """Return the S3 bucket of a URL; empty for other URLs."""
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
        return ""
    return str(name)
