"""Changing a run while it goes on: the file, both its ends, and `raydqn set`."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import KEYS, build, merge
from common.errors import UserError
from deploy.cli.main import main
from deploy.control import file as control
from deploy.control.file import LIVE_KEYS, ControlFile, changed, describe, keys_of
from deploy.launch.presets import make_config
from deploy.launch.resume import resume
from deploy.launch.train import train
from deploy.runs.folder import CONTROL, RunFolder
from support.program import TINY, reports_in

RATIO, ERROR = "learner.samples_per_insert", "learner.samples_per_insert_error"


def tiny(**over):
    return make_config("cartpole", overrides=merge(TINY, over))


def asks(run, *options: str) -> int:
    return main(("set", str(run), *options))


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", tiny())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


# --- what may be changed ------------------------------------------------------------------------


def test_every_live_key_is_a_key():
    assert set(LIVE_KEYS) <= KEYS.keys()


def test_a_change_is_checked_against_the_whole_configuration():
    config = tiny()
    new = changed(config, {"learner": {"samples_per_insert": 2}}, "here")
    assert new.learner.samples_per_insert == 2.0
    assert new == build(merge(config.model_dump(), {"learner": {"samples_per_insert": 2.0}}))
    # One actor's work is 4 copies × 8 steps.
    with pytest.raises(UserError, match=r"^here: .*samples_per_insert_error=127: must be at least"):
        changed(config, {"learner": {"samples_per_insert_error": 127}}, "here")
    given_error = changed(config, {"learner": {"samples_per_insert_error": 128}}, "here")
    with pytest.raises(UserError, match="samples_per_insert_error=128: must be at least 160"):
        changed(given_error, {"learner": {"samples_per_insert": 5}}, "here")
    freed = changed(given_error, {"learner": {"samples_per_insert_error": None}}, "here")
    assert freed.learner.samples_per_insert_error is None


@pytest.mark.parametrize("key", sorted(KEYS.keys() - set(LIVE_KEYS)))
def test_any_other_key_cannot_be_changed(key):
    section, _, name = key.rpartition(".")
    changes = {section: {name: 1}} if section else {name: 1}
    with pytest.raises(UserError, match=rf"{key}: cannot be changed while a run goes on; these"):
        changed(tiny(), changes, "here")


def test_a_change_is_told_key_by_key():
    old, new = tiny(), changed(tiny(), {"learner": {"samples_per_insert_error": 5_000}}, "here")
    assert describe(old, new, [RATIO, ERROR]) == (
        "learner.samples_per_insert 4 → 4, learner.samples_per_insert_error none → 5000"
    )


# --- the file -----------------------------------------------------------------------------------


def test_what_is_asked_for_is_read_once_and_removed(folder):
    file = ControlFile(folder.path)
    assert file.read() is None
    (folder.path / CONTROL).write_text(
        '[learner]\nsamples_per_insert = 2.0\nsamples_per_insert_error = "none"\n'
    )
    asked = file.read()
    assert changed(tiny(), asked, "here").learner.samples_per_insert_error is None
    assert asked["learner"]["samples_per_insert"] == 2.0
    assert file.read() is None, "one that cannot be removed is not taken again"
    file.remove()
    assert not (folder.path / CONTROL).exists()
    file.remove()


def test_a_request_that_came_meanwhile_is_not_removed(folder):
    file, path = ControlFile(folder.path), folder.path / CONTROL
    path.write_text("[learner]\nsamples_per_insert = 2.0\n")
    assert file.read()
    newer = folder.path / "newer"
    newer.write_text("[learner]\nsamples_per_insert = 3.0\n")
    newer.replace(path)
    file.remove()
    assert file.read() == {"learner": {"samples_per_insert": 3.0}}


BRACKETS = b"x = " + b"[" * 20_000


@given(st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([BRACKETS, b"x = " + b"9" * 5_000, b"#" * 70_000, b"learner = 3", b"",
                     b"[learner]\nsamples_per_insert = {a = 1}", b"[learner.samples_per_insert]",
                     b"[learner]\nsamples_per_insert = nan", b"seed = 4"]),
))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_the_file_is_a_users_error_of_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    (folder / CONTROL).write_bytes(data)
    with pytest.raises(UserError):
        changed(tiny(), ControlFile(folder).read(), CONTROL)


def test_what_is_no_file_is_refused_without_being_opened(folder):
    file, path = ControlFile(folder.path), folder.path / CONTROL
    os.mkfifo(path)  # to open it would wait for a writer
    with pytest.raises(UserError, match="must be a file"):
        file.read()
    file.remove()
    path.mkdir()
    with pytest.raises(UserError, match="must be a file"):
        file.read()
    file.remove()
    assert file.read() is None, "it cannot be removed, and is not named every second"


# --- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ["names no key", RATIO]),
        (["--learner.batch-size", "64"], ["learner.batch_size", "cannot be changed", RATIO]),
        (["--learner.sample-per-insert", "4"], ["unknown key; did you mean learner.samples_per"]),
        (["--learner.samples-per-insert", "much"], ["learner.samples_per_insert='much'"]),
        (["--learner.samples-per-insert", "0"], ["learner.samples_per_insert=0"]),
        (["--learner.samples-per-insert", "nan"], ["learner.samples_per_insert=nan"]),
        (["--learner.samples-per-insert-error", "1"], ["samples_per_insert_error=1", "forever"]),
        (["--learner.samples-per-insert"], ["needs a value"]),
        (["--frobnicate"], ["--frobnicate", "raydqn set --help"]),
    ],
)
def test_a_mistake_gets_one_line_and_nothing_is_written(folder, capsys, options, says):
    with folder.lock():
        before = content(folder)
        assert asks(folder.path, *options) == 2
        assert content(folder) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("raydqn: error: ")
    for word in says:
        assert word in line


def test_a_folder_where_nothing_runs_is_refused_and_left_alone(folder, tmp_path, capsys):
    change = ("--learner.samples-per-insert", "2")
    before = content(folder)
    assert asks(folder.path, *change) == 2, "never started"
    assert content(folder) == before
    with folder.lock():
        pass
    before = content(folder)
    assert asks(folder.path, *change) == 2, "has ended"
    assert content(folder) == before
    assert asks(tmp_path / "nowhere", *change) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == second
    assert f"{folder.path}: no run is going on there" in first
    assert "not a run folder" in third


def test_a_run_that_does_not_look_has_not_taken_it_yet(folder, capsys, monkeypatch):
    monkeypatch.setattr(control, "TAKEN_WITHIN_S", 0.2)
    with folder.lock():
        assert asks(folder.path, "--learner.samples-per-insert-error", "none") == 1
        assert "not taken yet: the run did not look within 0.2 s" in capsys.readouterr().err
        asked = ControlFile(folder.path).read()
        assert asked == {"learner": {"samples_per_insert_error": "none"}}


def test_a_run_that_ends_meanwhile_has_not_taken_it(folder, capsys):
    path = folder.path / CONTROL
    locked = threading.Event()

    def run() -> None:
        with folder.lock():
            locked.set()
            while not path.exists():
                time.sleep(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    locked.wait()
    assert asks(folder.path, "--learner.samples-per-insert", "2") == 1
    thread.join()
    assert "not taken: the run has ended; nothing was changed" in capsys.readouterr().err
    assert not path.exists(), "nobody will ever take it"


# --- a run that is asked ------------------------------------------------------------------------


class Asking:
    """A view that hands a file in after some reports, and keeps what it is told."""

    def __init__(self, run, steps, *texts: str) -> None:
        self.run, self.steps, self.texts = run, steps, list(texts)
        self.lines: list[str] = []

    def update(self, report) -> None:
        path = self.run / CONTROL
        if self.texts and report["learner_steps"] >= self.steps and not path.exists():
            path.write_text(self.texts.pop(0))

    def notify(self, text: str, level: int = 20, detail: str = "") -> None:
        self.lines.append(text)

    def close(self) -> None:
        pass


@pytest.fixture
def always_looking(monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LOOK_EVERY_S", 0.0)


def test_a_run_takes_a_change_over_records_it_and_says_so(tmp_path, always_looking):
    run = tmp_path / "run"
    text = "[learner]\nsamples_per_insert = 16.0\nsamples_per_insert_error = 1000\n"
    view = Asking(run, 200, text)
    config = tiny(stop={"learner_steps": 1_500}, report={"every_s": 0.001})
    summary = train(config, run, view=view)
    assert (
        "applied: learner.samples_per_insert 4 → 16, learner.samples_per_insert_error none → 1000"
        in view.lines
    )
    assert not (run / CONTROL).exists()
    assert summary["samples_per_insert"] == pytest.approx(16, rel=0.1)
    recorded = RunFolder.open(run)
    assert recorded.config.learner.samples_per_insert == 16.0
    assert recorded.config.learner.samples_per_insert_error == 1000.0
    saved = recorded.checkpoints.newest().state["config"]
    assert saved["learner"]["samples_per_insert"] == 16.0
    # The change must not make up for what was before it: 200 · 32 samples at 4 per insert would be
    # 4,800 inserts too many, and no insert for 76,800 samples.
    first = [r for r in reports_in(run) if r["learner_steps"] < 200][-1]
    inserted = summary["transitions"] - first["transitions"]
    learnt = (summary["learner_steps"] - first["learner_steps"]) * 32
    assert learnt / inserted == pytest.approx(16, rel=0.2)
    # A resume goes on with it.
    again = resume(run, {"stop": {"learner_steps": 2_500}})
    assert again["samples_per_insert"] == pytest.approx(16, rel=0.1)


def test_checkpoints_come_at_the_new_interval_from_then_on(tmp_path, always_looking):
    run = tmp_path / "run"
    view = Asking(run, 200, "[checkpoint]\nevery_learner_steps = 50\n")
    checkpoint = {"every_learner_steps": 10_000, "keep": 100}
    config = tiny(stop={"learner_steps": 600}, report={"every_s": 0.001}, checkpoint=checkpoint)
    train(config, run, view=view)
    assert "applied: checkpoint.every_learner_steps 10000 → 50" in view.lines
    names = RunFolder.open(run).checkpoints.names()
    steps = sorted(int(name.rpartition("-")[2]) for name in names)
    assert steps[0] >= 200
    assert len(steps) >= 7
    between = [b - a for a, b in pairwise(steps[:-1])]
    assert min(between) >= 50
    assert max(between) < 50 + TINY["learner"]["train_steps"]


def test_the_same_seed_and_no_change_still_give_the_same_weights(tmp_path, always_looking):
    config = tiny(stop={"learner_steps": 200}, report={"every_s": 0.001})
    same = "[learner]\nsamples_per_insert = 4.0\n"
    plain = train(config, tmp_path / "a")
    asked = train(config, tmp_path / "b", view=Asking(tmp_path / "b", 50, same))
    assert plain["weights_sha256"] == asked["weights_sha256"]


def test_a_damaged_request_is_named_and_removed_and_the_run_goes_on(tmp_path, always_looking):
    run = tmp_path / "run"
    damaged = [
        "[learner", "[learner]\nsamples_per_insert = -1.0\n", "[learner]\nbatch_size = 3\n",
        "[learner]\nsamples_per_insert_error = 1.0\n", "[learner]\nsamples_per_insert = [",
    ]  # fmt: skip
    view = Asking(run, 50, *damaged)
    config = tiny(stop={"learner_steps": 1_000}, report={"every_s": 0.001})
    assert train(config, run, view=view)["learner_steps"] == 1_000
    said = [line for line in view.lines if "nothing was changed" in line]
    assert len(said) == len(damaged), "each is named once"
    assert "batch_size: cannot be changed" in said[2]
    assert not (run / CONTROL).exists()
    assert RunFolder.open(run).config == config


def test_a_change_that_cannot_be_recorded_is_not_made(tmp_path, always_looking, monkeypatch):
    def disk_full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "save_config", disk_full)
    run = tmp_path / "run"
    view = Asking(run, 50, "[learner]\nsamples_per_insert = 16.0\n")
    config = tiny(stop={"learner_steps": 1_000}, report={"every_s": 0.001})
    summary = train(config, run, view=view)
    assert any("No space left on device; nothing was changed" in line for line in view.lines)
    assert summary["samples_per_insert"] == pytest.approx(4, rel=0.2)


def test_a_request_of_an_earlier_life_is_not_taken(tmp_path, always_looking):
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 50}), run)
    (run / CONTROL).write_text("[learner]\nsamples_per_insert = 16.0\n")
    view = Asking(run, 0)
    resume(run, {"stop": {"learner_steps": 300}}, view=view)
    assert not any("changed" in line for line in view.lines)
    assert not (run / CONTROL).exists()


def test_a_request_that_came_too_late_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.supervisor.loop.LOOK_EVERY_S", 1e9)
    run = tmp_path / "run"
    train(tiny(stop={"learner_steps": 50}), run, view=Asking(run, 0, "[learner]\n"))
    assert not (run / CONTROL).exists()


def test_the_run_looks_once_a_second_at_the_most(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(ControlFile, "read", lambda self: looks.append(time.monotonic()))
    config = tiny(stop={"learner_steps": None, "score": None, "wall_s": 3.3})
    train(config, tmp_path / "run")
    assert 2 <= len(looks) <= 3
    assert keys_of({"learner": {"a": 1}, "seed": 2}) == ["learner.a", "seed"]


# --- several commands at once -------------------------------------------------------------------


def test_no_wish_takes_the_place_of_another_that_was_not_taken_yet(folder):
    wishes = [{"learner": {"samples_per_insert": float(n)}} for n in range(1, 41)]
    posted, gate = [], threading.Barrier(8)

    def command(mine) -> None:
        gate.wait()
        for wish in mine:
            while control.post(folder.path, wish) is None:
                time.sleep(0.001)
            posted.append(wish)

    threads = [threading.Thread(target=command, args=(wishes[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    file, taken = ControlFile(folder.path), []
    deadline = time.monotonic() + 30
    while len(taken) < len(wishes) and time.monotonic() < deadline:
        wish = file.read()
        if wish is not None:
            taken.append(wish)
            file.remove()
    for thread in threads:
        thread.join()
    key = str
    assert sorted(taken, key=key) == sorted(wishes, key=key) == sorted(posted, key=key)
    assert not list(folder.path.glob(f".{CONTROL}*"))


def test_where_a_file_system_has_no_links_a_wish_is_put_there_all_the_same(folder, monkeypatch):
    def no_links(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    wish = {"learner": {"samples_per_insert": 2.0}}
    mark = control.post(folder.path, wish)
    assert control.post(folder.path, {"learner": {"samples_per_insert": 3.0}}) is None
    file = ControlFile(folder.path)
    assert file.read() == wish
    file.answer("applied: it")
    assert control._answer(folder.path, mark) == "applied: it"


def test_an_answer_to_another_wish_is_not_taken_for_ones_own(folder):
    file = ControlFile(folder.path)
    first = control.post(folder.path, {"learner": {"samples_per_insert": 2.0}})
    file.read()
    file.answer("applied: the first")
    file.remove()
    second = control.post(folder.path, {"learner": {"samples_per_insert": 3.0}})
    assert control._answer(folder.path, second) is None
    assert control._answer(folder.path, first) == "applied: the first"


def test_a_wish_that_finds_another_there_for_too_long_says_so_and_leaves_it(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(control, "TAKEN_WITHIN_S", 0.2)
    with folder.lock():
        other = {"crash": {"kind": "actor", "number": 1}}
        assert control.post(folder.path, other)
        assert asks(folder.path, "--learner.samples-per-insert", "2") == 2
        assert "another command's wish waits there still" in capsys.readouterr().err
        assert ControlFile(folder.path).read() == other
