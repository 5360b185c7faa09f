"""Simulated archives: scenes and items in the form of Planetary Computer, made from arrays."""
