"""Search archives of scenes: providers, STAC and CMR queries, and the list of a run's scenes."""
