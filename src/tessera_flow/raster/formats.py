"""Recognise the format of a raster from its first bytes.

GDAL would try every driver that it has. Some of them read other files that a file names, so only
GeoTIFF and JPEG 2000 are opened.
"""

from __future__ import annotations

HEAD_BYTES = 16
"""Bytes from which the format of a file is recognised."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")

_OTHER_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x89HDF": "HDF5",
    b"CDF": "netCDF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"<VRTDataset": "GDAL virtual raster (VRT)",
    b"<": "XML or HTML",
    b"EHFA_HEADER_TAG": "Erdas Imagine",
    b"SQLite format 3": "GeoPackage or SQLite",
    b"GRIB": "GRIB",
    b"NITF": "NITF",
}


def driver_of(head: bytes) -> str | None:
    """Return the GDAL driver for a file with these first bytes; None if it is no raster."""
    if head.startswith(_TIFF):
        return "GTiff"
    return "JP2OpenJPEG" if head.startswith(_JPEG_2000) else None


def other_format(head: bytes) -> str | None:
    """Return the name of the format of a file that is not a raster of a known kind."""
    return next((name for magic, name in _OTHER_FORMATS.items() if head.startswith(magic)), None)
