"""The blocks of a region as GeoJSON, for QGIS and other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyproj

from ...region.grid import RegionGrid


def blocks_geojson(grid: RegionGrid, period: str, states: Mapping[str, str]) -> str:
    """Return a FeatureCollection of the blocks, in longitude and latitude (RFC 7946).

    Args:
        grid: of the region.
        period: its name.
        states: of each block, as in `block_map.COLOURS`.
    """
    transformer = pyproj.Transformer.from_crs(grid.crs, "OGC:CRS84", always_xy=True)
    affine = grid.geobox.affine
    features = []
    for block in grid.blocks:
        w = block.window
        corners = [
            affine * (x, y)
            for x, y in (
                (w.x0, w.y0 + w.height),
                (w.x0 + w.width, w.y0 + w.height),
                (w.x0 + w.width, w.y0),
                (w.x0, w.y0),
                (w.x0, w.y0 + w.height),
            )
        ]
        ring = [[round(v, 7) for v in transformer.transform(x, y)] for x, y in corners]
        features.append(
            {
                "type": "Feature",
                "id": block.id,
                "properties": {
                    "region": grid.name,
                    "period": period,
                    "block": block.id,
                    "state": states[block.id],
                    "rows": w.height,
                    "columns": w.width,
                },
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}) + "\n"
