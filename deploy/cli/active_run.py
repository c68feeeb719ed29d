"""`raydqn set`, `scale`, `status` and `chaos`: commands for a run in progress."""

from __future__ import annotations

import argparse
import json
import random
import sys
from typing import Any

from common.errors import UserError
from common.polling import call_within
from common.text import printable
from deploy.cli.arguments import actor_count, run_folder, seconds
from deploy.cli.command import RUN, RUN_FOLDER, Command, Parser
from deploy.cli.exit_codes import FAILURE, INTERRUPTED
from deploy.cli.keys import Keys
from deploy.cli.overrides import Overrides

LOOK_S = 10.0
"""Longest wait for the disk of a run."""
CHAOS_KINDS = "actor,shard,learner"


def _add_run(parser: Parser) -> None:
    parser.add_argument("run_folder", metavar=RUN, help=f"{RUN_FOLDER}; with --address its name")
    _add_address(parser)


def _add_address(parser: Parser) -> None:
    parser.add_argument(
        "--address",
        metavar="A",
        help="of the run's Ray cluster: auto, HOST:PORT or ray://HOST:10001 (default: none, the "
        "run's folder is on this machine)",
    )


def _add_scale(parser: Parser) -> None:
    parser.add_argument(
        "--actors",
        type=actor_count,
        required=True,
        metavar="N",
        help="how many; auto: as many as the cluster has capacity for",
    )
    _add_run(parser)


def _add_status(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object per run")
    parser.add_argument(
        "run_folder",
        nargs="?",
        metavar=RUN,
        help=f"{RUN_FOLDER}; with --address its name (default: all runs there)",
    )
    _add_address(parser)


def _add_chaos(parser: Parser) -> None:
    parser.add_argument("run_folder", type=run_folder, metavar=RUN, help=RUN_FOLDER)
    parser.add_argument(
        "--every",
        type=seconds,
        default=20.0,
        metavar="TIME",
        help="time between two kills, such as 500ms or 2m (default: 20s)",
    )
    parser.add_argument(
        "--kinds",
        default=CHAOS_KINDS,
        metavar="LIST",
        help=f"kinds of parts, from {CHAOS_KINDS},weight-store,evaluator (default: {CHAOS_KINDS})",
    )
    parser.add_argument(
        "--draw-seed",
        type=int,
        metavar="N",
        help="the same seed draws the same sequence (default: a random one, which is printed)",
    )


def _scale(options: argparse.Namespace, _: Overrides) -> int:
    return _change(options, {"actors": {"count": options.actors}})


def _change(options: argparse.Namespace, overrides: Overrides) -> int:
    """Ask a run for other values, by its folder or by its name on a cluster."""
    from deploy.control.control_file import TAKEN_WITHIN_S, changed, keys_of, request_change

    if options.address is None:
        from deploy.runs.folder import RunFolder

        folder = RunFolder.open(run_folder(options.run_folder))
        new = changed(folder.config, overrides, "command line")
        reply = request_change(folder, new, keys_of(overrides), TAKEN_WITHIN_S)
    else:
        from deploy.control.remote_run import send_request, service_of, services_at

        with services_at(options.address) as services:
            service = service_of(services, options.run_folder, options.address)
            reply = send_request(service, options.run_folder, overrides, TAKEN_WITHIN_S)
    if reply is None:
        print(
            f"raydqn: no reply within {TAKEN_WITHIN_S:g} s; the request stays, and the run applies "
            "it as soon as it reads it",
            file=sys.stderr,
        )
        return FAILURE
    if reply.applied:
        print(printable(reply))
        return 0
    print(f"raydqn: refused: {printable(reply)}", file=sys.stderr)
    return FAILURE


def _status(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.status import show, show_briefly

    if options.address is None:
        if options.run_folder is None:
            raise UserError("status: name the folder of a run, or the --address of a cluster")
        from deploy.runs.folder import RunFolder
        from deploy.runs.run_status import read_ended, read_status

        def look() -> tuple[bool, dict[str, Any]]:
            folder = RunFolder.open(run_folder(options.run_folder))
            running = folder.is_running()
            return running, read_status(folder) if running else read_ended(folder)

        try:
            running, status = call_within(LOOK_S, look)
        except TimeoutError:
            raise UserError(
                f"{options.run_folder}: its disk has not responded for {LOOK_S:g} s"
            ) from None
        found = [status]
    else:
        from deploy.control.remote_run import statuses_at

        running = True
        found, others = statuses_at(options.address, options.run_folder)
        for line in others:
            print(f"raydqn: {printable(line)}", file=sys.stderr)
        if not found and not others:
            print(f"raydqn: no run is active at {printable(options.address)}", file=sys.stderr)
    if len(found) > 1 and not options.json:
        show_briefly(found)
        return 0
    for status in found:
        print(json.dumps(status)) if options.json else show(status, running)
    return 0


def _chaos(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.control.chaos import chaos
    from deploy.runs.folder import RunFolder

    folder = RunFolder.open(options.run_folder)
    seed = options.draw_seed if options.draw_seed is not None else random.randrange(1 << 16)
    try:
        for line in chaos(folder, options.every, options.kinds.split(","), seed):
            print(line, flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    print("the run has ended")
    return 0


COMMANDS = (
    Command("set", "change some keys of an active run", _change, _add_run, Keys.LIVE),
    Command("scale", "change the number of actors of an active run", _scale, _add_scale),
    Command(
        "status",
        "node, rate, age and restarts of each part of a run",
        _status,
        _add_status,
        more="Show the main numbers of a run, each of its parts, and its last events; of several "
        "runs on a cluster, one line each. The exit "
        "code is 2 until the first report, some seconds after the start.",
    ),
    Command("chaos", "kill parts of an active run at random", _chaos, _add_chaos),
)
