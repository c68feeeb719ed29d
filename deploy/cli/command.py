"""A command of the command line, and the parser that is made of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from common.errors import UserError
from deploy.cli.keys import Keys, help_on_keys, keys_of
from deploy.cli.overrides import Overrides, option_of

ARGPARSE = (
    (r"argument (\S+): '(.*)': (must .*)", "{0}={1}: {2}"),
    (r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", "{0}={1}: must be one of {2}"),
    (r"argument (\S+): invalid int value: '(.*)'", "{0}={1}: must be a whole number"),
    (r"argument (\S+): expected (?:one|at least one) argument", "{0}: needs a value"),
    (r"argument (\S+): ignored explicit argument '(.*)'", "{0}={1}: takes no value"),
    (r"argument (\S+): not allowed with argument (\S+)", "{0}: cannot be combined with {1}"),
    (r"the following arguments are required: (.*)", "missing: {0}"),
)
"""Messages of argparse, and what a user reads instead."""
RUN = "RUN"
"""The argument that names a run."""
RUN_FOLDER = "folder of a run"


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and with configuration keys in the help."""

    keys = Keys.NONE

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        for pattern, words in ARGPARSE:
            if found := re.fullmatch(pattern, message, re.DOTALL):
                message = words.format(*found.groups())
                if "one of" in words:  # some versions of Python quote the words
                    message = re.sub(r"'([\w-]+)'", r"\1", message)
                break
        raise UserError(f"{message} (see {self.prog} --help)")

    def format_help(self) -> str:
        """The help with the common configuration keys of the command."""
        return super().format_help() + help_on_keys(self.keys, everything=False)

    def format_help_all(self) -> str:
        """The help with all configuration keys of the command."""
        return super().format_help() + help_on_keys(self.keys, everything=True)

    def options(self) -> list[argparse.Action]:
        """Options, without configuration keys."""
        return [action for action in self._actions if action.option_strings]

    def positionals(self) -> list[argparse.Action]:
        """Arguments without a name."""
        return [action for action in self._actions if not action.option_strings]


class _HelpAll(argparse.Action):
    """`--help-all`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the help with all configuration keys and end the command."""
        assert isinstance(parser, Parser)
        print(parser.format_help_all(), end="")
        parser.exit()


class Command(NamedTuple):
    """A command.

    Attributes:
        name: the word on the command line.
        text: one line of help.
        run: does the work and returns the exit code.
        add_arguments: adds options and arguments to the command's parser; called only if the
            parser is used.
        keys: which configuration keys are options of the command.
        more: longer help; `text` by default.
        actions: commands of this command. If it has `run` as well, that takes all other words.
        metavar: what an action is called in the help.
    """

    name: str
    text: str
    run: Callable[[argparse.Namespace, Overrides], int] | None = None
    add_arguments: Callable[[Parser], object] = lambda parser: None
    keys: Keys = Keys.NONE
    more: str = ""
    actions: tuple[Command, ...] = ()
    metavar: str = "ACTION"

    def parser(self, prog: str) -> Parser:
        """A parser of this command alone, without its actions.

        Args:
            prog: the words in front of it, such as `raydqn`.
        """
        parser = Parser(prog=f"{prog} {self.name}", description=self.more or self.text,
                        allow_abbrev=False)  # fmt: skip
        self.fill(parser)
        return parser

    def fill(self, parser: Parser) -> None:
        """Add the arguments of this command to `parser`."""
        parser.keys = self.keys
        parser.set_defaults(run=self.run, parser=parser)
        if self.keys in (Keys.ALL, Keys.RUN):
            parser.add_argument(
                *("--help-all",), action=_HelpAll, nargs=0, help="show all configuration keys too"
            )
        self.add_arguments(parser)


def add_commands(
    parser: Parser, commands: Sequence[Command], given: Sequence[str], metavar: str
) -> None:
    """Add commands to a parser; only the given one gets its arguments.

    Args:
        parser: of the words in front.
        commands: all that there are.
        given: words of the command line from the command on.
        metavar: what a command is called in the help.
    """
    subparsers = parser.add_subparsers(dest=metavar.lower(), metavar=metavar, required=True)
    for command in commands:
        sub = subparsers.add_parser(
            command.name,
            help=command.text,
            description=command.more or command.text,
            allow_abbrev=False,
        )
        if given and given[0] == command.name:
            names = [action.name for action in command.actions]
            if names and (command.run is None or given[1:2] in [[name] for name in names]):
                add_commands(sub, command.actions, given[1:], command.metavar)
            else:
                command.fill(sub)


def parse(
    commands: Sequence[Command], arguments: Sequence[str], version: str = ""
) -> argparse.Namespace:
    """Parse a command line without configuration keys.

    Args:
        commands: the commands there are.
        arguments: words of the command line, from the command on.
        version: printed by `--version`.

    Returns:
        The options, with the command's `run`, and `parser`, which parsed them.

    Raises:
        UserError: an unknown command or option, or a value that does not fit.
    """
    names = [command.name for command in commands]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        from common.suggestion import suggest

        name = arguments[0]
        known = ", ".join(names)
        raise UserError(f"{name}: unknown command{suggest(name, names)} (known: {known})")
    parser = Parser(prog="raydqn", description="Distributed DQN on Ray.", allow_abbrev=False)
    parser.add_argument("-V", "--version", action="version", version=f"raydqn {version}")
    words = [word for word in arguments if not word.startswith("-")]
    add_commands(parser, commands, words, "COMMAND")
    options, extra = parser.parse_known_args(arguments)
    if extra:
        raise _unknown_option(extra[0], options.parser)
    return options


def _unknown_option(given: str, parser: Parser) -> UserError:
    """An option, with or without `=VALUE`, or a word that the command does not take."""
    from common.suggestion import suggest

    if not given.startswith("-"):
        return UserError(f"{given}: one word too many (see {parser.prog} --help)")
    name = given.partition("=")[0]
    known = [option for action in parser.options() for option in action.option_strings]
    near = suggest(name, [*known, *map(option_of, keys_of(parser.keys))])
    if name in known:
        near = f" of raydqn; write it after {parser.prog.removeprefix('raydqn ')}"
    return UserError(f"{given}: unknown option{near} (see {parser.prog} --help)")
