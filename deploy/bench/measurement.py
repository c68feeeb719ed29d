"""Measured figures: what every benchmark prints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median of n measurements."""

    figure: str
    subject: str
    value: float
    unit: str
    n: int
    min: float
    max: float

    @classmethod
    def of(cls, figure: str, subject: str, values: list[float], unit: str) -> Figure:
        """From single measurements."""
        return cls(figure, subject, median(values), unit, len(values), min(values), max(values))


def show(figure: Figure, as_json: bool) -> None:
    """Print a figure as one line."""
    if as_json:
        print(json.dumps(asdict(figure), ensure_ascii=False), flush=True)
        return
    f = figure
    print(
        f"{f.figure:<34}{f.subject:<32}{f.value:>12,.2f} {f.unit:<16}"
        f"n={f.n}  min {f.min:,.2f}  max {f.max:,.2f}",
        flush=True,
    )
