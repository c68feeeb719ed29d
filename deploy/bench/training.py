"""`raydqn bench train`: whole training, beside other libraries' DQN."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.errors import UserError
from deploy.bench.measurement import Measurement
from deploy.bench.peer_training import installed

OURS = "raydqn"
SPEED, WALL, SCORE = (
    "env steps while training",
    "wall time of training",
    "score, 100 greedy episodes",
)
Train = Callable[[str, int, int], Mapping[str, float]]
"""From environment, env steps and seed to `wall_s` and `score`."""


def bench_train(
    seeds: int,
    names: Sequence[str],
    env_steps: int,
    peers: bool,
    raydqn: Callable[..., tuple[dict[str, Any], float, int]],
    options: Mapping[str, Sequence[str]],
) -> Iterator[Measurement]:
    """Speed, time and score of trainings of equal length, the libraries taken in turn.

    Args:
        seeds: trainings of each library, with seeds 1 to that number.
        names: presets `minatar-GAME` or `pong`.
        env_steps: of each training.
        peers: also train the other libraries.
        raydqn: runs a command and returns the object that it prints.
        options: of a preset, on top of it.

    Raises:
        UserError: a name is neither `pong` nor `minatar-GAME`.
    """
    for name in names:
        if name != "pong" and not name.startswith("minatar-"):
            raise UserError(f"--env={name}: must be pong or one of the presets minatar-…")
    subjects: dict[str, Train] = {OURS: lambda *a: _train_ours(raydqn, options, *a)}
    for library, is_here in installed().items() if peers else ():
        if is_here:
            subjects[library] = _trainer_of(library)
        else:
            print(f"{library}: left out, pip install -e '.[bench]' installs it", file=sys.stderr)
    for name in names:
        yield from _in_turn(name, subjects, env_steps, seeds)


def _in_turn(
    name: str, subjects: Mapping[str, Train], env_steps: int, seeds: int
) -> Iterator[Measurement]:
    speeds: dict[str, list[float]] = {subject: [] for subject in subjects}
    for seed in range(1, seeds + 1):
        for subject, train in subjects.items():
            result = train(name, env_steps, seed)
            speeds[subject].append(env_steps / result["wall_s"])
            which = f"{name}, {subject}, seed {seed}"
            yield Measurement.of(WALL, which, [result["wall_s"]], "s")
            yield Measurement.of(SCORE, which, [result["score"]], "return")
    for subject, values in speeds.items():
        yield Measurement.of(SPEED, f"{name}, {subject}", values, "env steps/s")
    for subject, values in speeds.items():
        if subject != OURS:
            ratios = [ours / other for ours, other in zip(speeds[OURS], values, strict=True)]
            yield Measurement.of(SPEED, f"{name}, {OURS} ÷ {subject}", ratios, "ratio")


def _train_ours(
    raydqn: Callable[..., tuple[dict[str, Any], float, int]],
    options: Mapping[str, Sequence[str]],
    name: str,
    env_steps: int,
    seed: int,
) -> Mapping[str, float]:
    """One process and one thread, without evaluations on the way, as the peers train."""
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        summary, _, _ = raydqn(
            *("train", name, "--inline", "--run-dir", run, "--seed", str(seed)),
            *("--stop.score", "none", "--stop.env-steps", str(env_steps)),
            *("--evaluation.every-learner-steps", "none", *options.get(name, ())),
        )
        evaluated, _, _ = raydqn("evaluate", run, "--episodes", "100", "--weights", "latest")
    return {"wall_s": summary["wall_s"], "score": evaluated["score"]}


def _trainer_of(library: str) -> Train:
    def train(name: str, env_steps: int, seed: int) -> Mapping[str, float]:
        command = [sys.executable, "-m", "deploy.bench.peer_training"]
        done = subprocess.run(
            [*command, library, name, str(env_steps), str(seed)], capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise UserError(f"{library} on {name}: {lines[-1]}")
        result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    return train
