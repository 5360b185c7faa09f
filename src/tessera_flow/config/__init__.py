"""Read and validate the configuration: keys, types, messages, and which keys decide the numbers."""
