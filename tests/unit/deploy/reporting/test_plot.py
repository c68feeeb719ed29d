"""Plots of runs: `raydqn plot` and the live plot of a notebook."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from common.errors import UserError
from deploy.cli import main as cli
from deploy.launch.presets import make_config
from deploy.launch.train import train
from deploy.reporting import live_plot, plot
from deploy.reporting.live_plot import LivePlot
from deploy.reporting.plot import COLOURS, draw, moving_average, plot_runs, to_png
from deploy.runs.folder import RunFolder
from deploy.runs.metrics_file import read_metrics
from support.program import TINY


def short_run(path: Path, seed: int) -> list[dict[str, Any]]:
    """A real, short run; returns the reports that its view was given."""

    class Recorder:
        def __init__(self) -> None:
            self.reports: list[dict[str, Any]] = []

        def update(self, report: dict[str, Any]) -> None:
            self.reports.append(report)

        def notify(self, text: str, level: int = 20, detail: str = "") -> None: ...

        def close(self) -> None: ...

    recorder = Recorder()
    config = make_config(
        overrides={
            **TINY,
            "seed": seed,
            "learner": {**TINY["learner"], "samples_per_insert": 16.0},
            "evaluation": {"every_learner_steps": 20, "episodes": 2, "envs": 2},
            "stop": {"learner_steps": 60},
            "report": {"every_s": 0.01},
        }
    )
    train(config, path, view=recorder)
    return recorder.reports


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs")
    return {folder / f"run-{seed}": short_run(folder / f"run-{seed}", seed) for seed in (1, 2)}


def has_colour(png: bytes | Path, colour: str) -> bool:
    source = io.BytesIO(png) if isinstance(png, bytes) else png
    with Image.open(source) as image:
        pixels = np.asarray(image.convert("RGB"), np.int64)
    wanted = np.round(np.array(to_rgb(colour)) * 255)
    return bool((np.abs(pixels - wanted).max(axis=-1) <= 2).sum() > 100)


# --- the moving average ------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e6, 1e6), max_size=60),
    st.integers(1, 80),
)
def test_moving_average_is_the_mean_of_the_last_values(values: list[float], over: int) -> None:
    naive = [
        math.fsum(values[max(0, i - over + 1) : i + 1]) / min(i + 1, over)
        for i in range(len(values))
    ]
    got = moving_average(np.array(values), over)
    assert got.shape == (len(values),)
    np.testing.assert_allclose(got, naive, rtol=1e-9, atol=1e-6)


# --- raydqn plot -------------------------------------------------------------------------------


def test_one_run_becomes_a_picture(
    runs: dict[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(iter(runs))
    out = tmp_path / "one.png"
    assert cli.main(["plot", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert 800 <= image.width <= 2000
        assert 500 <= image.height <= 1400
    assert has_colour(out, COLOURS[0])
    assert not has_colour(out, COLOURS[1])


def test_the_picture_lies_in_the_run_folder_by_default(
    runs: dict[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "to_png", lambda figure: b"a picture")
    run = next(iter(runs))
    assert cli.main(["plot", str(run)]) == 0
    assert (run / "plot.png").read_bytes() == b"a picture"


def test_several_runs_each_have_a_colour_and_a_name(runs: dict[Path, Any], tmp_path: Path) -> None:
    out = tmp_path / "both.png"
    plot_runs(list(runs), out)
    assert has_colour(out, COLOURS[0])
    assert has_colour(out, COLOURS[1])

    figure = draw({run.name: read_metrics(run) for run in runs})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["run-1", "run-2"]
    score = figure.axes[1]
    assert len(score.lines) == 2
    for line, run in zip(score.lines, runs, strict=True):
        scores = [r["score"] for r in read_metrics(run) if r["score"] is not None]
        assert list(np.asarray(line.get_ydata()))[-1] == scores[-1]


def test_more_runs_than_colours_still_differ() -> None:
    reports = [report(1)]
    figure = draw({f"run {i}": reports for i in range(len(COLOURS) + 3)})
    assert len({line.get_color() for line in figure.axes[1].lines}) == len(COLOURS) + 3


def test_runs_of_one_name_have_different_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plot, "to_png", lambda figure: figures.append(figure) or b"")
    paths = [tmp_path / parent / "run" for parent in ("a", "b")]
    for path, score in zip(paths, (5.0, 50.0), strict=True):
        RunFolder.create(path, make_config())
        lines = [json.dumps(report(number, score=score)) + "\n" for number in range(1, 9)]
        (path / "metrics.jsonl").write_text("".join(lines))
    plot_runs(paths, tmp_path / "both.png")
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == [str(path) for path in paths]
    assert [line.get_color() for line in figures[0].axes[1].lines] == list(COLOURS[:2])


def report(number: int, **values: Any) -> dict[str, Any]:
    """A report as the supervisor makes it; NaN where there is nothing yet."""
    return {
        "episodes": [[10.0 * number, 10, 0.1]],
        "env_steps": 100 * number,
        "learner_steps": 10 * number,
        "wall_s": float(number),
        "score": 20.0,
        "loss": 0.5,
        "epsilon": 0.1,
        "env_steps_per_s": 100.0,
        "learner_steps_per_s": 10.0,
        "samples_per_insert": 8.0,
        **values,
    }


def test_only_evaluations_are_marked_and_a_repeated_score_is_none() -> None:
    scores = [math.nan, 20.0, 20.0, 35.0, 35.0, 35.0]
    figure = draw({"run": [report(i, score=s) for i, s in enumerate(scores)]})
    line = figure.axes[1].lines[0]
    assert list(np.asarray(line.get_xdata())) == [100, 300, 500]
    assert list(np.asarray(line.get_ydata())) == [20.0, 35.0, 35.0]
    assert line.get_markevery() == [0, 1]


def test_missing_values_are_not_drawn() -> None:
    nothing = dict.fromkeys(("score", "loss", "epsilon", "samples_per_insert"), math.nan)
    speeds = {"env_steps_per_s": 0.0, "learner_steps_per_s": 0.0}
    for reports in ([], [report(1, episodes=[], **nothing, **speeds)]):
        figure = draw({"run": reports})
        shown = [line for axis in figure.axes for line in axis.lines if len(line.get_xdata())]
        assert shown == []
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.usefixtures("cheap_pictures")
def test_plot_refuses_other_folders_and_empty_runs(
    tmp_path: Path, runs: dict[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        plot_runs([tmp_path], tmp_path / "x.png")
    RunFolder.create(tmp_path / "empty", make_config())
    with pytest.raises(UserError, match="empty: has no reports yet"):
        plot_runs([tmp_path / "empty"], tmp_path / "x.png")
    run = next(iter(runs))
    with pytest.raises(UserError, match=r"--out=.*x\.jpg: must end in \.png"):
        plot_runs([run], tmp_path / "x.jpg")
    with pytest.raises(UserError, match="cannot be written"):
        plot_runs([run], tmp_path / "nowhere" / "x.png")
    assert not list(tmp_path.glob("x.*"))
    assert cli.main(["plot", str(tmp_path)]) == cli.USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1


# --- the live plot -----------------------------------------------------------------------------


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Outputs that a real IPython shell displayed, in order."""
    if find_spec("IPython") is None:
        if os.environ.get("CI"):
            pytest.fail("IPython is not installed: pip install 'raydqn[dev]'")
        pytest.skip("IPython is not installed")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    # A shell takes these over when it is made.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "displayhook", sys.displayhook)
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config)
    publisher = CapturingDisplayPublisher()
    shell.display_pub = publisher
    try:
        yield publisher.outputs
    finally:
        InteractiveShell.clear_instance()


@pytest.fixture
def cheap_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a picture are the data of its lines: equal figures give equal bytes."""

    def data_of(figure: Figure) -> bytes:
        lines = [line.get_xydata() for axis in figure.axes for line in axis.lines]
        return repr(lines).encode()

    monkeypatch.setattr(live_plot, "to_png", data_of)
    monkeypatch.setattr(plot, "to_png", data_of)


def png_of(output: dict[str, Any]) -> bytes:
    return base64.b64decode(output["data"]["image/png"])


@pytest.mark.usefixtures("cheap_pictures")
def test_live_plot_shows_the_same_plot_as_raydqn_plot(
    displayed: list[dict[str, Any]], runs: dict[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    run, reports = next(iter(runs.items()))
    view = LivePlot(run.name, every_s=1000.0)
    for one in reports:
        view.update(one)
    view.close()
    plot_runs([run], tmp_path / "plot.png")
    assert png_of(displayed[-1]) == (tmp_path / "plot.png").read_bytes()


@pytest.mark.usefixtures("cheap_pictures")
def test_live_plot_redraws_one_output_and_not_too_often(displayed: list[dict[str, Any]]) -> None:
    view = LivePlot(every_s=1000.0)
    assert displayed == []
    for number in range(1, 5):
        view.update(report(number))
    assert len(displayed) == 1  # the others are too soon
    view.close()
    assert len(displayed) == 2  # held back until now
    view.close()
    assert len(displayed) == 2
    first, last = displayed
    assert first["transient"]["display_id"] == last["transient"]["display_id"]
    assert not first["update"]
    assert last["update"]
    assert png_of(first) != png_of(last)
    assert [r["wall_s"] for r in view.reports] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.usefixtures("cheap_pictures")
def test_live_plot_draws_each_report_when_there_is_time(displayed: list[dict[str, Any]]) -> None:
    view = LivePlot(every_s=0.0)
    for number in range(1, 4):
        view.update(report(number))
    view.close()
    assert [output["update"] for output in displayed] == [False, True, True]


@pytest.mark.usefixtures("cheap_pictures")
def test_live_plots_do_not_share_an_output(displayed: list[dict[str, Any]]) -> None:
    for _ in range(2):
        LivePlot().update(report(1))
    ids = [output["transient"]["display_id"] for output in displayed]
    assert ids[0] != ids[1]


def test_live_plot_prints_messages(
    displayed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    LivePlot().notify("actor 0 was replaced: boom")
    assert capsys.readouterr().out == "actor 0 was replaced: boom\n"
    assert displayed == []


def test_live_plot_names_its_missing_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match=r"needs IPython \(pip install ipykernel\)"):
        LivePlot()
