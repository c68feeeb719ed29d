"""Metrics of Ray's: its dashboard and Prometheus show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def counter(name: str, description: str, tags: Sequence[str]) -> Any:
    """A number that only grows; `inc(amount, {tag: value})` adds to it."""
    from ray.util import metrics

    return metrics.Counter(name, description, tuple(tags))


def gauge(name: str, description: str, tags: Sequence[str]) -> Any:
    """A number that goes up and down; `set(value, {tag: value})` sets it."""
    from ray.util import metrics

    return metrics.Gauge(name, description, tuple(tags))
