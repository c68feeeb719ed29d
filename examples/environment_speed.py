"""Env steps per second of CPU time with random actions: all copies at once against copy by copy.

    python examples/environment_speed.py MinAtar/Breakout-v1 --copies 8 32 --other gymnasium

prints a row of a Markdown table for each environment: medians over rounds in which all take turns.
raydqn's checks of observations and rewards are included.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from actors.environments import Environment, make_environment
from common.config_sections import EnvConfig


def speed(environment: Environment, rng: np.random.Generator, seconds: float) -> float:
    """Env steps per second of this process's CPU time."""
    actions = environment.spec.num_actions
    began, steps = time.process_time(), 0
    while time.process_time() - began < seconds:
        environment.step(rng.integers(actions, size=environment.num_envs))
        steps += environment.num_envs
    return steps / (time.process_time() - began)


def row(env_id: str, copies: list[int], other: str, rounds: int, seconds: float) -> str:
    """The row of an environment."""
    rng = np.random.default_rng(1)
    made = {
        (count, backend): make_environment(EnvConfig(id=env_id, backend=backend), count)  # type: ignore[arg-type]
        for count in copies
        for backend in ("auto", other)
    }
    found: dict[tuple[int, str], list[float]] = {key: [] for key in made}
    for environment in made.values():
        environment.reset(1)
    for _ in range(rounds):
        for key, environment in made.items():
            found[key].append(speed(environment, rng, seconds))
    cells = []
    for count in copies:
        ours, theirs = (statistics.median(found[count, one]) for one in ("auto", other))
        cells.append(f"{ours:,.0f} / {theirs:,.0f} ({ours / theirs:.2f}×)")
    return f"| {env_id} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="+", metavar="ID")
    parser.add_argument("--copies", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--other", default="gymnasium", choices=["gymnasium", "envpool"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args()
    head = " | ".join(f"{count} copies: auto / {options.other}" for count in options.copies)
    print(f"| environment | {head} |\n|---|{'---|' * len(options.copies)}")
    for env_id in options.ids:
        print(row(env_id, options.copies, options.other, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
