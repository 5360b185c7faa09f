"""Read and validate the configuration: keys, types, messages and the fingerprint of a product."""
