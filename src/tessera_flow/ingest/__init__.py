"""Turn scenes into patches: download, daily mosaics, stacks, retiling."""
