"""Run the command line `tessera-flow`."""
