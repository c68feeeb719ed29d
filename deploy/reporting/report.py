"""`raydqn report`: one page on runs or studies, as HTML without any other file, and as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from statistics import median

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

from common.errors import EnvironmentFailedError, UserError
from common.storage import write_atomically
from common.text import counted, printable
from common.version import VERSION
from deploy.reporting import words
from deploy.reporting.comparison import overall_of
from deploy.reporting.evaluation import PAGE_WIDTH, evaluate, film_episode, small_gif
from deploy.reporting.groups import Given, Group, Task, tasks_of
from deploy.reporting.report_input import Input, read_input
from deploy.reporting.report_numbers import numbers_of
from deploy.reporting.report_view import (
    ReportView,
    TaskView,
    overall_rows,
    overall_sentences,
    task_view,
)
from deploy.reporting.run_record import RunRecord
from deploy.runs.folder import RunFolder

HTML, MARKDOWN = ".html", ".md"
MAX_MESSAGE = 200
"""Characters of an error of an environment."""
MAX_NAMES = 4
"""Names in a title."""


@dataclass(frozen=True, slots=True)
class Options:
    """Contents of a report, as its user chooses them.

    Attributes:
        compare: the groups side by side.
        film: one episode of each task.
        episodes: to play with each run's best weights, which make its score; 0: the last
            evaluation of the run does.
        title: of the page; empty: the names of what is reported on.
    """

    compare: bool = False
    film: bool = True
    episodes: int = 0
    title: str = ""


def write_report(
    paths: Sequence[Path],
    files: Sequence[Path],
    options: Options,
    say: Callable[[str], None] = lambda line: None,
) -> ReportView:
    """Write a report on runs into files.

    Args:
        paths: run folders, studies, or folders of runs.
        files: each ends in `.html` or `.md`; figures and films of the latter come into a folder
            beside it.
        options: what the report contains.
        say: called with one line before work that takes a while.

    Returns:
        The report.

    Raises:
        UserError: a path is no run, a file has another ending, or it cannot be written.
    """
    found = read_input(paths, options.compare)
    for file in files:
        check_file(file)
    if options.episodes:
        _play(found, options.episodes, say)
    tasks = tasks_of(found.given)
    view = _view(found, tasks, options)
    if options.film:
        for task, one in zip(tasks, view.tasks, strict=True):
            _film(task, one, say)
    for file in files:
        _write(file, view)
    return view


def check_file(file: Path) -> None:
    """Refuse a file that a report cannot be written into.

    Raises:
        UserError: its name has another ending, or there is no such folder.
    """
    if file.suffix.lower() not in (HTML, MARKDOWN):
        raise UserError(f"--out={file}: must end in {HTML} or {MARKDOWN}")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--out={file}: there is no folder {file.absolute().parent}")


def _view(found: Input, tasks: Sequence[Task], options: Options) -> ReportView:
    views = [task_view(task, number, options.compare) for number, task in enumerate(tasks, 1)]
    groups = [group for task in tasks for group in task.groups]
    overall, on_overall = overall_of(tasks)
    problems = [(one.name, one.reason) for one in found.unreadable]
    problems += [(_named(group, task), remark) for task in tasks for group in task.groups
                 for remark in group.remarks]  # fmt: skip
    problems += [("all games", remark) for remark in on_overall]
    problems += [("study", remark) for remark in found.remarks]
    alone = all(len({group.source for group in task.groups}) == 1 for task in tasks)
    if options.compare and alone and not overall:
        problems.append(("--compare", "no task has runs of two arguments: nothing is compared"))
    return ReportView(
        title=options.title or f"Report on {_names(found.sources)}",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=VERSION,
        summary=_summary(found, tasks, groups),
        compare=options.compare,
        problems=problems,
        tasks=views,
        overall=overall_rows(overall),
        overall_pairs=overall_sentences(overall) if options.compare else [],
        studies=found.studies,
        numbers=numbers_of(tasks, overall),
    )


def _names(sources: Sequence[str]) -> str:
    if len(sources) <= MAX_NAMES:
        return words.joined(sources)
    return f"{sources[0]} and {len(sources) - 1} more"


def _named(group: Group, task: Task) -> str:
    return f"{task.name}, {group.label}"


def _summary(found: Input, tasks: Sequence[Task], groups: Sequence[Group]) -> str:
    runs = len(found.given) + len(found.unreadable)
    counting = sum(len(group.counted) for group in groups)
    return (
        f"{counted(runs, 'run')} of {counted(len(groups), 'configuration')} on "
        f"{counted(len(tasks), 'task')}; the scores of {counting} count."
    )


def _play(found: Input, episodes: int, say: Callable[[str], None]) -> None:
    """Replace each run that has a score by one with fresh episodes; keep it where that fails."""
    for number, one in enumerate(found.given):
        run = one.run
        if run.final is None:
            continue
        say(f"playing {counted(episodes, 'episode')} with the best weights of {run.name}")
        try:
            overrides = {"evaluation": {"episodes": episodes}}
            returns = evaluate(RunFolder.open(run.path, overrides), episodes)["returns"]
        except (UserError, EnvironmentFailedError, OSError) as error:
            remark = f"no episode could be played: {_line(error)}"
            played = replace(run, remarks=[*run.remarks, remark], final=None)
        else:
            played = replace(run, fresh=returns)
        found.given[number] = Given(played, one.variant, one.source)


def _film(task: Task, view: TaskView, say: Callable[[str], None]) -> None:
    """Film the run in the middle of the best group, by score: neither a lucky nor a bad one."""
    run = _typical(task)
    if run is None:
        view.no_film = "no run has a score"
        return
    say(f"filming an episode of {run.name}")
    try:
        pictures, ret = film_episode(RunFolder.open(run.path), max_width=PAGE_WIDTH)
        view.film = small_gif(pictures)
    except (UserError, EnvironmentFailedError, OSError) as error:
        view.no_film = _line(error).removeprefix("--gif: ")
        return
    ending = f"its return is {words.score(ret)}" if ret is not None else "it goes on"
    view.film_caption = (
        f"One episode with the weights of the best evaluation of {run.name} (seed "
        f"{run.config.seed}), the run of median score in its group; {ending}."
    )


def _typical(task: Task) -> RunRecord | None:
    """The run whose score is nearest to the median of the group with the highest mean."""
    groups = [group for group in task.groups if group.scores]
    if not groups:
        return None
    best = max(groups, key=lambda group: sum(group.scores) / len(group.scores))
    middle = median(best.scores)
    return min(best.counted, key=lambda run: abs((run.score or 0.0) - middle))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_MESSAGE]


# --- files ---------------------------------------------------------------------------------------


def _write(file: Path, view: ReportView) -> None:
    try:
        if file.suffix.lower() == HTML:
            write_atomically(file, html(view).encode("utf-8", "backslashreplace"))
            return
        folder = file.with_name(f"{file.stem}_files")
        folder.mkdir(exist_ok=True)
        for task in view.tasks:
            for figure in task.figures:
                write_atomically(folder / f"{figure.name}.svg", figure.file.encode())
            if task.film is not None:
                write_atomically(folder / f"{task.anchor}.gif", task.film)
        text = markdown(view, folder.name)
        write_atomically(file, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"--out={file}: cannot be written ({error.strerror or error})") from None


def html(view: ReportView) -> str:
    """The page: it needs no other file, and no network."""
    return _templates().get_template("report.html.j2").render(report=view)


def markdown(view: ReportView, folder: str) -> str:
    """The same as Markdown.

    Args:
        view: the report.
        folder: of figures and films, relative to the file.
    """
    text = _templates().get_template("report.md.j2").render(report=view, folder=folder)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _templates() -> Environment:
    templates = Environment(
        loader=FunctionLoader(_template),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["base64"] = lambda data: base64.b64encode(data).decode()
    templates.filters["md"] = _escaped
    templates.filters["code"] = lambda text: printable(text).replace("`", "ʼ")
    return templates


def _template(name: str) -> str:
    folder = resources.files("deploy.reporting") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _escaped(text: object) -> str:
    """Text of any kind in Markdown: nothing in it is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|~$&])", r"\\\1", printable(text))
