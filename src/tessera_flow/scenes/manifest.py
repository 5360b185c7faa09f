"""Read and write the manifest: the source items of one sensor, region and period."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from ..atomic import write_text
from ..errors import ItemError


@dataclass(frozen=True)
class SourceItem:
    """One scene of a manifest.

    Attributes:
        id: STAC id.
        date: UTC day of the time step: for Sentinel-2 that of the start of the datatake.
        extent: (left, bottom, right, top) of the raster in the CRS of the region; None if it is
            unknown, in which case the item overlaps any grid.
        boa_offset: Sentinel-2: offset to subtract from the digital numbers.
        boa_offset_from: what decided it: `baseline`, `bucket`, `flag`, `collection`, `pixels`,
            `configuration` or `published rule`.
        boa_offset_bands: bands that contain the offset; None: all, or none if it is 0.
        boa_offset_unconfirmed: the pixels that have to decide the offset could not be read when
            scenes were listed: whoever uses the item decides it, see `offsets.confirmed_offset`.
        orbit: Sentinel-1: `ascending` or `descending`. Sentinel-2: None.
        stac: id, collection, properties and assets of the STAC item, reduced to the keys needed
            for selection and reading, because every job reads the manifest. URLs are unsigned.
        duplicates: other items of the same acquisition, best first, each without duplicates. They
            are used if an asset of this item is missing or corrupt.
    """

    id: str
    date: datetime.date
    extent: tuple[float, float, float, float] | None
    boa_offset: int
    orbit: str | None
    stac: Mapping[str, Any]
    duplicates: tuple[SourceItem, ...] = ()
    boa_offset_from: str = ""
    boa_offset_bands: tuple[str, ...] | None = None
    boa_offset_unconfirmed: bool = False

    def has_offset(self, band: str) -> bool:
        """Return whether the offset must be subtracted from a band."""
        bands = self.boa_offset_bands
        return self.boa_offset != 0 and (bands is None or band in bands)

    def overlaps(self, geobox: GeoBox) -> bool:
        """Return whether the raster may overlap a grid in the CRS of the region."""
        if self.extent is None:
            return True
        left, bottom, right, top = geobox.boundingbox
        west, south, east, north = self.extent
        return west < right and east > left and south < top and north > bottom

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document that `from_json` reads back."""
        document: dict[str, Any] = {
            "id": self.id,
            "date": self.date.isoformat(),
            "extent": None if self.extent is None else list(self.extent),
            "boa_offset": self.boa_offset,
            "orbit": self.orbit,
            "stac": self.stac,
        }
        if self.boa_offset_from:
            document["boa_offset_from"] = self.boa_offset_from
        if self.boa_offset_bands is not None:
            document["boa_offset_bands"] = list(self.boa_offset_bands)
        if self.boa_offset_unconfirmed:
            document["boa_offset_unconfirmed"] = True
        if self.duplicates:
            document["duplicates"] = [item.to_json() for item in self.duplicates]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceItem:
        """Return the item of a document from `to_json`."""
        extent = document["extent"]
        bands = document.get("boa_offset_bands")
        return cls(
            id=document["id"],
            date=datetime.date.fromisoformat(document["date"]),
            extent=None if extent is None else tuple(extent),
            boa_offset=document["boa_offset"],
            orbit=document["orbit"],
            stac=document["stac"],
            duplicates=tuple(cls.from_json(item) for item in document.get("duplicates", ())),
            boa_offset_from=document.get("boa_offset_from", ""),
            boa_offset_bands=None if bands is None else tuple(bands),
            boa_offset_unconfirmed=document.get("boa_offset_unconfirmed", False),
        )


@dataclass(frozen=True)
class Manifest:
    """Items of one sensor for one region and period.

    Attributes:
        sensor: `sentinel2` or `sentinel1`.
        items: items to use, in the order in which they fill the mosaic of a day.
        left_out: (id, reason) of items of the region and period that are not used.
        warnings: complete sentences about the scenes that the user must see, without paths and
            names of regions: in the plan, the log, the report, its methods and every product.
        outside: (id, reason) of items that the search returned besides: of other regions, periods
            and collections. In the file, they are the entries of `left_out` with `outside`.
    """

    sensor: str
    items: tuple[SourceItem, ...]
    left_out: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()
    outside: tuple[tuple[str, str], ...] = ()

    def write(self, path: Path) -> None:
        """Write the manifest as JSON; the same search gives the same bytes."""
        document = {
            "sensor": self.sensor,
            # First, so that `jobs.scene_warnings` need not read the items.
            "warnings": list(self.warnings),
            "items": [item.to_json() for item in self.items],
            "left_out": [
                *({"id": id_, "reason": reason} for id_, reason in self.left_out),
                *({"id": id_, "reason": reason, "outside": True} for id_, reason in self.outside),
            ],
        }
        write_text(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest written by `write`.

        Raises:
            ItemError: the file cannot be read, or is not such a list.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                sensor=document["sensor"],
                items=tuple(SourceItem.from_json(item) for item in document["items"]),
                left_out=_entries(document, outside=False),
                warnings=tuple(document["warnings"]),
                outside=_entries(document, outside=True),
            )
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise ItemError(
                f"{path} is not a list of scenes ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}): delete it and run again."
            ) from error


def _entries(document: Mapping[str, Any], outside: bool) -> tuple[tuple[str, str], ...]:
    return tuple(
        (entry["id"], entry["reason"])
        for entry in document["left_out"]
        if entry.get("outside", False) is outside
    )
