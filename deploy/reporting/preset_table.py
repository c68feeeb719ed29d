"""Measured results of presets in words: a Markdown table, and lines for a terminal."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.text import counted

NOT_MEASURED = "not measured"
COLUMNS = (
    *("preset", "runs", "score, mean ± std over seeds", "seeds", "episodes each"),
    *("env steps, median", "time, median", "on", "command", "date"),
)
Words = Annotated[str, Field(min_length=1)]


class PresetResult(BaseModel):
    """One measurement of a preset; the table's head explains each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: Words
    how: Words
    score: float
    std: float | None = Field(None, ge=0)
    episodes: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    env_steps: int = Field(ge=1)
    wall_s: float = Field(gt=0)
    hardware: Words
    command: Words
    date: datetime.date

    @model_validator(mode="after")
    def _seeds_have_a_spread(self) -> PresetResult:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: each seed counts once")
        if (self.std is None) != (len(self.seeds) == 1):
            raise ValueError(
                f"std={self.std}: there must be one with several seeds, and none with one"
            )
        return self


Results = Mapping[str, Sequence[PresetResult]]
"""Measurements by preset; empty: it was not measured."""


def result_line(result: PresetResult) -> str:
    """A measurement in one line, for a terminal."""
    each = " each" if len(result.seeds) > 1 else ""
    return (
        f"{result.how}: {_score(result)} ({_seeds(result.seeds)}, "
        f"{counted(result.episodes, 'episode')}{each}) after "
        f"{counted(result.env_steps, 'env step')}, {_time(result.wall_s)}, on {result.hardware}"
    )


def results_table(found: Results) -> str:
    """The measurements of all presets as a Markdown table; docs/results.md has it."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, results in found.items():
        for cells in [_cells(result) for result in results] or [[NOT_MEASURED]]:
            row = [f"`{name}`", *cells, *([""] * (len(COLUMNS) - 1 - len(cells)))]
            lines.append(f"| {' | '.join(row)} |".replace("  |", " |"))
    return "\n".join(lines) + "\n"


def _cells(result: PresetResult) -> list[str]:
    return [
        result.how,
        _score(result),
        _seeds(result.seeds).removeprefix("seeds ").removeprefix("seed "),
        f"{result.episodes:,}",
        f"{result.env_steps:,}",
        _time(result.wall_s),
        result.hardware,
        f"`{result.command}`",
        result.date.isoformat(),
    ]


def _score(result: PresetResult) -> str:
    spread = f" ± {result.std:g}" if result.std is not None else ""
    return f"{result.score:g}{spread}"


def _seeds(seeds: Sequence[int]) -> str:
    """`seed 1`, `seeds 1–3`, `seeds 1, 2, 5`."""
    ordered = sorted(seeds)
    if len(ordered) == 1:
        return f"seed {ordered[0]}"
    if all(after == before + 1 for before, after in pairwise(ordered)):
        return f"seeds {ordered[0]}–{ordered[-1]}"
    return f"seeds {', '.join(map(str, ordered))}"


def _time(seconds: float) -> str:
    """`14 s`, `27 min`, `4.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def presets_listing(found: Results, default: str, summaries: Mapping[str, str]) -> Iterator[str]:
    """Lines for a terminal: each preset with its purpose, and what it has reached.

    Args:
        found: the measurements by preset.
        default: the preset that is used where none is named.
        summaries: the purpose of each, by name.
    """
    width = max(map(len, summaries)) + 2
    for name, results in found.items():
        mark = " (default)" if name == default else ""
        yield f"{name:<{width}}{summaries[name]}{mark}"
        for line in [result_line(result) for result in results] or [NOT_MEASURED]:
            yield f"{'':<{width}}{line}"
