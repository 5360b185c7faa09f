"""Stitching: one function per product, block files in, files for users out."""
