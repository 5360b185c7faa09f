"""Read one raster asset onto the grid: HTTP ranges, retries, exact resampling."""
