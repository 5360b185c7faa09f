"""Fill the holes of published embeddings of a block with computed ones, and compare both where a
patch with a hole also has published pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..block_file import create_block_file, get_array, open_block_file
from ..errors import TileError
from ..inference.block_embeddings import COMPUTED, PUBLISHED, create_outputs
from ..region.grid import tiling
from ..region.needed import HOLES, NOT_NEEDED
from . import STORE_DIM
from .cosines import CosineTally, cosines

log = logging.getLogger(__name__)

FILL = "fill"
"""Attribute of a filled block: a record of `FillRecord`."""
_PIXELS = 2**14
_OF_PUBLISHED = ("block", "dataset", "tiles", "without_codes", "impossible_scales", NOT_NEEDED)
_OF_COMPUTED = (
    "weights", "device", "precision", "fallback", "compared", "compiled", "not_compiled",
    "missing_scenes", "level_jumps", "steps_outside_period",
)  # fmt: skip


@dataclass
class FillRecord:
    """What was published and what was computed, of one or more blocks.

    Attributes:
        published, computed: pixels that are in the products.
        missing: pixels of the region that are neither.
        without_codes, impossible_scales: see `pixels.Pixels`.
        cosines: of published and computed embeddings of the same pixels, in patches with a hole.
        equal_codes: codes of these that are equal.
        identical: pixels of these of which all codes and the scale are equal.
    """

    published: int = 0
    computed: int = 0
    missing: int = 0
    without_codes: int = 0
    impossible_scales: int = 0
    cosines: CosineTally = field(default_factory=CosineTally)
    equal_codes: int = 0
    identical: int = 0

    @property
    def compared(self) -> int:
        """Number of pixels that are both published and computed."""
        return self.cosines.pairs

    @property
    def equal_percent(self) -> float | None:
        """Share of equal codes in per cent; None if no pixel was compared."""
        return 100 * self.equal_codes / (STORE_DIM * self.compared) if self.compared else None

    def __iadd__(self, other: FillRecord) -> FillRecord:
        """Add the pixels of other blocks."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.cosines += other.cosines
        return self

    def to_json(self) -> dict[str, Any]:
        """Return a document that `of_json` reads."""
        return {name: getattr(self, name) for name in _NUMBERS} | {
            "cosines": self.cosines.to_json()
        }

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> FillRecord:
        """Read a document of `to_json`.

        Raises:
            TileError: it is none.
        """
        try:
            tally = CosineTally.of_json(document["cosines"])
            return cls(**{name: int(document[name]) for name in _NUMBERS}, cosines=tally)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise TileError(
                f"the record of published and computed pixels is damaged ({error!r})"
            ) from error

    def compare(
        self,
        published: tuple[NDArray[np.int8], NDArray[np.float32]],
        computed: tuple[NDArray[np.int8], NDArray[np.float32]],
    ) -> None:
        """Compare (n, K) codes and (n,) scales of the same pixels."""
        for start in range(0, len(published[0]), _PIXELS):
            part = slice(start, start + _PIXELS)
            ours, theirs = computed[0][part], published[0][part]
            self.cosines.add(cosines(ours, theirs))
            equal = ours == theirs
            self.equal_codes += int(equal.sum())
            same_scale = computed[1][part] == published[1][part]
            self.identical += int((equal.all(axis=1) & same_scale).sum())


_NUMBERS = (
    "published", "computed", "missing", "without_codes", "impossible_scales", "equal_codes",
    "identical",
)  # fmt: skip


def fill_block(published: Path, computed: Path, output: Path) -> None:
    """Write the embeddings of a block: published ones, and computed ones in its holes.

    Args:
        published: file of `importer.import_embeddings`, with its holes.
        computed: file of `inference.block.infer_block`, of the patches with a hole; or marked as
            `region.needed.NOT_NEEDED`, like `published`.
        output: block file with `embeddings` (H, W, 128) int8, `scales` (H, W) and `origin` (H, W)
            uint8 (`block_embeddings.ORIGINS`); without counts. Attributes of both files, and
            `fill`, see `FillRecord`.

    Raises:
        TileError: a file is missing or damaged, or the two do not fit.
        OutputError: the output cannot be written.
    """
    with open_block_file(published) as theirs, open_block_file(computed) as ours:
        needed = not theirs.attrs.get(NOT_NEEDED)
        if needed == bool(ours.attrs.get(NOT_NEEDED)):
            raise TileError(
                f"{computed} was not made for the holes of {published}: delete both and run again."
            )
        shape = get_array(theirs, "scales").shape
        stated: dict[str, Any] = theirs.attrs.asdict()
        patch_size = int(stated["patch_size"])
        attributes = {name: stated[name] for name in _OF_PUBLISHED}
        attributes |= {name: ours.attrs[name] for name in _OF_COMPUTED if name in ours.attrs}
        record = FillRecord(
            without_codes=attributes["without_codes"],
            impossible_scales=attributes["impossible_scales"],
        )
        with create_block_file(output, attributes) as target:
            arrays = create_outputs(
                target, (shape[0], shape[1]), patch_size, STORE_DIM, "int8",
                counts=False, origin=True,
            )  # fmt: skip
            for patch in tiling(shape[0], shape[1], patch_size):
                codes, scales, origin = _merged(
                    theirs, ours if needed else None, patch.slices, record
                )
                if origin.any():
                    arrays["embeddings"][patch.slices] = codes
                    arrays["scales"][patch.slices] = scales
                    arrays["origin"][patch.slices] = origin
            target.attrs[FILL] = record.to_json()
    log.info(
        "%d pixels are published, %d computed, %d neither; %d were compared",
        record.published, record.computed, record.missing, record.compared,
    )  # fmt: skip


def _merged(
    theirs: zarr.Group,
    ours: zarr.Group | None,
    place: tuple[slice, slice],
    record: FillRecord,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return codes, scales and origin of a patch, and add it to the record."""

    def read(group: zarr.Group, name: str) -> NDArray[Any]:
        return np.asarray(get_array(group, name)[place])

    scales, holes = read(theirs, "scales"), read(theirs, HOLES) > 0
    is_published = ~np.isnan(scales)
    origin = np.where(is_published, np.uint8(PUBLISHED), np.uint8(0))
    codes = read(theirs, "embeddings")
    if ours is not None and holes.any():
        own_scales, own_codes = read(ours, "scales"), read(ours, "embeddings")
        has_own = ~np.isnan(own_scales)
        both, filled = is_published & has_own, holes & has_own
        record.compare((codes[both], scales[both]), (own_codes[both], own_scales[both]))
        codes[filled], scales[filled], origin[filled] = (
            own_codes[filled], own_scales[filled], COMPUTED,
        )  # fmt: skip
        holes &= ~filled
        record.computed += int(filled.sum())
    record.published += int(is_published.sum())
    record.missing += int(holes.sum())
    return codes, scales, origin
