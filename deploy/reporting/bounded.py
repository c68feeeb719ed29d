"""What bounded the speed of a run, from the shares of time in its reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 0.5
"""A side that waits for this share of the time is bounded by the other one."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounded a run.

    Attributes:
        verdict: one sentence without a full stop.
        shares: of the run's time, from 0 to 1, by what it was spent on.
    """

    verdict: str
    shares: dict[str, float]

    def in_words(self) -> str:
        """The verdict and the shares in one line."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"{self.verdict} ({shares})"


def bounds_of(reports: Sequence[Mapping[str, Any]], inline: bool) -> Bounds | None:
    """What bounded a run; None if its reports do not tell.

    Args:
        reports: of the run, in their order.
        inline: whether the parts took turns in one process.
    """
    learning = _share(reports, "learner_busy")
    acting = _share(reports, "actor_busy", factor="actors" if inline else None)
    if learning is None or acting is None:
        return None
    env = _share(reports, "env_share", of="actor_busy", factor="actors" if inline else None) or 0.0
    policy = (
        _share(reports, "policy_share", of="actor_busy", factor="actors" if inline else None) or 0.0
    )
    if inline:
        rest = max(0.0, 1 - learning - acting)
        return _of_one_process(
            {
                "learner steps": learning,
                "environment steps": env,
                "choices of actions": policy,
                "writing to the memory": max(0.0, acting - env - policy),
                "start, evaluations, checkpoints, reports": rest,
            }
        )
    return _of_two_sides(learning, acting, env, policy, _waiting(reports))


def _of_one_process(shares: dict[str, float]) -> Bounds:
    most = max(shares, key=lambda name: shares[name])
    return Bounds(f"one process, which spent most of its time ({shares[most]:.0%}) on {most}",
                  shares)  # fmt: skip


def _of_two_sides(
    learning: float, acting: float, env: float, policy: float, waiting: dict[str, float]
) -> Bounds:
    shares = {
        "learner busy": learning,
        "actors busy, on average": acting,
        "of it environment steps": env,
        "of it choices of actions": policy,
        "actors waited for the learner": waiting["actors"],
        "learner waited for the actors": waiting["learner"],
    }
    if waiting["actors"] >= MOST:
        verdict = f"the learner: the actors waited for it in {waiting['actors']:.0%} of the time"
    elif waiting["learner"] >= MOST:
        what = "environment steps" if env >= policy else "choices of actions"
        verdict = (
            f"the actors, mostly by {what}: the learner waited for them in "
            f"{waiting['learner']:.0%} of the time"
        )
    else:
        verdict = "neither side alone: actors and learner kept up with each other"
    return Bounds(verdict, shares)


def _waiting(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the time in which each side waited, as the reports found it."""
    total, waited = 0.0, {"actors": 0.0, "learner": 0.0}
    for report, seconds in _intervals(reports):
        total += seconds
        side = report.get("limiter_waiting")
        if side in waited:
            waited[side] += seconds
    return {side: seconds / total if total else 0.0 for side, seconds in waited.items()}


def _share(
    reports: Sequence[Mapping[str, Any]],
    key: str,
    of: str | None = None,
    factor: str | None = None,
) -> float | None:
    """Mean of a share over the time of a run, between 0 and 1; None: no report has it.

    Args:
        reports: of the run.
        key: of the share.
        of: another share that it is a share of.
        factor: a number that it is multiplied by.
    """
    total = summed = 0.0
    for report, seconds in _intervals(reports):
        values = [report.get(name) for name in (key, of, factor) if name is not None]
        numbers = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
        if len(numbers) == len(values):
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
