"""Read published embeddings: the client, the list of tiles, and their import into blocks."""

STORE_DIM = 128
"""Dimensions of published embeddings."""
