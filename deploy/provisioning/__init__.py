"""Before and around a cluster."""
