"""Compute Sentinel-1 and Sentinel-2 pixel values as the models expect them."""
