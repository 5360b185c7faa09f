"""Compute Sentinel-1 and Sentinel-2 pixel values: the contract with the model."""
