"""Searchers and schedulers of Ray Tune, which learn from the trials of earlier commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from common.errors import UserError

ENV_STEPS = "env_steps"
"""The clock of schedulers."""
MAX_ENV_STEPS = 10**12
"""The end of that clock for trials without `stop.env_steps`."""
SCALARS = (bool, int, float, str)
NEEDED = {"pandas": "pandas", "pyarrow": "pyarrow", "tensorboardX": "tensorboardX"}
"""Packages of Ray Tune that Ray itself does without, by module."""


@dataclass(frozen=True, slots=True)
class PastTrial:
    """A trial that an earlier command ran.

    Attributes:
        parameters: that a search chose, by key.
        results: `env_steps` and scores of its evaluations, in their order.
        failed: it has no score that counts.
    """

    parameters: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """The settings of a search, in the words of Tune.

    Attributes:
        metric: which result is to be large.
        space: word and arguments of each key's distribution: `("loguniform", (1e-5, 1e-3))`.
        optuna: Optuna chooses the samples; else they are all known beforehand.
        scheduler: `none`, `asha` or `median`.
        grace_env_steps: that each trial gets.
        max_env_steps: of the longest trial; None: no limit.
        reduction: of ASHA.
        seed: of Optuna.
        past: trials of earlier commands.
    """

    metric: str = "score"
    space: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    optuna: bool = False
    scheduler: str = "none"
    grace_env_steps: int = 1
    max_env_steps: int | None = None
    reduction: float = 3.0
    seed: int = 0
    past: Sequence[PastTrial] = ()


def check_installed(optuna: bool) -> None:
    """Refuse to begin without the packages of a study.

    Raises:
        UserError: says how to install them.
    """
    needed = [*NEEDED, *(["optuna"] if optuna else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(
            f"a study needs {', '.join(missing)}: pip install 'raydqn[study]' installs "
            f"{'it' if len(missing) == 1 else 'them'}"
        )


def random_samples(
    space: Mapping[str, tuple[str, tuple[Any, ...]]], count: int, seed: int
) -> list[dict[str, Any]]:
    """Samples of Tune's distributions; more of them begin with the same ones.

    Args:
        space: see `SearchSettings`.
        count: number of samples.
        seed: the same one draws the same samples.
    """
    import numpy as np

    domains = _domains(space)
    samples = []
    for number in range(count):
        state = np.random.RandomState(  # what Tune's distributions take
            np.random.SeedSequence([seed, number]).generate_state(4)
        )
        samples.append(
            {key: _plain(one.sample(random_state=state)) for key, one in domains.items()}
        )
    return samples


def make_scheduler(settings: SearchSettings) -> Any | None:
    """The scheduler, which knows the past trials; None: trials run in their order."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    common = {"time_attr": ENV_STEPS, "metric": settings.metric, "mode": "max"}
    if settings.scheduler == "asha":
        longest = settings.max_env_steps or MAX_ENV_STEPS
        scheduler = AsyncHyperBandScheduler(
            max_t=longest,
            grace_period=min(settings.grace_env_steps, longest),
            reduction_factor=settings.reduction,
            stop_last_trials=False,  # the stop conditions of the run end it
            **common,
        )
    elif settings.scheduler == "median":
        scheduler = MedianStoppingRule(
            grace_period=settings.grace_env_steps,
            min_time_slice=float("inf"),  # a trial that has begun does not wait for others
            **common,
        )
    else:
        return None
    for number, past in enumerate(settings.past):
        _replay(scheduler, number, past)
    return scheduler


class _Replayed:
    """Stands for a trial that an earlier command ran."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"past-{number}"


def _replay(scheduler: Any, number: int, past: PastTrial) -> None:
    """Tell a scheduler what a trial scored, as if it had run it."""
    if past.failed or not past.results:
        return
    trial = _Replayed(number)
    scheduler.on_trial_add(None, trial)
    for result in past.results:
        scheduler.on_trial_result(None, trial, dict(result))
    scheduler.on_trial_complete(None, trial, dict(past.results[-1]))


class OptunaSamples:
    """Tune's searcher on Optuna, with samples by key in the configuration's own values."""

    def __init__(self, settings: SearchSettings) -> None:
        """A searcher that knows the past trials."""
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._choices = {
            key: {_category(value): value for value in values[0]}
            for key, (word, values) in settings.space.items()
            if word == "choice"
        }
        space = {
            key: ("choice", (list(self._choices[key]),)) if key in self._choices else one
            for key, one in settings.space.items()
        }
        known = sum(not past.failed for past in settings.past)
        self._search = OptunaSearch(
            OptunaSearch.convert_search_space(_domains(space)),
            metric=settings.metric,
            mode="max",
            seed=settings.seed + known,  # a continued study must not repeat its first samples
        )
        self._metric = settings.metric
        for past in settings.past:
            self.learn(past)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The values of the next sample, by key."""
        values = self._search.suggest(trial_id)
        return {
            key: self._choices[key][value] if key in self._choices else _plain(value)
            for key, value in values.items()
        }

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Tell a result of a trial that goes on."""
        if self._metric in result:
            self._search.on_trial_result(trial_id, dict(result))

    def end(self, trial_id: str, result: Mapping[str, Any] | None) -> None:
        """Tell the last result of a trial; None: it failed."""
        self._search.on_trial_complete(trial_id, dict(result) if result else None, result is None)

    def learn(self, past: PastTrial) -> None:
        """Tell what a trial scored whose sample this searcher did not suggest."""
        scores = [one[self._metric] for one in past.results if self._metric in one]
        if past.failed or not scores:
            return
        given = {
            key: _category(value) if key in self._choices else value
            for key, value in past.parameters.items()
        }
        with suppress(ValueError):  # outside a space that has changed since
            self._search.add_evaluated_point(given, scores[-1])


def _domains(space: Mapping[str, tuple[str, tuple[Any, ...]]]) -> dict[str, Any]:
    """Tune's distributions."""
    from ray import tune

    return {key: getattr(tune, word)(*values) for key, (word, values) in space.items()}


def _category(value: Any) -> Any:
    """A value as Optuna can hold it: lists and tables as text."""
    return value if isinstance(value, SCALARS) else json.dumps(value, default=str)


def _plain(value: Any) -> Any:
    """A value of numpy's as one of Python's."""
    return value.item() if hasattr(value, "item") else value


def results_of(reports: Iterable[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The results in the reports of a run: one for each new score.

    Args:
        reports: lines of its metrics.
        metric: `score` or `best_score`.
    """
    results: list[dict[str, Any]] = []
    for report in reports:
        value = report.get(metric)
        if value is not None and (not results or results[-1][metric] != value):
            results.append({ENV_STEPS: report[ENV_STEPS], metric: value})
    return results
