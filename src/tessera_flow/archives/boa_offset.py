"""Decide from metadata whether the pixels of a Sentinel-2 item contain ESA's BOA offset.

Where metadata contradict each other, the rule says so, and the pixels decide: see
`scenes.offsets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ..sensors.sentinel2 import BANDS
from .sentinel2_names import BaselineError, baseline_in_name, processing_baseline

FIRST_OFFSET_BASELINE = "04.00"
"""First processing baseline whose digital numbers include ESA's BOA offset."""

StatedOffset = Literal["auto", "present", "removed"]


@dataclasses.dataclass(frozen=True)
class OffsetRule:
    """What metadata state about the offset of an item.

    Attributes:
        bands: bands whose pixels contain the offset.
        by: what states it: `baseline`, `bucket`, `flag`, `collection`, `configuration` or
            `published rule`.
        doubt: why the pixels have to confirm it; empty if nothing contradicts it.
        doubtful: bands in doubt.
        keep_undecided: whether the rule is kept if the pixels do not decide it; otherwise the
            item cannot be used.
    """

    bands: frozenset[str]
    by: str
    doubt: str = ""
    doubtful: frozenset[str] = frozenset()
    keep_undecided: bool = True

    @classmethod
    def of(cls, present: bool, by: str, doubt: str = "", keep_undecided: bool = True) -> OffsetRule:
        """Return a rule for all bands."""
        bands = frozenset(BANDS)
        return cls(
            bands if present else frozenset(), by, doubt, bands if doubt else frozenset(),
            keep_undecided,
        )  # fmt: skip


def rule_by_user(item: Mapping[str, Any], stated: StatedOffset) -> OffsetRule | None:
    """Return the rule that the configuration states, if any.

    `removed`: in no item. `present`: in every item but those of ESA's baselines before 04.00.
    """
    if stated == "auto":
        return None
    present = stated == "present"
    if present:
        try:
            present = processing_baseline(item) >= FIRST_OFFSET_BASELINE
        except BaselineError:
            pass  # the user's own processing
    return OffsetRule.of(present, "configuration")


def rule_by_baseline(item: Mapping[str, Any]) -> OffsetRule:
    """Return the rule of the processing baseline: ESA adds the offset from 04.00 on.

    Raises:
        BaselineError: the item states no processing baseline of ESA.
    """
    baseline = processing_baseline(item)
    present = baseline >= FIRST_OFFSET_BASELINE
    name = baseline_in_name(item)
    doubt = ""
    if name is not None and (name >= FIRST_OFFSET_BASELINE) is not present:
        doubt = f"s2:processing_baseline is {baseline}, but the product name has {name}"
    return OffsetRule.of(present, "baseline", doubt, keep_undecided=not doubt)


def confirm_declared(
    item: Mapping[str, Any], keys: Mapping[str, str], rule: OffsetRule, only_zero: bool = False
) -> OffsetRule:
    """Return the rule with a doubt where the item states another offset of its bands.

    Args:
        item: STAC item; `raster:offset` of an asset is the offset that it states.
        keys: asset key by band.
        rule: what the other metadata state.
        only_zero: ignore other statements than 0, because they are in every item.
    """
    stated = {
        band: offset
        for band in BANDS
        if (offset := item["assets"][keys[band]].get("raster:offset")) is not None
        and not (only_zero and offset != 0)
    }
    wrong = frozenset(
        band for band, offset in stated.items() if (offset != 0) is not (band in rule.bands)
    )
    if not wrong:
        return rule
    values = ", ".join(sorted({f"{stated[band]:g}" for band in wrong}))
    has = "has" if rule.bands else "has no"
    doubt = (
        f"the item states the offset {values}, but the {rule.by} (processing baseline "
        f"{processing_baseline(item)}) {has} one"
    )
    return dataclasses.replace(
        rule, doubt=doubt, doubtful=rule.doubtful | wrong, keep_undecided=False
    )


def declared_offset(asset: Mapping[str, Any]) -> float | None:
    """Return the offset that an asset states, in the raster extension or in STAC 1.1; None if it
    states none."""
    holders = [asset]
    for key in ("raster:bands", "bands"):
        bands = asset.get(key)
        if isinstance(bands, list):
            holders += [band for band in bands if isinstance(band, Mapping)]
    for holder in holders:
        for key in ("raster:offset", "offset"):
            offset = holder.get(key)
            if isinstance(offset, int | float) and not isinstance(offset, bool):
                return float(offset)
    return None
