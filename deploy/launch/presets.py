"""Presets, and the configuration of a run made from preset, file and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from common.config import Config
from common.config_errors import COMMAND_LINE, Spelling
from common.config_toml import build, load_toml, merge
from common.errors import UserError
from common.suggestion import suggest

DEFAULT_PRESET = "cartpole"


def preset_names() -> list[str]:
    """Names of the presets, sorted."""
    folder = resources.files("deploy.presets")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def preset_values(name: str) -> dict[str, Any]:
    """The values that a preset sets, nested by section.

    Raises:
        UserError: there is no such preset.
    """
    names = preset_names()
    if name not in names:
        raise UserError(f"preset {name}: unknown{suggest(name, names)} (known: {', '.join(names)})")
    with resources.as_file(resources.files("deploy.presets") / f"{name}.toml") as path:
        return load_toml(path)


def preset_summary(name: str) -> str:
    """The first line of the preset's file: its purpose."""
    text = (resources.files("deploy.presets") / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].lstrip("# ")


def make_config(
    preset: str = DEFAULT_PRESET,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    spelling: Spelling = COMMAND_LINE,
) -> Config:
    """A configuration: the preset's values, then the file's, then the overrides.

    A preset's `stop.score` fits the preset's environment only. It is dropped when the file or an
    override names another `env.id` and no score.

    Args:
        preset: name of the preset.
        file: a TOML file.
        overrides: nested by section.
        spelling: of the overrides, in errors about them.

    Raises:
        UserError: unknown preset, unreadable file, wrong key or value.
    """
    base = preset_values(preset)
    from_file = load_toml(file) if file else {}
    source = str(file) if file else f"preset {preset}"
    if file:  # alone first, so that an error names the file
        build(merge(base, from_file), source)
    over = merge(from_file, overrides or {})
    env = over.get("env")
    env_id = base["env"]["id"]
    if isinstance(env, Mapping) and env.get("id", env_id) != env_id:
        base.get("stop", {}).pop("score", None)
    return build(merge(base, over), source, overrides, spelling)
