"""Check finished embeddings."""
