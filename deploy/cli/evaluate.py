"""`raydqn evaluate` and `raydqn plot`: how good a run is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.text import counted, printable
from deploy.cli.arguments import path, positive, run_folder, share
from deploy.cli.command import RUN, RUN_FOLDER, Command, Parser
from deploy.cli.overrides import Overrides


def add_weights(parser: Parser) -> None:
    """The option that chooses weights of a run."""
    parser.add_argument(
        "--weights",
        choices=("best", "latest"),
        default="best",
        help="of the best evaluation, or of the newest checkpoint (default: best)",
    )


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
    add_weights(parser)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, with the return of each episode"
    )
    parser.add_argument(
        "--returns",
        type=path,
        metavar="FILE",
        help="a CSV file for the return, length and ending of each episode (default: none)",
    )
    parser.add_argument(
        "--gif", type=path, metavar="FILE", help="film one more episode (default: none)"
    )


def _add_plot(parser: Parser) -> None:
    parser.add_argument("run_folders", type=run_folder, nargs="+", metavar=RUN, help=RUN_FOLDER)
    parser.add_argument(
        "--out", type=path, metavar="FILE", help="a PNG (default: plot.png in the first RUN)"
    )


def _evaluate(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.evaluation import evaluate, film, returns_csv
    from deploy.runs.folder import RunFolder

    overrides: Overrides = {"evaluation": {"episodes": options.episodes}}
    if options.epsilon is not None:
        overrides["evaluation"]["epsilon"] = options.epsilon
    if options.gif is not None:
        _check_file("gif", options.gif)
    if options.returns is not None:
        _check_file("returns", options.returns, ".csv")
    folder = RunFolder.open(options.run_folder, overrides)
    result = evaluate(folder, options.episodes, options.weights)
    if options.returns is not None:
        _write(options.returns, returns_csv(result))
        result["returns_file"] = str(options.returns)
    if options.gif is not None:
        result["gif"] = str(options.gif)
        result["gif_pictures"] = film(folder, options.gif, options.weights)
    if options.json:
        print(json.dumps(result))
        return 0
    for line in _lines(result):
        print(printable(line))
    if options.returns is not None:
        print(f"returns: {printable(options.returns)}")
    if options.gif is not None:
        print(f"film: {printable(options.gif)} ({counted(result['gif_pictures'], 'picture')})")
    return 0


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    """An evaluation in words, the score first."""
    from deploy.reporting.protocol import in_words

    episodes = counted(result["episodes"], "episode")
    yield (
        f"score {result['score']:g} ± {result['std']:g} (standard deviation over {episodes}; "
        f"min {result['min']:g}, max {result['max']:g}), ε = {result['epsilon']:g}"
    )
    interval = "no interval of the mean: one episode"
    if result["interval"] is not None:
        low, high = result["interval"]
        interval = (
            f"mean between {low:g} and {high:g} ({result['confidence']:.0%} bootstrap interval "
            "over episodes of this policy; other seeds may differ more)"
        )
    yield f"median {result['median']:g}, interquartile mean {result['iqm']:g}; {interval}"
    ended = ", ".join(f"{number:,} {how}" for how, number in result["ended"].items())
    yield (
        f"lengths: mean {counted(result['mean_length'], 'env step')}, from "
        f"{result['min_length']:,} to {result['max_length']:,}; endings: {ended}"
    )
    yield (
        f"seeds: {result['env_seed']} for the first reset of the environment "
        f"({result['copies']:,} in parallel); the run itself, of seed {result['run_seed']}, played "
        "its episodes with other seeds"
    )
    yield f"weights: {result['weights']}"
    yield f"protocol: {in_words(result['protocol'])}"
    yield from (f"  {sentence}" for sentence in result["protocol_in_words"])


def _check_file(option: str, file: Path, suffix: str = ".gif") -> None:
    """Refuse a file that cannot be written, before the episodes are played."""
    if file.suffix.lower() != suffix:
        raise UserError(f"--{option}={file}: must end in {suffix}")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--{option}={file}: there is no folder {file.absolute().parent}")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--returns={file}: cannot be written ({error.strerror})") from None


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
