"""`raydqn evaluate` and `raydqn plot`: how good a run is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common.errors import UserError
from common.text import counted, printable
from deploy.cli.arguments import path, positive, run_folder, share
from deploy.cli.command import RUN, RUN_FOLDER, Command, Parser
from deploy.cli.overrides import Overrides


def _add_evaluate(parser: Parser) -> None:
    parser.add_argument("run_folder", type=run_folder, metavar=RUN, help=RUN_FOLDER)
    parser.add_argument(
        "--episodes", type=positive, default=100, metavar="N", help="to play (default: 100)"
    )
    parser.add_argument(
        "--epsilon",
        type=share,
        metavar="E",
        help="probability of a random action (default: evaluation.epsilon of the run, 0 unless "
        "set)",
    )
    parser.add_argument(
        "--weights",
        choices=("best", "latest"),
        default="best",
        help="of the best evaluation, or of the newest checkpoint (default: best)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--gif", type=path, metavar="FILE", help="film one more episode (default: none)"
    )


def _add_plot(parser: Parser) -> None:
    parser.add_argument("run_folders", type=run_folder, nargs="+", metavar=RUN, help=RUN_FOLDER)
    parser.add_argument(
        "--out", type=path, metavar="FILE", help="a PNG (default: plot.png in the first RUN)"
    )


def _evaluate(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.evaluation import evaluate, film
    from deploy.runs.folder import RunFolder

    overrides: Overrides = {"evaluation": {"episodes": options.episodes}}
    if options.epsilon is not None:
        overrides["evaluation"]["epsilon"] = options.epsilon
    if options.gif is not None:
        _check_gif(options.gif)
    folder = RunFolder.open(options.run_folder, overrides)
    result = evaluate(folder, options.episodes, options.weights)
    if options.gif is not None:
        result["gif"] = str(options.gif)
        result["gif_pictures"] = film(folder, options.gif, options.weights)
    if options.json:
        print(json.dumps(result))
        return 0
    print(
        f"score {result['score']:g} ± {result['std']:g} (min {result['min']:g}, max "
        f"{result['max']:g}) over "
        f"{counted(result['episodes'], 'episode')}, ε = {result['epsilon']:g}"
    )
    print(f"weights: {printable(result['weights'])}")
    protocol = ", ".join(f"{k}={v}" for k, v in result["protocol"].items())
    print(f"protocol: {printable(protocol)}")
    if options.gif is not None:
        print(f"film: {printable(options.gif)} ({counted(result['gif_pictures'], 'picture')})")
    return 0


def _check_gif(file: Path) -> None:
    """Refuse a file that cannot be written, before the episodes are played."""
    if file.suffix.lower() != ".gif":
        raise UserError(f"--gif={file}: must end in .gif")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--gif={file}: there is no folder {file.absolute().parent}")


def _plot(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.matplotlib_folder import use_writable_folder

    use_writable_folder()
    from deploy.reporting.plot import plot_runs

    out = options.out or options.run_folders[0] / "plot.png"
    plot_runs(options.run_folders, out)
    print(out)
    return 0


COMMANDS = (
    Command("evaluate", "play greedy episodes with a run's weights", _evaluate, _add_evaluate),
    Command("plot", "draw returns, score, loss, ε and speeds as PNG", _plot, _add_plot),
)
