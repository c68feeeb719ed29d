"""The notebook's "preprocess states": from an environment's observations to network inputs.

Two steps, in two places. In the actor, once for every frame: `preprocess_picture` crops, turns to
grey and resizes with Pillow, because a small frame is cheaper to keep and to send. Frames are then
stacked: in the actor by `FrameStack`, to choose an action; on the learner's device from frame
numbers (learner/prefetch.py), so that a frame kept once serves every stack it is part of. Scaling
to [0, 1] comes last, inside the network.
"""

from __future__ import annotations

import numpy as np

from common.types import Array, FrameSpec


def preprocess_picture(
    picture: Array,
    height: int,
    width: int,
    grey: bool = True,
    crop: tuple[float, float, float, float] | None = None,
    invert: bool = False,
) -> Array:
    """Crop, grey, resize, invert one picture.

    Args:
        picture: `[H, W]`, `[H, W, 1]` or `[H, W, 3]` uint8.
        height, width: of the result, pixels.
        grey: one channel of luminance (ITU-R 601-2), else RGB.
        crop: left, top, right, bottom as fractions of the picture.
        invert: 255 − value. A network learns faster from pictures that are mostly zero.

    Returns:
        `[C, height, width]` uint8, C = 1 if grey, else 3.
    """
    from PIL import Image  # here: only pictures need it

    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    image = Image.fromarray(picture)
    if crop is not None:
        left, top, right, bottom = crop
        x, y = round(left * image.width), round(top * image.height)
        # At least one pixel, however small the fraction.
        x, y = min(x, image.width - 1), min(y, image.height - 1)
        x_end = max(x + 1, round(right * image.width))
        y_end = max(y + 1, round(bottom * image.height))
        image = image.crop((x, y, x_end, y_end))
    image = image.convert("L" if grey else "RGB")
    if image.size != (width, height):
        # A box filter averages pixels: thin objects fade, they do not vanish.
        image = image.resize((width, height), Image.Resampling.BOX)
    frame: Array = np.asarray(image, np.uint8)
    if invert:
        frame = 255 - frame
    return frame[None] if grey else np.ascontiguousarray(frame.transpose(2, 0, 1))


class FrameStack:
    """The last S frames of each of N copies; before an episode's start there are zeros."""

    def __init__(self, copies: int, stack: int, frame: FrameSpec) -> None:
        """All zeros."""
        self._stacks: Array = np.zeros((copies, stack, *frame.shape), frame.dtype)

    def push(self, frames: Array, first: Array) -> Array:
        """Add a frame to each stack.

        Args:
            frames: `[N, *frame]`.
            first: `[N]` bool, frames that open an episode: the stack is emptied before.

        Returns:
            `[N, S, *frame]`, oldest first. The next push overwrites it.
        """
        self._stacks[:, :-1] = self._stacks[:, 1:]
        if first.any():
            self._stacks[first] = 0
        self._stacks[:, -1] = frames
        return self._stacks
