"""`raydqn train` and `raydqn resume`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import EnvironmentFailedError, RunFailedError, RunFinishedError, UserError
from common.polling import call_within
from common.text import printable, shell_command
from deploy.cli.arguments import path
from deploy.cli.command import RUN, RUN_FOLDER, Command, Parser
from deploy.cli.exit_codes import FAILURE, INTERRUPTED, TRY_AGAIN
from deploy.cli.keys import Keys
from deploy.cli.output import outlast_output
from deploy.cli.overrides import Overrides

if TYPE_CHECKING:  # its import takes a while
    from common.config import Config


LOOK_S = 5.0
"""Longest wait for the disk of a run after a second Ctrl-C."""


def command_started_s() -> float:
    """When the command began, on the clock of `time.monotonic`: `stop.wall_s` counts from here."""
    import psutil

    return time.monotonic() - (time.time() - psutil.Process().create_time())


def add_configuration(parser: Parser) -> None:
    """The arguments that name a configuration: a preset, an algorithm and a file."""
    parser.add_argument("preset", nargs="?", help="one of `raydqn presets` (default: cartpole)")
    add_layers(parser)


def add_layers(parser: Parser) -> None:
    """The options that go on top of a preset: an algorithm and a file."""
    parser.add_argument(
        "--algorithm",
        metavar="NAME",
        help="one of `raydqn algorithms`, on top of the preset (default: the preset's choices)",
    )
    parser.add_argument("--config", type=path, metavar="FILE", help="TOML on top of the preset")


def _add_train(parser: Parser) -> None:
    add_configuration(parser)
    parser.add_argument(
        "--run-dir",
        type=path,
        metavar="DIR",
        help="empty or new folder for this run (default: a new one below runs/)",
    )
    parser.add_argument(
        "--resume-if-exists",
        action="store_true",
        help="with --run-dir: continue the run there, or of that name in checkpoint.storage, if "
        "there is one; a machine may restart the same command as often as it likes",
    )
    where = _add_where(parser)
    where.add_argument("--inline", action="store_true", help="one process, no Ray, deterministic")


def _add_resume(parser: Parser) -> None:
    parser.add_argument(
        "run_folder", metavar=RUN, help=f"{RUN_FOLDER}, or the URL of its checkpoints"
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="an older checkpoint (default: the newest)"
    )
    where = _add_where(parser)
    where.add_argument(
        "--inline",
        action="store_true",
        help="one process, no Ray, deterministic (default: as the run ran before)",
    )
    where.add_argument(
        "--ray", action="store_true", help="Ray on this machine (default: as the run ran before)"
    )


def _add_where(parser: Parser) -> argparse._MutuallyExclusiveGroup:
    """Options about the place of the run, of which a command line can name one."""
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--address", metavar="A", help="a Ray cluster: auto, HOST:PORT or ray://HOST:10001"
    )
    return where


def _interruptible(
    work: Callable[[argparse.Namespace, Overrides], int],
) -> Callable[[argparse.Namespace, Overrides], int]:
    """A command that a signal ends with a line and an exit code, also before its run begins."""

    def command(options: argparse.Namespace, overrides: Overrides) -> int:
        from deploy.launch.signals import StartInterrupted, interrupting

        outlast_output()
        try:
            with interrupting():
                return work(options, overrides)
        except StartInterrupted:
            print("raydqn: stopped at once", file=sys.stderr)
            return TRY_AGAIN if getattr(options, "resume_if_exists", False) else INTERRUPTED

    return command


def _train(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.launch.presets import DEFAULT_PRESET, make_config, preset_values
    from deploy.launch.run_path import run_name, run_path
    from deploy.launch.train import train
    from deploy.reporting.view import make_view

    started_s = command_started_s()
    preset = options.preset or DEFAULT_PRESET
    config = make_config(preset, options.config, overrides, algorithm=options.algorithm)
    if options.resume_if_exists and _exists(options, config):
        return _continue(options, overrides, started_s)
    named = config.env.id != preset_values(preset)["env"]["id"]
    name = run_name(config.env.id) if named else preset
    with run_path(options.run_dir, name) as folder:
        return _finish(
            options,
            lambda: train(
                config,
                folder,
                inline=options.inline,
                address=options.address,
                view=make_view(config.stop),
                started_s=started_s,
                restart=options.resume_if_exists,
            ),
            folder,
        )


def _exists(options: argparse.Namespace, config: Config) -> bool:
    """Whether `--resume-if-exists` finds a run."""
    from deploy.launch.restart import run_to_resume

    if options.run_dir is None:
        raise UserError(
            "--resume-if-exists: needs --run-dir: only a name that is the same each time tells "
            "which run to continue"
        )
    return run_to_resume(config, options.run_dir)


def _continue(options: argparse.Namespace, overrides: Overrides, started_s: float) -> int:
    """Resume the run of a `train` command; a run that has reached its goal is a success."""
    from common.config_toml import merge
    from deploy.launch.restart import summary_of_finished
    from deploy.launch.resume import resume
    from deploy.launch.train import absolute_storage
    from deploy.reporting.view import make_view
    from deploy.runs.folder import RunFolder

    storage = overrides.get("checkpoint", {}).get("storage")
    if isinstance(storage, str):
        overrides = merge(overrides, {"checkpoint": {"storage": absolute_storage(storage)}})
    config = RunFolder.open(options.run_dir, overrides).config
    try:
        return _finish(
            options,
            lambda: resume(
                options.run_dir,
                overrides,
                inline=options.inline if options.address is None else None,
                address=options.address,
                view=make_view(config.stop),
                started_s=started_s,
            ),
            options.run_dir,
        )
    except RunFinishedError as error:
        print(f"raydqn: nothing to do: {printable(error)}")
        if options.json:
            print(json.dumps(summary_of_finished(options.run_dir, error)), flush=True)
        return 0


def _resume(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.launch.resume import fetch_run, is_storage_of_run, resume
    from deploy.reporting.view import make_view
    from deploy.runs.folder import RunFolder

    started_s = command_started_s()
    given = options.run_folder
    fetched = "://" in given or is_storage_of_run(path(given))
    folder = fetch_run(given) if fetched else path(given)
    if fetched:
        print(f"run folder, from its checkpoints: {printable(folder)}", flush=True)
    inline = True if options.inline else False if options.ray else None
    config = RunFolder.open(folder, overrides).config
    return _finish(
        options,
        lambda: resume(
            folder,
            overrides,
            checkpoint_name=options.checkpoint,
            inline=inline,
            inline_unless_recorded=False,
            address=options.address,
            view=make_view(config.stop),
            started_s=started_s,
        ),
        folder,
    )


def _finish(options: argparse.Namespace, work: Callable[[], dict[str, Any]], folder: Path) -> int:
    """Run, then print how the run ended and which command comes next."""
    from deploy.launch.signals import StartInterrupted
    from deploy.reporting.protocol import in_words
    from deploy.reporting.summary import summary_line

    again = getattr(options, "resume_if_exists", False)
    try:
        summary = work()
    except RunFailedError as error:
        if isinstance(error.__cause__, EnvironmentFailedError):
            print(error.__cause__.trace, end="", file=sys.stderr)
        print(f"raydqn: failed: {printable(error)}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt as error:
        try:
            began, saved = call_within(LOOK_S, lambda: _checkpoints_of(folder))
        except TimeoutError:
            print(
                f"raydqn: stopped at once; the disk of {printable(folder)} does not respond; to "
                f"continue when it does: {_resume_command(options, folder)}",
                file=sys.stderr,
            )
            return INTERRUPTED
        began = began and not isinstance(error, StartInterrupted)
        how = "stopped at once" if began else "stopped before the run began"
        hint = f"the newest checkpoint is {saved[-1]}" if saved else "nothing to resume"
        print(f"raydqn: {how}; {hint}", file=sys.stderr)
        if saved:
            print(f"to continue: {_resume_command(options, folder)}", file=sys.stderr)
        return TRY_AGAIN if again and isinstance(error, StartInterrupted) else INTERRUPTED
    reason = summary["stop_reason"]
    print(summary_line(summary))
    print(f"protocol: {printable(in_words(summary['protocol']))}")
    stopped = reason in ("interrupted", "terminated")
    for command in ("evaluate", "plot", "report"):
        if command == "report" or not stopped:
            print(f"{f'to {command}:':<12} {shell_command(['raydqn', command, str(folder)])}")
    if stopped:
        print(f"to continue: {_resume_command(options, folder)}")
    if options.json:
        print(json.dumps(summary), flush=True)
    return TRY_AGAIN if again and reason in ("interrupted", "terminated") else 0


def _checkpoints_of(folder: Path) -> tuple[bool, list[str]]:
    """Whether a run has begun in a folder, and its checkpoints."""
    from deploy.runs.folder import RunFolder, is_run

    began = is_run(folder)
    return began, RunFolder.open(folder).checkpoints.names() if began else []


def _resume_command(options: argparse.Namespace, folder: Path) -> str:
    """The command that resumes the run as it ran."""
    where = ["--address", options.address] if options.address else []
    return shell_command(["raydqn", "resume", str(folder), *where])


COMMANDS = (
    Command("train", "train from the beginning", _interruptible(_train), _add_train, Keys.ALL),
    Command(
        "resume",
        "continue from a run's newest checkpoint",
        _interruptible(_resume),
        _add_resume,
        Keys.RUN,
        more="Continue a run from its newest checkpoint, in the way it ran before: in one process, "
        "or with Ray on this machine. A run of a Ray cluster needs --address.",
    ),
)
