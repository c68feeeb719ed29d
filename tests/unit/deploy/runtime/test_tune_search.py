"""Searchers and schedulers of Tune, and what they learn from trials that ended before."""

from __future__ import annotations

import pytest

from common.errors import UserError
from deploy.runtime import tune, tune_search
from deploy.runtime.tune_search import (
    OptunaSamples,
    PastTrial,
    SearchSettings,
    check_installed,
    make_scheduler,
    random_samples,
    results_of,
)

SPACE = {
    "learner.learning_rate": ("loguniform", (1e-5, 1e-3)),
    "learner.batch_size": ("randint", (32, 64)),
    "network.hidden": ("choice", ([[64], [128, 128]],)),
}


class Trial:
    """What a scheduler sees of a trial."""

    def __init__(self, trial_id):
        self.trial_id = trial_id


def test_samples_are_those_of_their_seed_and_more_begin_with_the_same():
    samples = random_samples(SPACE, 5, seed=1)
    assert random_samples(SPACE, 3, seed=1) == samples[:3]
    assert random_samples(SPACE, 3, seed=2) != samples[:3]
    assert len({sample["learner.learning_rate"] for sample in samples}) == 5
    for sample in samples:
        assert 1e-5 <= sample["learner.learning_rate"] <= 1e-3
        assert type(sample["learner.batch_size"]) is int
        assert sample["network.hidden"] in ([64], [128, 128])


def test_optuna_learns_from_past_trials_and_gives_values_as_they_were_written():
    good = {"learner.learning_rate": 9e-4, "learner.batch_size": 60, "network.hidden": [64]}
    bad = {"learner.learning_rate": 2e-5, "learner.batch_size": 34, "network.hidden": [128, 128]}
    past = [
        *(PastTrial(good, [{"env_steps": 9, "score": 100.0}]) for _ in range(10)),
        *(PastTrial(bad, [{"env_steps": 9, "score": 0.0}]) for _ in range(10)),
        PastTrial(good, [], failed=True),
        PastTrial({**good, "learner.batch_size": 900}, [{"env_steps": 9, "score": 1.0}]),
    ]
    settings = SearchSettings(space=SPACE, optuna=True, past=past)
    search = OptunaSamples(settings)
    samples = [search.suggest(str(number)) for number in range(20)]
    assert all(sample["network.hidden"] in ([64], [128, 128]) for sample in samples)
    rates = sorted(sample["learner.learning_rate"] for sample in samples)
    assert rates[10] > 1e-4  # it prefers what scored
    search.report("0", {"env_steps": 5, "training_iteration": 1})  # no score yet
    search.report("0", {"score": 3.0, "training_iteration": 2})
    search.end("0", {"score": 4.0})
    search.end("1", {})
    search.end("2", None)
    again = OptunaSamples(SearchSettings(space=SPACE, optuna=True))
    first = OptunaSamples(SearchSettings(space=SPACE, optuna=True, past=past[:1]))
    assert again.suggest("0") != first.suggest("0")  # a continued study does not repeat itself


def test_no_sample_is_asked_for_once_the_last_known_trial_is_refused():
    class Queue:
        stopping, left = False, 1

        def remaining(self):
            return self.left

        def take(self):
            self.left = 0

    searcher = tune._searcher(Queue(), 1, SearchSettings(space=SPACE, optuna=True))
    assert searcher.suggest("0") == "FINISHED"


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_scheduler_compares_with_past_trials(scheduler):
    results = [{"env_steps": steps, "score": 50.0} for steps in (10, 20, 40)]
    settings = SearchSettings(
        scheduler=scheduler,
        grace_env_steps=10,
        max_env_steps=100,
        past=[*[PastTrial({}, results)] * 4, PastTrial({}, []), PastTrial({}, results, True)],
    )
    made = make_scheduler(settings)
    worse, better = Trial("worse"), Trial("better")
    for trial in (worse, better):
        made.on_trial_add(None, trial)
    assert made.on_trial_result(None, worse, {"env_steps": 5, "score": 1.0}) == "CONTINUE"
    assert made.on_trial_result(None, worse, {"env_steps": 11, "score": 1.0}) == "STOP"
    assert made.on_trial_result(None, better, {"env_steps": 11, "score": 60.0}) == "CONTINUE"
    assert made.on_trial_result(None, better, {"env_steps": 12}) == "CONTINUE"  # no score yet
    assert make_scheduler(SearchSettings()) is None


def test_results_are_the_new_scores_of_a_run():
    reports = [
        {"env_steps": 1, "score": None},
        {"env_steps": 2, "score": 5.0, "best_score": 5.0},
        {"env_steps": 3, "score": 5.0, "best_score": 5.0},
        {"env_steps": 4, "score": 4.0, "best_score": 5.0},
    ]
    assert results_of(reports, "score") == [
        *({"env_steps": 2, "score": 5.0}, {"env_steps": 4, "score": 4.0}),
    ]
    assert results_of(reports, "best_score") == [{"env_steps": 2, "best_score": 5.0}]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    check_installed(optuna=True)
    monkeypatch.setattr(tune_search, "find_spec", lambda name: None if name == "optuna" else 1)
    check_installed(optuna=False)
    with pytest.raises(UserError, match=r"needs optuna: pip install 'raydqn\[study\]' installs it"):
        check_installed(optuna=True)
