"""Which blocks of a region were computed in which precision and on which device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..region.needed import NOT_NEEDED

Group = tuple[str | None, str | None]
"""Precision (`float32`, `bf16`, `fp16`) and device; None where the files do not record it."""

_SHOWN = 5


@dataclass(frozen=True)
class BlockInference:
    """How one block was computed, from the attributes of its file.

    Attributes:
        precision, device: see `Group`.
        fallback: why float32 replaced bf16 or fp16; None if it did not.
        compared: what was measured against float32 on a CPU; None if that is what was computed.
        not_compiled: why PyTorch's compiler was not used although it was requested, or None.
    """

    precision: str | None
    device: str | None
    fallback: str | None = None
    compared: Mapping[str, float] | None = None
    not_compiled: str | None = None

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> BlockInference | None:
        """Return the record of a block file; None if nothing of it was computed: it was skipped,
        or all of it is published."""
        if attributes.get("skipped") or attributes.get(NOT_NEEDED):
            return None
        return cls(
            *(
                attributes.get(name)
                for name in ("precision", "device", "fallback", "compared", "not_compiled")
            )
        )


@dataclass(frozen=True)
class InferenceRecord:
    """How the blocks of a region were computed. Skipped blocks are in none of these.

    Attributes:
        groups: blocks by precision and device, largest group first.
        fallbacks: by block, why float32 replaced bf16 or fp16.
        compared: number of pixels that were compared with float32 on a CPU, and the smallest
            cosine; None if none was.
        not_compiled: by block, why PyTorch's compiler was not used although it was requested.
    """

    groups: dict[Group, tuple[str, ...]]
    fallbacks: dict[str, str]
    compared: tuple[int, float] | None = None
    not_compiled: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, blocks: Iterable[tuple[str, BlockInference | None]]) -> InferenceRecord:
        """Put the records of (block, record) together."""
        groups: dict[Group, list[str]] = {}
        fallbacks: dict[str, str] = {}
        not_compiled: dict[str, str] = {}
        measured: list[Mapping[str, float]] = []
        for block, record in blocks:
            if record is None:
                continue
            groups.setdefault((record.precision, record.device), []).append(block)
            if record.fallback is not None:
                fallbacks[block] = record.fallback
            if record.not_compiled is not None:
                not_compiled[block] = record.not_compiled
            if record.compared is not None and record.compared["pixels"]:
                measured.append(record.compared)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), str(item[0])))
        compared = None
        if measured:
            pixels = sum(int(one["pixels"]) for one in measured)
            compared = pixels, min(one["cosine"] for one in measured)
        divided = {group: tuple(names) for group, names in ordered}
        return cls(divided, fallbacks, compared, not_compiled)

    @property
    def precisions(self) -> dict[str | None, int]:
        """Number of blocks by precision."""
        counts: dict[str | None, int] = {}
        for (precision, _), names in self.groups.items():
            counts[precision] = counts.get(precision, 0) + len(names)
        return counts

    @property
    def text(self) -> str:
        """Precisions and devices with their numbers of blocks, in words."""
        return ", ".join(
            f"{precision or 'precision not recorded'} on {device or 'a device not recorded'} "
            f"({len(names)} {'block' if len(names) == 1 else 'blocks'})"
            for (precision, device), names in self.groups.items()
        )

    @property
    def warnings(self) -> list[str]:
        """Sentences about mixed precisions, and about blocks in which float32 replaced another."""
        texts = []
        if len({precision for precision, _ in self.groups}) > 1:
            texts.append(
                f"The blocks were computed in different precisions: {self.text}. Codes differ by "
                "up to 4 between float32 and bf16 or fp16. Set model.precision to one of them to "
                "compute all blocks in it."
            )
        if self.fallbacks:
            names = list(self.fallbacks)
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            texts.append(
                f"Float32 replaced a faster precision in {len(names)} of "
                f"{sum(self.precisions.values())} blocks ({shown}): "
                f"{self.fallbacks[names[0]]}."
            )
        return texts

    def to_json(self) -> dict[str, Any]:
        """Return a document for the STAC Item and the results of the checks."""
        return {
            "blocks": [
                {"precision": precision, "device": device, "blocks": list(names)}
                for (precision, device), names in self.groups.items()
            ],
            "fallbacks": self.fallbacks,
            "compared": None
            if self.compared is None
            else {"pixels": self.compared[0], "cosine": self.compared[1]},
        }
