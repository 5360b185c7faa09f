"""Find the encoding of the text of a shapefile."""

from __future__ import annotations

from pathlib import Path

from ...errors import RegionError

_DBF_HEADER, _DBF_LANGUAGE = 32, 29


def shapefile_encoding(path: Path) -> str | None:
    """Return the encoding of the text of a shapefile that does not state it; else None.

    A .cpg file or the language of the .dbf file states it; GDAL reads both.

    Raises:
        RegionError: neither does, and the text is not UTF-8.
    """
    if path.suffix.lower() != ".shp":
        return None
    files = {file.suffix.lower(): file for file in path.parent.iterdir() if file.stem == path.stem}
    if ".cpg" in files or ".dbf" not in files:
        return None
    data = files[".dbf"].read_bytes()
    if len(data) < _DBF_HEADER or data[_DBF_LANGUAGE] or data.isascii():
        return None
    records = data[int.from_bytes(data[8:10], "little") :]
    try:
        records.decode()
    except UnicodeDecodeError as error:
        raise RegionError(
            f"{path} does not state the encoding of its text (no .cpg file), which is not UTF-8: "
            "name it with --encoding, such as cp1252 (Western Europe), or add a .cpg file."
        ) from error
    return None if records.isascii() else "UTF-8"
