"""Search archives of scenes: one class per provider; STAC, CMR and stac-geoparquet search."""
