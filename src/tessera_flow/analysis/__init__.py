"""Uses of finished products."""
