"""`raydqn evaluate`: greedy episodes with the weights of a run, and a film of one."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.evaluator import Evaluator
from common import wire
from common.config import Config
from common.config_toml import build, merge
from common.errors import EnvironmentFailedError, UserError
from common.handles import InlineHandle
from common.networks import make_network, shape_difference
from common.seeding import Role
from common.types import Array, EnvironmentSpec, EvaluationReport
from common.weights import WeightStore, unpack_weights
from deploy.reporting.aggregate import CONFIDENCE, of_one_task
from deploy.reporting.protocol import explain
from deploy.runs.checkpoint_schema import check_restorable
from deploy.runs.folder import RunFolder

if TYPE_CHECKING:  # a training imports this module, too, and makes no film
    from PIL import Image

GIF_MAX_FRAMES = 1_000
GIF_MIN_HEIGHT = 160
GIF_MS = 40
"""Time that a picture is shown."""
PAGE_PICTURES, PAGE_WIDTH, PAGE_COLOURS, PAGE_BYTES = 250, 320, 64, 2_000_000
"""Of a film in a page, at the most: pictures, pixels, colours, bytes."""


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
    """Play greedy episodes; their returns, statistics of these, and the protocol.

    `interval` is that of the mean over the episodes of this one policy: it tells nothing about
    policies of other seeds.

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
    return {
        "run": str(folder.path),
        "weights": source,
        "learner_steps": report.learner_steps,
        **_statistics(report),
        **_conditions(folder.config, evaluator, report),
        "returns": report.returns,
        "lengths": report.lengths,
        "copy_of_episode": report.copies,
        "endings": report.endings,
        "wall_s": round(report.wall_s, 2),
    }


def _statistics(report: EvaluationReport) -> dict[str, Any]:
    """Statistics of the returns and lengths of episodes."""
    returns, lengths = np.array(report.returns), np.array(report.lengths)
    found = of_one_task(returns)
    return {
        "episodes": len(returns),
        "score": round(found.mean.value, 3),
        "std": round(float(returns.std()), 3),
        "std_over": "episodes",
        "median": round(found.median.value, 3),
        "iqm": round(found.iqm.value, 3),
        "interval": found.mean.interval and [round(end, 3) for end in found.mean.interval],
        "confidence": CONFIDENCE,
        "min": float(returns.min()),
        "max": float(returns.max()),
        "mean_length": round(float(lengths.mean()), 1),
        "min_length": int(lengths.min()),
        "max_length": int(lengths.max()),
    }


def _conditions(config: Config, evaluator: Evaluator, report: EvaluationReport) -> dict[str, Any]:
    """What the episodes depend on: ε, seeds, limits, protocol, and how they ended."""
    evaluation, protocol = config.evaluation, evaluator.spec.protocol
    return {
        "epsilon": report.epsilon,
        "ended": dict(Counter(report.endings)),
        "copies": min(evaluation.envs, evaluation.episodes),
        "run_seed": config.seed,
        "env_seed": evaluator.env_seed,
        "protocol": protocol,
        "protocol_in_words": explain(protocol, report.epsilon, evaluation.max_episode_steps),
    }


def returns_csv(result: Mapping[str, Any]) -> str:
    """The episodes of `evaluate` as CSV, in the order in which they ended."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("episode", "copy", "return", "length", "ending"))
    columns = (result[key] for key in ("copy_of_episode", "returns", "lengths", "endings"))
    for number, row in enumerate(zip(*columns, strict=True)):
        writer.writerow((number, *row))
    return text.getvalue()


def film(folder: RunFolder, path: Path, which: str = "best") -> int:
    """Write one episode as an animated GIF; the number of its pictures.

    Raises:
        UserError: the file cannot be written, or the environment renders nothing.
        EnvironmentFailedError: the environment raised.
    """
    pictures, _ = film_episode(folder, which)
    try:
        pictures[0].save(
            path, format="GIF", save_all=True, append_images=pictures[1:], duration=GIF_MS, loop=0
        )
    except OSError as error:
        raise UserError(f"--gif={path}: cannot be written ({error.strerror or error})") from None
    return len(pictures)


def film_episode(
    folder: RunFolder, which: str = "best", max_width: int | None = None
) -> tuple[list[Image.Image], float | None]:
    """Pictures of one episode, `GIF_MAX_FRAMES` at the most, and its return if it ended by then.

    Args:
        folder: of the run.
        which: see `load_weights`.
        max_width: wider pictures are made smaller; None: they stay as they are.

    Raises:
        UserError: there are no weights, or the environment renders nothing.
        EnvironmentFailedError: the environment raised.
    """
    config = build(
        merge(folder.config.model_dump(), {"evaluation": {"episodes": 1, "envs": 1}}), "film"
    )
    weights, source = load_weights(folder, which)
    evaluator = Evaluator(
        config, InlineHandle(WeightStore()), render=True, role=Role.OFFLINE_EVALUATOR
    )
    report = None
    try:
        check_weights(weights, evaluator.spec, config, source)
        evaluator.load_weights(weights)
        evaluator.begin(1)
        pictures = [_picture(evaluator, max_width)]
        while len(pictures) < GIF_MAX_FRAMES:
            report = evaluator.play_on(slice_s=0)
            if report is not None:
                break
            pictures.append(_picture(evaluator, max_width))
    finally:
        evaluator.close()
    return pictures, report.returns[0] if report is not None else None


def small_gif(pictures: Sequence[Image.Image]) -> bytes:
    """A film for a page: of few colours, and with fewer pictures where it is long."""
    every = -(-len(pictures) // PAGE_PICTURES)
    while True:
        small = [one.convert("RGB").quantize(PAGE_COLOURS) for one in pictures[::every]]
        buffer = io.BytesIO()
        small[0].save(
            buffer,
            format="GIF",
            save_all=True,
            append_images=small[1:],
            duration=GIF_MS * every,
            loop=0,
        )
        if buffer.tell() <= PAGE_BYTES or len(small) == 1:
            return buffer.getvalue()
        every *= 2


def _picture(evaluator: Evaluator, max_width: int | None) -> Image.Image:
    """The rendered environment; the agent's own frame where it renders nothing."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium's, on what an environment renders
            rendered = evaluator.render()[0]
        image = Image.fromarray(_colours_of(rendered))
    except (UserError, EnvironmentFailedError) as error:
        frame = evaluator.frames[0]
        if frame.ndim != 3 or frame.dtype != np.uint8:
            raise UserError(f"--gif: this environment renders no pictures ({error})") from None
        image = Image.fromarray(frame[0] if frame.shape[0] == 1 else frame.transpose(1, 2, 0))
    if image.height < GIF_MIN_HEIGHT:
        factor = -(-GIF_MIN_HEIGHT // image.height)
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    if max_width is not None and image.width > max_width:
        image = image.resize((max_width, max(1, round(image.height * max_width / image.width))))
    return image


def _colours_of(rendered: Array) -> Array:
    """A rendered picture, `[H, W]` or `[H, W, 3]`, in 8 bits.

    Raises:
        UserError: it is none. Fractions from 0 to 1, as MinAtar renders them, are one.
    """
    if rendered.ndim not in (2, 3) or (rendered.ndim == 3 and rendered.shape[2] not in (3, 4)):
        raise UserError(f"--gif: render() returned shape {rendered.shape}, which is no picture")
    if rendered.dtype == np.uint8:
        return rendered
    values = np.nan_to_num(rendered.astype(np.float64))
    fractions = rendered.dtype.kind == "f" and values.max(initial=0.0) <= 1.0
    colours: Array = np.clip(np.round(values * (255 if fractions else 1)), 0, 255).astype(np.uint8)
    return colours
