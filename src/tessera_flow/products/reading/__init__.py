"""Read finished products: open, sample, describe, verify."""
