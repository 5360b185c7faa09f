"""Read tables of points and polygons, and write tables of embeddings."""
