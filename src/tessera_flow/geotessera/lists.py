"""Write the lists of tiles that the `geotessera` client reads.

`registry.parquet` is what the client of version 0.7 reads, `manifest.parquet` that of 0.11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely


def write_lists(root: Path, rows: Sequence[Mapping[str, Any]], year: int) -> None:
    """Write the lists of tiles that the clients of version 0.7 and 0.11 read.

    Args:
        root: the store's folder.
        rows: for each tile `lon` and `lat` (hundredths of a degree), and for each of its files
            the SHA-256 (`hash`, `scales_hash`, `landmask_hash`) and the bytes (`file_size`,
            `scales_size`, `landmask_size`), or None.
        year: calendar year of all tiles.
    """
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    lon_i = pa.array(columns.get("lon", []), pa.int32())
    lat_i = pa.array(columns.get("lat", []), pa.int32())
    centre: dict[str, Any] = {
        "lon": np.asarray(lon_i) / 100,
        "lat": np.asarray(lat_i) / 100,
    }
    years = pa.array([year] * len(rows), pa.int32())

    def column(name: str, dtype: Any) -> Any:
        return pa.array(columns.get(name, []), dtype)

    points = shapely.to_wkb(shapely.points(centre["lon"], centre["lat"]))
    registry = pa.table(
        {
            "year": years,
            **centre,
            "lon_i": lon_i,
            "lat_i": lat_i,
            "hash": column("hash", pa.string()),
            "scales_hash": column("scales_hash", pa.string()),
            "file_size": column("file_size", pa.int64()),
            "scales_size": column("scales_size", pa.int64()),
            "geometry": pa.array(list(points), pa.binary()),
        }
    )
    geo = {
        "version": "1.0.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }
    pq.write_table(
        registry.replace_schema_metadata({"geo": json.dumps(geo)}), root / "registry.parquet"
    )
    # Without a version, so that the client accepts the list for any requested version.
    manifest = pa.table(
        {
            "year": years,
            **centre,
            "grid_size": column("file_size", pa.int64()),
            "scales_size": column("scales_size", pa.int64()),
        }
    )
    pq.write_table(manifest, root / "manifest.parquet")
    landmasks = pa.table(
        {
            **centre,
            "hash": column("landmask_hash", pa.string()),
            "file_size": column("landmask_size", pa.int64()),
        }
    )
    pq.write_table(landmasks, root / "landmasks.parquet")
