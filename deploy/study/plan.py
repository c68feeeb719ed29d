"""The trials of a study: presets × variants × seeds, or × samples of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config import Config
from common.config_errors import Spelling, in_toml
from common.config_toml import KEYS, merge
from common.errors import UserError
from common.text import counted
from deploy.launch.presets import algorithm_values, make_config, preset_values
from deploy.runs.study_folder import RUNS, TrialRecord
from deploy.study.study_file import StudyFile, flat

ALGORITHM = "algorithm"
"""A key of a variant beside those of the configuration."""


def planned_trials(
    file: StudyFile, folder: Path, samples: Sequence[Mapping[str, Any]] = ()
) -> list[TrialRecord]:
    """The trials that are known before the study begins; none of one that Optuna leads.

    The first seed of every preset and variant comes first, then the second: comparisons begin
    early.

    Args:
        file: the study file.
        folder: of the study.
        samples: of a search, each with its values by key.
    """
    if file.search is not None:
        variants = [(sample_name(number), sample) for number, sample in enumerate(samples, 1)]
    else:
        variants = [
            (name, flat({key: values[key] for key in values if key != ALGORITHM}, KEYS))
            for name, values in file.variants.items()
        ]
        variants = variants or [("", {})]
    chosen = {name: algorithm_of(name, values) for name, values in file.variants.items()}
    return [
        new_trial(file, folder, preset, seed, name, values, chosen.get(name))
        for seed in file.seeds
        for preset in file.all_presets
        for name, values in variants
    ]


def algorithm_of(variant: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the algorithm that a variant names; empty: it names none.

    Raises:
        UserError: there is no such algorithm.
    """
    if ALGORITHM not in values:
        return {}
    try:
        return algorithm_values(str(values[ALGORITHM]))
    except UserError as error:
        raise UserError(f"variants.{variant}: {error}") from None


def sample_name(number: int) -> str:
    """The name of a sample, in the place of a variant's."""
    return f"{number:04}"


def new_trial(
    file: StudyFile,
    folder: Path,
    preset: str,
    seed: int,
    variant: str,
    values: Mapping[str, Any],
    algorithm: Mapping[str, Any] | None = None,
) -> TrialRecord:
    """A trial that has not begun.

    Args:
        file: the study file.
        folder: of the study.
        preset: on which its configuration stands.
        seed: of the run.
        variant: name of a variant or a sample; empty: there is none.
        values: of this variant, by key.
        algorithm: values of the algorithm that it names, below all others.
    """
    name = "-".join(filter(None, (preset, variant, f"s{seed}")))
    below = merge(algorithm or {}, file.overrides)
    overrides = merge(merge(below, nested(values)), {"seed": seed})
    return TrialRecord(
        name=name,
        preset=preset,
        variant=variant,
        seed=seed,
        run=folder / RUNS / name,
        overrides=merge(overrides, _threads(file, preset, overrides)),
        parameters=dict(values) if file.search is not None else {},
    )


def _threads(file: StudyFile, preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The learner's threads on the cores of its trial, where neither preset nor trial sets them.

    They belong to the trial: with another number, a resumed run would not be the same bit by bit.
    """
    if not file.run.inline or file.cores == 1:
        return {}
    base: dict[str, Any] = {}
    with suppress(UserError):  # the check of the configuration names an unknown preset
        base = preset_values(preset)
    learner = merge(base, overrides).get("learner", {})
    if not isinstance(learner, Mapping) or "threads" in learner:
        return {}
    return {"learner": {"threads": file.cores}}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, nested by section: `{"learner.gamma": 1}` → `{"learner": {"gamma": 1}}`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        result = merge(result, {section: {name: value}} if section else {name: value})
    return result


def config_of(trial: TrialRecord, source: object) -> Config:
    """The configuration of a trial.

    Args:
        trial: the trial.
        source: the study file, for errors.

    Raises:
        UserError: one line that names file, trial, key and the accepted values.
    """
    where = f"{source}: trial {trial.name}"
    try:
        return make_config(trial.preset, None, trial.overrides, Spelling(where))
    except UserError as error:
        text = str(error)  # of a preset that does not exist: the trial does not count
        raise UserError(text if text.startswith(where) else f"{source}: {text}") from None


def check_names(trials: Iterable[TrialRecord], source: object) -> None:
    """Refuse two trials of one name, such as preset `a-b` and preset `a` with variant `b`.

    Raises:
        UserError: names the trial.
    """
    seen: set[str] = set()
    for trial in trials:
        if trial.name in seen:
            raise UserError(f"{source}: two trials have the name {trial.name}; rename a variant")
        seen.add(trial.name)


def continued(
    planned: Sequence[TrialRecord],
    recorded: Sequence[TrialRecord],
    source: object,
    retry_failed: bool = False,
) -> list[TrialRecord]:
    """The planned trials with what the record of an earlier command knows about them.

    Trials that are not over are pending again: their runs go on from their newest checkpoints.

    Args:
        planned: by the study file as it is now.
        recorded: by the earlier command.
        source: the study file, for errors.
        retry_failed: trials that failed are pending again, too.

    Raises:
        UserError: the file has changed, or lacks, a trial that has begun.
    """
    before = {trial.name: trial for trial in recorded}
    planned_names = {trial.name for trial in planned}
    for trial in recorded:
        if trial.has_begun and trial.name not in planned_names:
            raise UserError(
                f"{source}: lacks trial {trial.name}, which has begun; put it back, or name "
                "another --study-dir"
            )
    return [_continued(trial, before.get(trial.name), source, retry_failed) for trial in planned]


def _continued(
    planned: TrialRecord, before: TrialRecord | None, source: object, retry_failed: bool
) -> TrialRecord:
    if before is None:
        return planned
    change = first_change(before.overrides, planned.overrides)
    if change is not None:
        if not before.has_begun:  # such as one that failed at once, and was corrected
            return planned
        was, now = change
        raise UserError(
            f"{source}: trial {planned.name} has begun {was}, and the file now has "
            f"{now}; put it back, or name another --study-dir"
        )
    again = not before.is_over or (retry_failed and before.status == "failed")
    return replace(before, status="pending", error="") if again else before


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first key whose values differ: `with learner.gamma=0.8` or `without …`, and the new one.

    The new one is the value alone, or `none` where the key is missing.
    """
    old, new = flat(before, KEYS), flat(now, KEYS)
    for key in [*old, *(key for key in new if key not in old)]:
        was, value = (in_toml(one[key]) if key in one else None for one in (old, new))
        if was != value:
            return f"without {key}" if was is None else f"with {key}={was}", value or "none"
    return None


def in_words(file: StudyFile, trials: Sequence[TrialRecord], total: int) -> str:
    """`6 trials (2 presets × 1 variant × 3 seeds)`, for a line at the start."""
    presets, seeds = len(file.all_presets), len(file.seeds)
    parts = [counted(presets, "preset")]
    if file.search is not None:
        is_optuna = file.search.searcher == "optuna"
        samples = total if is_optuna else len({trial.variant for trial in trials})
        parts.append(counted(samples, "sample"))
    elif file.variants:
        parts.append(counted(len(file.variants), "variant"))
    parts.append(counted(seeds, "seed"))
    return counted(total, "trial") + (f" ({' × '.join(parts)})" if total > 1 else "")
