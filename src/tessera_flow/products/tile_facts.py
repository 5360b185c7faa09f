"""Facts about tile folders that the products state: what was not used, or is not as its name says.

The import of each block finds them and writes them into its file. They are merged by kind for the
region, so that a region of many blocks has one sentence for each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..block_file import open_block_file

TILE_FACTS = "tile_facts"
"""Attribute of block files with the facts."""

_SHOWN = 5

# Sentences of each kind, in the order in which they are shown.
_TEXTS = {
    "moved": (
        "Tiles with a position in roi.tiff that is {right:.3f} units right of and {down:.3f} below "
        "the pixels: {n}. The pixels are on multiples of the pixel size (the published pipeline "
        "labels its tiles with the bounds of the region's shape); the product has their position."
    ),
    "no_position": (
        "Tiles without a position (roi.tiff missing or without CRS), used as their names state: "
        "{n} ({names})."
    ),
    "missing": "Patches of the region without a tile folder, which have no embeddings: {n}.",
    "short": (
        "Patches with a tile that lacks the last row or column of the region's grid, which has no "
        "data there: {n}."
    ),
    "masked": (
        "Pixels of the region that are outside by the roi.tiff of their tile and have no "
        "embeddings: {n} (in {names})."
    ),
    "unordered": (
        "Tiles with days that are not in date order, or cover more than a year (the models expect "
        "date order): {n} ({names})."
    ),
    "repeated": (
        "Tiles with days that occur more than once, each used as a date of its own: {n} ({names})."
    ),
    "other_files": "Tiles with other arrays or rasters, which are not used: {n} ({names}).",
    "unneeded": "Tile folders without a pixel of the region, which are not used: {n} ({names}).",
    "outside": "Tile folders outside the region, which are not used: {n} ({names}).",
    "unnamed": (
        "Folders with arrays that are not used, because their names are not of the form "
        "x0_y0_x1_y1: {n} ({names})."
    ),
}

_OF_REGION = frozenset({"outside", "unnamed"})
"""Kinds that concern the region: every block finds the same ones, so they are not added up."""


@dataclass(frozen=True)
class TileFact:
    """A fact about tiles of a block or region.

    Attributes:
        kind: key of the sentence.
        number: of tiles, patches, pixels or folders that it concerns.
        names: names of the first ones.
        shift: of the positions in `roi.tiff` to the right and downwards, in units of the CRS;
            only of the kind `moved`.
    """

    kind: str
    number: int
    names: tuple[str, ...] = ()
    shift: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """The fact in words, without paths."""
        right, down = self.shift or (0.0, 0.0)
        more = ", ..." if len(self.names) == _SHOWN < self.number else ""
        names = ", ".join(self.names) + more
        return _TEXTS[self.kind].format(n=self.number, names=names, right=right, down=down)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document that `from_json` reads back."""
        return {
            "kind": self.kind,
            "number": self.number,
            "names": list(self.names),
            "shift": None if self.shift is None else list(self.shift),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TileFact:
        """Return the fact of a document from `to_json`."""
        shift = document["shift"]
        return cls(
            document["kind"],
            int(document["number"]),
            tuple(document["names"]),
            None if shift is None else (float(shift[0]), float(shift[1])),
        )


def fact_about(
    kind: str, names: Iterable[str], shift: tuple[float, float] | None = None
) -> list[TileFact]:
    """Return the fact that concerns these tiles or folders, in a list; empty without any."""
    names = sorted(names)
    return [TileFact(kind, len(names), tuple(names[:_SHOWN]), shift)] if names else []


def merge_facts(facts: Iterable[TileFact]) -> list[TileFact]:
    """Return the facts of all blocks as one of each kind (and shift), in the order of the kinds."""
    merged: dict[tuple[str, tuple[float, float] | None], TileFact] = {}
    for fact in facts:
        key = fact.kind, fact.shift
        known = merged.setdefault(key, replace(fact, number=0, names=()))
        of_region = fact.kind in _OF_REGION
        number = max(known.number, fact.number) if of_region else known.number + fact.number
        names = tuple(sorted({*known.names, *fact.names})[:_SHOWN])
        merged[key] = replace(known, number=number, names=names)
    order = list(_TEXTS)
    return sorted(merged.values(), key=lambda fact: (order.index(fact.kind), fact.shift or ()))


def read_facts(path: Path) -> list[TileFact]:
    """Return the facts in a block file; none if it was not made from tile folders.

    Raises:
        TileError: the file is missing or damaged.
    """
    with open_block_file(path) as group:
        documents: Any = group.attrs.get(TILE_FACTS, [])
        return [TileFact.from_json(document) for document in documents]
