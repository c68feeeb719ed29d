"""`raydqn config` and `raydqn presets`: the configurations there are."""

from __future__ import annotations

import argparse

from deploy.cli.command import Command
from deploy.cli.keys import Keys
from deploy.cli.overrides import Overrides
from deploy.cli.train import add_configuration


def _config(options: argparse.Namespace, overrides: Overrides) -> int:
    from common.config_toml import to_toml
    from deploy.launch.presets import DEFAULT_PRESET, make_config

    preset = options.preset or DEFAULT_PRESET
    print(to_toml(make_config(preset, options.config, overrides)), end="")
    return 0


def _presets(options: argparse.Namespace, _: Overrides) -> int:
    from deploy.launch.presets import DEFAULT_PRESET, preset_names, preset_summary

    for name in preset_names():
        mark = " (default)" if name == DEFAULT_PRESET else ""
        print(f"{name:<18}{preset_summary(name)}{mark}")
    return 0


COMMANDS = (
    Command(
        "config", "print the whole configuration as TOML", _config, add_configuration, Keys.ALL
    ),
    Command("presets", "list the presets", _presets),
)
