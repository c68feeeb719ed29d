"""The completion scripts of `raydqn completion`, one template per shell."""

from __future__ import annotations

from typing import NamedTuple

from deploy.cli.keys import Keys


class Place(NamedTuple):
    """A command, and the words that can follow it.

    Attributes:
        path: the command's words, such as `cluster check`.
        options: its options without configuration keys, with their help.
        words: what its first argument can be, unless that is a path.
        keys: which configuration keys are options too.
    """

    path: str
    options: dict[str, str]
    words: list[str]
    keys: Keys


class Grammar(NamedTuple):
    """Everything that a completion script knows.

    Attributes:
        commands: commands, and commands of commands, with their help, by the words in front.
        places: one for each command that does something.
        keys: configuration keys as options, with their help, by the set they are in.
        values: the values of each option that takes one: nothing for free text, None for a path.
    """

    commands: dict[str, dict[str, str]]
    places: list[Place]
    keys: dict[Keys, dict[str, str]]
    values: dict[str, list[str] | None]


BASH = """\
# Completion of raydqn for bash: eval "$(raydqn completion bash)"
_raydqn() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local place=${COMP_WORDS[1]} words= options=
    @keys@
    COMPREPLY=()
    if [[ $current == = ]]; then current=  # --key=VALUE is three words here
    elif [[ $previous == = ]]; then previous=${COMP_WORDS[COMP_CWORD-2]}; fi
    if ((COMP_CWORD == 1)); then place=
    elif ((COMP_CWORD > 2)) && [[ " @groups@ " == *" $place "* ]]; then place+=" ${COMP_WORDS[2]}"
    fi
    case "$place" in
        @places@
    esac
    case "$previous" in
        @values@
        *) if [[ $current == -* ]]; then words=$options; fi ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _raydqn raydqn
"""

ZSH = """\
#compdef raydqn
# Completion of raydqn for zsh, behind compinit: eval "$(raydqn completion zsh)"
_raydqn() {
    local previous=$words[CURRENT-1] place=$words[2]
    local -a candidates options all_keys live_keys
    @keys@
    if [[ $PREFIX == --*=* ]]; then previous=${PREFIX%%=*}; compset -P '*='; fi
    if ((CURRENT == 2)); then place=
    elif ((CURRENT > 3)) && [[ " @groups@ " == *" $place "* ]]; then place+=" $words[3]"
    fi
    case "$previous" in
        @values@
    esac
    case "$place" in
        @places@
    esac
    if [[ $PREFIX == -* ]]; then _describe -o option options
    elif (($#candidates)); then _describe word candidates
    else _files; fi
}
if [[ $funcstack[1] == _raydqn ]]; then _raydqn "$@"; else compdef _raydqn raydqn; fi
"""

FISH = """\
# Completion of raydqn for fish: save it as ~/.config/fish/completions/raydqn.fish
function __raydqn_at --description 'whether the command line begins with raydqn and these words'
    set -l words (commandline -opc)
    test (count $words) -gt (count $argv)
    and test "$words[2..$(math 1 + (count $argv))]" = "$argv"
end
function __raydqn_ends --description 'whether the words before the cursor are raydqn and these'
    set -l words (commandline -opc)
    test "$words[2..]" = "$argv"
end
complete -c raydqn -f
@lines@
"""


def _render(template: str, **parts: list[str]) -> str:
    """A template with lines in the places of `@name@`, indented likewise."""
    lines = []
    for line in template.splitlines():
        name = line.strip().strip("@")
        if line.strip() == f"@{name}@" and name in parts:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + part for part in parts[name]]
        else:
            for key, part in parts.items():
                line = line.replace(f"@{key}@", " ".join(part))
            lines.append(line)
    return "\n".join(lines) + "\n"


def _by_values(grammar: Grammar) -> list[tuple[str, list[str] | None]]:
    """Options with the same values together, as `a|b`, and these values."""
    groups: dict[tuple[str, ...] | None, list[str]] = {}
    for option, words in grammar.values.items():
        groups.setdefault(None if words is None else tuple(words), []).append(option)
    return [("|".join(o), None if words is None else list(words)) for words, o in groups.items()]


def _keys_variable(keys: Keys) -> str:
    return f"{keys.name.lower()}_keys"


def _groups(grammar: Grammar) -> list[str]:
    """Commands that have commands of their own."""
    return [path for path in grammar.commands if path]


def _quoted(text: str) -> str:
    """`text` as one word of bash or zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def bash(grammar: Grammar) -> str:
    """The script for bash."""
    values = []
    for options, words in _by_values(grammar):
        if words is None:
            values.append(f"{options}) return ;;")  # readline completes files
        elif not words:
            values.append(f"{options}) compopt +o default; return ;;")
        else:
            values.append(f"{options}) words={_quoted(' '.join(words))} ;;")
    places = [f"{_quoted(p)}) words={_quoted(' '.join(c))} ;;" for p, c in grammar.commands.items()]
    for place in grammar.places:
        keys = "" if place.keys is Keys.NONE else f'" ${_keys_variable(place.keys)}"'
        places.append(
            f"{_quoted(place.path)}) options={_quoted(' '.join(place.options))}{keys} "
            f"words={_quoted(' '.join(place.words))} ;;"
        )
    keys_lines = [
        f"local {_keys_variable(keys)}={_quoted(' '.join(names))}"
        for keys, names in grammar.keys.items()
    ]
    return _render(BASH, keys=keys_lines, groups=_groups(grammar), places=places, values=values)


def zsh(grammar: Grammar) -> str:
    """The script for zsh."""

    def array(words: dict[str, str]) -> str:
        return "(" + " ".join(_quoted(f"{word}:{text}") for word, text in words.items()) + ")"

    values = []
    for options, words in _by_values(grammar):
        action = "_files" if words is None else f"compadd -- {' '.join(words)}" if words else ":"
        values.append(f"{options}) {action}; return ;;")
    places = [f"{_quoted(p)}) candidates={array(c)} ;;" for p, c in grammar.commands.items()]
    for place in grammar.places:
        more = "" if place.keys is Keys.NONE else f' "${{{_keys_variable(place.keys)}[@]}}"'
        places.append(
            f"{_quoted(place.path)}) options={array(place.options)[:-1]}{more}); "
            f"candidates=({' '.join(place.words)}) ;;"
        )
    keys_lines = [f"{_keys_variable(keys)}={array(names)}" for keys, names in grammar.keys.items()]
    return _render(ZSH, keys=keys_lines, groups=_groups(grammar), places=places, values=values)


def fish(grammar: Grammar) -> str:
    """The script for fish."""
    lines = []

    def add(condition: str, rest: str, text: str = "") -> None:
        described = f" -d {_fish(text)}" if text else ""
        lines.append(f"complete -c raydqn -n {_fish(condition)} {rest}{described}")

    def add_option(condition: str, option: str, text: str) -> None:
        rest = f"-l {option.removeprefix('--')}"
        if option in grammar.values:
            words = grammar.values[option]
            rest += " -r -F" if words is None else " -x"
            rest += f" -a {_fish(' '.join(words))}" if words else ""
        add(condition, rest, text)

    for path, commands in grammar.commands.items():
        for name, text in commands.items():
            add(f"__raydqn_ends {path}".rstrip(), f"-a {name}", text)
    for place in grammar.places:
        here = f"__raydqn_at {place.path}"
        add(here, f"-a {_fish(' '.join(place.words))}" if place.words else "-F")
        for option, text in place.options.items():
            add_option(here, option, text)
    for keys, names in grammar.keys.items():
        here = "; or ".join(f"__raydqn_at {p.path}" for p in grammar.places if p.keys is keys)
        for option, text in names.items():
            add_option(here, option, text)
    return _render(FISH, lines=lines)


def _fish(text: str) -> str:
    """`text` as one word of fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
"""The script for each shell."""
