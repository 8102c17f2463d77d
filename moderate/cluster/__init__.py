"""A scan on a Ray cluster, or on this machine through Ray."""
