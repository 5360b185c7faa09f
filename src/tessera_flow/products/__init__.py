"""Stitch block files into products: one function per product."""
