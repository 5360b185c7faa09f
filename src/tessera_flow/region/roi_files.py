"""Find and hash the files of a region of interest, without reading its geometry."""

from __future__ import annotations

import hashlib
from pathlib import Path

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".img"}


def roi_files(path: str | Path) -> list[Path]:
    """Return the file and the files that belong to it: sidecars, sources of a virtual raster."""
    path = Path(path)
    if path.suffix.lower() in RASTER_SUFFIXES and path.exists():
        return _raster_files(path)
    if path.suffix.lower() != ".shp":
        return [path]
    suffixes = (".shp", ".shx", ".dbf", ".prj", ".cpg")
    return [p for s in suffixes if (p := path.with_suffix(s)).exists()] or [path]


def _raster_files(path: Path) -> list[Path]:
    # Imported here: this module is imported whenever the workflow is read.
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path) as dataset:  # a .vrt has sources, a .tif may have a .msk
            return sorted({path, *(Path(f) for f in dataset.files if Path(f).exists())})
    except RasterioIOError:
        return [path]


def roi_digest(path: str | Path) -> str:
    """Return the SHA-256 of the content of all files of the region."""
    digest = hashlib.sha256()
    for file in roi_files(path):
        digest.update(file.suffix.encode())
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
