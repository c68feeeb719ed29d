"""`raydqn bench NAME`."""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature

from deploy.cli.arguments import positive
from deploy.cli.command import Command, Parser
from deploy.cli.overrides import Overrides

ROUNDS = "measurements of each figure"
MEASURED: Mapping[str, tuple[str, str]] = {
    "actors": ("what limits an actor: its environment, inference or writes", ROUNDS),
    "cartpole": ("preset cartpole, inline and on Ray: time, score, memory", "seeds, 1 to N"),
    "cartpole-pixels": ("preset cartpole-pixels, on Ray: time, score, memory", "seeds, 1 to N"),
    "checkpoint": ("one shard of 1 GiB: seconds to save and to restore it", ROUNDS),
    "learner": ("where a learner step's time goes; on a CPU beside a plain loop", ROUNDS),
    "pong": ("Pong at 84×84: speeds while training, inline and on Ray", ROUNDS),
    "recovery": ("seconds until a lost part is replaced, and the lost work", "losses of each part"),
    "rendering": ("frames per second of CartPole's renderer", ROUNDS),
    "replay": ("replay memory: transitions per second and bytes", ROUNDS),
    "scaling": ("env steps per second against the number of actors", ROUNDS),
    "soak": ("memory of each process while actors outrun the learner", "minutes"),
    "start": ("seconds to the first experience, inline and on Ray", ROUNDS),
    "supervision": ("learner steps per second with and without checkpoints", "pairs of stretches"),
    "train": ("whole training in one process: speed, time, score", "trainings of each library"),
}
"""What each benchmark measures, and what its `--repeat` counts."""


def up_to_three(text: str) -> int:
    """A number of seeds: the benchmark has three."""
    number = positive(text)
    if number > 3:
        raise ArgumentTypeError(f"{text!r}: must be a whole number from 1 to 3")
    return number


def _add(name: str, parser: Parser) -> None:
    from deploy.bench.commands import REPEATS

    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    counts = MEASURED[name][1]
    parser.add_argument(
        "--repeat",
        type=up_to_three if counts.startswith("seeds") else positive,
        default=REPEATS[name],
        metavar="N",
        help=f"{counts} (default: {REPEATS[name]})",
    )
    if name in MORE:
        MORE[name](parser)


def _add_env(parser: Parser) -> None:
    parser.add_argument(
        "--env",
        nargs="+",
        default=(),
        metavar="ID",
        help="presets or ids (default: cartpole, two games of MinAtar, pong)",
    )


def _add_peers(parser: Parser) -> None:
    parser.add_argument("--peers", action="store_true", help="other libraries too (extra `bench`)")


def _add_algorithm(parser: Parser) -> None:
    parser.add_argument(
        "--algorithm",
        metavar="NAME",
        help="one of `raydqn algorithms` (default: the preset's choices)",
    )


def _add_train(parser: Parser) -> None:
    parser.add_argument(
        "--env",
        nargs="+",
        default=(),
        metavar="PRESET",
        help="pong (at 84×84) or presets minatar-GAME (default: minatar-breakout)",
    )
    parser.add_argument(
        "--env-steps",
        type=positive,
        default=100_000,
        metavar="N",
        help="of each training (default: 100,000)",
    )
    _add_peers(parser)


def _add_learner(parser: Parser) -> None:
    parser.add_argument(
        "--network",
        nargs="+",
        default=(),
        metavar="KIND",
        help="mlp, minatar-cnn, small-cnn, nature-cnn or impala-cnn "
        "(default: mlp minatar-cnn nature-cnn)",
    )
    parser.add_argument(
        "--batch-size",
        nargs="+",
        type=positive,
        default=(),
        metavar="N",
        help="items of a batch (default: 32 256)",
    )
    parser.add_argument("--device", default="auto", help="see learner.device (default: auto)")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "tf32", "bf16"),
        help="see learner.precision (default: fp32)",
    )
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="of torch (default: 1)"
    )


MORE: Mapping[str, Callable[[Parser], None]] = {
    "actors": _add_env,
    "cartpole": _add_algorithm,
    "cartpole-pixels": _add_algorithm,
    "learner": _add_learner,
    "pong": _add_algorithm,
    "replay": _add_peers,
    "train": _add_train,
}
"""Adds the options of one benchmark alone; each is an argument of its function."""


def _bench(name: str, options: argparse.Namespace, _: Overrides) -> int:
    from deploy.bench.commands import BENCHMARKS
    from deploy.bench.measurement import show

    benchmark = BENCHMARKS[name]
    named = {key: getattr(options, key) for key in signature(benchmark).parameters}
    for figure in benchmark(**named):
        show(figure, as_json=options.json)
    return 0


COMMANDS = (
    Command(
        "bench",
        "measure speeds on this machine",
        actions=tuple(
            Command(name, text, partial(_bench, name), partial(_add, name))
            for name, (text, _) in MEASURED.items()
        ),
        metavar="NAME",
    ),
)
