"""Benchmarks, peers."""
