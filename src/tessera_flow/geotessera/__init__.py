"""Read published embeddings: the client, the list of tiles, and their import into blocks."""
