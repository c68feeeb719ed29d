"""The entry of the command line: `raydqn COMMAND …`.

`raydqn --help` imports neither the configuration's model nor numpy, torch or Ray: each command
imports them inside its function.
"""

from __future__ import annotations

import signal
import threading

# Until `main` can catch it, Ctrl-C ends the command without a traceback of its imports.
_ON_INTERRUPT = signal.getsignal(signal.SIGINT)
_CATCHABLE = _ON_INTERRUPT is signal.default_int_handler and (
    threading.current_thread() is threading.main_thread()
)
if _CATCHABLE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from common.errors import EnvironmentFailedError, UserError
from common.text import printable
from common.version import PACKAGES, VERSION
from deploy.cli import (
    active_run,
    bench,
    cluster,
    completion,
    configuration,
    evaluate,
    export,
    report,
    study,
    train,
)
from deploy.cli.command import Command
from deploy.cli.command import parse as parse_command
from deploy.cli.exit_codes import FAILURE, INTERRUPTED, USER_ERROR
from deploy.cli.keys import Keys
from deploy.cli.output import command_streams
from deploy.cli.overrides import Overrides, split_overrides

if _CATCHABLE:
    signal.signal(signal.SIGINT, _ON_INTERRUPT)

_BEFORE_COMPLETION: tuple[Command, ...] = (
    *train.COMMANDS,
    *active_run.COMMANDS,
    *evaluate.COMMANDS,
    *export.COMMANDS,
    *report.COMMANDS,
    *cluster.COMMANDS,
    *configuration.COMMANDS,
    *bench.COMMANDS,
    *study.COMMANDS,
)
END_S = 10.0
"""Time that a process has to end after its command."""
COMMANDS = (*_BEFORE_COMPLETION, completion.command_for(_BEFORE_COMPLETION))
"""All commands, in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words of the command line behind `raydqn`; by default those of the process.

    Returns:
        0; 1 if a run or an environment failed; 2 for a mistake of the user; 130 if interrupted
        twice.
    """
    if arguments is None:  # the process is this command's
        from deploy.runtime.quiet import be_command

        be_command()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A user's own environment may lie in the working folder; last, so that it hides no package.
    with suppress(FileNotFoundError):  # the folder was removed
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
    code = FAILURE
    try:
        with command_streams():
            code = _main(given)
    finally:
        if arguments is None:
            _end_soon(code)
    return code


def _end_soon(code: int) -> None:
    """End the process in `END_S`, though threads of an environment would keep it.

    Child processes that an environment has left behind end first: Python would wait for some.
    """
    if "gymnasium" in sys.modules:
        from deploy.runtime.children import end_children

        end_children()

    def end() -> None:
        time.sleep(END_S)
        text = f"raydqn: threads of the environment go on after {END_S:g} s: ended without them\n"
        with suppress(OSError):
            os.write(2, text.encode())
        os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()


def _main(given: Sequence[str]) -> int:
    """Run one command on streams of its own; returns the exit code."""
    code = 0
    try:
        _check_packages()
        code = _run(given)
        _flush()
        return code
    except UserError as error:
        print(f"raydqn: error: {printable(error)}", file=sys.stderr)
        return USER_ERROR
    except EnvironmentFailedError as error:
        print(error.trace, end="", file=sys.stderr)
        print(f"raydqn: failed: {printable(error)}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        with suppress(OSError):  # its terminal may be closed
            print("raydqn: stopped at once", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe: `raydqn config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code


def _run(given: Sequence[str]) -> int:
    """Parse a command line and run its command; returns the exit code."""
    overrides, rest = split_overrides(given)
    try:
        options = parse(rest)
    except SystemExit:  # --help or --version was printed
        _flush()
        raise
    if overrides and options.parser.keys is Keys.NONE:
        raise UserError(f"{_first_option(overrides)}: {options.command} takes no keys")
    from deploy.runtime.children import spare_children

    spare_children()
    code: int = options.run(options, overrides)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options in a command line without configuration keys.

    Raises:
        UserError: an unknown command or option, or a value that does not fit.
    """
    return parse_command(COMMANDS, arguments, VERSION)


def _first_option(overrides: Overrides) -> str:
    """The first key of overrides as an option."""
    name, value = next(iter(overrides.items()))
    return f"--{name}.{next(iter(value))}" if isinstance(value, dict) else f"--{name}"


def _flush() -> None:
    """Write standard output, so that `main` sees a pipe that its reader has closed."""
    sys.stdout.flush()


def _check_packages() -> None:
    """Refuse to run if the five packages, whose names are common, come from several places."""
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
