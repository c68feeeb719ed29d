"""`raydqn completion SHELL`: a script that completes commands, options, keys and their values.

The script holds all words itself, so that a completion starts no Python. It is generated from the
parsers and the configuration's model: a new option needs no other change.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deploy.cli.command import Command, Parser
from deploy.cli.completion_scripts import SCRIPTS, Grammar, Place
from deploy.cli.keys import Keys, choices_of, keys_of
from deploy.cli.overrides import Overrides, option_of

FILES = ("FILE", "DIR", "RUN")
"""Names in the help of arguments that are a path."""


def command_for(others: Sequence[Command]) -> Command:
    """The command that completes `others` and itself."""

    def run(options: argparse.Namespace, _: Overrides) -> int:
        print(SCRIPTS[options.shell](grammar_of((*others, command))), end="")
        return 0

    command = Command(
        "completion",
        "print a completion script for a shell",
        run,
        _add_completion,
        more="Print a completion script. bash: put `eval \"$(raydqn completion bash)\"` into "
        "~/.bashrc; zsh: likewise, behind compinit, into ~/.zshrc; fish: `raydqn completion fish > "
        "~/.config/fish/completions/raydqn.fish`.",
    )  # fmt: skip
    return command


def _add_completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=tuple(SCRIPTS), metavar="SHELL", help=", ".join(SCRIPTS))


def grammar_of(commands: Sequence[Command]) -> Grammar:
    """The words of a command line."""
    from common.config_toml import KEYS

    grammar = Grammar({"": {c.name: c.text for c in commands}}, [], {}, {})
    for command in commands:
        actions = command.actions if command.run is None else ()  # else its word may be a path
        if actions:
            grammar.commands[command.name] = {a.name: a.text for a in actions}
        for leaf, prefix in [(a, f"{command.name} ") for a in actions] or [(command, "")]:
            parser = leaf.parser("raydqn")
            options: dict[str, str] = {}
            for action in parser.options():
                name = action.option_strings[-1]
                options[name] = _one_line(action.help)
                if action.nargs != 0:
                    grammar.values[name] = _values(action)
            words = next((_values(action) or [] for action in parser.positionals()), [])
            if leaf.actions == () and prefix:  # a cluster file comes before the preset
                words = []
            keys = Keys.ALL if leaf.keys is Keys.RUN else leaf.keys  # the same options
            grammar.places.append(Place(prefix + leaf.name, options, words, keys))
    for some in (Keys.ALL, Keys.LIVE):
        names = keys_of(some)
        grammar.keys[some] = {option_of(key): _one_line(KEYS[key].description) for key in names}
        grammar.values.update({option_of(key): choices_of(key) for key in names})
    return grammar


def _values(action: argparse.Action) -> list[str] | None:
    """The values of an argument: nothing for free text, None for a path."""
    if action.dest == "preset":
        from deploy.launch.presets import preset_names

        return preset_names()
    if action.dest == "algorithm":
        from deploy.launch.presets import algorithm_names

        return algorithm_names()
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.dest == "address":
        return ["auto"]
    return None if action.metavar in FILES else []


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
