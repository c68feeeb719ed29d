"""`raydqn evaluate`: greedy episodes with the weights of a run, and an animation of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from actors.evaluator import Evaluator
from common import wire
from common.config import Config
from common.config_toml import build, merge
from common.errors import EnvironmentFailedError, UserError
from common.handles import InlineHandle
from common.networks import make_network, shape_difference
from common.seeding import Role
from common.types import Array, EnvironmentSpec
from common.weights import WeightStore, unpack_weights
from deploy.runs.checkpoint_schema import check_restorable
from deploy.runs.folder import RunFolder

GIF_MAX_FRAMES = 1_000
GIF_MIN_HEIGHT = 160


def load_weights(folder: RunFolder, which: str) -> tuple[Array, str]:
    """Weights of a run (wire format), and their source in words.

    Args:
        folder: the run.
        which: `best` (of all evaluations; without one, of the newest checkpoint) or `latest`.

    Raises:
        UserError: the run has no such weights, or the file is damaged.
    """
    best = folder.load_best() if which == "best" else None
    if best is not None:
        weights, meta = best
        if meta.get("env_id") != folder.config.env.id:
            raise UserError(
                f"{folder.path}: best weights are of {meta.get('env_id')}, the run is of "
                f"{folder.config.env.id}"
            )
        return weights, f"best evaluation, learner step {meta.get('learner_steps', '?')}"
    checkpoint = folder.checkpoints.newest()
    state = check_restorable(checkpoint, folder.config)
    tensors = {
        name.removeprefix("policy."): array
        for name, array in checkpoint.tensors["learner"].items()
        if name.startswith("policy.")
    }
    steps = state.learner.learner_steps
    source = f"checkpoint {checkpoint.name}"
    if which == "best" and state.best_score is not None:
        source += f" (weights of the best evaluation, score {state.best_score:g}, are missing)"
    return wire.encode(tensors, {"learner_steps": steps}), source


def check_weights(weights: Array, spec: EnvironmentSpec, config: Config, source: str) -> None:
    """Refuse weights of another network or environment.

    Raises:
        UserError: names or shapes differ.
    """
    state, _ = unpack_weights(weights)
    difference = shape_difference(state, make_network(spec, config.network).state_dict())
    if difference is not None:
        raise UserError(
            f"{source}: is of another network or environment than {config.env.id} with "
            f"network.kind={config.network.kind} ({difference})"
        )


def evaluate(folder: RunFolder, episodes: int, which: str = "best") -> dict[str, Any]:
    """Play greedy episodes; mean, spread and protocol of their returns.

    Raises:
        UserError: there are no weights, or they do not fit network and environment.
        EnvironmentFailedError: the environment raised.
    """
    weights, source = load_weights(folder, which)
    evaluator = Evaluator(folder.config, InlineHandle(WeightStore()), role=Role.OFFLINE_EVALUATOR)
    try:
        check_weights(weights, evaluator.spec, folder.config, source)
        evaluator.load_weights(weights)
        report = evaluator.play(episodes)
    finally:
        evaluator.close()
    returns = np.array(report.returns)
    return {
        "run": str(folder.path),
        "weights": source,
        "learner_steps": report.learner_steps,
        "episodes": len(returns),
        "score": round(float(returns.mean()), 3),
        "std": round(float(returns.std()), 3),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "mean_length": round(float(np.mean(report.lengths)), 1),
        "epsilon": report.epsilon,
        "protocol": evaluator.spec.protocol,
        "wall_s": round(report.wall_s, 2),
    }


def film(folder: RunFolder, path: Path, which: str = "best") -> int:
    """Write one episode as an animated GIF; the number of its pictures.

    Raises:
        UserError: the file cannot be written, or the environment renders nothing.
        EnvironmentFailedError: the environment raised.
    """
    config = build(
        merge(folder.config.model_dump(), {"evaluation": {"episodes": 1, "envs": 1}}), str(path)
    )
    weights, source = load_weights(folder, which)
    evaluator = Evaluator(
        config, InlineHandle(WeightStore()), render=True, role=Role.OFFLINE_EVALUATOR
    )
    try:
        check_weights(weights, evaluator.spec, config, source)
        evaluator.load_weights(weights)
        evaluator.begin(1)
        pictures = [_picture(evaluator)]
        while evaluator.play_on(slice_s=0) is None and len(pictures) < GIF_MAX_FRAMES:
            pictures.append(_picture(evaluator))
    finally:
        evaluator.close()
    try:
        pictures[0].save(
            path, format="GIF", save_all=True, append_images=pictures[1:], duration=40, loop=0
        )
    except OSError as error:
        raise UserError(f"--gif={path}: cannot be written ({error.strerror or error})") from None
    return len(pictures)


def _picture(evaluator: Evaluator) -> Image.Image:
    """The rendered environment; the agent's own frame where it renders nothing."""
    try:
        image = Image.fromarray(evaluator.render()[0])
    except (UserError, EnvironmentFailedError) as error:
        frame = evaluator.frames[0]
        if frame.ndim != 3 or frame.dtype != np.uint8:
            raise UserError(f"--gif: this environment renders no pictures ({error})") from None
        image = Image.fromarray(frame[0] if frame.shape[0] == 1 else frame.transpose(1, 2, 0))
    if image.height < GIF_MIN_HEIGHT:
        factor = -(-GIF_MIN_HEIGHT // image.height)
        image = image.resize((image.width * factor, image.height * factor))
    return image
