"""Where parts live."""
