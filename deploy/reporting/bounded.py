"""What bounded the speed of runs, from the shares of time in their reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.runs.json_values import finite_number

MOST = 0.5
"""A side that waits for this share of the time is bounded by the other one."""
LEARNER, ACTORS = "learner busy", "actors busy, on average"
ENV, POLICY = "environment steps", "choices of actions"
ACTORS_WAIT, LEARNER_WAITS = "actors waited for the learner", "learner waited for the actors"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the time of a run was spent on.

    Attributes:
        inline: whether the parts took turns in one process: then the shares add up to 1.
        shares: of the run's time, from 0 to 1, by name.
    """

    inline: bool
    shares: dict[str, float]

    @property
    def verdict(self) -> str:
        """What bounded the run, in words."""
        shares = self.shares
        if self.inline:
            most = max(shares, key=lambda name: shares[name])
            return f"one process, which spent most of its time ({shares[most]:.0%}) on {most}"
        if shares[ACTORS_WAIT] >= MOST:
            return f"the learner: the actors waited for it in {shares[ACTORS_WAIT]:.0%} of the time"
        if shares[LEARNER_WAITS] >= MOST:
            what = ENV if shares[ENV] >= shares[POLICY] else POLICY
            waited = f"{shares[LEARNER_WAITS]:.0%}"
            return f"the actors, mostly by {what}: the learner waited in {waited} of the time"
        return "neither side alone: actors and learner kept up with each other"

    def in_words(self) -> str:
        """The verdict and the shares in one line."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"{self.verdict} ({shares})"


def mean_bounds(found: Sequence[Bounds]) -> Bounds | None:
    """The mean over runs of one configuration; None: no run has told."""
    if not found:
        return None
    alike = [one for one in found if one.inline == found[0].inline]
    shares = {
        name: math.fsum(one.shares[name] for one in alike) / len(alike) for name in alike[0].shares
    }
    return Bounds(found[0].inline, shares)


def bounds_of(reports: Sequence[Mapping[str, Any]], inline: bool) -> Bounds | None:
    """What the time of a run was spent on; None if its reports do not tell.

    Args:
        reports: of the run, in their order.
        inline: whether the parts took turns in one process.
    """
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
        )
    return Bounds(
        True,
        {
            "learner steps": learning,
            ENV: env,
            POLICY: policy,
            "writing to the memory": max(0.0, acting - env - policy),
            "start, evaluations, checkpoints, reports": max(0.0, 1 - learning - acting),
        },
    )


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
        found = [finite_number(report.get(name)) for name in names]
        numbers = [number for number in found if number is not None]
        if len(numbers) == len(names):
            total += seconds
            summed += seconds * math.prod(numbers)
    return min(1.0, max(0.0, summed / total)) if total else None


def _intervals(
    reports: Sequence[Mapping[str, Any]],
) -> list[tuple[Mapping[str, Any], float]]:
    """Each report with the seconds since the one before, the first since the command began."""
    before, found = 0.0, []
    for report in reports:
        found.append((report, max(0.0, report["wall_s"] - before)))
        before = report["wall_s"]
    return found
