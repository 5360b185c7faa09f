"""Write the demo: a synthetic archive of scenes and untrained weights."""
