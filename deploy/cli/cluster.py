"""`raydqn cluster token`, `check` and `submit`."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from common.errors import UserError
from common.text import printable
from deploy.cli.arguments import path
from deploy.cli.command import Command, Parser, parse
from deploy.cli.exit_codes import FAILURE, USER_ERROR
from deploy.cli.keys import Keys
from deploy.cli.overrides import Overrides, split_overrides
from deploy.cli.train import COMMANDS as RUN_COMMANDS
from deploy.cli.train import add_layers

if TYPE_CHECKING:
    from common.config import Config


def _add_check(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 1 while a value marked `to do` is not filled in",
    )


def _add_run(parser: Parser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="of `ray up`, or of KubeRay")
    parser.add_argument(
        "preset",
        nargs="?",
        help="one of `raydqn presets` (default: that of the file's job for KubeRay, else cartpole)",
    )
    add_layers(parser)


def _add_submit(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--name", metavar="NAME", help="of the run (default: preset, date and time)"
    )


def _check(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.provisioning.check import check_cluster

    report = check_cluster(options.file, _run_on_cluster(options, overrides))
    for line in report.lines():
        print(line)
    if report.errors:
        return USER_ERROR
    return FAILURE if options.strict and not report.ready else 0


def _run_on_cluster(options: argparse.Namespace, overrides: Overrides) -> Config:
    """The run that is meant for a cluster: what is named here, else the job in the cluster file."""
    from common.config_toml import merge
    from deploy.launch.presets import DEFAULT_PRESET, make_config
    from deploy.provisioning.cluster_file import load_cluster

    preset, config = options.preset, options.config
    if preset is None and config is None and options.algorithm is None:
        jobs = load_cluster(options.file).jobs
        for job in jobs:
            try:
                words = shlex.split(job)
                keys, rest = split_overrides(words[words.index("train") :])
                inner = parse(RUN_COMMANDS, rest)
            except ValueError:  # quotation marks that do not close, no `train`
                continue
            except UserError as error:
                raise UserError(f"{options.file}: RayJob entrypoint: {error}") from None
            if inner.config is None:  # else part of it is known in the image only
                print(f"run: {printable(job)}")
                return make_config(
                    inner.preset or DEFAULT_PRESET,
                    None,
                    merge(keys, overrides),
                    algorithm=inner.algorithm,
                )
        why = " (the file's job cannot be read from here)" if jobs else ""
        print(f"run: preset {DEFAULT_PRESET}{why}")
    return make_config(preset or DEFAULT_PRESET, config, overrides, algorithm=options.algorithm)


def _submit(options: argparse.Namespace, overrides: Overrides) -> int:
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
        raise UserError(
            f"{options.file}: nothing was started; correct the errors and complete the values "
            "marked `to do` above, then submit again"
        )
    name = options.name or new_name(options.preset or DEFAULT_PRESET)
    return submit(options.file, config, name)


def _token(options: argparse.Namespace, overrides: Overrides) -> int:
    from deploy.provisioning.cluster_token import create_token

    token, created = create_token(options.file)
    state = "created" if created else "exists already"
    print(f"{printable(token)}: {state}; for Ray's own commands here:")
    print(f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(str(token))}")
    return 0


def _add_file(parser: Parser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="of `ray up`")


_ACTIONS = (
    Command(
        "token",
        "create the token of a cluster, unless there is one",
        _token,
        _add_file,
        more="Every node of a cluster has its token, and accepts only callers that have it. It is "
        "the cluster's own, in a file that only you can read. Your personal token is not copied.",
    ),
    Command(
        "check",
        "report what is wrong with a cluster file, and where each part will run",
        _check,
        _add_check,
        Keys.ALL,
        more="Compare a cluster file with this machine, this project and a run. Free of charge: "
        "neither the network nor a cloud is asked.",
    ),
    Command(
        "submit",
        "ray up, train there as a job, and show its output",
        _submit,
        _add_submit,
        Keys.ALL,
        more="Check a cluster file, start the cluster if it is not running, ship this code, train "
        "there as a Ray job, and follow its output. Ctrl-C stops following; the run continues.",
    ),
)
COMMANDS = (Command("cluster", "check a cluster file, or train on a cluster", actions=_ACTIONS),)
