"""Measured results of the presets, from the table beside them."""

from __future__ import annotations

import tomllib
from importlib import resources

from deploy.launch.presets import preset_names
from deploy.reporting.preset_table import PresetResult

FILE = ("measured", "results.toml")
"""Below deploy/presets; a TOML file beside the presets would be one of them."""


def preset_results() -> dict[str, list[PresetResult]]:
    """Measurements by preset, for every preset; an empty list: it was not measured.

    Raises:
        pydantic.ValidationError: the table is wrong, which a test holds.
        ValueError: it names a preset that there is not.
    """
    found: dict[str, list[PresetResult]] = {name: [] for name in preset_names()}
    text = resources.files("deploy.presets").joinpath(*FILE).read_text(encoding="utf-8")
    for entry in tomllib.loads(text).get("result", []):
        result = PresetResult(**entry)
        if result.preset not in found:
            raise ValueError(f"{'/'.join(FILE)}: preset {result.preset}: unknown")
        found[result.preset].append(result)
    return found
