"""Write a VRT of all dimensions, which reads the stitched arrays without copying them.

GDAL reads the bytes after the header of a .npy file as raw bands. For int8 products two files
are written: one with the codes and scales, and one that multiplies them to embeddings with
GDAL's pixel function `mul`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import numpy as np
from numpy.lib import format as npy

from ...atomic import atomic_output
from ...errors import TileError
from ...region.grid import RegionGrid
from ..provenance import Provenance, product_crs

logger = logging.getLogger(__name__)

_GDAL_TYPES = {"int8": "Int8", "float32": "Float32"}


def write_vrt(
    output: Path,
    output_codes: Path | None,
    representation: Path,
    scales: Path | None,
    grid: RegionGrid,
    provenance: Provenance,
) -> None:
    """Write VRT files beside the stitched arrays that they read.

    Args:
        output: K bands of float32 embeddings, NaN without an embedding.
        output_codes: K bands of int8 codes and one of float32 scales; required for int8, None
            for float32. If None, an old `*_codes.vrt` beside the output is deleted if this
            program wrote it, because it would read float32 bytes as codes.
        representation: `stitched_representation.npy`, (H, W, K).
        scales: `stitched_representation_scales.npy`, (H, W) float32, or None.
        grid: the region's grid.
        provenance: written to the metadata.

    Raises:
        TileError: an array is missing, damaged, or has another shape than the grid.
        OutputError: a file cannot be written.
        ValueError: `output_codes` and `scales` are not both given.
    """
    if (scales is None) != (output_codes is None):
        raise ValueError("output_codes and scales belong together")
    height, width = (int(n) for n in grid.product_geobox.shape)
    dim = provenance.model.dim
    offset = _data_offset(representation, (height, width, dim), provenance.model.dtype)
    bands = list(_interleaved(representation.name, provenance.model.dtype, offset, width, dim))
    if scales is None or output_codes is None:
        for band in bands:
            xml.SubElement(band, "NoDataValue").text = "nan"
        _write(output, grid, provenance, bands)
        _delete_old(output.with_name(f"{output.stem}_codes.vrt"))
        return
    offset = _data_offset(scales, (height, width), "float32")
    bands.append(_raw_band(dim + 1, scales.name, "float32", offset, 4, 4 * width, "scale"))
    _write(output_codes, grid, provenance, bands)
    _write(output, grid, provenance, [_product(k, dim, output_codes.name) for k in range(dim)])


def _delete_old(path: Path) -> None:
    """Delete a VRT that this program wrote; warn of one that it did not write."""
    if not path.exists():
        return
    try:
        root = xml.fromstring(path.read_bytes())
        ours = any(item.get("key") == "PROVENANCE" for item in root.iterfind("Metadata/MDI"))
    except (OSError, xml.ParseError):
        ours = False
    if ours:
        path.unlink()
    else:
        logger.warning("%s was not written by tessera-flow and is left as it is", path)


def _data_offset(path: Path, shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes before the first value of a .npy file, after a check of its header."""
    try:
        with path.open("rb") as handle:
            version = npy.read_magic(handle)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            stored, fortran, kind = read(handle)
            offset = handle.tell()
    except (OSError, ValueError) as error:
        raise TileError(f"{path} cannot be read ({error}): delete it and run again.") from error
    if stored != shape or fortran or kind != np.dtype(dtype):
        raise TileError(
            f"{path} is {stored} {kind}, expected {shape} {dtype} in C order: delete it and run "
            "again."
        )
    return offset


def _interleaved(name: str, dtype: str, offset: int, width: int, dim: int) -> Iterator[xml.Element]:
    size = np.dtype(dtype).itemsize
    for k in range(dim):
        yield _raw_band(
            k + 1, name, dtype, offset + k * size, dim * size, dim * size * width, f"dimension {k}"
        )


def _raw_band(
    number: int, name: str, dtype: str, offset: int, pixel: int, line: int, description: str
) -> xml.Element:
    band = xml.Element(
        "VRTRasterBand",
        dataType=_GDAL_TYPES[dtype],
        band=str(number),
        subClass="VRTRawRasterBand",
    )
    _text(band, Description=description)
    xml.SubElement(band, "SourceFilename", relativetoVRT="1").text = name
    _text(band, ImageOffset=offset, PixelOffset=pixel, LineOffset=line, ByteOrder="LSB")
    return band


def _product(k: int, dim: int, codes: str) -> xml.Element:
    """Return the band code times scale: NaN for a NaN scale; float64, rounded once to float32."""
    band = xml.Element(
        "VRTRasterBand", dataType="Float32", band=str(k + 1), subClass="VRTDerivedRasterBand"
    )
    _text(
        band,
        Description=f"dimension {k}",
        NoDataValue="nan",
        PixelFunctionType="mul",
        SourceTransferType="Float64",
    )
    for number in (k + 1, dim + 1):
        source = xml.SubElement(band, "SimpleSource")
        xml.SubElement(source, "SourceFilename", relativeToVRT="1").text = codes
        _text(source, SourceBand=number)
    return band


def _text(parent: xml.Element, **children: Any) -> None:
    for name, value in children.items():
        xml.SubElement(parent, name).text = str(value)


def _write(path: Path, grid: RegionGrid, provenance: Provenance, bands: list[xml.Element]) -> None:
    height, width = grid.product_geobox.shape
    root = xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    a, b, c, d, e, f = (float(v) for v in list(grid.product_geobox.affine)[:6])
    _text(
        root,
        SRS=product_crs(grid).to_wkt(),
        GeoTransform=", ".join(repr(v) for v in (c, a, b, f, d, e)),
    )
    metadata = xml.SubElement(root, "Metadata")
    for key, value in provenance.tags().items():
        xml.SubElement(metadata, "MDI", key=key).text = value
    root.extend(bands)
    xml.indent(root)
    with atomic_output(path) as temporary:
        xml.ElementTree(root).write(temporary, encoding="utf-8")
