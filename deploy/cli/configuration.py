"""`raydqn config` and `raydqn presets`: the configurations there are."""

from __future__ import annotations

import argparse
import json
import textwrap

from deploy.cli.command import Command, Parser
from deploy.cli.keys import Keys
from deploy.cli.overrides import Overrides
from deploy.cli.train import add_configuration


def _config(options: argparse.Namespace, overrides: Overrides) -> int:
    from common.config_toml import to_toml
    from deploy.launch.presets import DEFAULT_PRESET, make_config

    preset = options.preset or DEFAULT_PRESET
    config = make_config(preset, options.config, overrides, algorithm=options.algorithm)
    print(to_toml(config), end="")
    return 0


def _add_presets(parser: Parser) -> None:
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object, with all figures")
    shape.add_argument(
        "--markdown", action="store_true", help="the table of docs/results.md, in Markdown"
    )


def _presets(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.launch.preset_results import preset_results
    from deploy.launch.presets import DEFAULT_PRESET, preset_names, preset_summary
    from deploy.reporting.preset_table import presets_listing, results_table

    found = preset_results()
    summaries = {name: preset_summary(name) for name in preset_names()}
    if options.markdown:
        print(results_table(found), end="")
    elif options.json:
        print(
            json.dumps(
                {
                    name: {
                        "summary": summaries[name],
                        "results": [result.model_dump(mode="json") for result in found[name]],
                    }
                    for name in summaries
                }
            )
        )
    else:
        for line in presets_listing(found, DEFAULT_PRESET, summaries):
            print(line)
    return 0


def _add_algorithms(parser: Parser) -> None:
    parser.add_argument("algorithm", nargs="?", help="this one alone (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _algorithms(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.launch.presets import algorithm_comment, algorithm_names, algorithm_values

    names = algorithm_names() if options.algorithm is None else [options.algorithm]
    keys = {name: algorithm_values(name) for name in names}
    if options.json:
        found = {name: {"about": algorithm_comment(name), "keys": keys[name]} for name in names}
        print(json.dumps(found))
        return 0
    for name in names:
        summary, *rest = algorithm_comment(name)
        print(f"{name:<16} {summary}")
        words = [
            f"{section}.{key}={json.dumps(value)}"
            for section, values in keys[name].items()
            for key, value in values.items()
        ]
        for line in (" ".join(rest), " ".join(words)):
            for part in textwrap.wrap(line, 100 - 17, break_on_hyphens=False):
                print(f"{'':17}{part}")
    return 0


COMMANDS = (
    Command(
        "config", "print the whole configuration as TOML", _config, add_configuration, Keys.ALL
    ),
    Command(
        "algorithms",
        "list the algorithms, their papers and keys",
        _algorithms,
        _add_algorithms,
        more="List the algorithms for --algorithm: the paper that each follows, where it departs, "
        "and the keys that it sets on top of a preset.",
    ),
    Command(
        "presets",
        "list the presets, and what each has reached",
        _presets,
        _add_presets,
        more="List the presets; below each, the score that it has reached: mean and standard "
        "deviation over seeds, env steps and time as medians, and the machine.",
    ),
)
