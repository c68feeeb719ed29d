"""The work of the Python API, which `deploy` exports with its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from common.config import Config
from common.errors import UserError
from deploy.launch import presets
from deploy.launch import resume as resuming
from deploy.launch import train as training
from deploy.launch.results import Evaluation, Summary
from deploy.reporting.view import ProgressView

WEIGHTS = ("best", "latest")


def load_config(
    preset: str, file: str | Path | None, overrides: Mapping[str, Any] | None
) -> Config:
    """See `deploy.load_config`."""
    return presets.make_config(preset, _path(file) if file is not None else None, _plain(overrides))


def train(
    config: Config,
    run_dir: str | Path | None,
    *,
    inline: bool,
    address: str | None,
    view: ProgressView | None,
) -> Summary:
    """See `deploy.train`."""
    folder = _path(run_dir) if run_dir is not None else None
    return cast(Summary, training.train(config, folder, inline=inline, address=address, view=view))


def resume(
    run_dir: str | Path,
    overrides: Mapping[str, Any] | None,
    *,
    checkpoint: str | None,
    inline: bool,
    address: str | None,
    view: ProgressView | None,
) -> Summary:
    """See `deploy.resume`."""
    is_url = isinstance(run_dir, str) and "://" in run_dir
    folder = resuming.fetch_run(str(run_dir)) if is_url else _path(run_dir)
    summary = resuming.resume(
        folder,
        _plain(overrides),
        checkpoint_name=checkpoint,
        inline=inline,
        address=address,
        view=view,
    )
    return cast(Summary, summary)


def evaluate(run_dir: str | Path, episodes: int, weights: str, epsilon: float | None) -> Evaluation:
    """See `deploy.evaluate`."""
    from deploy.reporting.evaluation import evaluate as evaluate_run
    from deploy.runs.folder import RunFolder

    if weights not in WEIGHTS:
        raise UserError(f"weights={weights!r}: must be {' or '.join(WEIGHTS)}")
    values: dict[str, Any] = {"episodes": episodes}
    if epsilon is not None:
        values["epsilon"] = epsilon
    folder = RunFolder.open(_path(run_dir), {"evaluation": values})
    return cast(Evaluation, evaluate_run(folder, episodes, weights))


def _path(path: str | Path) -> Path:
    """A path; `~` is the home folder."""
    return Path(path).expanduser()


def _plain(overrides: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(overrides) if overrides is not None else None
