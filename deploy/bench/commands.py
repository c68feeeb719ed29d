"""`raydqn bench NAME`: repeated measurements of whole commands, with their medians.

Each benchmark runs a user's commands in processes of their own, one after the other. A comparison
runs both variants in turn, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from common.errors import UserError
from deploy.bench.measurement import Measurement

SEEDS = (1, 2, 3)
POLL_S = 0.5


class _Memory(threading.Thread):
    """Measures the peak memory of a process and all its descendants.

    PSS counts a page shared by k processes as 1/k in each: sums over processes are honest.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._over.wait(POLL_S):
            self.peak_bytes = max(self.peak_bytes, self._total())

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _total(self) -> int:
        total = 0
        with contextlib.suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
        return total


def _raydqn(*arguments: str) -> tuple[dict[str, Any], float, int]:
    """Run a command that ends with a JSON object: the object, seconds, and peak memory in bytes."""
    start = time.perf_counter()
    process = _start(*arguments, "--json")
    memory = _Memory(process.pid)
    memory.start()
    out, error = process.communicate()
    wall_s = time.perf_counter() - start
    memory.stop()
    if process.returncode != 0:
        reason = (error.strip() or out.strip()).splitlines()[-1]
        raise UserError(f"raydqn {' '.join(arguments)}: {reason}")
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result, wall_s, memory.peak_bytes


def _start(*arguments: str, output: int = subprocess.PIPE) -> subprocess.Popen[str]:
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "deploy", *arguments],
        stdout=output,
        stderr=output,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )


def bench_start(repeat: int) -> Iterator[Measurement]:
    """Seconds from the start of the command to the first experience, inline and on Ray."""
    seconds: dict[str, list[float]] = {"inline": [], "ray, 2 actors": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeat):
            for mode in seconds:
                run = f"{folder}/{mode[:3]}-{number}"
                options = ["train", "cartpole", "--run-dir", run, "--stop.env-steps", "1"]
                summary, _, _ = _raydqn(*options, *(["--inline"] if mode == "inline" else []))
                seconds[mode].append(summary["acting_after_s"])
    for mode, values in seconds.items():
        yield Measurement.of("start to first experience", mode, values, "s")


def _learn(
    preset: str, algorithm: str | None, seeds: tuple[int, ...], modes: tuple[str, ...]
) -> Iterator[Measurement]:
    named = _with_algorithm(preset, algorithm)
    peaks: dict[str, list[float]] = {mode: [] for mode in modes}
    walls: dict[str, list[float]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for mode in modes:
                run = f"{folder}/{mode[:3]}-{seed}"
                inline = ["--inline"] if mode == "inline" else []
                summary, wall_s, peak = _raydqn(
                    *("train", preset, "--run-dir", run, "--seed", str(seed)),
                    *_algorithm_option(algorithm),
                    *inline,
                )
                again, _, _ = _raydqn("evaluate", run, "--episodes", "100")
                subject = f"{named}, {mode}, seed {seed}"
                walls[mode].append(wall_s)
                peaks[mode].append(peak / 2**20)
                yield Measurement.of("wall time of the command", subject, [wall_s], "s")
                yield Measurement.of("env steps", subject, [summary["env_steps"]], "env steps")
                yield Measurement.of(
                    "score, 100 other episodes", subject, [again["score"]], "return"
                )
    for mode in modes:
        subject = f"{named}, {mode}"
        yield Measurement.of("wall time of the command", subject, walls[mode], "s")
        yield Measurement.of("peak memory, all processes", subject, peaks[mode], "MiB (PSS)")


def _with_algorithm(preset: str, algorithm: str | None) -> str:
    """The name of a subject; an error if the preset cannot be trained with the algorithm."""
    from deploy.launch.presets import make_config

    if algorithm is None:
        return preset
    make_config(preset, algorithm=algorithm)
    return f"{preset} with {algorithm}"


def _algorithm_option(algorithm: str | None) -> list[str]:
    return [] if algorithm is None else ["--algorithm", algorithm]


def bench_cartpole(repeat: int, algorithm: str | None = None) -> Iterator[Measurement]:
    """Preset `cartpole` on seeds 1, 2, 3, inline and on Ray: time, score, memory."""
    return _learn("cartpole", algorithm, SEEDS[:repeat], ("inline", "ray, 2 actors"))


def bench_cartpole_pixels(repeat: int, algorithm: str | None = None) -> Iterator[Measurement]:
    """Preset `cartpole-pixels` on Ray: time, score, memory. Minutes for each seed."""
    return _learn("cartpole-pixels", algorithm, SEEDS[:repeat], ("ray",))


NATURE_PONG = (
    *("--env.height", "84", "--env.width", "84", "--network.kind", "nature-cnn"),
    *("--network.hidden", "512", "--network.layer-norm", "false", "--learner.batch-size", "32"),
)
"""Pong as Mnih et al. 2015 saw it, on top of the preset's small pictures."""


def bench_pong(repeat: int, algorithm: str | None = None) -> Iterator[Measurement]:
    """Pong from pictures of 84×84: speeds while training, inline and on Ray, taken in turn."""
    named = _with_algorithm("pong", algorithm)
    modes: dict[str, list[str]] = {"inline, 1 thread": ["--inline"], "ray, 1 actor": []}
    env: dict[str, list[float]] = {mode: [] for mode in modes}
    learner: dict[str, list[float]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeat):
            for mode, options in modes.items():
                summary, _, _ = _raydqn(
                    *("train", "pong", "--run-dir", f"{folder}/{mode[:3]}-{number}"),
                    *("--stop.wall-s", "60", "--learner.warmup-transitions", "2000"),
                    *("--replay.capacity", "20000", *NATURE_PONG),
                    *(*_algorithm_option(algorithm), *options),
                )
                env[mode].append(summary["env_steps_per_s"])
                learner[mode].append(summary["learner_steps_per_s"])
    for mode in modes:
        subject = f"{named}, {mode}"
        yield Measurement.of("env steps while training", subject, env[mode], "env steps/s")
        yield Measurement.of("learner steps", subject, learner[mode], "learner steps/s")


def bench_rendering(repeat: int) -> Iterator[Measurement]:
    """Frames per second of CartPole's renderer by screen size, and with Pillow behind it."""
    import gymnasium as gym

    from actors.preprocessing import preprocess_picture
    from deploy.launch.presets import make_config

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    wanted = make_config("cartpole-pixels").env
    own = (wanted.render_width or 600, wanted.render_height or 400)
    sizes = {(600, 400): False, (300, 200): False, own: True}
    rates: dict[str, list[float]] = {}
    for _ in range(repeat):
        for (width, height), preprocess in sizes.items():
            env = gym.make("CartPole-v1", render_mode="rgb_array")
            env.unwrapped.screen_width = width  # type: ignore[attr-defined]
            env.unwrapped.screen_height = height  # type: ignore[attr-defined]
            env.reset(seed=0)
            env.render()
            frames, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < 1.0:
                picture: Any = env.render()
                if preprocess:
                    w = wanted
                    preprocess_picture(picture, w.height, w.width, w.grey, w.crop, w.invert)
                frames += 1
            env.close()
            subject = f"{width}×{height}" + (", preprocessed" if preprocess else "")
            rates.setdefault(subject, []).append(frames / elapsed)
    for subject, values in rates.items():
        yield Measurement.of("CartPole rendering", subject, values, "frames/s")


def bench_replay(repeat: int, peers: bool = False) -> Iterator[Measurement]:
    """Replay memory: transitions per second and bytes, in one process and over Ray."""
    from deploy.bench import replay

    return replay.bench_replay(repeat, peers)


def bench_learner(
    repeat: int,
    network: Sequence[str] = (),
    batch_size: Sequence[int] = (),
    device: str = "auto",
    precision: str = "fp32",
    threads: int = 1,
) -> Iterator[Measurement]:
    """Milliseconds of a learner step and of its phases, beside a plain eager loop."""
    from deploy.bench.learner import LearnerBench, bench_learner

    named: dict[str, Any] = {}
    if network:
        named["networks"] = network
    if batch_size:
        named["batch_sizes"] = batch_size
    bench = LearnerBench(
        device=device, precision=precision, threads=threads, rounds=repeat, **named
    )
    return bench_learner(bench)


def bench_checkpoint(repeat: int) -> Iterator[Measurement]:
    """One shard of 1 GiB: seconds to save in the background, to save new items, to restore."""
    from deploy.bench import checkpoint

    return checkpoint.bench_checkpoint(repeat)


def bench_supervision(repeat: int) -> Iterator[Measurement]:
    """Learner steps per second with checkpoints and without, in turn in one run."""
    from deploy.bench import supervision

    return supervision.bench_supervision(repeat, _start)


def bench_recovery(repeat: int) -> Iterator[Measurement]:
    """Seconds until the replacement of a dead or unresponsive part is ready; the lost work."""
    from deploy.bench import recovery

    return recovery.bench_recovery(repeat, _start)


def bench_soak(repeat: int) -> Iterator[Measurement]:
    """Memory of every process while actors outrun the learner; `repeat`: minutes."""
    from deploy.bench import soak

    return soak.bench_soak(repeat, _start)


def bench_scaling(repeat: int) -> Iterator[Measurement]:
    """Env steps per second against the number of actors, with an environment that only sleeps."""
    from deploy.bench import scaling

    return scaling.bench_scaling(repeat, _start)


def bench_actors(repeat: int, env: Sequence[str] = ()) -> Iterator[Measurement]:
    """Env steps per second: environment alone, with inference, with writes; 1 and 2 actors."""
    from deploy.bench import actors

    return actors.bench_actors(repeat, env)


def bench_train(
    repeat: int,
    env: Sequence[str] = (),
    peers: bool = False,
    env_steps: int = 100_000,
) -> Iterator[Measurement]:
    """Whole training inline: speed, time and score; beside other libraries with `--peers`."""
    from deploy.bench import training

    names = env or ("minatar-breakout",)
    options = {"pong": NATURE_PONG}
    return training.bench_train(repeat, names, env_steps, peers, _raydqn, options)


REPEATS = {
    "actors": 5,
    "learner": 5,
    "train": 2,
    "replay": 7,
    "start": 5,
    "cartpole": 3,
    "cartpole-pixels": 1,
    "pong": 3,
    "checkpoint": 3,
    "supervision": 30,
    "recovery": 3,
    "soak": 30,
    "scaling": 1,
    "rendering": 5,
}
"""How often each benchmark measures by default."""
BENCHMARKS: dict[str, Callable[..., Iterator[Measurement]]] = {
    "replay": bench_replay,
    "start": bench_start,
    "cartpole": bench_cartpole,
    "cartpole-pixels": bench_cartpole_pixels,
    "pong": bench_pong,
    "checkpoint": bench_checkpoint,
    "supervision": bench_supervision,
    "recovery": bench_recovery,
    "soak": bench_soak,
    "scaling": bench_scaling,
    "rendering": bench_rendering,
    "actors": bench_actors,
    "learner": bench_learner,
    "train": bench_train,
}
