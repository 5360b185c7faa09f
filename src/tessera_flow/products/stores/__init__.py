"""Write Zarr stores."""
