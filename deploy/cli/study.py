"""`raydqn study FILE` and `raydqn study status STUDY`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

from common.errors import RunFailedError
from common.text import counted, printable, shell_command
from deploy.cli.arguments import path
from deploy.cli.command import Command, Parser
from deploy.cli.exit_codes import FAILURE, INTERRUPTED, TRIALS_FAILED, TRY_AGAIN
from deploy.cli.output import outlast_output
from deploy.cli.overrides import Overrides


def _add_study(parser: Parser) -> None:
    parser.usage = "raydqn study [options] FILE\n       raydqn study status [--json] STUDY"
    parser.add_argument("file", type=path, metavar="FILE", help="the study file, in TOML")
    parser.add_argument(
        "--study-dir",
        type=path,
        metavar="DIR",
        help="folder of this study (default: one of its name below studies/)",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="run trials that failed once more"
    )
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")


def _study(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.launch.signals import StartInterrupted, interrupting
    from deploy.reporting.study_view import make_study_view, study_summary, totals, trial_line
    from deploy.study.study import run_study

    outlast_output()
    view = make_study_view()
    try:
        with interrupting(), closing(view):
            record = run_study(options.file, options.study_dir, view, options.retry_failed)
    except KeyboardInterrupt as error:
        print("raydqn: stopped at once; the same command continues the study", file=sys.stderr)
        return TRY_AGAIN if isinstance(error, StartInterrupted) else INTERRUPTED
    except RunFailedError as error:
        text = f"raydqn: failed: {printable(error)}; the same command continues the study"
        print(text, file=sys.stderr)
        return FAILURE
    print(printable(totals(record)))
    failed = [trial for trial in record.trials if trial.status == "failed"]
    for trial in failed:
        print(f"raydqn: {printable(trial_line(trial))}", file=sys.stderr)
    again = ["raydqn", "study", str(options.file)]
    if options.study_dir is not None:
        again += ["--study-dir", str(options.study_dir)]
    if record.count("pending"):
        print(f"to continue: {shell_command(again)}")
    elif failed:
        many = counted(len(failed), "failed trial")
        print(f"to repeat {many}: {shell_command([*again, '--retry-failed'])}")
    if options.json:
        print(json.dumps(study_summary(record)), flush=True)
    if record.count("pending"):
        return TRY_AGAIN
    return TRIALS_FAILED if failed else 0


def _add_status(parser: Parser) -> None:
    parser.add_argument("study", type=path, metavar="STUDY", help="folder of a study")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _status(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.study_view import show_study, study_summary
    from deploy.runs.study_folder import read_study

    record = read_study(options.study)
    if options.json:
        print(json.dumps({**study_summary(record), "in_progress": record.running}))
    else:
        show_study(record)
    return 0


COMMANDS = (
    Command(
        "study",
        "many runs from one file: presets × seeds, or a search",
        _study,
        _add_study,
        more="Run every trial of a study file, as many at a time as this machine holds, each in a "
        "process and a run folder of its own. The same command continues a study that was "
        "interrupted. `raydqn study status STUDY` shows how far a study is.",
        actions=(
            Command(
                "status",
                "show how far a study is",
                _status,
                _add_status,
                more="Show the trials of a study, while it runs and after, and the errors of those "
                "that failed.",
            ),
        ),
    ),
)
