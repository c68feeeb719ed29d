"""Ray Tune runs the trials of a study: so many at a time, with its searchers and schedulers.

Nothing that Tune writes is read again: which trials there are, and how far each is, stands in the
study folder, and each run continues from a checkpoint of its own. So a study that was killed loses
nothing between two snapshots of Tune's, takes new trials, and loads no pickle.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from common.errors import RunFailedError, one_line, shorten, without_colours
from deploy.runtime.environment import environment
from deploy.runtime.local_ray import local_ray
from deploy.runtime.trial_process import (
    FAILED,
    INTERRUPTED,
    SAVED_WITHIN_S,
    TrialCommand,
    outer_settings,
)
from deploy.runtime.tune_search import OptunaSamples, PastTrial, SearchSettings, make_scheduler

FOLDER = "tune"
"""Of Tune's own files, in the study folder; removed at the end."""
OBJECT_STORE_BYTES = 128 << 20
"""Tune's results are small; Ray refuses less than 75 MiB."""
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints tables even where nothing is to be printed
    # Before its first evaluation a run has no score.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": str(round(2 * SAVED_WITHIN_S)),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray would kill a run whose worker ends; it saves itself instead (see `trial_process`).
    "RAY_kill_child_processes_on_worker_exit": "0",
}
LOGGERS = ("ray.tune", "ray.train", "ray.air")


class TrialQueue(Protocol):
    """The trials of a study; Tune takes them one by one and tells what becomes of them."""

    def take(self) -> TrialCommand | None:
        """The next known trial that its configuration does not refuse; None: there is none."""
        ...

    def remaining(self) -> int:
        """The number of trials to run, those included that are not known yet."""
        ...

    def add(self, sample: Mapping[str, Any]) -> TrialCommand | None:
        """A new trial of a sample, by key; None: the configuration refuses it."""
        ...

    def started(self, name: str) -> None:
        """A trial has a worker."""
        ...

    def ended(self, name: str, outcome: str, error: str) -> None:
        """A trial has ended.

        Args:
            name: of the trial.
            outcome: `finished`, `interrupted` or `failed`; empty: the scheduler stops it.
            error: one line, of a trial that failed.
        """
        ...

    def past(self, name: str) -> PastTrial:
        """The scores of a trial of this study, from the files of its run."""
        ...

    def tick(self) -> None:
        """Called several times a second."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether no further trial is to begin."""
        ...


@contextmanager
def trial_workers(parallel: int, **arguments: Any) -> Iterator[None]:
    """A Ray of this process's own for so many trials at a time.

    Args:
        parallel: number of trials.
        arguments: of `local_ray`.
    """
    with (
        environment({**outer_settings(), **SETTINGS}),
        local_ray(OBJECT_STORE_BYTES, cpus=parallel, **arguments),
    ):
        yield


def run_trials(queue: TrialQueue, folder: Path, parallel: int, settings: SearchSettings) -> None:
    """Run all trials of a queue, within `trial_workers`.

    Args:
        queue: the trials.
        folder: of the study.
        parallel: trials at a time.
        settings: of a search; without one, Tune takes the trials in their order.

    Raises:
        RunFailedError: Tune, or its Ray, has failed.
    """
    from deploy.runtime.tune_trial import StudyTrial
    from ray import tune

    files = folder / FOLDER
    shutil.rmtree(files, ignore_errors=True)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        tune.Tuner(
            tune.with_resources(StudyTrial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(queue, parallel, settings),
                scheduler=make_scheduler(settings),
                num_samples=max(1, queue.remaining()),
                trial_name_creator=_name_of,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(files.absolute()),
                callbacks=[_callback(queue)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    except Exception as error:  # Ray has no class of its own for it
        raise RunFailedError(f"Ray Tune failed: {one_line(error)}") from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        shutil.rmtree(files, ignore_errors=True)


def _error_of(trial: Any) -> str:
    """The reason why the worker of a trial ended, as far as Tune has written it down."""
    with suppress(OSError, TypeError, AttributeError):
        text = Path(trial.local_path, trial.run_metadata.error_filename).read_text()
        lines = [line.strip() for line in without_colours(text).splitlines() if line.strip()]
        return f"its worker ended: {shorten(lines[-1], 300)}" if lines else "its worker ended"
    return "its worker ended"


def _name_of(trial: Any) -> str:
    return str(trial.config["command"].name)


def _searcher(queue: TrialQueue, parallel: int, settings: SearchSettings) -> Any:
    """A searcher of Tune's that takes its trials from the queue."""
    from ray.tune.search import Searcher

    optuna = OptunaSamples(settings) if settings.optuna else None

    class StudySearcher(Searcher):  # type: ignore[misc] # Ray ships no types
        def __init__(self) -> None:
            super().__init__(metric=settings.metric, mode="max")
            self._names: dict[str, str] = {}  # of trials in progress
            self._suggested: set[str] = set()

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if queue.stopping or not queue.remaining():
                return str(Searcher.FINISHED)
            if len(self._names) >= parallel:
                return None
            command = queue.take()
            # A known trial may have been refused, and have been the last.
            if command is None and optuna is not None and queue.remaining():
                command = queue.add(optuna.suggest(trial_id))
                if command is None:
                    optuna.end(trial_id, None)
                    return None
                self._suggested.add(trial_id)
            if command is None:
                return str(Searcher.FINISHED)
            self._names[trial_id] = command.name
            return {"command": command}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            if optuna is not None and trial_id in self._suggested:
                optuna.report(trial_id, result)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            name = self._names.pop(trial_id, None)
            if optuna is None or name is None:
                return
            outcome = (result or {}).get("outcome", "")
            if outcome == INTERRUPTED:
                return
            if trial_id not in self._suggested:
                optuna.learn(queue.past(name))
            else:
                failed = error or outcome == FAILED
                optuna.end(trial_id, None if failed else result)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the study folder has it."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: Tune restores no study."""

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return object, ()  # in Tune's own files, which are never read

    return StudySearcher()


def _callback(queue: TrialQueue) -> Any:
    """A callback of Tune's that tells the queue what becomes of its trials."""
    from ray.tune import Callback

    class StudyCallback(Callback):  # type: ignore[misc] # Ray ships no types
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            queue.tick()

        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            queue.started(_name_of(trial))

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            result = trial.last_result or {}
            queue.ended(_name_of(trial), result.get("outcome", ""), result.get("error", ""))

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            queue.ended(_name_of(trial), FAILED, _error_of(trial))

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return object, ()  # in Tune's own files, which are never read

    return StudyCallback()
