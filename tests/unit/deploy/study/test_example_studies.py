"""The study files in examples/, by which the results were measured."""

from __future__ import annotations

import pytest

from deploy.study.plan import check_names, config_of, planned_trials
from deploy.study.study_file import load_study_file
from support.paths import ROOT

FILES = sorted((ROOT / "examples" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_trial_of_an_example_has_a_sound_configuration(path, tmp_path):
    file, _ = load_study_file(path)
    trials = planned_trials(file, tmp_path)
    check_names(trials, path)
    seeds = {config_of(trial, path).seed for trial in trials}
    assert seeds == set(file.seeds)
    results = (ROOT / "docs" / "results.md").read_text()
    assert f"raydqn study examples/studies/{path.name}" in results


def test_actors_of_the_example_take_turns_with_the_learner_at_a_fixed_rate(tmp_path):
    path = ROOT / "examples" / "studies" / "actors.toml"
    configs = [config_of(t, path) for t in planned_trials(load_study_file(path)[0], tmp_path)]
    for config in configs:  # a turn of all actors is followed by as many learner steps
        assert config.actors.count * config.learner.samples_per_insert == 8.0
