"""The folder of a run: made once, locked, read back, and removed if it was never used."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from common import wire
from common.errors import UserError
from common.types import EvaluationReport
from deploy.launch.presets import make_config
from deploy.runs.folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    CONTROL,
    LOCK,
    LOG,
    METRICS,
    RunFolder,
    check_free,
)


def evaluation(score: float) -> EvaluationReport:
    weights = wire.encode({"layers.0.weight": np.full((2, 3), score, np.float32)})
    return EvaluationReport(
        version=3, learner_steps=40, score=score, returns=[score] * 4, lengths=[1] * 4,
        epsilon=0.0, wall_s=0.1, weights=weights,
    )  # fmt: skip


def test_a_run_folder_is_made_once_and_reads_back(tmp_path):
    config = make_config("cartpole", overrides={"seed": 4, "stop": {"score": None}})
    RunFolder.create(tmp_path / "run", config)
    assert RunFolder.open(tmp_path / "run").config == config
    assert RunFolder.open(tmp_path / "run", {"seed": 5}).config.seed == 5
    with pytest.raises(UserError, match="resume it"):
        RunFolder.create(tmp_path / "run", config)


def test_an_empty_folder_may_become_a_run(tmp_path):
    RunFolder.create(tmp_path, make_config("cartpole"))
    assert (tmp_path / "config.toml").is_file()


def test_the_best_weights_read_back_with_their_score(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    assert folder.load_best() is None
    folder.save_best(evaluation(12.5))
    weights, meta = folder.load_best()
    arrays, wire_meta = wire.decode(weights)
    assert np.array_equal(arrays["layers.0.weight"], np.full((2, 3), 12.5, np.float32))
    assert meta["score"] == "12.5"
    assert wire_meta["learner_steps"] == 40
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_two_processes_cannot_run_in_one_folder(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    with folder.lock(), pytest.raises(UserError, match="another process"), folder.lock():
        pass
    with folder.lock():
        assert [folder.new_attempt() for _ in range(3)] == [0, 1, 2]


def test_a_folder_knows_whether_its_run_is_active_and_asking_leaves_no_trace(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    assert not folder.is_running()
    (folder.path / ".lock").unlink()  # as in a folder that was copied
    assert not folder.is_running()
    assert {path.name for path in folder.path.iterdir()} == {"config.toml"}
    with folder.lock():
        assert folder.is_running()
        assert folder.is_running(), "to ask does not take the lock away"
    assert not folder.is_running()
    with folder.lock():
        pass


def test_an_unapplied_change_and_a_log_do_not_keep_the_folder_of_a_run_without_a_report(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    for name in (CONTROL, LOG):
        (folder.path / name).write_text("")
    folder.discard_unless_used()
    assert not folder.path.exists()


def test_of_two_that_begin_in_one_folder_the_second_is_refused_and_disturbs_nothing(
    tmp_path, monkeypatch
):
    # Both have looked, and found it free.
    monkeypatch.setattr("deploy.runs.folder.check_free", lambda path: None)
    for path in (tmp_path / "new", tmp_path):
        RunFolder.create(path, make_config("cartpole", overrides={"seed": 7}))
        with pytest.raises(UserError, match=f"--run-dir={path}: is not an empty folder"):
            RunFolder.create(path, make_config("cartpole", overrides={"seed": 8}))
        assert RunFolder.open(path).config.seed == 7


def test_a_folder_is_discarded_only_if_no_process_holds_its_lock(tmp_path):
    path = tmp_path / "run"
    folder = RunFolder.create(path, make_config("cartpole"))
    with RunFolder.open(path).lock():
        folder.discard_unless_used()
        assert (path / "config.toml").is_file()
    folder.discard_unless_used()
    assert not path.exists()
    folder.discard_unless_used()  # gone already


def test_an_empty_folder_of_the_users_is_empty_again_and_stays(tmp_path):
    RunFolder.create(tmp_path, make_config("cartpole")).discard_unless_used()
    assert list(tmp_path.iterdir()) == []


def failed_start(path: Path, **over: object) -> RunFolder:
    """The folder of a run that began, and ended before its first report."""
    folder = RunFolder.create(path, make_config("cartpole", overrides=over))
    with folder.lock():
        folder.new_attempt()
        folder.write_summary({"stop_reason": "failed", "error": "no part can be made"})
        for name in (METRICS, CONTROL):
            (path / name).write_text("")
        (path / LOG).write_text("the cause\n")
        (path / f"{LOG}.1").write_text("an earlier cause\n")
    return folder


def test_the_folder_of_a_start_that_failed_is_taken_over_and_its_log_is_kept(tmp_path):
    path = tmp_path / "run"
    assert not failed_start(path).taken_over
    check_free(path)
    folder = RunFolder.create(path, make_config("cartpole", overrides={"seed": 9}))
    assert folder.taken_over
    assert RunFolder.open(path).config.seed == 9
    names = {child.name for child in path.iterdir()}
    assert names == {"config.toml", ".lock", LOG, f"{LOG}.1"}
    assert (path / LOG).read_text() == "the cause\n"
    with folder.lock():
        assert folder.new_attempt() == 0, "the same random streams as in an empty folder"
    folder.discard_unless_used()
    assert (path / LOG).is_file(), "of the start before"
    assert RunFolder.create(path, make_config("cartpole")).taken_over, "and so again"


@pytest.mark.parametrize("name", [BEST, CHECKPOINTS, "thesis.tex", f"{LOG}.9", ".writing-1"])
def test_a_folder_that_holds_more_than_a_start_that_failed_is_not_taken_over(tmp_path, name):
    path = tmp_path / "run"
    failed_start(path)
    (path / name).mkdir() if name == CHECKPOINTS else (path / name).write_text("")
    before = {child: child.stat().st_mtime_ns for child in path.iterdir()}
    with pytest.raises(UserError, match="is not an empty folder"):
        RunFolder.create(path, make_config("cartpole"))
    assert {child: child.stat().st_mtime_ns for child in path.iterdir()} == before


def test_a_run_with_reports_or_checkpoints_elsewhere_is_not_taken_over(tmp_path):
    storage = tmp_path / "elsewhere"
    failed_start(tmp_path / "mine", checkpoint={"storage": str(storage)})
    check_free(tmp_path / "mine")
    names = ("000001-step-00000020/manifest.json",)
    for name in names:
        (storage / "mine" / name).parent.mkdir(parents=True)
        (storage / "mine" / name).write_text("{}")
    with pytest.raises(UserError, match="is not an empty folder"):
        check_free(tmp_path / "mine")
    failed_start(tmp_path / "run")
    (tmp_path / "run" / METRICS).write_text("{}\n")
    with pytest.raises(UserError, match="is not an empty folder"):
        check_free(tmp_path / "run")


def test_a_run_in_progress_and_one_that_is_about_to_begin_are_not_taken_over(tmp_path):
    folder = failed_start(tmp_path / "run")
    with folder.lock(), pytest.raises(UserError, match="is not an empty folder"):
        RunFolder.create(tmp_path / "run", make_config("cartpole"))
    RunFolder.create(tmp_path / "new", make_config("cartpole"))
    with pytest.raises(UserError, match="is not an empty folder"):
        RunFolder.create(tmp_path / "new", make_config("cartpole"))


def test_a_folder_of_a_start_that_was_killed_at_once_counts_as_empty(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / LOCK).write_text("")
    check_free(path)
    folder = RunFolder.create(path, make_config("cartpole", overrides={"seed": 7}))
    assert not folder.taken_over
    with pytest.raises(UserError, match="is not an empty folder"):
        RunFolder.create(path, make_config("cartpole"))
    assert RunFolder.open(path).config.seed == 7


def test_a_folder_whose_lock_is_held_is_not_empty(tmp_path, monkeypatch):
    path = tmp_path / "run"
    folder = RunFolder.create(path, make_config("cartpole"))
    with folder.lock():
        (path / CONFIG).unlink()  # another start is about to write it
        for look in (check_free, lambda path: None):  # also of two that have looked at once
            monkeypatch.setattr("deploy.runs.folder.check_free", look)
            with pytest.raises(UserError, match="is not an empty folder"):
                RunFolder.create(path, make_config("cartpole"))
    assert [child.name for child in path.iterdir()] == [LOCK]


def test_of_two_that_take_a_folder_over_the_second_is_refused_and_disturbs_nothing(
    tmp_path, monkeypatch
):
    path = tmp_path / "run"
    failed_start(path)
    # Both have looked, and found that its start failed.
    monkeypatch.setattr("deploy.runs.folder.check_free", lambda path: None)
    monkeypatch.setattr("deploy.runs.folder._failed_to_start", lambda path: True)
    RunFolder.create(path, make_config("cartpole", overrides={"seed": 7}))
    with pytest.raises(UserError, match="is not an empty folder"):
        RunFolder.create(path, make_config("cartpole", overrides={"seed": 8}))
    assert RunFolder.open(path).config.seed == 7


def test_attempts_are_counted_from_the_lower_bound_on(tmp_path):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    assert folder.new_attempt(least=3) == 3
    assert folder.new_attempt(least=1) == 4
    assert folder.new_attempt() == 5


@pytest.mark.parametrize("content", [b"", b"many", b"-1", b"1.5", b"\xff\xfe"])
def test_a_damaged_count_of_attempts_is_named(tmp_path, content):
    folder = RunFolder.create(tmp_path / "run", make_config("cartpole"))
    (tmp_path / "run" / "lives").write_bytes(content)
    with pytest.raises(UserError, match=r"run/lives: .*whole number") as caught:
        folder.new_attempt()
    assert "\n" not in str(caught.value)


def test_a_log_that_cannot_be_read_is_no_error(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", make_config())
    (folder.path / LOG).write_text("2026-01-01T00:00:00.000+00:00 INFO begun\n")
    assert folder.read_log()["events"]

    def fail(path: Path, *args: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))  # a disk, or NFS, that fails

    monkeypatch.setattr(Path, "stat", fail)
    monkeypatch.setattr(Path, "open", fail)
    # The supervisor reads it for the status, and no status may end a run.
    assert folder.read_log() == {"log": None, "events": []}
