"""The list of source items of one sensor, region and period, as every job reads it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from ..atomic import write_text
from ..sensors.sentinel1 import ORBITS


@dataclass(frozen=True)
class SourceItem:
    """One scene of a manifest.

    Attributes:
        id: STAC id.
        date: UTC day.
        extent: (left, bottom, right, top) of its raster in the region's CRS; None when it
            cannot be told, and then it counts as lying everywhere.
        boa_offset: Sentinel-2: what is subtracted from its digital numbers.
        orbit: Sentinel-1: `ascending` or `descending`; None where only the raster tells.
        stac: the STAC item's id, collection, properties and assets, cut down to what choosing
            and reading need (every job reads the whole list); addresses unsigned.
        copies: the same acquisition published otherwise, best first, each without copies: to
            be read where an object of this item is corrupt.
    """

    id: str
    date: datetime.date
    extent: tuple[float, float, float, float] | None
    boa_offset: int
    orbit: str | None
    stac: Mapping[str, Any]
    copies: tuple[SourceItem, ...] = ()

    def overlaps(self, geobox: GeoBox) -> bool:
        """Whether its raster may touch a grid in the region's CRS."""
        if self.extent is None:
            return True
        left, bottom, right, top = geobox.boundingbox
        west, south, east, north = self.extent
        return west < right and east > left and south < top and north > bottom

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        return {
            "id": self.id,
            "date": self.date.isoformat(),
            "extent": None if self.extent is None else list(self.extent),
            "boa_offset": self.boa_offset,
            "orbit": self.orbit,
            "stac": self.stac,
            **({"copies": [copy.to_json() for copy in self.copies]} if self.copies else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceItem:
        """Read what `to_json` wrote."""
        extent = document["extent"]
        return cls(
            id=document["id"],
            date=datetime.date.fromisoformat(document["date"]),
            extent=None if extent is None else tuple(extent),
            boa_offset=document["boa_offset"],
            orbit=document["orbit"],
            stac=document["stac"],
            copies=tuple(cls.from_json(copy) for copy in document.get("copies", ())),
        )


@dataclass(frozen=True)
class Manifest:
    """The items of one sensor for one region and period, in order, and those left out.

    Attributes:
        sensor: `sentinel2` or `sentinel1`.
        items: in the order in which they fill a day.
        left_out: (id, reason).
        orbits: Sentinel-1: directions to use. Items whose `orbit` is None are to be left out
            when they are read, where their raster tells another one.
    """

    sensor: str
    items: tuple[SourceItem, ...]
    left_out: tuple[tuple[str, str], ...]
    orbits: tuple[str, ...] = ORBITS

    def write(self, path: Path) -> None:
        """Write as JSON; the same search gives the same bytes."""
        document = {
            "sensor": self.sensor,
            **({"orbits": list(self.orbits)} if self.sensor == "sentinel1" else {}),
            "items": [item.to_json() for item in self.items],
            "left_out": [{"id": id_, "reason": reason} for id_, reason in self.left_out],
        }
        write_text(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            sensor=document["sensor"],
            items=tuple(SourceItem.from_json(item) for item in document["items"]),
            left_out=tuple((entry["id"], entry["reason"]) for entry in document["left_out"]),
            orbits=tuple(document.get("orbits", ORBITS)),
        )
