"""Estimate what a run will need, by simulating it."""
