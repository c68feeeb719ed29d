"""The trials of a study, and those that a second command runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import UserError
from deploy.study.plan import check_names, config_of, continued, in_words, planned_trials
from deploy.study.study_file import load_study_file
from support.studies import write_study_file

STUDY = """
presets = ["cartpole", "pong"]
seeds = [1, 2]
[overrides]
learner.gamma = 0.9
[variants.a]
learner.n_step = 1
[variants.b]
learner.gamma = 0.8
"""


def plan(tmp_path, text=STUDY, samples=()):
    file, _ = load_study_file(write_study_file(tmp_path, text))
    return planned_trials(file, tmp_path, samples)


def test_presets_times_variants_times_seeds(tmp_path):
    trials = plan(tmp_path)
    assert [trial.name for trial in trials] == [
        *("cartpole-a-s1", "cartpole-b-s1", "pong-a-s1", "pong-b-s1"),
        *("cartpole-a-s2", "cartpole-b-s2", "pong-a-s2", "pong-b-s2"),
    ]
    assert trials[5].overrides == {"learner": {"gamma": 0.8}, "seed": 2}
    config = config_of(trials[4], "x")
    assert (config.seed, config.learner.gamma, config.learner.n_step) == (2, 0.9, 1)
    assert trials[0].run == tmp_path / "runs" / "cartpole-a-s1"


def test_each_sample_of_a_search_is_a_trial_of_each_seed(tmp_path):
    text = (
        'preset = "cartpole"\nseeds = [1, 2]\n[search]\nsamples = 2\n[search.space]\n'
        "learner.gamma = { uniform = [0.9, 0.99] }"
    )
    trials = plan(tmp_path, text, [{"learner.gamma": 0.91}, {"learner.gamma": 0.92}])
    assert [trial.name for trial in trials] == [
        *("cartpole-0001-s1", "cartpole-0002-s1", "cartpole-0001-s2", "cartpole-0002-s2")
    ]
    assert trials[1].parameters == {"learner.gamma": 0.92}
    assert config_of(trials[1], "x").learner.gamma == 0.92


def test_a_mistake_in_a_trial_names_file_trial_and_key(tmp_path):
    bad = plan(tmp_path, STUDY.replace("0.8", "1.8"))[1]
    with pytest.raises(UserError) as caught:
        config_of(bad, "sweep.toml")
    assert str(caught.value).startswith("sweep.toml: trial cartpole-b-s1: learner.gamma=1.8: must")
    unknown = plan(tmp_path, STUDY.replace("n_step", "n_stepp"))[0]
    with pytest.raises(UserError, match=r"unknown key learner\.n_stepp; did you mean"):
        config_of(unknown, "sweep.toml")
    no_preset = plan(tmp_path, STUDY.replace('"pong"', '"pnog"'))[2]
    with pytest.raises(UserError, match=r"^sweep\.toml: preset pnog: unknown; did you mean pong"):
        config_of(no_preset, "sweep.toml")


def test_two_trials_of_one_name_are_refused(tmp_path):
    trials = plan(tmp_path)
    with pytest.raises(UserError, match="two trials have the name cartpole-a-s1"):
        check_names([*trials, trials[0]], "x")


def test_a_study_continues_with_what_is_not_over(tmp_path):
    trials = plan(tmp_path)
    states = ("finished", "stopped", "failed", "running", "pending")
    before = [replace(t, status=s, env_steps=3) for t, s in zip(trials, states, strict=False)]
    after = continued(trials, before, "x")
    assert [trial.status for trial in after] == [
        *("finished", "stopped", "failed", "pending", "pending"),
        *("pending", "pending", "pending"),
    ]
    assert after[3].env_steps == 3
    again = continued(trials, [replace(before[2], error="no")], "x", retry_failed=True)[2]
    assert (again.status, again.error) == ("pending", "")


def test_a_file_may_add_trials_and_change_those_that_have_not_begun(tmp_path):
    before = plan(tmp_path, STUDY.replace("seeds = [1, 2]", "seeds = [1]"))
    before[0] = replace(before[0], status="finished")
    now = plan(tmp_path, STUDY.replace("0.8", "0.7"))
    after = continued(now, before, "x")
    assert [trial.status for trial in after] == ["finished", *["pending"] * 7]
    assert after[1].overrides["learner"] == {"gamma": 0.7}


def test_a_trial_that_failed_at_once_may_be_corrected(tmp_path):
    before = [replace(trial, status="failed", error="no") for trial in plan(tmp_path)[:2]]
    after = continued(plan(tmp_path, STUDY.replace("0.8", "0.7")), before, "x")
    assert [trial.status for trial in after[:2]] == ["failed", "pending"]
    trained = [replace(trial, env_steps=3) for trial in before]
    with pytest.raises(UserError, match="has begun"):
        continued(plan(tmp_path, STUDY.replace("0.8", "0.7")), trained, "x")


def test_a_file_may_not_change_or_drop_a_trial_that_has_begun(tmp_path):
    begun = [replace(trial, status="running") for trial in plan(tmp_path)[:2]]
    with pytest.raises(UserError, match=r"cartpole-b-s1 has begun with learner\.gamma=0\.8, and"):
        continued(plan(tmp_path, STUDY.replace("0.8", "0.7")), begun, "x")
    with pytest.raises(UserError, match="lacks trial cartpole-b-s1, which has begun"):
        continued(plan(tmp_path, STUDY.replace("variants.b", "variants.c")), begun, "x")
    more = plan(tmp_path, STUDY.replace("[variants.a]", "learner.double = false\n[variants.a]"))
    with pytest.raises(UserError, match=r"without learner\.double, and the file now has false"):
        continued(more, begun, "x")


def test_the_threads_of_a_trial_belong_to_it(tmp_path):
    begun = [replace(trial, env_steps=3) for trial in plan(tmp_path, "cores = 2\n" + STUDY)]
    assert begun[0].overrides["learner"]["threads"] == 2
    with pytest.raises(UserError, match=r"learner\.threads=2, and the file now has 3; put"):
        continued(plan(tmp_path, "cores = 3\n" + STUDY), begun, "x")
    with pytest.raises(UserError, match=r"learner\.threads=2, and the file now has none;"):
        continued(plan(tmp_path), begun, "x")
    own = "cores = 2\n" + STUDY.replace("n_step = 1", "threads = 5")
    assert plan(tmp_path, own)[0].overrides["learner"]["threads"] == 5
    on_ray = "cores = 2\n" + STUDY + "[run]\ninline = false\n"
    assert "threads" not in plan(tmp_path, on_ray)[0].overrides["learner"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STUDY, "8 trials (2 presets × 2 variants × 2 seeds)"),
        ('preset = "cartpole"\nseeds = [1, 2]', "2 trials (1 preset × 2 seeds)"),
        ('preset = "cartpole"', "1 trial"),
    ],
)
def test_the_number_of_trials_is_told_as_a_product(tmp_path, text, words):
    file, _ = load_study_file(write_study_file(tmp_path, text))
    trials = planned_trials(file, tmp_path)
    assert in_words(file, trials, len(trials)) == words


def test_a_variant_may_name_an_algorithm_and_change_it(tmp_path):
    text = 'preset = "cartpole"\n[variants.mine]\nalgorithm = "rainbow"\nlearner.n_step = 2\n'
    (trial,) = plan(tmp_path, text)
    config = config_of(trial, "x")
    assert (config.network.head, config.learner.n_step) == ("categorical", 2)
    # The study's own keys go on top of the algorithm, as on the command line.
    (trial,) = plan(tmp_path, text + "[overrides]\nlearner.n_step = 5\nreplay.alpha = 0.7\n")
    config = config_of(trial, "x")
    assert (config.replay.alpha, config.learner.n_step) == (0.7, 2)
    with pytest.raises(UserError, match=r"^variants\.mine: algorithm rainbw: unknown; did you me"):
        plan(tmp_path, text.replace("rainbow", "rainbw"))
