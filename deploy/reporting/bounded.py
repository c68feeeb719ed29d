"""The side that bounded the speed of runs, from the shares of time in their reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.reporting.words import duration
from deploy.runs.json_values import finite_number

MOST = 0.5
"""A side that waits for this share of the time is bounded by the other one."""
BUSY = 0.8
"""A learner that is busy for this share of the time bounds the run."""
LEARNER, ACTORS = "learner busy", "actors busy, on average"
ENV, POLICY = "environment steps", "choices of actions"
ACTORS_WAIT, LEARNER_WAITS = "actors waited for the learner", "learner waited for the actors"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Shares of the time of a run since learning began, by what it was spent on.

    Attributes:
        inline: whether the parts took turns in one process: then the shares add up to 1.
        shares: of that time, from 0 to 1, by name.
        before_s: seconds until then: start and warm-up.
    """

    inline: bool
    shares: dict[str, float]
    before_s: float

    @property
    def verdict(self) -> str:
        """The side that bounded the run, in words."""
        shares = self.shares
        if self.inline:
            most = max(shares, key=lambda name: shares[name])
            return f"one process, which spent most of its time ({shares[most]:.0%}) on {most}"
        if shares[ACTORS_WAIT] >= MOST or shares[LEARNER] >= BUSY:
            waited = f"the actors waited for it in {shares[ACTORS_WAIT]:.0%} of the time"
            return f"the learner: it was busy in {shares[LEARNER]:.0%} and {waited}"
        if shares[LEARNER_WAITS] >= MOST:
            what = ENV if shares[ENV] >= shares[POLICY] else POLICY
            waited = f"{shares[LEARNER_WAITS]:.0%}"
            return f"the actors, mostly by {what}: the learner waited in {waited} of the time"
        return "neither side alone: actors and learner kept up with each other"

    def in_words(self) -> str:
        """The verdict and the shares in one line."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        before = f"; until learning began {duration(self.before_s)}" if self.before_s else ""
        return f"{self.verdict} (since learning began: {shares}{before})"


def mean_bounds(found: Sequence[Bounds]) -> Bounds | None:
    """The mean over runs of one configuration; None: no run has told."""
    if not found:
        return None
    alike = [one for one in found if one.inline == found[0].inline]
    shares = {
        name: math.fsum(one.shares[name] for one in alike) / len(alike) for name in alike[0].shares
    }
    before_s = math.fsum(one.before_s for one in alike) / len(alike)
    return Bounds(found[0].inline, shares, before_s)


def bounds_of(reports: Sequence[Mapping[str, Any]], inline: bool) -> Bounds | None:
    """Shares of the time of a run; None if its reports do not tell.

    Args:
        reports: of the run, in their order.
        inline: whether the parts took turns in one process.
    """
    reports, before_s = _since_learning(reports)
    # Busy shares of actors are means over actors; in one process, their times add up.
    actors = ("actors",) if inline else ()
    learning, acting = _share(reports, "learner_busy"), _share(reports, "actor_busy", *actors)
    if learning is None or acting is None:
        return None
    env = _share(reports, "env_share", "actor_busy", *actors) or 0.0
    policy = _share(reports, "policy_share", "actor_busy", *actors) or 0.0
    if not inline:
        waiting = _waiting(reports)
        shares = {LEARNER: learning, ACTORS: acting, ENV: env, POLICY: policy}
        return Bounds(
            False,
            {**shares, ACTORS_WAIT: waiting["actors"], LEARNER_WAITS: waiting["learner"]},
            before_s,
        )
    return Bounds(
        True,
        {
            "learner steps": learning,
            ENV: env,
            POLICY: policy,
            "writing to the memory": max(0.0, acting - env - policy),
            "evaluations, checkpoints, reports": max(0.0, 1 - learning - acting),
        },
        before_s,
    )


def _since_learning(
    reports: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[Mapping[str, Any]], float]:
    """Reports on the time since learning began, and the seconds until then.

    The first of them is only the start of the next one's time. Where there are none, all reports
    are returned: a run that is too short to tell more.
    """
    steps = [finite_number(report.get("learner_steps")) or 0.0 for report in reports]
    first = next((number for number, one in enumerate(steps) if one > 0), len(reports))
    if first + 1 >= len(reports):
        return reports, 0.0
    return reports[first:], float(reports[first]["wall_s"])


def _waiting(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the time in which each side waited, as the reports found it."""
    total, waited = 0.0, {"actors": 0.0, "learner": 0.0}
    for report, seconds in _intervals(reports):
        total += seconds
        side = report.get("limiter_waiting")
        if isinstance(side, str) and side in waited:
            waited[side] += seconds
    return {side: seconds / total if total else 0.0 for side, seconds in waited.items()}


def _share(reports: Sequence[Mapping[str, Any]], *names: str) -> float | None:
    """Mean over the time of a run of a product of numbers, between 0 and 1; None: none has them."""
    total = summed = 0.0
    for report, seconds in _intervals(reports):
        first, *others = (finite_number(report.get(name)) for name in names)
        if first is None and 0.0 in others:
            first = 0.0  # a share of nothing
        numbers = [number for number in (first, *others) if number is not None]
        if len(numbers) == len(names):
            total += seconds
            summed += seconds * math.prod(numbers)
    return min(1.0, max(0.0, summed / total)) if total else None


def _intervals(
    reports: Sequence[Mapping[str, Any]],
) -> list[tuple[Mapping[str, Any], float]]:
    """Each report but the first with the seconds since the one before; of one, since the start."""
    if len(reports) == 1:
        return [(reports[0], float(reports[0]["wall_s"]))]
    before, found = float(reports[0]["wall_s"]) if reports else 0.0, []
    for report in reports[1:]:
        found.append((report, max(0.0, report["wall_s"] - before)))
        before = report["wall_s"]
    return found
