"""Decide the BOA offset of items whose metadata contradict each other, from their pixels.

The decision is made when scenes are listed. If the archive cannot be reached then, it is made
before a scene is used, from the same pixels, so that all blocks agree in either case.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..archives.boa_offset import OffsetRule, StatedOffset
from ..archives.provider import Provider
from ..archives.sentinel2_names import BaselineError
from ..errors import ItemError, ReadError
from ..sensors.sentinel2 import BANDS, BOA_OFFSET, SCL, Preprocessing, offset_in_pixels
from .copies import Sample
from .manifest import SourceItem

log = logging.getLogger(__name__)

SAMPLED_BANDS = ("B04", "B02", "B03")
"""Bands with dark pixels over most land. One after another is read, until they decide."""

_NAMED = 20


def with_offsets(
    items: Sequence[SourceItem],
    provider: Provider,
    preprocessing: Preprocessing,
    stated: StatedOffset,
    sample: Sample | None,
    threads: int,
) -> tuple[list[SourceItem], list[tuple[str, str]], list[str]]:
    """Return the items with their offsets.

    Args:
        items: Sentinel-2 items with all assets.
        provider: of the items.
        preprocessing: see `Provider.offset_rule`.
        stated: `sentinel2.boa_offset`.
        sample: reads pixels; None to keep the rule of the metadata.
        threads: items sampled at a time.

    Returns:
        Items with an offset; (id, reason) of those left out; warnings.

    Raises:
        ItemError: items have no processing baseline of ESA.
        ReadError: pixels that have to decide cannot be read now, and metadata alone do not decide
            all items. Otherwise these items are marked as unconfirmed.
    """
    rules = _rules(items, provider, preprocessing, stated)
    doubtful = [] if sample is None else [i for i, rule in enumerate(rules) if rule.doubt]

    unread: set[int] = set()

    def decide(index: int) -> bool | None:
        assert sample is not None
        if not unread:  # else the archive cannot be reached: one long wait is enough
            try:
                return _decided_by_pixels(items[index], rules[index], provider, sample)
            except ReadError as error:
                if not all(rules[i].keep_undecided for i in doubtful):
                    raise
                log.warning("%s", error)
        unread.add(index)
        return None

    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="offset") as pool:
        decisions = dict(zip(doubtful, pool.map(decide, doubtful), strict=True))
    result: list[SourceItem] = []
    left_out: list[tuple[str, str]] = []
    kept: list[tuple[str, str]] = []
    unconfirmed: list[tuple[str, str]] = []
    for index, (item, rule) in enumerate(zip(items, rules, strict=True)):
        decision = decisions.get(index)
        if decision is None and index in decisions:
            if not rule.keep_undecided:
                left_out.append(
                    (item.id, f"{rule.doubt}, and its pixels do not decide whether the BOA offset "
                     "is in them (set sentinel2.boa_offset to `present` or `removed`)")
                )  # fmt: skip
                continue
            undecided = unconfirmed if index in unread else kept
            undecided.append((item.id, f"{rule.doubt}; kept: that of the {rule.by}"))
        decided = _with_decision(item, rule, decision)
        result.append(dataclasses.replace(decided, boa_offset_unconfirmed=index in unread))
    return result, left_out, _warnings(kept, unconfirmed, left_out)


def confirmed_offset(
    item: SourceItem,
    provider: Provider,
    preprocessing: Preprocessing,
    stated: StatedOffset,
    sample: Sample,
) -> SourceItem:
    """Return an unconfirmed item with the offset that its pixels have.

    Arguments as in `with_offsets`.

    Raises:
        ReadError: the pixels cannot be read now.
    """
    rule = provider.offset_rule(item.stac, preprocessing, stated)
    decision = _decided_by_pixels(item, rule, provider, sample)
    if decision is None:
        for warning in _warnings([(item.id, f"{rule.doubt}; kept: that of the {rule.by}")], [], []):
            log.warning("%s", warning)
    decided = _with_decision(item, rule, decision)
    return dataclasses.replace(decided, boa_offset_unconfirmed=False)


def _with_decision(item: SourceItem, rule: OffsetRule, decision: bool | None) -> SourceItem:
    """Return the item with the offset of its pixels, that of the rule if they do not decide."""
    if decision is None:
        return _with_bands(item, rule.bands, rule.by)
    log.info(
        "%s: the pixels %s the BOA offset (%s)",
        item.id, "contain" if decision else "do not contain", rule.doubt,
    )  # fmt: skip
    bands = rule.bands - rule.doubtful | (rule.doubtful if decision else frozenset())
    return _with_bands(item, bands, "pixels")


def _rules(
    items: Iterable[SourceItem],
    provider: Provider,
    preprocessing: Preprocessing,
    stated: StatedOffset,
) -> list[OffsetRule]:
    rules, unknown = [], []
    for item in items:
        try:
            rules.append(provider.offset_rule(item.stac, preprocessing, stated))
        except BaselineError as error:
            unknown.append(f"{item.id} {error}")
    if not unknown:
        return rules
    more = f" (and {len(unknown) - _NAMED} more items)" if len(unknown) > _NAMED else ""
    raise ItemError(
        f"Item {'; item '.join(unknown[:_NAMED])}{more}. So it is unknown whether the pixels "
        "contain ESA's BOA offset of 1000: set `sentinel2.boa_offset` to `present` or `removed`, "
        "correct the items, or set `preprocessing: as_published`, which uses the date."
    )


def _decided_by_pixels(
    item: SourceItem, rule: OffsetRule, provider: Provider, sample: Sample
) -> bool | None:
    """Return whether the doubtful bands contain the offset; None if the pixels do not decide."""
    keys = provider.s2_assets
    images = []
    for band in SAMPLED_BANDS:
        if band not in rule.doubtful:
            continue
        read = sample(item, [keys[SCL], keys[band]])
        if read is None:
            continue
        scl, dn = read
        images.append(dn)
        decision = offset_in_pixels(images, scl)
        # Dark pixels in one band show that the offset is gone; bright ones show nothing.
        if decision is False or (decision and len(images) == len(rule.doubtful & {*SAMPLED_BANDS})):
            return decision
    return offset_in_pixels(images, scl) if images else None


def _with_bands(item: SourceItem, bands: frozenset[str], by: str) -> SourceItem:
    some = tuple(band for band in BANDS if band in bands)
    return dataclasses.replace(
        item,
        boa_offset=BOA_OFFSET if bands else 0,
        boa_offset_from=by,
        boa_offset_bands=some if 0 < len(some) < len(BANDS) else None,
        orbit=None,
    )


def _warnings(
    kept: list[tuple[str, str]],
    unconfirmed: list[tuple[str, str]],
    left_out: list[tuple[str, str]],
) -> list[str]:
    warnings = []
    if kept:
        warnings.append(
            f"The BOA offset of {_named(kept)} is uncertain, and the pixels do not decide it: "
            f"{_reasons(kept)}. The values may be wrong by 1000. Set `sentinel2.boa_offset`, or "
            "compare these dates with others."
        )
    if unconfirmed:
        warnings.append(
            f"The BOA offset of {_named(unconfirmed)} is uncertain, and their pixels could not be "
            f"read when scenes were listed: {_reasons(unconfirmed)}, until the download has read "
            "the pixels. It decides the offset, or fails."
        )
    if left_out:
        warnings.append(f"{_named(left_out)} left out: {_reasons(left_out)}.")
    return warnings


def _named(items: list[tuple[str, str]]) -> str:
    names = ", ".join(name for name, _ in items[:_NAMED])
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    noun = "scene" if len(items) == 1 else "scenes"
    return f"{len(items)} Sentinel-2 {noun} ({names}{more})"


def _reasons(items: list[tuple[str, str]]) -> str:
    return "; ".join(sorted({reason for _, reason in items})[:3])
