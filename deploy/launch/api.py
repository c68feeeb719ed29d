"""The work of the Python API, which `deploy` exports with its documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

from common.config import Config
from common.config_errors import OVERRIDES
from common.errors import UserError
from deploy.launch import presets
from deploy.launch import resume as resuming
from deploy.launch import train as training
from deploy.launch.argument_names import options_as_arguments
from deploy.launch.results import Evaluation, Summary
from deploy.reporting.view import ProgressView
from deploy.runs.folder import CONFIG, RunFolder, is_run

WEIGHTS = ("best", "latest")
VIEW_METHODS = ("update", "notify", "close")


def load_config(
    preset: str,
    file: str | Path | None,
    overrides: Mapping[str, Any] | None,
    *,
    algorithm: str | None,
) -> Config:
    """See `deploy.load_config`."""
    _check("preset", preset, isinstance(preset, str), f"one of {', '.join(presets.preset_names())}")
    names = ", ".join(presets.algorithm_names())
    is_name = algorithm is None or isinstance(algorithm, str)
    _check("algorithm", algorithm, is_name, f"one of {names}, or None")
    path = _path("file", file, "a TOML file, or None") if file is not None else None
    if path is not None and not path.is_file():
        raise _wrong("file", file, "a TOML file that exists, or None")
    return presets.make_config(preset, path, _nested(overrides), OVERRIDES, algorithm=algorithm)


def train(
    config: Config,
    run_dir: str | Path | None,
    *,
    inline: bool,
    address: str | None,
    view: ProgressView | None,
) -> Summary:
    """See `deploy.train`."""
    _check("config", config, isinstance(config, Config), 'a Config: load_config("cartpole")')
    folder = None
    if run_dir is not None:
        folder = _path("run_dir", run_dir, "a new or an empty folder, or None")
    _check("inline", inline, isinstance(inline, bool), "True or False")
    _check_runtime(address, view)
    with options_as_arguments():
        summary = training.train(config, folder, inline=inline, address=address, view=view)
    return cast(Summary, summary)


def resume(
    run_dir: str | Path,
    overrides: Mapping[str, Any] | None,
    *,
    checkpoint: str | None,
    inline: bool | None,
    address: str | None,
    view: ProgressView | None,
) -> Summary:
    """See `deploy.resume`."""
    is_url = isinstance(run_dir, str) and "://" in run_dir
    folder = None if is_url else _run_folder(run_dir, "or the URL of its checkpoints")
    values = _nested(overrides)
    is_name = checkpoint is None or _is_text(checkpoint)
    _check("checkpoint", checkpoint, is_name, "the name of a checkpoint, or None")
    is_choice = inline is None or isinstance(inline, bool)
    _check("inline", inline, is_choice, "True, False, or None: as the run ran before")
    _check_runtime(address, view)
    with options_as_arguments():
        summary = resuming.resume(
            folder or resuming.fetch_run(str(run_dir)),
            values,
            checkpoint_name=checkpoint,
            inline=inline,
            address=address,
            view=view,
            spelling=OVERRIDES,
        )
    return cast(Summary, summary)


def evaluate(run_dir: str | Path, episodes: int, weights: str, epsilon: float | None) -> Evaluation:
    """See `deploy.evaluate`."""
    from deploy.reporting.evaluation import evaluate as evaluate_run

    path = _run_folder(run_dir)
    _check("episodes", episodes, _is_count(episodes), "a whole number of at least 1")
    _check("weights", weights, _is_text(weights) and weights in WEIGHTS, " or ".join(WEIGHTS))
    is_share = epsilon is None or _is_share(epsilon)
    _check("epsilon", epsilon, is_share, "a number from 0 to 1, or None")
    values: dict[str, Any] = {"episodes": int(episodes)}
    if epsilon is not None:
        values["epsilon"] = float(epsilon)
    with options_as_arguments():
        folder = RunFolder.open(path, {"evaluation": values})
        return cast(Evaluation, evaluate_run(folder, int(episodes), weights))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def _is_share(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) <= 1


def _check(name: str, value: object, right: bool, what: str) -> None:
    if not right:
        raise _wrong(name, value, what)


def _wrong(name: str, value: object, what: str) -> UserError:
    """An argument of a wrong type or value, in one line."""
    shown = " ".join(f"{value!r}".split())
    return UserError(f"{name}={shown:.200}: must be {what}")


def _check_runtime(address: str | None, view: ProgressView | None) -> None:
    is_address = address is None or _is_text(address)
    _check("address", address, is_address, "auto, HOST:PORT or ray://HOST:10001, or None")
    is_view = view is None or all(callable(getattr(view, name, None)) for name in VIEW_METHODS)
    is_view = is_view and not isinstance(view, type)
    _check("view", view, is_view, f"an object with the methods {', '.join(VIEW_METHODS)}, or None")


def _path(name: str, value: object, what: str) -> Path:
    """An argument that names a path; `~` is the home folder."""
    text: object = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise _wrong(name, value, f"the path of {what}")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~NAME
        raise _wrong(name, value, "a path in the home folder of a user who exists") from None


def _run_folder(run_dir: str | Path, other: str = "") -> Path:
    """The argument `run_dir`, which names an existing run."""
    path = _path("run_dir", run_dir, "a run folder" + (f", {other}" if other else ""))
    if not is_run(path):
        raise UserError(f"run_dir={str(run_dir)!r}: not a run folder (it has no {CONFIG})")
    return path


def _nested(overrides: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The argument `overrides`: values by section, or by key where a key has no section."""
    if overrides is None:
        return None
    what = 'a dict by section, such as {"learner": {"gamma": 0.9}}, or None'
    _check("overrides", overrides, isinstance(overrides, Mapping), what)
    values = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in overrides.items()
    }
    keys = [
        *values,
        *(key for value in values.values() if isinstance(value, dict) for key in value),
    ]
    _check("overrides", overrides, all(isinstance(key, str) for key in keys), what)
    return values
