"""Changing a live run."""
