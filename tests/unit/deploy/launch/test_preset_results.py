"""What the presets have reached: a table beside them, shown by a command and by a page."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from deploy.cli.main import main, parse
from deploy.cli.overrides import split_overrides
from deploy.launch import preset_results
from deploy.launch.presets import preset_names
from deploy.reporting.preset_table import NOT_MEASURED, PresetResult, result_line, results_table
from support.paths import ROOT

ENTRY = {
    "preset": "pong",
    "how": "inline",
    "score": 19.5,
    "std": 0.5,
    "episodes": 20,
    "seeds": [1, 2, 3],
    "env_steps": 600_000,
    "wall_s": 1150.0,
    "hardware": "two cores",
    "command": "raydqn train pong --inline",
    "date": "2026-12-01",
}


def test_every_preset_has_a_measurement_or_says_that_it_has_none(capsys):
    found = preset_results.preset_results()
    assert list(found) == preset_names()
    assert main(("presets",)) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in preset_names():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        below = lines[at + 1].strip()
        if not found[name]:
            assert below == NOT_MEASURED
        else:
            first = found[name][0]
            assert below.startswith(f"{first.how}: {first.score:g}")
            assert f"on {first.hardware}" in below
            assert f"{first.env_steps:,} env steps" in below


def test_the_page_on_results_has_the_table_of_the_presets(capsys):
    """`raydqn presets --markdown` prints the lines between the two comments."""
    page = (ROOT / "docs" / "results.md").read_text()
    _, _, behind = page.partition("<!-- raydqn presets --markdown -->\n")
    table, end, _ = behind.partition("<!-- end -->")
    assert end
    expected = results_table(preset_results.preset_results())
    assert table.strip() == expected.strip()
    assert main(("presets", "--markdown")) == 0
    assert capsys.readouterr().out == expected


def test_every_measurement_names_a_command_that_the_program_takes():
    for results in preset_results.preset_results().values():
        for command in [one for result in results for one in result.command.split(";")]:
            program, *words = command.split()
            assert program == "raydqn"
            parse(split_overrides(words)[1])


def test_the_table_as_json_has_all_figures(capsys):
    assert main(("presets", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == preset_names()
    assert shown["cartpole"]["results"][0]["seeds"] == list(range(1, 11))


def test_a_measurement_in_one_line():
    result = PresetResult(**ENTRY)
    assert result_line(result) == (
        "inline: 19.5 ± 0.5 (seeds 1–3, 20 episodes each) after 600,000 env steps, 19 min, "
        "on two cores"
    )
    alone = PresetResult(**{**ENTRY, "seeds": [1], "std": None})
    assert "19.5 (seed 1, 20 episodes) after" in result_line(alone)
    assert results_table({"pong": [result], "x": []}).splitlines()[2:] == [
        "| `pong` | inline | 19.5 ± 0.5 | 1–3 | 20 | 600,000 | 19 min | two cores | "
        "`raydqn train pong --inline` | 2026-12-01 |",
        "| `x` | not measured | | | | | | | | |",
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"std": None}, "there must be one with several seeds"),
        ({"seeds": [1]}, "none with one"),
        ({"seeds": [1, 1]}, "counts once"),
        ({"seeds": []}, "seeds"),
        ({"score": float("nan")}, "score"),
        ({"speed": 3}, "speed"),
        ({"date": "yesterday"}, "date"),
    ],
)
def test_a_wrong_entry_is_refused(wrong, says):
    with pytest.raises(ValidationError, match=says):
        PresetResult(**{**ENTRY, **wrong})
