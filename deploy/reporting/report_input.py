"""The runs that the arguments of `raydqn report` name: of run folders, studies, or folders of runs.

A study is read from its record (`deploy.runs.study_folder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.text import counted
from deploy.reporting.groups import Given, by_name
from deploy.reporting.run_record import Unreadable, read_run
from deploy.runs.folder import is_run
from deploy.runs.study_folder import GIVEN, StudyRecord, TrialRecord, is_study, read_study


@dataclass(slots=True)
class Input:
    """What there is to report on.

    Attributes:
        given: the runs that can be read.
        unreadable: the others, each with a reason.
        remarks: on studies: trials that have not begun, or failed before their run began.
        sources: name of each argument.
        studies: name of each study, and the text of its file.
    """

    given: list[Given] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    studies: list[tuple[str, str]] = field(default_factory=list)


def read_input(paths: Sequence[Path], compare: bool) -> Input:
    """Read all runs that the paths name, each once.

    Args:
        paths: run folders, studies, or folders of runs.
        compare: keep the runs of each path apart from those of the others.

    Raises:
        UserError: a path is none of these, there is nothing to compare, or no run can be read.
    """
    paths = _without_repeats(paths, compare)
    found = Input(sources=source_names(paths))
    if compare and len(paths) < 2:
        raise UserError("--compare: needs two studies, or groups of runs, at the least")
    seen: set[tuple[str, Path]] = set()
    for path, name in zip(paths, found.sources, strict=True):
        source = name if compare else ""
        for run, called, variant in _runs_in(path, found):
            key = (source, run.resolve())
            if key in seen:
                continue
            seen.add(key)
            record = read_run(run, called)
            if isinstance(record, Unreadable):
                found.unreadable.append(record)
            else:
                found.given.append(Given(record, variant, source))
    if not found.given:
        reasons = [*(one.reason for one in found.unreadable), *found.remarks]
        raise UserError(f"no run can be read: {reasons[0]}")
    return found


def _without_repeats(paths: Sequence[Path], compare: bool) -> list[Path]:
    """The paths, each folder once."""
    folders: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in folders and compare:
            raise UserError(f"--compare: {path} is given twice")
        folders.setdefault(path.resolve(), path)
    return list(folders.values())


def source_names(paths: Sequence[Path]) -> list[str]:
    """Names of folders; the whole path where two folders share a name."""
    names = [by_name(path) for path in paths]
    return [
        name if names.count(name) == 1 else str(path)
        for name, path in zip(names, paths, strict=True)
    ]


def _runs_in(path: Path, found: Input) -> list[tuple[Path, str, str]]:
    """Run folders below a path, each with the name of its run and of its variant."""
    if is_study(path):
        return _runs_of_study(read_study(path), found)
    if is_run(path):
        return [(path, by_name(path), "")]
    if path.is_file():
        raise UserError(f"{path}: is a file; name the folder of a run, of a study, or of runs")
    try:
        children = sorted(path.iterdir())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    below = [child for child in children if is_run(child)]
    if not below:
        studies = [child for child in children if is_study(child)]
        hint = f"; it holds studies, such as {studies[0]}" if studies else ""
        raise UserError(f"{path}: is no run, no study, and no folder of runs{hint}")
    return [(child, child.name, "") for child in below]


def _runs_of_study(study: StudyRecord, found: Input) -> list[tuple[Path, str, str]]:
    pending = study.total - len(study.trials)
    with suppress(OSError):
        text = (study.path / GIVEN).read_text(encoding="utf-8", errors="replace")
        found.studies.append((study.name, text))
    runs = []
    for trial in study.trials:
        if is_run(trial.run):
            runs.append((trial.run, trial.name, _variant(trial, study)))
        elif trial.status == "failed":
            found.unreadable.append(Unreadable(trial.run, trial.name, f"failed: {trial.error}"))
        else:
            pending += 1
    if pending:
        trials = counted(study.total, "trial")
        found.remarks.append(f"study {study.name}: {pending} of {trials} to come")
    return runs


def _variant(trial: TrialRecord, study: StudyRecord) -> str:
    """The variant's name; with its preset where the study has several."""
    several = len({one.preset for one in study.trials}) > 1
    if not trial.variant:
        return trial.preset
    return f"{trial.preset} {trial.variant}" if several else trial.variant
