"""Measurements: the lines that every benchmark prints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Measurement:
    """The median of n values of one figure.

    Attributes:
        figure: the measured quantity.
        subject: the measured thing.
        value: the median.
        unit: of value, min and max.
        n: number of values.
        min: the smallest value.
        max: the largest value.
    """

    figure: str
    subject: str
    value: float
    unit: str
    n: int
    min: float
    max: float

    @classmethod
    def of(cls, figure: str, subject: str, values: list[float], unit: str) -> Measurement:
        """The measurement of a figure from single values."""
        return cls(figure, subject, median(values), unit, len(values), min(values), max(values))


def show(measurement: Measurement, as_json: bool) -> None:
    """Print a measurement as one line."""
    if as_json:
        print(json.dumps(asdict(measurement), ensure_ascii=False), flush=True)
        return
    m = measurement
    print(
        f"{m.figure:<34}{m.subject:<32}{m.value:>12,.2f} {m.unit:<16}"
        f"n={m.n}  min {m.min:,.2f}  max {m.max:,.2f}",
        flush=True,
    )
