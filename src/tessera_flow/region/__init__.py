"""Turn a region of interest into a grid, a mask and blocks."""
