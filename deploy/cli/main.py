"""The command line: `raydqn COMMAND …`.

Configuration keys are options of the same name: `--learner.batch-size 64` sets `batch_size` in the
table `learner`. They are taken out first; argparse sees the rest.
"""

from __future__ import annotations

import threading
import time

import psutil

# When the command began, on the clock of time.monotonic: stop.wall_s counts from here.
STARTED_S = time.monotonic() - (time.time() - psutil.Process().create_time())

import signal

# Until there is somebody to catch it, Ctrl-C ends the command without a traceback of its imports.
_ON_INTERRUPT = signal.getsignal(signal.SIGINT)
_CATCHABLE = _ON_INTERRUPT is signal.default_int_handler and (
    threading.current_thread() is threading.main_thread()
)
if _CATCHABLE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from common.config import AUTO, KEYS, Config, is_list, merge, parse_value, suggest, to_toml
from common.errors import EnvironmentFailedError, UserError
from deploy import PACKAGES, VERSION

if _CATCHABLE:
    signal.signal(signal.SIGINT, _ON_INTERRUPT)

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130

Overrides = dict[str, Any]


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if a run or an environment failed; 2 for a mistake of the user's; 130 if interrupted
        twice.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A user's own environment may lie where the command is given; last, so that it hides nothing.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        _check_packages()
        overrides, rest = split_overrides(given)
        options = _parse(rest)
        if overrides and not options.takes_keys:
            from deploy.control.file import keys_of

            raise UserError(f"--{keys_of(overrides)[0]}: {options.command} takes no keys")
        command: Callable[[argparse.Namespace, Overrides], int] = options.run
        return command(options, overrides)
    except UserError as error:
        print(f"raydqn: error: {error}", file=sys.stderr)
        return USER_ERROR
    except EnvironmentFailedError as error:
        print(error.trace, end="", file=sys.stderr)
        print(f"raydqn: failed: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        with suppress(OSError):  # its terminal may be closed
            print("raydqn: stopped at once", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads on: `raydqn config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _check_packages() -> None:
    """All five packages must come from one place: their names are common ones."""
    homes: dict[str, Path] = {}
    for name in PACKAGES:
        found = find_spec(name)
        if found is not None and found.origin:
            homes[name] = Path(found.origin).resolve().parent.parent
    ours = homes["deploy"]
    for name in PACKAGES:
        if homes.get(name) != ours:
            raise UserError(
                f"package {name} is imported from {homes.get(name)}, not from {ours} where raydqn "
                "is; start from another folder, or rename yours"
            )


def split_overrides(arguments: Sequence[str]) -> tuple[Overrides, list[str]]:
    """Take configuration keys out of a command line.

    `--section.key VALUE …`, `--section.key=VALUE`, `--seed VALUE`; a list takes several values,
    or one in TOML's notation. Values are TOML where they are TOML, `none` is none.

    Returns:
        The overrides, nested by section, and the arguments left over.

    Raises:
        UserError: an unknown key, or one without a value.
    """
    overrides: Overrides = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, equals, inline = argument.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not argument.startswith("--") or ("." not in key and key not in KEYS):
            rest.append(argument)
            continue
        if key not in KEYS:
            raise UserError(f"--{name}: unknown key{suggest(key, KEYS)}")
        values = [inline] if equals else []
        while not equals and queue and not queue[0].startswith("--"):
            if values and not (is_list(key) and _is_number(queue[0])):
                break
            values.append(queue.pop(0))
        if not values:
            raise UserError(f"--{name}: needs a value")
        parsed: Any = [parse_value(value) for value in values]
        if not is_list(key) or (
            len(parsed) == 1 and (isinstance(parsed[0], list) or parsed[0] is None)
        ):
            parsed = parsed[0]
        section, _, leaf = key.rpartition(".")
        (overrides.setdefault(section, {}) if section else overrides)[leaf] = parsed
    return overrides, rest


def _is_number(text: str) -> bool:
    """Whether `text` may go on with a list: all lists here are of numbers."""
    return isinstance(parse_value(text), (int, float))


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line; a word that is none gets a suggestion.

    Raises:
        UserError: an unknown command or option.
    """
    parser, commands = _parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        known = ", ".join(commands)
        name = arguments[0]
        raise UserError(f"{name}: unknown command{suggest(name, commands)} (known: {known})")
    options, extra = parser.parse_known_args(arguments)
    if extra:
        usage = commands[options.command].format_help()
        near = suggest(extra[0], re.findall(r"--[a-z-]+", usage))
        raise UserError(f"{extra[0]}: unknown option{near} (see raydqn {options.command} --help)")
    return options


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole command line, and the part of each command."""
    from deploy.bench.commands import BENCHMARKS
    from deploy.control.file import LIVE_KEYS, option
    from deploy.launch.presets import DEFAULT_PRESET

    any_key = (
        "Any configuration key is an option too, e.g. --learner.batch-size 64; "
        "`raydqn config` lists them all with units and meaning."
    )
    live_keys = (
        f"Keys that can be changed: {', '.join(map(option, LIVE_KEYS))}; `raydqn config` says what "
        "they mean. The run notes them in its config.toml, so that a resume keeps them."
    )
    parser = _Parser(prog="raydqn", description="Distributed DQN on Ray.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"raydqn {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str,
        run: Callable[[argparse.Namespace, Overrides], int],
        text: str,
        keys: str | None = None,
    ) -> argparse.ArgumentParser:
        """A command; `keys` says which configuration keys are options of it, None: none are."""
        sub = commands.add_parser(
            name, help=text, description=text, epilog=keys, allow_abbrev=False
        )
        sub.set_defaults(run=run, takes_keys=keys is not None)
        return sub

    train = command("train", _train, "train from the beginning", keys=any_key)
    train.add_argument("preset", nargs="?", default=DEFAULT_PRESET, help="see `raydqn presets`")
    train.add_argument("--config", type=Path, metavar="FILE", help="TOML on top of the preset")
    train.add_argument("--run-dir", type=_path, metavar="DIR", help="new folder for this run")
    resume = command("resume", _resume, "go on from a run's newest checkpoint", keys=any_key)
    resume.add_argument(
        "run_folder", metavar="RUN", help="its folder, or the URL of its checkpoints"
    )
    resume.add_argument("--checkpoint", metavar="NAME", help="not the newest: one before it")
    change = command("set", _change, "change a run while it goes on", keys=live_keys)
    scale = command("scale", _scale, "give a run more actors, or fewer, while it goes on")
    scale.add_argument(
        "--actors", type=_actors, required=True, metavar="N", help='a number, or "auto"'
    )
    status = command("status", _status, "which part of a run lives where, its rate, age, restarts")
    status.add_argument("--json", action="store_true", help="one JSON object per run")
    for sub in (change, scale):
        sub.add_argument("run_folder", metavar="RUN", help="its folder; with --address its name")
    status.add_argument(
        "run_folder", nargs="?", metavar="RUN", help="its folder; with --address its name, or all"
    )
    for sub in (change, scale, status):
        sub.add_argument("--address", metavar="A", help="of the cluster: auto or ray://HOST:10001")
    for sub in (train, resume):
        where = sub.add_mutually_exclusive_group()
        where.add_argument(
            "--inline", action="store_true", help="one process, no Ray, deterministic"
        )
        where.add_argument(
            "--address", metavar="A", help="run on this cluster: auto or ray://HOST:10001"
        )
        sub.add_argument("--json", action="store_true", help="last line: one JSON object")

    chaos = command("chaos", _chaos, "have parts of a live run die at random")
    chaos.add_argument("run_folder", type=_path, metavar="RUN")
    chaos.add_argument("--every", type=_seconds, default=20.0, metavar="TIME", help="20s, 2m")
    chaos.add_argument(
        "--kinds", default="actor,shard,learner", metavar="LIST", help="default: %(default)s"
    )
    chaos.add_argument("--draw-seed", type=int, default=0, metavar="N", help="for drawing parts")

    evaluate = command("evaluate", _evaluate, "play greedy episodes with a run's weights")
    evaluate.add_argument("run_folder", type=_path, metavar="RUN")
    evaluate.add_argument("--episodes", type=_positive, default=100, metavar="N")
    evaluate.add_argument(
        "--epsilon", type=_share, metavar="E", help="default: evaluation.epsilon, 0 unless set"
    )
    evaluate.add_argument(
        "--weights", choices=("best", "latest"), default="best", help="default: best"
    )
    evaluate.add_argument("--json", action="store_true", help="one JSON object")
    evaluate.add_argument("--gif", type=Path, metavar="FILE", help="film one episode")

    plot = command("plot", _plot, "draw returns, score, loss, ε and speeds as PNG")
    plot.add_argument("run_folders", type=_path, nargs="+", metavar="RUN")
    plot.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/plot.png")

    cluster = command("cluster", _cluster_check, "clusters: see its own commands", keys=any_key)
    actions = cluster.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(
        name: str, run: Callable[[argparse.Namespace, Overrides], int], text: str, more: str
    ) -> argparse.ArgumentParser:
        """Something done with a cluster file and a configuration."""
        sub = actions.add_parser(
            name, help=text, description=more, epilog=any_key, allow_abbrev=False
        )
        sub.set_defaults(run=run)
        sub.add_argument("file", type=Path, metavar="FILE", help="of `ray up`, or of KubeRay")
        sub.add_argument(
            "preset", nargs="?", help=f"default: the file's job (KubeRay), else {DEFAULT_PRESET}"
        )
        sub.add_argument("--config", type=Path, metavar="FILE", help="TOML on top of the preset")
        return sub

    action(
        "check",
        _cluster_check,
        "say what is wrong with a cluster file, and what will run where",
        "Compare a cluster file with this machine, this project and a run. Costs nothing: neither "
        "network nor cloud is asked.",
    )
    submit = action(
        "submit",
        _cluster_submit,
        "ray up, train there as a job, and show what it says",
        "Check a cluster file, bring the cluster up if it is not, ship this code, train there as "
        "a job of Ray's, and follow its output. Ctrl-C ends following, not the run.",
    )
    submit.add_argument("--name", metavar="NAME", help="of the run; default: preset, date, time")

    config = command("config", _config, "print the whole configuration as TOML", keys=any_key)
    config.add_argument("preset", nargs="?", default=DEFAULT_PRESET)
    config.add_argument("--config", type=Path, metavar="FILE", help="TOML on top of the preset")
    command("presets", _presets, "list the presets")

    bench = command("bench", _bench, "measure something on this machine")
    bench.add_argument(
        "name", choices=sorted(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    bench.add_argument("--json", action="store_true", help="one JSON object per figure and line")
    bench.add_argument("--repeat", type=_positive, default=None, metavar="N", help="measurements")
    bench.add_argument(
        "--peers", action="store_true", help="replay: other libraries too (extra `bench`)"
    )
    return parser, dict(commands.choices)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, at least 1")
    return int(text)


def _path(text: str) -> Path:
    """A path; `~` counts even where no shell was there to read it."""
    return Path(text).expanduser()


def _actors(text: str) -> int | str:
    return text if text == AUTO else _positive(text)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text.strip())
    value = float(match[1]) * {"ms": 0.001, "m": 60, "h": 3600}.get(match[2], 1) if match else 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a time above 0, such as 20s or 2m")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be between 0 and 1")
    return value


def _train(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.launch.presets import make_config, preset_values
    from deploy.launch.run_path import run_name, run_path
    from deploy.launch.train import train
    from deploy.reporting.view import make_view

    config = make_config(options.preset, options.config, overrides)
    named = config.env.id != preset_values(options.preset)["env"]["id"]
    name = run_name(config.env.id) if named else options.preset
    with run_path(options.run_dir, name) as path:
        return _finish(
            options,
            lambda: train(
                config,
                path,
                inline=options.inline,
                address=options.address,
                view=make_view(config.stop),
                started_s=STARTED_S,
            ),
            path,
        )


def _resume(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.launch.resume import fetch_run, resume
    from deploy.reporting.view import make_view
    from deploy.runs.folder import RunFolder

    given = options.run_folder
    path = fetch_run(given) if "://" in given else _path(given)
    config = RunFolder.open(path, overrides).config
    return _finish(
        options,
        lambda: resume(
            path,
            overrides,
            checkpoint_name=options.checkpoint,
            inline=options.inline,
            address=options.address,
            view=make_view(config.stop),
            started_s=STARTED_S,
        ),
        path,
    )


def _chaos(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.control.chaos import chaos
    from deploy.runs.folder import RunFolder

    folder = RunFolder.open(options.run_folder)
    try:
        for line in chaos(folder, options.every, options.kinds.split(","), options.draw_seed):
            print(line, flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    print("the run has ended")
    return 0


def _scale(options: argparse.Namespace, _: Overrides) -> int:
    return _change(options, {"actors": {"count": options.actors}})


def _change(options: argparse.Namespace, overrides: Overrides) -> int:
    """Ask a run for other values, by its folder or by its name on a cluster."""
    from deploy.control.file import TAKEN_WITHIN_S, changed, keys_of, request_change

    if options.address is None:
        from deploy.runs.folder import RunFolder

        folder = RunFolder.open(_path(options.run_folder))
        new = changed(folder.config, overrides, "command line")
        reply = request_change(folder, new, keys_of(overrides), TAKEN_WITHIN_S)
    else:
        from deploy.control.client import send_request, service_of, services_at

        with services_at(options.address) as services:
            service = service_of(services, options.run_folder, options.address)
            reply = send_request(service, options.run_folder, overrides, TAKEN_WITHIN_S)
    if reply is None:
        print(
            f"raydqn: not taken yet: the run did not look within {TAKEN_WITHIN_S:g} s; it will "
            "when it does",
            file=sys.stderr,
        )
        return FAILURE
    if reply.applied:
        print(reply)
        return 0
    print(f"raydqn: not taken: {reply}", file=sys.stderr)
    return FAILURE


def _status(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.status import show

    if options.address is None:
        if options.run_folder is None:
            raise UserError("status: name the folder of a run, or the --address of a cluster")
        from deploy.runs.folder import RunFolder

        folder = RunFolder.open(_path(options.run_folder))
        running = folder.is_running()
        found = [folder.read_status() if running else folder.read_ended()]
    else:
        from deploy.control.client import statuses_at

        running = True
        found, unresponsive = statuses_at(options.address, options.run_folder)
        for line in unresponsive:
            print(f"raydqn: {line}", file=sys.stderr)
        if not found:
            print("no run has reported at", options.address)
    for status in found:
        print(json.dumps(status)) if options.json else show(status, running)
    return 0


def _finish(options: argparse.Namespace, work: Callable[[], dict[str, Any]], path: Path) -> int:
    """Run, then say how it ended and what to do next."""
    from common.errors import RunFailedError
    from deploy.runs.folder import RunFolder, is_run

    try:
        summary = work()
    except RunFailedError as error:
        if isinstance(error.__cause__, EnvironmentFailedError):
            print(error.__cause__.trace, end="", file=sys.stderr)
        print(f"raydqn: failed: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        saved = RunFolder.open(path).checkpoints.names() if is_run(path) else []
        hint = f"the newest checkpoint is {saved[-1]}" if saved else "there is no checkpoint"
        print(f"raydqn: stopped at once; {hint}", file=sys.stderr)
        return INTERRUPTED
    reason = summary["stop_reason"]
    score = "none yet"
    if summary["score"] is not None:
        episodes, epsilon = summary["score_episodes"], summary["score_epsilon"]
        how = f"{episodes} episodes, ε = {epsilon:g}" if episodes else "of before the resume"
        score = f"{summary['score']:g} ({how})"
    print(
        f"stopped by {reason} after {summary['wall_s']:.1f} s: score {score}, "
        f"{summary['env_steps']:,} env steps, {summary['learner_steps']:,} learner steps"
    )
    protocol = ", ".join(f"{key}={value}" for key, value in summary["protocol"].items())
    print(f"protocol: {protocol}")
    if reason in ("interrupted", "terminated"):
        where = ["--inline"] if options.inline else []
        where += ["--address", options.address] if options.address else []
        print("go on with:", "raydqn resume", path, *where)
    else:
        print(f"next: raydqn evaluate {path}   raydqn plot {path}")
    if options.json:
        print(json.dumps(summary), flush=True)
    return 0


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
        f"{result['max']:g}) over {result['episodes']} episodes, ε = {result['epsilon']:g}"
    )
    print(f"weights: {result['weights']}")
    print("protocol: " + ", ".join(f"{k}={v}" for k, v in result["protocol"].items()))
    if options.gif is not None:
        print(f"film: {options.gif} ({result['gif_pictures']} pictures)")
    return 0


def _check_gif(path: Path) -> None:
    """Before the work, not after it."""
    if path.suffix.lower() != ".gif":
        raise UserError(f"--gif={path}: must end in .gif")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--gif={path}: there is no folder {path.absolute().parent}")


def _plot(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.reporting.plot import plot_runs

    out = options.out or options.run_folders[0] / "plot.png"
    plot_runs(options.run_folders, out)
    print(out)
    return 0


def _config(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.launch.presets import make_config

    print(to_toml(make_config(options.preset, options.config, overrides)), end="")
    return 0


def _cluster_check(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.provisioning.check import check_cluster

    report = check_cluster(options.file, _run_on_cluster(options, overrides))
    for line in report.lines():
        print(line)
    return USER_ERROR if report.errors else 0


def _run_on_cluster(options: argparse.Namespace, overrides: Overrides) -> Config:
    """The run that is meant for a cluster: what is named here, else the job in the cluster file."""
    from deploy.launch.presets import DEFAULT_PRESET, make_config
    from deploy.provisioning.cluster_file import load_cluster

    preset, config = options.preset, options.config
    if preset is None and config is None:
        jobs = load_cluster(options.file).jobs
        for job in jobs:
            try:
                words = shlex.split(job)
                keys, rest = split_overrides(words[words.index("train") :])
                inner = _parse(rest)
            except ValueError:  # quotation marks that do not close, no `train`
                continue
            except UserError as error:
                raise UserError(f"{options.file}: RayJob entrypoint: {error}") from None
            if inner.config is None:  # else part of it is known in the image only
                print(f"run: {job}")
                return make_config(inner.preset, None, merge(keys, overrides))
        why = " (the file's job cannot be read from here)" if jobs else ""
        print(f"run: preset {DEFAULT_PRESET}{why}")
    return make_config(preset or DEFAULT_PRESET, config, overrides)


def _cluster_submit(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.launch.presets import DEFAULT_PRESET
    from deploy.provisioning.check import check_cluster
    from deploy.provisioning.cluster_file import KUBERAY
    from deploy.provisioning.submit import new_name, submit

    config = _run_on_cluster(options, overrides)
    report = check_cluster(options.file, config)
    if report.cluster.provider == KUBERAY:
        raise UserError(f"{options.file}: is for KubeRay: kubectl apply -f {options.file}")
    for line in report.lines():
        print(line)
    if not report.ready:
        raise UserError(f"{options.file}: nothing was started; mend what stands above first")
    name = options.name or new_name(options.preset or DEFAULT_PRESET)
    return submit(options.file, config, name)


def _presets(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.launch.presets import DEFAULT_PRESET, preset_names, preset_summary

    for name in preset_names():
        mark = " (default)" if name == DEFAULT_PRESET else ""
        print(f"{name:<18}{preset_summary(name)}{mark}")
    return 0


def _bench(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.bench.commands import BENCHMARKS
    from deploy.bench.measurement import show

    if options.peers and options.name != "replay":
        raise UserError(f"--peers: has no effect on bench {options.name}, only on bench replay")
    named = {"peers": True} if options.peers else {}
    for measurement in BENCHMARKS[options.name](options.repeat, **named):
        show(measurement, as_json=options.json)
    return 0
