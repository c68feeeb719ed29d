"""Draws preprocessing.png beside this script, with the project's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from actors.environments import make_environment
from actors.preprocessing import FrameStack, preprocess_picture
from deploy import load_config

STEPS = 8
"""Pushes to the right before the picture is taken: cart and pole are moving by then."""
HIGHLIGHT = "#D55E00"


def main() -> None:
    """Play a few steps, take the last frame apart, draw."""
    config = load_config("cartpole-pixels").env
    environment = make_environment(config, 1, render=True)
    spec = environment.spec
    stacks = FrameStack(1, spec.stack, spec.frame)
    stack = stacks.push(environment.reset(seed=3), np.ones(1, bool))
    for _ in range(STEPS):
        step = environment.step(np.ones(1, np.int64))
        stack = stacks.push(step.observation, step.first)
    raw = environment.render()[0]
    environment.close()

    height, width = raw.shape[:2]
    left, top, right, bottom = config.crop or (0.0, 0.0, 1.0, 1.0)
    cropped = (
        round(bottom * height) - round(top * height),
        round(right * width) - round(left * width),
    )
    colour = preprocess_picture(raw, *cropped, grey=False, crop=config.crop)
    grey = preprocess_picture(raw, *cropped, grey=True, crop=config.crop)
    resized = preprocess_picture(raw, config.height, config.width, config.grey, config.crop)
    stages: list[tuple[str, Any]] = [
        ("1  what is rendered", raw),
        ("2  crop", colour.transpose(1, 2, 0)),
        ("3  grey", grey[0]),
        ("4  resize", resized[0]),
    ]
    if config.invert:
        stages.append(("5  invert: one frame", stack[0, -1, 0]))

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    upper, lower = halves
    for axis, (title, picture) in zip(upper.subplots(1, len(stages)), stages, strict=True):
        _show(axis, picture, title)
    names = [f"t − {spec.stack - 1 - i}" for i in range(spec.stack - 1)] + ["t"]
    upper.suptitle("From a rendered picture to one frame", fontsize=12)
    lower.suptitle(
        f"{len(stages) + 1}  stack: {spec.stack} consecutive frames are one observation "
        "(the line stays in place, the cart moves)",
        fontsize=12,
    )
    cart = np.flatnonzero(stack[0, 0, 0].max(axis=0) > 250)[-1] + 0.5  # its right edge
    frames = stack[0, :, 0]
    for axis, name, frame in zip(lower.subplots(1, spec.stack), names, frames, strict=True):
        _show(axis, frame, name)
        axis.axvline(cart, color=HIGHLIGHT, linewidth=1)
    figure.savefig(Path(__file__).with_name("preprocessing.png"), dpi=110)


def _show(axis: Axes, picture: Any, title: str) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(" × ".join(str(n) for n in picture.shape), fontsize=9)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_color("0.6")


if __name__ == "__main__":
    main()
