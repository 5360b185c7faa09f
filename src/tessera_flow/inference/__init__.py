"""Embed patches: model inputs, devices, batches, and resuming an interrupted block."""
