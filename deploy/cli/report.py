"""`raydqn report`: a page on runs and studies."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common.text import counted, printable
from deploy.cli.arguments import path, positive, run_folder
from deploy.cli.command import Command, Parser
from deploy.cli.overrides import Overrides

FILES = ("report.html", "report.md")


def _add_report(parser: Parser) -> None:
    parser.add_argument(
        "run_folders",
        type=run_folder,
        nargs="+",
        metavar="RUN",
        help="folder of a run, of a study, or of several runs",
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="FILE",
        help="a .html or a .md file (default: report.html and report.md in the first RUN)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="put the RUNs side by side, and say where intervals do not overlap",
    )
    parser.add_argument(
        "--episodes",
        type=positive,
        metavar="N",
        help="play so many other episodes with the best weights of each run, and score it by them "
        "(default: none; its last evaluation is its score)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the numbers of the report as one JSON object"
    )
    parser.add_argument("--no-film", action="store_true", help="leave out the film of the agent")
    parser.add_argument(
        "--title", metavar="TEXT", default="", help="of the page (default: the names of the RUNs)"
    )


def _report(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.matplotlib_folder import use_writable_folder

    use_writable_folder()
    from deploy.reporting.report import Options, write_report
    from deploy.runs.json_values import without_nan

    first: Path = options.run_folders[0]
    files = [options.out] if options.out else [first / name for name in FILES]
    view = write_report(
        options.run_folders,
        files,
        Options(options.compare, not options.no_film, options.episodes or 0, options.title),
        say=lambda line: print(f"raydqn: {printable(line)}", file=sys.stderr, flush=True),
    )
    if options.json:
        files_written = [str(file) for file in files]
        print(json.dumps(without_nan({**view.numbers, "files": files_written}), default=str))
        return 0
    print(view.summary)
    if view.problems:
        print(f"{counted(len(view.problems), 'remark')} on what does not count: see the page")
    for file in files:
        print(printable(file))
    return 0


COMMANDS = (
    Command(
        "report",
        "make a page on runs or studies: curves, scores, intervals",
        _report,
        _add_report,
        more="Write one HTML page that needs no other file, and the same as Markdown: learning "
        "curves with confidence bands over seeds, scores with bootstrap intervals, protocol, "
        "machine, and the commands that repeat the runs.",
    ),
)
