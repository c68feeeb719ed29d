"""Reports on made-up run folders: groups, scores, what does not count, and what a page holds."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from common.errors import UserError
from deploy.cli.main import main
from deploy.reporting import report as report_module
from deploy.reporting.figures import _short_path
from deploy.reporting.report import Options, html, markdown, write_report
from deploy.reporting.run_record import RunRecord, read_run
from deploy.runs.folder import METRICS
from deploy.runs.json_values import without_nan
from deploy.runs.study_folder import RECORD, StudyRecord, TrialRecord, save_study
from support.report_runs import PONG, forget, made_up_run, report_line

PLAIN = Options(film=False)
EVIL = '<script>alert("x")</script>|`*'


def report_on(*paths, **options):
    return write_report(paths, [], Options(film=False, **options))


def group_of(view, label_part=""):
    return next(g for task in view.tasks for g in task.groups if label_part in g.label)


def test_seeds_of_one_configuration_are_averaged_and_other_configurations_are_not(tmp_path):
    for seed, score in ((1, 90.0), (2, 100.0), (3, 110.0)):
        made_up_run(tmp_path / f"a{seed}", seed, (None, score))
    made_up_run(tmp_path / "b", 1, (None, 7.0), {"learner": {"n_step": 1}})
    made_up_run(tmp_path / "c", 1, (None, 3.0), {"env": {"id": "Acrobot-v1"}})
    view = report_on(tmp_path)
    assert [task.name for task in view.tasks] == ["CartPole-v1", "Acrobot-v1"]
    labels = [group.label for group in view.tasks[0].groups]
    assert labels == ["learner.n_step = 5", "learner.n_step = 1"]
    three, one = view.tasks[0].groups
    assert (three.mean.value, three.median.value, three.iqm.value) == ("100.0",) * 3
    assert three.mean.interval == "90.0 to 110.0"
    assert (three.seeds, three.count) == ("1, 2, 3", 3)
    assert (one.mean.value, one.mean.interval) == ("7.00", "")
    assert any("one seed: no interval" in remark for remark in one.remarks)
    assert view.tasks[0].differences[1:] == [["learner.n_step", "5", "1"]]


def test_what_does_not_touch_the_result_does_not_part_runs(tmp_path):
    made_up_run(tmp_path / "a", 1, overrides={"checkpoint": {"keep": 1}})
    made_up_run(tmp_path / "b", 2, overrides={"report": {"every_s": 9.0}})
    assert group_of(report_on(tmp_path)).count == 2


def test_the_agents_view_of_a_game_is_no_other_task_but_sticky_actions_are(tmp_path):
    narrow = {"env": {"width": 60}}
    made_up_run(tmp_path / "a", 1, overrides=narrow, preset="pong", protocol=PONG)
    made_up_run(tmp_path / "b", 1, preset="pong", protocol=PONG)
    plain = {"env": {"sticky_actions": 0.0}}
    made_up_run(tmp_path / "c", 1, overrides=plain, preset="pong", protocol=PONG)
    view = report_on(tmp_path)
    assert [task.name for task in view.tasks] == [
        "ALE/Pong-v5 (env.sticky_actions = 0.25)",
        "ALE/Pong-v5 (env.sticky_actions = 0.0)",
    ]
    assert [len(task.groups) for task in view.tasks] == [2, 1]


def test_scores_are_of_the_last_evaluation_and_not_of_the_best(tmp_path):
    made_up_run(tmp_path / "a", 1, (None, 500.0, 200.0))
    view = report_on(tmp_path / "a")
    assert group_of(view).mean.value == "200.0"
    assert group_of(view).runs[0][3:5] == ["200.0", "500.0"]
    assert "not of its best one" in view.tasks[0].score


def test_runs_that_stop_at_a_score_say_that_it_flatters(tmp_path):
    made_up_run(tmp_path / "a", stop_reason="score")
    assert "flatters" in report_on(tmp_path / "a").tasks[0].score


def test_what_does_not_count_is_named(tmp_path):
    made_up_run(tmp_path / "good", 1, (None, 50.0))
    made_up_run(tmp_path / "failed", 2, (None, 60.0), stop_reason="failed", error="NaN loss")
    made_up_run(tmp_path / "killed", 3, (None, 70.0), stop_reason=None)
    made_up_run(tmp_path / "twin", 1, (None, 80.0))
    made_up_run(tmp_path / "early", 4, (None,))
    made_up_run(tmp_path / "empty", 5, ())
    made_up_run(tmp_path / "binary", 6)
    (tmp_path / "binary" / METRICS).write_bytes(b"\xff\xfe\x00" * 1000)
    made_up_run(tmp_path / "broken", 7)
    (tmp_path / "broken" / "config.toml").write_text("[env")
    view = report_on(tmp_path)
    group = group_of(view)
    assert (group.count, group.mean.value) == (1, "50.00")
    told = {f"{name}: {reason}" for name, reason in view.problems}
    for text in (
        "failed does not count: failed: NaN loss",
        "killed does not count: the driver ended without a summary",
        "twin does not count: it has the seed of good",
        "early has no score",
        "empty: has no reports yet",
        "binary: has no reports yet",
        "config.toml",
    ):
        assert any(text in one for one in told), (text, told)
    assert view.summary.endswith("the scores of 1 count.")


def test_a_run_that_goes_on_is_shown_and_marked(tmp_path):
    from deploy.runs.folder import RunFolder

    path = made_up_run(tmp_path / "a", 1, stop_reason=None)
    with RunFolder.open(path).lock():
        view = report_on(path)
    assert group_of(view).runs[0][2] == "still going on"
    assert any("unfinished runs" in reason for _, reason in view.problems)
    assert group_of(view).mean.value == "480.0"


def test_reports_that_a_resume_repeated_and_damaged_lines_are_left_out(tmp_path):
    path = made_up_run(tmp_path / "a", 1, ())
    lines = [report_line(n, s) for n, s in ((1, None), (2, 5.0), (3, 9.0), (2, 6.0), (4, 30.0))]
    strange = report_line(9, 1.0, env_steps="many")
    (path / METRICS).write_text("\n".join([*lines, '{"cut', strange]) + "\n")
    forget(path)
    view = report_on(path)
    remarks = group_of(view).runs[0][-1]
    assert "2 lines of metrics.jsonl left out" in remarks
    assert "1 report left out: a resume" in remarks
    assert group_of(view).mean.value == "30.00"


def test_a_run_without_evaluation_says_so(tmp_path):
    never = {"evaluation": {"every_learner_steps": None}, "stop": {"score": None}}
    made_up_run(tmp_path / "a", 1, (None, None), never)
    view = report_on(tmp_path / "a")
    assert "asks for no evaluation" in group_of(view).runs[0][-1]
    assert view.tasks[0].figures == []
    assert "No curve: no run has an evaluation." in html(view)


def test_atari_scores_are_human_normalised_and_aggregated_over_games(tmp_path):
    for game, scores in (("Pong", (14.6, 14.6)), ("Breakout", (1.7, 30.5))):
        for seed, score in enumerate(scores, 1):
            env = {"env": {"id": f"ALE/{game}-v5"}}
            protocol = {**PONG, "env": f"ALE/{game}-v5"}
            name = tmp_path / f"{game}{seed}"
            made_up_run(name, seed, (None, score), env, preset="pong", protocol=protocol)
    view = report_on(tmp_path)
    by_game = {task.name: task.groups[0].normalised.value for task in view.tasks}
    assert by_game == {"ALE/Pong-v5": "1.000", "ALE/Breakout-v5": "0.500"}
    assert [(label, mean.value) for label, _, mean, _, _ in view.overall] == [
        ("one configuration", "0.750")
    ]
    assert "Sticky actions" in html(view)


def test_compare_says_where_intervals_do_not_overlap(tmp_path):
    for study, steps, scores in (("low", 1, (10.0, 11.0, 12.0)), ("high", 3, (50.0, 60.0, 70.0))):
        for seed, score in enumerate(scores, 1):
            (tmp_path / study).mkdir(exist_ok=True)
            over = {"learner": {"n_step": steps}}
            made_up_run(tmp_path / study / f"{seed}", seed, (None, score), over)
    view = report_on(tmp_path / "low", tmp_path / "high", compare=True)
    assert [group.label for group in view.tasks[0].groups] == ["low", "high"]
    (pair,) = view.tasks[0].pairs
    assert pair[:3] == ["high", "low", "49.00"]
    assert pair[4:] == ["1.00", "do not overlap", "do not overlap"]
    assert "Side by side" in html(view)
    with pytest.raises(UserError, match="--compare: needs two"):
        report_on(tmp_path / "low", compare=True)


def test_a_study_names_its_variants_and_the_trials_to_come(tmp_path):
    study = tmp_path / "study"
    trials = []
    for seed in (1, 2):
        for variant, steps in (("three", 3), ("one", 1)):
            name = f"{variant}-{seed}"
            run = study / "runs" / name
            made_up_run(run, seed, (None, 10.0 * steps), {"learner": {"n_step": steps}})
            trials.append(TrialRecord(name, "cartpole", variant, seed, run, status="finished"))
    failed = study / "runs" / "bad"
    trials.append(TrialRecord("bad", "cartpole", "bad", 1, failed, status="failed", error="boom"))
    save_study(StudyRecord("mine", study, "score", trials, total=7))
    assert (study / RECORD).is_file()
    (study / "study.toml").write_text('preset = "cartpole"\n')
    view = report_on(study)
    assert view.studies == [("mine", 'preset = "cartpole"\n')]
    assert "raydqn study study.toml" in html(view)
    assert {group.label: group.mean.value for group in view.tasks[0].groups} == {
        "three": "30.00",
        "one": "10.00",
    }
    assert ("bad", "failed: boom") in view.problems
    assert any("2 of 7 trials to come" in reason for _, reason in view.problems)


class Page(HTMLParser):
    """The links, texts and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name.rpartition(":")[2] in ("src", "href", "srcset", "action", "data"):
                self.links.append(value)


def test_the_page_needs_no_other_file_and_shows_no_name_as_markup(tmp_path):
    path = made_up_run(
        tmp_path / "run",
        1,
        overrides={"env": {"kwargs": {"name": EVIL}}},
        protocol={"env": "CartPole-v1", "kwargs": {"name": EVIL}},
        error=EVIL,
        device=EVIL,
    )
    bad = tmp_path / "<img src=x onerror=alert(1)>"
    made_up_run(bad, 2, overrides={"env": {"kwargs": {"name": EVIL}}}, stop_reason="failed",
                error=EVIL)  # fmt: skip
    out = tmp_path / "page.html"
    write_report([path, bad], [out], Options(film=False, title=f"Title {EVIL}"))
    text = out.read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(link.startswith(("data:", "#")) for link in page.links), page.links
    assert not re.search(r"url\((?!#|'#|\"#)", text)
    assert "@import" not in text
    assert page.tags.count("svg") >= 2
    assert len(text) < 200_000


def test_the_markdown_page_has_the_same_figures_as_files(tmp_path):
    made_up_run(tmp_path / "a", 1)
    out = tmp_path / "page.md"
    write_report([tmp_path / "a"], [out], Options(film=False, title=f"Title {EVIL}"))
    text = out.read_text()
    assert text.startswith("# Title \\<script\\>")
    figures = re.findall(r"\]\((page_files/[\w-]+\.svg)\)", text)
    assert len(figures) == 2
    for figure in figures:
        assert (tmp_path / figure).read_text().startswith("<svg")
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.rstrip().endswith("|"), line
    assert "480.0" in text
    assert "    raydqn train cartpole --inline --seed 1" in text


def test_the_page_tells_machine_versions_command_and_what_bounded_the_run(tmp_path):
    made_up_run(tmp_path / "a", 3)
    group = group_of(report_on(tmp_path / "a"))
    assert group.machines == ["A processor, 2 usable cores, 24 GiB of memory, Linux 6.1"]
    hosts = [{"host": name} for name in ("a", "b", "b", None)]
    (tmp_path / "a" / "status.json").write_text(json.dumps({"parts": hosts}))
    assert group_of(report_on(tmp_path / "a")).hosts == 2
    assert "the run's parts ran on 2 hosts" in html(report_on(tmp_path / "a"))
    assert group.versions == "raydqn 0.1.0, Python 3.11.7, torch 2.13.0"
    assert group.command == "raydqn train cartpole --inline --seed 3"
    assert "most of its time (50%) on learner steps" in group.bounds


@pytest.mark.parametrize(
    ("waiting", "verdict"),
    [
        ("actors", "the learner: it was busy in 50% and the actors waited for it in 100%"),
        ("learner", "the actors, mostly by environment steps: the learner waited in 100%"),
        (None, "neither side alone"),
    ],
)
def test_on_ray_the_side_that_the_other_waits_for_bounds_the_run(tmp_path, waiting, verdict):
    path = made_up_run(tmp_path / "a", mode="Ray on this machine")
    lines = [report_line(n, 1.0, limiter_waiting=waiting) for n in (1, 2, 3)]
    (path / METRICS).write_text("\n".join(lines))
    assert group_of(report_on(path)).bounds.startswith(verdict)


def test_the_film_is_of_the_run_of_median_score_and_a_failure_is_told(tmp_path, monkeypatch):
    for seed, score in ((1, 10.0), (2, 300.0), (3, 40.0)):
        made_up_run(tmp_path / f"r{seed}", seed, (None, score))
    filmed = []

    def film(folder, max_width):
        filmed.append(folder.path.name)
        return [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")], 77.0

    monkeypatch.setattr(report_module, "film_episode", film)
    out = tmp_path / "page.html"
    view = write_report([tmp_path], [out, tmp_path / "page.md"], Options())
    assert filmed == ["r3"]
    assert "its return is 77.00" in view.tasks[0].film_caption
    assert "data:image/gif;base64,R0lGOD" in out.read_text()
    assert (tmp_path / "page_files" / "task-1.gif").read_bytes().startswith(b"GIF8")

    def none(folder, max_width):
        raise UserError("--gif: this environment renders no pictures (no screen)")

    monkeypatch.setattr(report_module, "film_episode", none)
    assert "No film: this environment renders no pictures" in html(
        write_report([tmp_path], [], Options())
    )


def test_fresh_episodes_make_the_score_where_they_are_asked_for(tmp_path, monkeypatch):
    made_up_run(tmp_path / "a", 1, (None, 500.0))
    made_up_run(tmp_path / "b", 2, (None, 500.0))

    def play(folder, episodes):
        if folder.path.name == "b":
            raise UserError("there are no weights")
        return {"returns": [1.0, 2.0, 6.0][:episodes]}

    monkeypatch.setattr(report_module, "evaluate", play)
    view = report_on(tmp_path, episodes=3)
    group = group_of(view)
    assert (group.count, group.mean.value) == (1, "3.00")
    assert "played for this report" in view.tasks[0].score
    assert "no episode could be played: there are no weights" in group.runs[1][-1]


def test_the_command_writes_both_pages_into_the_first_folder(tmp_path, capsys):
    made_up_run(tmp_path / "a", 1)
    assert main(("report", str(tmp_path / "a"), "--no-film")) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [str(tmp_path / "a" / name) for name in ("report.html", "report.md")]
    assert (tmp_path / "a" / "report_files").is_dir()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "nowhere: cannot be read (No such file or directory)"),
        (("{here}/a/checkpoints",), "is no run, no study, and no folder of runs"),
        (("{here}/a", "--out", "page.pdf"), "--out=page.pdf: must end in .html or .md"),
        (("{here}/a", "--out", "/nowhere/page.md"), "there is no folder /nowhere"),
        (("{here}", "--episodes", "0"), "--episodes=0: must be a whole number of at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, capsys, arguments, says):
    made_up_run(tmp_path / "a")
    (tmp_path / "a" / "checkpoints").mkdir(exist_ok=True)
    words = [word.format(here=tmp_path) for word in arguments]
    assert main(("report", *words)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_an_old_run_without_a_record_of_its_attempts_is_shown(tmp_path):
    path = made_up_run(tmp_path / "a", 1)
    forget(path, "attempts.jsonl")
    (path / "run.log").write_text(
        "2026-01-01T10:00:00.000+00:00 INFO attempt 1: raydqn 0.0.9, Python 3.11.2, one process, "
        "without Ray; /x/raydqn train cartpole --inline\n"
    )
    group = group_of(report_on(path))
    assert group.command == "raydqn train cartpole --inline"
    assert group.versions == "raydqn 0.0.9, Python 3.11.2"
    assert group.machines == []
    assert json.loads(json.dumps(group.runs))


def test_a_path_in_tenths_leads_where_the_whole_one_does():
    whole = "M 10.04 20.0 L 10.04 30.111 L 15.5 30.111 L 16.26 31 L 16.26 31 z M 1 2 L 3 2"
    assert _short_path(whole) == "M10 20V30.1H15.5L16.3 31zM1 2H3"
    curved = "M 0 3 C 0.79 3 1.55 2.68 2.12 2.12 z"
    assert _short_path(curved) == curved


@pytest.mark.parametrize(
    "strange",
    [None, "x", [], [{}], {"a": [1]}, True, -1, 10**320, 1e400],
    ids=lambda one: f"{one!r:.9}",
)
def test_strange_values_in_files_end_in_no_traceback(tmp_path, strange):
    keys = ("score", "best_score", "env_steps", "wall_s", "learner_steps", "device", "protocol")
    path = made_up_run(tmp_path / "run", 1)
    summary = {**dict.fromkeys(keys, strange), "stop_reason": "env_steps"}
    (path / "summary.json").write_text(json.dumps(summary))
    shares = ("learner_busy", "actor_busy", "actors", "limiter_waiting", "score")
    report = json.loads(report_line(1, 5.0))
    lines = [json.dumps({**report, key: strange}) for key in ("wall_s", *shares)]
    (path / METRICS).write_text("\n".join([report_line(1, 5.0), *lines]))
    (path / "status.json").write_text(json.dumps({"parts": strange}))
    record = dict.fromkeys(("command", "mode", "versions", "machine"), strange)
    (path / "attempts.jsonl").write_text(json.dumps(record))
    view = report_on(path)
    assert group_of(view).runs[0][:2] == ["run", "1"], view.problems
    assert "| run | 1 |" in markdown(view, "files")
    assert json.dumps(without_nan(view.numbers))
    (path / "status.json").write_text(json.dumps({"parts": [{"host": strange}, strange]}))
    assert isinstance(read_run(path), RunRecord)


def test_runs_whose_only_evaluation_came_at_their_end_are_dots(tmp_path):
    for seed, number in ((1, 3), (2, 4)):
        made_up_run(tmp_path / f"r{seed}", seed, (None,) * number + (50.0,))
    view = report_on(tmp_path)
    figure = view.tasks[0].figures[0]
    assert "no place that all runs have in common" in figure.alternative
    assert [line.get_marker() for line in figure.draw().axes[0].lines] == ["o", "o"]


def test_many_configurations_are_ordered_by_their_means(tmp_path):
    for number in range(8):
        over = {"learner": {"learning_rate": 1e-4 * (number + 1)}}
        made_up_run(tmp_path / f"r{number}", 1, (None, float(number % 5)), over)
    task = report_on(tmp_path).tasks[0]
    assert [group.mean.value[0] for group in task.groups] == [
        "4",
        "3",
        "2",
        "2",
        "1",
        "1",
        "0",
        "0",
    ]
    assert task.differences[0] == ["configuration", "learner.learning_rate"]
    assert len(task.differences) == 9
    assert len({group.colour for group in task.groups}) == 8


def test_the_numbers_are_printed_as_json(tmp_path, capsys):
    for seed, score in ((1, 10.0), (2, 20.0), (3, 60.0)):
        made_up_run(tmp_path / f"r{seed}", seed, (None, score))
    out = tmp_path / "page.html"
    assert main(("report", str(tmp_path), "--no-film", "--json", "--out", str(out))) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["files"] == [str(out)]
    (task,) = shown["tasks"]
    assert task["env_id"] == "CartPole-v1"
    (group,) = task["groups"]
    assert (group["seeds"], group["scores"]) == ([1, 2, 3], [10.0, 20.0, 60.0])
    assert (group["mean"], group["median"], group["iqm"]) == (30.0, 20.0, 30.0)
    assert group["std"] == pytest.approx(26.4575, abs=1e-3)
    assert group["std_over"] == "seeds"
    low, high = group["mean_interval"]
    assert 10.0 <= low < 30.0 < high <= 60.0
    assert (group["env_steps_median"], group["wall_s_median"]) == (200, 4.0)
    assert group["episodes"] == [100, 100, 100]


def test_paces_that_differ_are_drawn_over_learner_steps_too(tmp_path):
    made_up_run(tmp_path / "a", 1)
    made_up_run(tmp_path / "b", 1, overrides={"learner": {"gamma": 0.9}})
    names = [figure.name for figure in report_on(tmp_path).tasks[0].figures]
    assert names == ["curves-1-env-steps", "curves-1-wall"]
    made_up_run(tmp_path / "c", 1, overrides={"actors": {"count": 4}}, every=400)
    figures = report_on(tmp_path).tasks[0].figures
    assert [figure.name for figure in figures][2:] == ["curves-1-learner-steps"]
    ends = [curve.end for line in figures[2].lines for curve in line.curves]
    assert ends == [50.0, 50.0, 50.0]
