"""Presets, and the configuration of a run made from preset, file and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

from common.config import Config
from common.config_errors import COMMAND_LINE, Spelling
from common.config_toml import build, load_toml, merge
from common.errors import UserError
from common.suggestion import suggest

DEFAULT_PRESET = "cartpole"
RANGE = ("value_min", "value_max")
"""Keys of the network that fit the preset's environment only."""


def preset_names() -> list[str]:
    """Names of the presets, sorted."""
    return _names("presets")


def preset_values(name: str) -> dict[str, Any]:
    """The values that a preset sets, nested by section.

    Raises:
        UserError: there is no such preset.
    """
    return _values("presets", "preset", name)


def preset_summary(name: str) -> str:
    """The first line of the preset's file: its purpose."""
    return _comment("presets", name)[0]


def algorithm_names() -> list[str]:
    """Names of the algorithms, sorted."""
    return _names("algorithms")


def algorithm_values(name: str) -> dict[str, Any]:
    """The values that an algorithm sets on any preset, nested by section.

    Raises:
        UserError: there is no such algorithm.
    """
    return _values("algorithms", "algorithm", name)


def algorithm_comment(name: str) -> list[str]:
    """The lines above the algorithm's values: what it is, its paper, and where it departs."""
    return _comment("algorithms", name)


def _names(folder: str) -> list[str]:
    files = resources.files(f"deploy.{folder}")
    return sorted(f.name.removesuffix(".toml") for f in files.iterdir() if f.name.endswith(".toml"))


def _values(folder: str, noun: str, name: str) -> dict[str, Any]:
    names = _names(folder)
    if name not in names:
        raise UserError(f"{noun} {name}: unknown{suggest(name, names)} (known: {', '.join(names)})")
    with resources.as_file(resources.files(f"deploy.{folder}") / f"{name}.toml") as path:
        return load_toml(path)


def _comment(folder: str, name: str) -> list[str]:
    text = (resources.files(f"deploy.{folder}") / f"{name}.toml").read_text(encoding="utf-8")
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return [line.lstrip("# ") for line in lines]


def make_config(
    preset: str = DEFAULT_PRESET,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    spelling: Spelling = COMMAND_LINE,
    algorithm: str | None = None,
) -> Config:
    """A configuration: values of the preset, then the algorithm, the file and the overrides.

    A preset's `stop.score` and range of returns (`RANGE`) fit the preset's environment only. They
    are dropped when the file or an override names another `env.id`, unless it sets them, too.

    Args:
        preset: name of the preset.
        file: a TOML file.
        overrides: nested by section.
        spelling: of the overrides, in errors about them.
        algorithm: name of an algorithm; None: the preset's choices.

    Raises:
        UserError: unknown preset or algorithm, unreadable file, wrong key or value.
    """
    base = preset_values(preset)
    if algorithm is not None:
        base = merge(base, algorithm_values(algorithm))
    from_file = load_toml(file) if file else {}
    source = str(file) if file else f"preset {preset}"
    if file:  # alone first, so that an error names the file
        build(merge(base, from_file), source)
    over = merge(from_file, overrides or {})
    env = over.get("env")
    env_id = base["env"]["id"]
    if isinstance(env, Mapping) and env.get("id", env_id) != env_id:
        base.get("stop", {}).pop("score", None)
        for key in RANGE:
            base.get("network", {}).pop(key, None)
        _check_range(merge(base, over), str(env.get("id")))
    return build(merge(base, over), source, overrides, spelling)


def _check_range(values: Mapping[str, Any], env_id: str) -> None:
    """Refuse a categorical head whose range of returns is not known to fit the environment.

    Raises:
        UserError: it is not set, and the preset's belongs to another environment.
    """
    network = values.get("network")
    if not isinstance(network, Mapping) or network.get("head") != "categorical":
        return
    if any(key not in network for key in RANGE):
        raise UserError(
            f"network.head=categorical: network.value_min and network.value_max must be set for "
            f"env.id={env_id}, to the least and the greatest discounted return there"
        )
