"""Subcommands of `tessera-flow`, one module each with a function `register`."""
