"""Changing a live run: the control file, both its ends, and `raydqn set`."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config_toml import KEYS, build, merge
from common.errors import UserError
from deploy.cli.main import main
from deploy.control import control_file as control
from deploy.control.control_file import LIVE_KEYS, ControlFile, Reply, changed, describe, keys_of
from deploy.launch.presets import make_config
from deploy.runs.folder import CONTROL, REPLY, RunFolder
from support.program import TINY

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
    with pytest.raises(UserError, match=rf"{key}: cannot be changed during a run; these keys"):
        changed(tiny(), changes, "here")


def test_the_keys_of_nested_values():
    assert keys_of({"learner": {"a": 1}, "seed": 2}) == ["learner.a", "seed"]


def test_a_change_is_described_key_by_key():
    old, new = tiny(), changed(tiny(), {"learner": {"samples_per_insert_error": 5_000}}, "here")
    assert describe(old, new, [RATIO, ERROR]) == (
        "learner.samples_per_insert 4 → 4, learner.samples_per_insert_error none → 5000"
    )


# --- the file -----------------------------------------------------------------------------------


def test_a_request_is_read_once_and_removed(folder):
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


def test_a_newer_request_is_not_removed(folder):
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
def test_any_content_of_the_file_is_a_users_error_of_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    (folder / CONTROL).write_bytes(data)
    with pytest.raises(UserError):
        changed(tiny(), ControlFile(folder).read(), CONTROL)


def test_a_pipe_or_a_folder_is_refused_without_being_opened(folder):
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
        (["--learner.sample-per-insert", "4"], ["unknown key; did you mean --learner.samples-per"]),
        (["--learner.samples-per-insert", "much"], ["learner.samples_per_insert=much: must be a"]),
        (["--learner.samples-per-insert", "0"], ["learner.samples_per_insert=0"]),
        (["--learner.samples-per-insert", "nan"], ["learner.samples_per_insert=nan"]),
        (["--learner.samples-per-insert-error", "1"], ["samples_per_insert_error=1", "forever"]),
        (["--learner.samples-per-insert"], ["needs a value"]),
        (["--frobnicate"], ["--frobnicate", "raydqn set --help"]),
    ],
)
def test_a_mistake_gets_one_line_and_no_file_is_written(folder, capsys, options, says):
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
    assert f"{folder.path}: the run is not active, and nothing was changed" in first
    assert first.endswith(f": raydqn resume {folder.path} --learner.samples-per-insert=2")
    assert "not a run folder" in third


def test_a_run_that_does_not_read_the_request_has_not_applied_it(folder, capsys, monkeypatch):
    monkeypatch.setattr(control, "TAKEN_WITHIN_S", 0.2)
    with folder.lock():
        assert asks(folder.path, "--learner.samples-per-insert-error", "none") == 1
        assert "no reply within 0.2 s; the request stays" in capsys.readouterr().err
        asked = ControlFile(folder.path).read()
        assert asked == {"learner": {"samples_per_insert_error": "none"}}


def test_a_run_that_ends_meanwhile_has_not_applied_it(folder, capsys):
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
    assert "refused: the run has ended; nothing was changed" in capsys.readouterr().err
    assert not path.exists(), "no run will read it"


# --- several commands at once -------------------------------------------------------------------


def test_no_request_overwrites_another_that_the_run_has_not_read(folder):
    requests = [{"learner": {"samples_per_insert": float(n)}} for n in range(1, 41)]
    posted, gate = [], threading.Barrier(8)

    def command(mine) -> None:
        gate.wait()
        for request in mine:
            while control.place_request(folder.path, request) is None:
                time.sleep(0.001)
            posted.append(request)

    threads = [threading.Thread(target=command, args=(requests[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    file, taken = ControlFile(folder.path), []
    deadline = time.monotonic() + 30
    while len(taken) < len(requests) and time.monotonic() < deadline:
        request = file.read()
        if request is not None:
            taken.append(request)
            file.remove()
    for thread in threads:
        thread.join()
    key = str
    assert sorted(taken, key=key) == sorted(requests, key=key) == sorted(posted, key=key)
    assert not list(folder.path.glob(f".{CONTROL}*"))


def test_a_request_is_placed_on_a_file_system_without_links_too(folder, monkeypatch):
    def no_links(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    request = {"learner": {"samples_per_insert": 2.0}}
    request_id = control.place_request(folder.path, request)
    assert control.place_request(folder.path, {"learner": {"samples_per_insert": 3.0}}) is None
    file = ControlFile(folder.path)
    assert file.read() == request
    file.reply(Reply(True, "it"))
    assert control.read_reply(folder.path, request_id) == Reply(True, "it")


def test_a_reply_to_another_request_is_ignored(folder):
    file = ControlFile(folder.path)
    first = control.place_request(folder.path, {"learner": {"samples_per_insert": 2.0}})
    file.read()
    file.reply(Reply(True, "the first"))
    file.remove()
    second = control.place_request(folder.path, {"learner": {"samples_per_insert": 3.0}})
    assert control.read_reply(folder.path, second) is None
    assert control.read_reply(folder.path, first) == Reply(True, "the first")


def test_a_command_that_finds_an_earlier_request_for_too_long_leaves_it_and_says_so(
    folder, capsys, monkeypatch
):
    monkeypatch.setattr(control, "TAKEN_WITHIN_S", 0.2)
    with folder.lock():
        other = {"crash": {"kind": "actor", "number": 1}}
        assert control.place_request(folder.path, other)
        assert asks(folder.path, "--learner.samples-per-insert", "2") == 2
        assert "the run has not read an earlier request yet" in capsys.readouterr().err
        assert ControlFile(folder.path).read() == other


def test_the_file_of_a_reply_is_its_request_and_a_line_as_it_was_always_written(folder):
    file = ControlFile(folder.path)
    request_id = control.place_request(folder.path, {"learner": {"samples_per_insert": 2.0}})
    file.read()
    for reply, line in ((Reply(True, "a 1 → 2"), "applied: a 1 → 2"), (Reply(False, "no"), "no")):
        file.reply(reply)
        assert (folder.path / REPLY).read_text() == f"{request_id}\n{line}"
        assert control.read_reply(folder.path, request_id) == reply
