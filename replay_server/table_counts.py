"""Counts of what happened to a table's items."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class UpdateCounts:
    """How many priority updates were applied, came too late (stale), or were invalid (refused)."""

    applied: int
    stale: int
    refused: int


@dataclass(slots=True)
class DrawCounts:
    """Items drawn since the statistics were last taken, and sums of their ages and version lags."""

    count: int = 0
    age_sum: int = 0
    lag_sum: int = 0
