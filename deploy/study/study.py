"""A study from start to end: `raydqn study FILE`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config import Config
from common.errors import UserError
from common.polling import poll_until
from common.storage import write_atomically
from common.text import counted
from deploy.launch.signals import (
    StartInterrupted,
    deferred_signals,
    restored_handlers,
    stop_on_signals,
)
from deploy.reporting.study_view import StudyProgress
from deploy.resources.memory import MEMORY_SHARE, available_bytes, check_memory, memory_need
from deploy.runs.folder import RunFolder
from deploy.runs.study_folder import (
    GIVEN,
    RUNS,
    STOP,
    STUDIES,
    StudyRecord,
    TrialRecord,
    check_folder,
    is_study,
    load_study,
    locked,
    refreshed,
)
from deploy.runtime.quiet import without_native_lines
from deploy.runtime.trial_process import SAVED_WITHIN_S
from deploy.runtime.tune import run_trials, trial_workers
from deploy.runtime.tune_search import SearchSettings, check_installed, random_samples
from deploy.study.plan import check_names, config_of, continued, in_words, planned_trials
from deploy.study.runner import StudyRunner, past_trial
from deploy.study.space import Choice, Distribution, grid
from deploy.study.study_file import AUTO, StudyFile, load_study_file, study_name

TRIAL_BYTES = 640 << 20
"""The memory of a trial beside its replay: Python and torch, twice, and a worker of Ray's."""
GRACE_SHARE = 10
"""By default a trial gets the first tenth of its env steps from the scheduler."""
RESULTS_PER_GRACE = 4
"""Results without a new score, for the scheduler."""


def run_study(
    source: Path,
    folder: Path | None,
    view: StudyProgress,
    retry_failed: bool = False,
) -> StudyRecord:
    """Run the trials of a study that are not over yet.

    Args:
        source: the study file.
        folder: of the study; by default one of its name below `studies/`.
        view: shows the progress.
        retry_failed: run trials that failed once more.

    Returns:
        The study as it is at the end. Trials that are not over are pending: the same command
        continues them.

    Raises:
        UserError: a mistake in the file or in a trial's configuration; no trial has begun.
    """
    if source.is_dir():
        hint = f"; `raydqn study status {source}` shows that study" if is_study(source) else ""
        raise UserError(f"{source}: is a folder; name a study file{hint}")
    file, space = load_study_file(source)
    check_installed(optuna=file.search is not None and file.search.searcher == "optuna")
    name = study_name(file, source)
    path = Path(STUDIES, name) if folder is None else folder
    try:
        planned = planned_trials(file, path, _samples(file, space))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    check_names(planned, source)
    configs = [config_of(trial, source) for trial in planned or _probe(file, path)]
    check_folder(path)
    with locked(path):
        with suppress(OSError):
            (path / STOP).unlink()
        recorded = load_study(path).trials if is_study(path) else []
        if file.search is not None and file.search.searcher == "optuna":
            planned = _replanned(file, path, recorded, source)
        trials = [
            trial if trial.is_over else refreshed(trial)
            for trial in continued(planned, recorded, source, retry_failed)
        ]
        total = max(len(trials), _total(file, trials))
        runner = StudyRunner(
            file, source, path, name, {trial.name: trial for trial in trials}, total, view
        )
        runner.save()
        write_atomically(path / GIVEN, source.read_bytes())
        view.notify(
            f"study {name}: {in_words(file, trials, total)}; {runner.remaining()} to run; "
            f"their runs are in {path / RUNS}"
        )
        if runner.remaining():
            _run(runner, configs, space)
        return replace(runner.record(), running=False)


def _run(runner: StudyRunner, configs: Sequence[Config], space: Mapping[str, Distribution]) -> None:
    """Start Ray, run the trials, and wait until all processes have saved their runs."""
    settings = _settings(runner, configs, space)
    if settings.scheduler != "none":
        runner.every_env_steps = max(1, settings.grace_env_steps // RESULTS_PER_GRACE)
    parallel, why = _parallel(runner.file, configs, runner.source)
    if runner.remaining() < parallel:
        parallel, why = runner.remaining(), "no more are to run"
    runner.view.notify(
        f"{counted(parallel, 'trial')} at a time ({why}); the first begins when Ray is up, which "
        "may take half a minute"
    )
    runner.view.update(runner.record())
    with restored_handlers(), without_native_lines(), _workers(runner, parallel):
        try:
            with stop_on_signals(lambda reason: runner.stop(), lambda line: _notify(runner)):
                run_trials(runner, runner.path, parallel, settings)
            _wait_until_saved(runner)
        finally:
            with suppress(OSError):
                (runner.path / STOP).unlink()


def _notify(runner: StudyRunner) -> None:
    runner.view.notify(
        "stopping: the trials in progress save themselves and end; the same command continues "
        "the study; a second Ctrl-C stops at once"
    )


@contextmanager
def _workers(runner: StudyRunner, parallel: int) -> Iterator[None]:
    """Ray's workers; a signal during their start ends them first."""
    with ExitStack() as stack:
        with deferred_signals() as received:

            def check() -> None:
                if received():
                    raise StartInterrupted

            notify = runner.view.notify
            stack.enter_context(trial_workers(parallel, notify=notify, check=check, warn=notify))
        yield


def _wait_until_saved(runner: StudyRunner) -> None:
    """Wait for runs that outlast their workers: a scheduler stopped one, or a worker was killed."""

    def saved() -> bool:
        return not any(_is_running(trial) for trial in runner.trials.values())

    poll_until(saved, SAVED_WITHIN_S, every_s=0.2)


def _is_running(trial: TrialRecord) -> bool:
    if trial.status not in ("stopped", "failed"):
        return False
    with suppress(UserError):
        return RunFolder.open(trial.run).is_running()
    return False


def _samples(file: StudyFile, space: Mapping[str, Distribution]) -> list[dict[str, Any]]:
    """The samples that are known beforehand."""
    search = file.search
    if search is None or search.searcher == "optuna":
        return []
    if search.searcher == "grid":
        return grid(space)
    assert search.samples is not None
    return random_samples(_words(space), search.samples, search.seed)


def _words(
    space: Mapping[str, Distribution],
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Distributions in Tune's words and their arguments."""
    return {
        key: ("choice", (list(one.values),)) if isinstance(one, Choice) else (one.word, one.values)
        for key, one in space.items()
    }


def _probe(file: StudyFile, path: Path) -> list[TrialRecord]:
    """A trial without a sample, to look at its configuration before a search begins."""
    return planned_trials(file.model_copy(update={"search": None, "variants": {}}), path)


def _replanned(
    file: StudyFile, path: Path, recorded: Sequence[TrialRecord], source: Path
) -> list[TrialRecord]:
    """The trials that Optuna has chosen so far, by the study file as it is now."""
    samples = [trial.parameters for trial in recorded]
    trials = planned_trials(file, path, samples)
    for trial, before in zip(trials, recorded, strict=True):
        if trial.name != before.name:
            raise UserError(
                f"{source}: trial {before.name} has begun, and would now be {trial.name}; name "
                "another --study-dir"
            )
    return trials


def _total(file: StudyFile, trials: Sequence[TrialRecord]) -> int:
    if file.search is not None and file.search.searcher == "optuna":
        return file.search.samples or 0
    return len(trials)


def _settings(
    runner: StudyRunner, configs: Sequence[Config], space: Mapping[str, Distribution]
) -> SearchSettings:
    """The settings of the search for Tune, past trials included."""
    search = runner.file.search
    if search is None:
        return SearchSettings()
    limits = [config.stop.env_steps for config in configs]
    known = [limit for limit in limits if limit is not None]
    longest = max(known) if len(known) == len(limits) and known else None
    grace = search.grace_env_steps
    if grace is None and search.scheduler != "none":
        if longest is None:
            raise UserError(
                f"{runner.source}: search.grace_env_steps=none: must be set, because "
                "stop.env_steps is none"
            )
        grace = max(1, longest // GRACE_SHARE)
    over = [trial for trial in runner.trials.values() if trial.is_over]
    return SearchSettings(
        metric=search.metric,
        space=_words(space),
        optuna=search.searcher == "optuna",
        scheduler=search.scheduler,
        grace_env_steps=grace or 1,
        max_env_steps=longest,
        reduction=search.reduction,
        seed=search.seed,
        past=[past_trial(trial, search.metric) for trial in over],
    )


def _parallel(file: StudyFile, configs: Sequence[Config], source: Path) -> tuple[int, str]:
    """Trials at a time, with the reason in words.

    As many as cores and memory hold; one, unless set, where Ray runs them.

    Raises:
        UserError: the machine does not hold one, or an environment cannot be made.
    """
    asked = f"parallel={file.parallel}"
    if not file.run.inline:
        is_auto = file.parallel == AUTO
        return (1, f"run.inline=false, {asked}") if is_auto else (int(file.parallel), asked)
    there = len(os.sched_getaffinity(0))
    if file.cores > there:
        raise UserError(f"{source}: cores={file.cores}: this machine has {there} for the study")
    need = _memory_of_trial(configs)
    by_cores, free = there // file.cores, int(MEMORY_SHARE * available_bytes())
    if file.parallel != AUTO:
        if int(file.parallel) > by_cores:
            raise UserError(
                f"{source}: {asked}: with cores={file.cores} this machine holds {by_cores} at a "
                "time"
            )
        return int(file.parallel), asked
    by_memory = max(1, free // need)
    if by_memory < by_cores:
        return by_memory, f"each takes {need / 2**30:.1f} of {free / 2**30:.1f} GiB of memory"
    return by_cores, f"each takes {file.cores} of the {counted(there, 'core')}"


def _memory_of_trial(configs: Sequence[Config]) -> int:
    """Bytes of memory that the largest trial takes.

    Raises:
        UserError: the machine does not hold it, or an environment cannot be made.
    """
    from actors.environments import environment_spec  # imports torch, after the checks

    need = 0
    for config in {repr((one.env, one.replay)): one for one in configs}.values():
        spec = environment_spec(config.env, config.seed)
        check_memory(config, spec)
        need = max(need, memory_need(config, spec))
    return need + TRIAL_BYTES
