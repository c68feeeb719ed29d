"""The Python API of raydqn.

Importing this package imports neither PyTorch nor Ray: each function imports its parts when it is
called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.version import VERSION
from deploy.launch.results import Evaluation, Summary

if TYPE_CHECKING:
    from common.config import Config
    from deploy.reporting.view import ProgressView

__all__ = ["VERSION", "Evaluation", "Summary", "evaluate", "load_config", "resume", "train"]


def load_config(
    preset: str = "cartpole",
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    algorithm: str | None = None,
) -> Config:
    """Return a checked configuration: a preset, then an algorithm, a file and overrides.

    The preset's `stop.score` is dropped if the file or the overrides name another environment.

    Args:
        preset: `cartpole`, `cartpole-pixels` or `pong`; `raydqn presets` lists them.
        file: path of a TOML file on top of the preset.
        overrides: values on top of preset, algorithm and file, nested by section.
        algorithm: on top of the preset; `raydqn algorithms` lists them. None: the preset's choices.

    Returns:
        The configuration. It is frozen; call `load_config` again for other values.

    Raises:
        UserError: an unknown preset or algorithm, an unreadable file, or a wrong key or value.

    Example:
        >>> config = load_config("cartpole", overrides={"seed": 7, "learner": {"batch_size": 64}})
        >>> config.learner.batch_size
        64
    """
    from deploy.launch.api import load_config

    return load_config(preset, file, overrides, algorithm=algorithm)


def train(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    inline: bool = True,
    address: str | None = None,
    view: ProgressView | None = None,
) -> Summary:
    """Train from the beginning until a stop condition of the configuration.

    Args:
        config: from `load_config`.
        run_dir: the run folder, empty or new; None: a new folder below `runs/`.
        inline: train in this process without Ray; False: start Ray on this machine.
        address: train on this Ray cluster, `auto` or `ray://HOST:10001`; `inline` has no effect.
        view: shows the progress, such as `deploy.reporting.live_plot.LivePlot` in a notebook;
            None: no progress is shown.

    Returns:
        The summary of the run; `summary["run"]` is its folder.

    Raises:
        UserError: a mistake in the configuration or the arguments; no run was started.
        RunFailedError: the run cannot continue; the message names the reason.

    Example:
        >>> summary = train(load_config("cartpole"), "runs/first")
        >>> print(summary["score"], summary["stop_reason"])
    """
    from deploy.launch.api import train

    return train(config, run_dir, inline=inline, address=address, view=view)


def resume(
    run_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    checkpoint: str | None = None,
    inline: bool | None = None,
    address: str | None = None,
    view: ProgressView | None = None,
) -> Summary:
    """Continue a run from its newest checkpoint until a stop condition.

    Args:
        run_dir: the run folder, or the URL of the run's checkpoints, which are then resumed in a
            new folder below `runs/`.
        overrides: new values of configuration keys, nested by section.
        checkpoint: name of an older checkpoint; None: the newest.
        inline: True: in this process, without Ray; False: with Ray on this machine; None: as the
            run ran before. A run of a Ray cluster needs `inline` or `address`; a checkpoint of an
            earlier version, which does not record how its run ran, is resumed in this process.
        address: as in `train`.
        view: as in `train`.

    Returns:
        The summary of the whole run.

    Raises:
        UserError: no such run or checkpoint, a wrong key or value, a stop condition that the run
            has already reached, or a run of a cluster without an `address`.
        RunFailedError: the run cannot continue; the message names the reason.

    Example:
        >>> summary = resume("runs/first", {"stop": {"score": None, "learner_steps": 50_000}})
    """
    from deploy.launch.api import resume

    return resume(
        run_dir, overrides, checkpoint=checkpoint, inline=inline, address=address, view=view
    )


def evaluate(
    run_dir: str | Path,
    episodes: int = 100,
    weights: Literal["best", "latest"] = "best",
    epsilon: float | None = None,
) -> Evaluation:
    """Play episodes with the weights of a run.

    Args:
        run_dir: the run folder.
        episodes: how many episodes are played.
        weights: those of the best evaluation, or those of the newest checkpoint.
        epsilon: probability of a random action; None: `evaluation.epsilon` of the run, 0 by
            default.

    Returns:
        The return of each episode, their mean with its interval, and the protocol.

    Raises:
        UserError: not a run folder, no such weights, or an impossible value.
        EnvironmentFailedError: the environment raised an error.

    Example:
        >>> result = evaluate("runs/first", episodes=20)
        >>> print(f"{result['score']:.1f} ± {result['std']:.1f}")
    """
    from deploy.launch.api import evaluate

    return evaluate(run_dir, episodes, weights, epsilon)
