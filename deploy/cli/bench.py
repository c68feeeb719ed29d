"""`raydqn bench NAME`."""

from __future__ import annotations

import argparse
from typing import Any

from common.errors import UserError
from deploy.cli.arguments import positive
from deploy.cli.command import Command, Parser
from deploy.cli.overrides import Overrides


def _add_bench(parser: Parser) -> None:
    from deploy.bench.commands import BENCHMARKS, REPEATS

    parser.add_argument(
        "name", choices=sorted(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    defaults = ", ".join(f"{name} {count}" for name, count in REPEATS.items())
    parser.add_argument(
        "--repeat",
        type=positive,
        default=None,
        metavar="N",
        help=f"measurements; soak: minutes; cartpole: seeds, 3 at the most (default: {defaults})",
    )
    parser.add_argument(
        "--env",
        nargs="+",
        default=None,
        metavar="ID",
        help="actors: presets or ids (default: cartpole, two games of MinAtar, pong)",
    )
    parser.add_argument(
        "--peers", action="store_true", help="replay: other libraries too (extra `bench`)"
    )


def _bench(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.bench.commands import BENCHMARKS, REPEATS
    from deploy.bench.measurement import show

    if options.peers and options.name != "replay":
        raise UserError(f"--peers: has no effect on bench {options.name}, only on bench replay")
    if options.env and options.name != "actors":
        raise UserError(f"--env: has no effect on bench {options.name}, only on bench actors")
    named: dict[str, Any] = {"peers": True} if options.peers else {}
    if options.env:
        named["env"] = tuple(options.env)
    repeat = options.repeat or REPEATS[options.name]
    for figure in BENCHMARKS[options.name](repeat, **named):
        show(figure, as_json=options.json)
    return 0


COMMANDS = (Command("bench", "measure speeds on this machine", _bench, _add_bench),)
