"""Describe products in STAC documents and tables."""
