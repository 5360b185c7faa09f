"""Encoders: checkpoints, statistics, selection of time steps, quantisation."""
