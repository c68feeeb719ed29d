"""Run folders as runs leave them, made up without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.launch.presets import make_config
from deploy.runs.attempts import ATTEMPT_RECORDS
from deploy.runs.folder import METRICS, SUMMARY, RunFolder

PROTOCOL = {"env": "CartPole-v1", "observation": "state", "stack": 1, "max_episode_steps": 500}
PONG = {
    "env": "ALE/Pong-v5",
    "sticky_actions": 0.25,
    "frame_skip": 4,
    "stack": 4,
    "noop_max": 30,
    "max_episode_frames": 108_000,
    "life_loss_ends": False,
    "reward_clip": 1.0,
    "actions": 6,
}
MACHINE = {"cpu": "A processor", "cores": 2, "memory_bytes": 24 << 30, "system": "Linux 6.1"}
VERSIONS = {"raydqn": "0.1.0", "Python": "3.11.7", "torch": "2.13.0"}


def report_line(number: int, score: float | None, every: int = 100, **values: Any) -> str:
    """A line of metrics.jsonl; `number` counts from 1."""
    return json.dumps(
        {
            "wall_s": 2.0 * number,
            "env_steps": every * number,
            "learner_steps": 10 * number,
            "env_steps_per_s": 50.0,
            "learner_steps_per_s": 5.0,
            "samples_per_insert": 8.0,
            "score": score,
            "best_score": score,
            "loss": 0.1,
            "epsilon": 0.1,
            "episodes": [],
            "learner_busy": 0.5,
            "actor_busy": 0.25,
            "env_share": 0.6,
            "policy_share": 0.2,
            "actors": 1,
            "limiter_waiting": None,
            "device": "cpu, torch 2.13.0",
            **values,
        }
    )


def made_up_run(
    path: Path,
    seed: int = 1,
    scores: Sequence[float | None] = (None, 20.0, 20.0, 110.0, 480.0),
    overrides: Mapping[str, Any] | None = None,
    preset: str = "cartpole",
    protocol: Mapping[str, Any] = PROTOCOL,
    every: int = 100,
    mode: str = "one process, without Ray",
    **summary: Any,
) -> Path:
    """A run with one report per score; `stop_reason=None` leaves out its summary."""
    folder = RunFolder.create(path, make_config(preset, overrides={**(overrides or {}),
                                                                   "seed": seed}))  # fmt: skip
    lines = [report_line(number, score, every) for number, score in enumerate(scores, 1)]
    (path / METRICS).write_text("".join(f"{line}\n" for line in lines))
    last = json.loads(lines[-1]) if lines else {}
    values = {
        **{key: last.get(key) for key in ("wall_s", "env_steps", "learner_steps", "score")},
        "best_score": max((score for score in scores if score is not None), default=None),
        "device": "cpu, torch 2.13.0",
        "protocol": dict(protocol),
        "stop_reason": "env_steps",
        **summary,
    }
    if values["stop_reason"] is not None:
        folder.write_summary(values)
    attempt = {
        "attempt": 1,
        "mode": mode,
        "versions": VERSIONS,
        "machine": MACHINE,
        "command": f"/opt/raydqn/.venv/bin/raydqn train {preset} --inline --seed {seed}",
    }
    (path / ATTEMPT_RECORDS).write_text(json.dumps(attempt) + "\n")
    return path


def forget(path: Path, *names: str) -> None:
    """Remove files of a run."""
    for name in names or (SUMMARY,):
        (path / name).unlink()
