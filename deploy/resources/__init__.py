"""Arithmetic without I/O."""
