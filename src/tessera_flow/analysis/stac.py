"""Write the STAC Item of a map."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pystac
from affine import Affine
from odc.geo.geobox import GeoBox

from ..atomic import write_text
from ..products.checksums import REWRITTEN, Checksums, multihash
from ..products.stac.documents import FILE, PROJECTION, footprint, last_second, midnight

CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"

_NOT_IN_NAMES = re.compile(r"[^0-9A-Za-z_-]")
_ASSETS = {
    "map.tif": ("map", "Map", pystac.MediaType.COG, ["data"]),
    "map.tif.aux.xml": ("names", "Names of the classes", pystac.MediaType.XML, ["metadata"]),
    "uncertainty.tif": ("uncertainty", "Uncertainty", pystac.MediaType.COG, ["data"]),
    "label_states.csv": ("labels", "What became of each label", "text/csv", ["metadata"]),
    "map.json": ("record", "Accuracy and parameters", pystac.MediaType.JSON, ["metadata"]),
}


def write_map_item(output: Path, record: Path, checksums: Path) -> None:
    """Write the Item, beside the files of the map.

    It links to the Item of the embeddings, two folders above, by `derived_from`.

    Args:
        output: the JSON file.
        record: JSON file of `make_map`.
        checksums: record of its files.

    Raises:
        TileError: the record of checksums is damaged.
        OutputError: the file cannot be written.
    """
    document: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    product = document["product"]
    geobox = GeoBox(product["shape"], Affine(*product["transform"]), product["crs"])
    outline, bbox = footprint(geobox)
    code = product["crs"] if product["crs"].startswith("EPSG:") else None
    item = pystac.Item(
        id=f"{product['region']}-{product['period']}-{document['name']}",
        geometry=json.loads(json.dumps(outline.geom.__geo_interface__)),
        bbox=[round(float(v), 7) for v in bbox],
        datetime=None,
        start_datetime=midnight(product["period_start"]),
        end_datetime=last_second(product["period_end"]),
        properties={
            "title": f"Map {document['name']} of {product['region']}, {product['period']}",
            "proj:code": code,
            **({} if code else {"proj:wkt2": product["crs"]}),
            "proj:shape": product["shape"],
            "proj:transform": product["transform"],
            "method": document["method"],
            "parameters": document["parameters"],
            "labels": {k: document["labels"][k] for k in ("column", "sha256", "states")},
            "scores": document["accuracy"]["scores"],
            "warnings": document["warnings"],
            "provenance": product,
        },
        stac_extensions=[FILE, PROJECTION],
    )
    sums = Checksums.read(checksums, checksums.parent.parent)
    for name, (key, title, media_type, roles) in _ASSETS.items():
        asset = pystac.Asset(f"./{name}", title, media_type=media_type, roles=roles)
        if name in sums.sizes and not name.endswith(REWRITTEN):
            asset.extra_fields["file:size"] = sums.sizes[name]
            asset.extra_fields["file:checksum"] = multihash(sums.sha256[name])
        if name == "map.tif" and document["classes"]:
            asset.extra_fields["classification:classes"] = _classes(document)
            item.stac_extensions.append(CLASSIFICATION)
        item.add_asset(key, asset)
    item.add_link(pystac.Link("derived_from", "../../item.json", "application/geo+json"))
    text = json.dumps(item.to_dict(include_self_link=False, transform_hrefs=False), indent=1)
    write_text(output, text + "\n")


def _classes(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the classes as the classification extension has them."""
    names = _unique_names([(entry["value"], entry["name"]) for entry in document["classes"]])
    return [
        {
            "value": entry["value"],
            "name": name,
            "title": entry["name"],
            "color_hint": entry["colour"].removeprefix("#").upper(),
        }
        for entry, name in zip(document["classes"], names, strict=True)
    ]


def _unique_names(classes: Sequence[tuple[int, str]]) -> list[str]:
    """Return a name of ASCII letters, digits, `-` and `_` for each (value, name) of a class.

    Of names that become equal, such as those of `a b` and `a/b`, all get the value of the class.
    """
    plain = [_NOT_IN_NAMES.sub("_", name) or "class" for _, name in classes]
    number = Counter(plain)
    taken = {name for name in plain if number[name] == 1}
    names = []
    for (value, _), name in zip(classes, plain, strict=True):
        if number[name] > 1:
            name = f"{name}_{value}"
            while name in taken:
                name += "_"
            taken.add(name)
        names.append(name)
    return names
