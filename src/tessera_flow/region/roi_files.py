"""Find the files of a region of interest, without reading its geometry."""

from __future__ import annotations

from pathlib import Path

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".img"}

_SIDECARS = {
    ".shp": (".shp", ".shx", ".dbf", ".prj", ".cpg"),
    ".tab": (".tab", ".dat", ".map", ".id"),
    ".mif": (".mif", ".mid"),
}


def roi_files(path: str | Path) -> list[Path]:
    """Return the files that hold the region: with sidecars, sources of a virtual raster, the files
    of a folder (file geodatabase), and the write-ahead log of a GeoPackage that is being edited."""
    path = Path(path)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    suffix = path.suffix.lower()
    if suffix in RASTER_SUFFIXES and path.exists():
        return _raster_files(path)
    if suffix in _SIDECARS:
        beside = (path.with_suffix(s) for s in _SIDECARS[suffix])
        return [file for file in beside if file.exists()] or [path]
    log = Path(f"{path}-wal")
    return [path, log] if _has_content(log) else [path]


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _raster_files(path: Path) -> list[Path]:
    # Imported here: this module is imported whenever the workflow is read.
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(path) as dataset:  # a .vrt has sources, a .tif may have a .msk
            return sorted({path, *(Path(f) for f in dataset.files if Path(f).exists())})
    except RasterioIOError:
        return [path]
