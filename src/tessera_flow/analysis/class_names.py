"""Colours of classes, and their names for GIS programs."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as xml

from ..atomic import write_text

Colour = tuple[int, int, int]

NO_UNCERTAINTY = 255
"""Value of the uncertainty of classes (in percent) without an embedding."""

# Of Okabe and Ito (2008), which the colour-blind can distinguish, and lighter or darker shades.
_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233),
    (240, 228, 66), (110, 70, 40), (150, 150, 150), (0, 90, 60), (120, 60, 160), (170, 215, 130),
)  # fmt: skip
_GOLDEN = 0.618034

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER, _TEXT = 0, 2
_FIELDS = (
    ("Value", _INTEGER, 5),
    ("Class", _TEXT, 2),
    ("Pixels", _INTEGER, 1),
    ("Red", _INTEGER, 6),
    ("Green", _INTEGER, 7),
    ("Blue", _INTEGER, 8),
)
"""Name, type and use of the columns, by GDAL's numbers (GDALRATFieldType, GDALRATFieldUsage)."""


def class_colours(number: int) -> list[Colour]:
    """Return a colour for each of `number` classes; the first twelve are easy to distinguish."""
    colours = list(_COLOURS[:number])
    for n in range(number - len(colours)):
        lightness = (0.35, 0.55, 0.75)[n % 3]
        rgb = colorsys.hls_to_rgb((n * _GOLDEN) % 1, lightness, 0.6)
        colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return colours


def write_class_names(
    path: Path, names: Sequence[str], codes: Sequence[int], pixels: Sequence[int]
) -> None:
    """Write the names of classes beside a GeoTIFF, where GDAL and QGIS look for them.

    Args:
        path: the file, `<name of the GeoTIFF>.aux.xml`. It has category names, and a raster
            attribute table with value, name, number of pixels and colour of each class. Without
            classes it has nothing. Characters that XML cannot have are replaced by U+FFFD.
        names: of the classes.
        codes: value of each class.
        pixels: of each class in the map.

    Raises:
        OutputError: the file cannot be written.
    """
    root = xml.Element("PAMDataset")
    if names:
        valid = [_NOT_XML.sub("\ufffd", name) for name in names]
        _add_names(xml.SubElement(root, "PAMRasterBand", band="1"), valid, codes, pixels)
    xml.indent(root)
    write_text(path, xml.tostring(root, encoding="unicode") + "\n")


def _add_names(
    band: xml.Element, names: Sequence[str], codes: Sequence[int], pixels: Sequence[int]
) -> None:
    by_code = dict(zip(codes, names, strict=True))
    categories = xml.SubElement(band, "CategoryNames")
    for code in range(max(codes, default=0) + 1):
        name = "no data" if code == 0 else by_code.get(code, "")
        xml.SubElement(categories, "Category").text = name
    table = xml.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, use) in enumerate(_FIELDS):
        field = xml.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", use)):
            xml.SubElement(field, tag).text = str(value)
    rows = zip(codes, names, pixels, class_colours(len(names)), strict=True)
    for index, (code, name, number, colour) in enumerate(rows):
        row = xml.SubElement(table, "Row", index=str(index))
        for value in (code, name, number, *colour):
            xml.SubElement(row, "F").text = str(value)
