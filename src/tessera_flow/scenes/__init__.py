"""List the scenes of a region, period and sensor: search, selection, manifest."""
