"""Pictures: observations that are pictures, and pictures rendered of any environment."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AddRenderObservation

from actors.environments.environment import first_line, reporting
from actors.environments.meaning import picture_bounds, picture_channels
from actors.environments.process_state import apart
from actors.preprocessing import preprocess_picture
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from common.types import Array


class PictureObservation(gym.ObservationWrapper[Any, Any, Any]):
    """`preprocess_picture` as a wrapper: `[H, W, 3]` in, `[C, height, width]` out.

    Numbers of another type than 8 bits go from the bounds of the space to 0 … 255.
    """

    def __init__(self, env: gym.Env[Any, Any], config: EnvConfig) -> None:
        """Size, colour and crop come from the configuration."""
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self._config = config
        self._channels_first = picture_channels(space.shape) == 0
        self._bounds = None if space.dtype == np.uint8 else picture_bounds(space)
        channels = 1 if config.grey else 3
        self.observation_space = gym.spaces.Box(
            0, 255, (channels, config.height, config.width), np.uint8
        )

    def observation(self, observation: Any) -> Any:
        """One preprocessed frame."""
        c = self._config
        if self._bounds is not None:
            observation = self._in_8_bits(observation)
        if self._channels_first:
            observation = observation.transpose(1, 2, 0)
        return preprocess_picture(observation, c.height, c.width, c.grey, c.crop, c.invert)

    def _in_8_bits(self, observation: Any) -> Array:
        """The picture in 8 bits, from black at 0 to white at 255.

        Raises:
            EnvironmentFailedError: a number is not between black and white.
        """
        assert self._bounds is not None
        low, high = self._bounds
        numbers: Array = np.asarray(observation, np.float64)
        wrong = numbers[~((numbers >= low) & (numbers <= high))]  # NaN, too
        if wrong.size:
            raise EnvironmentFailedError(
                f"env.id={self._config.id}: a picture holds {wrong[0]:g}, declared are {low:g} to "
                f"{high:g}"
            )
        return np.round((numbers - low) * (255 / (high - low))).astype(np.uint8)


def render_kwargs(config: EnvConfig, render: bool) -> dict[str, Any]:
    """Arguments of the constructor that make the environment render pictures."""
    if not render and config.observation != "pixels":
        return {}
    # Without a screen pygame warns; a driver that the user chose stays.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    return {"render_mode": "rgb_array"}


def set_screen_size(env: gym.Env[Any, Any], config: EnvConfig) -> None:
    """Give the environment's screen the size of `env.render_width` and `env.render_height`.

    Raises:
        UserError: the environment has no screen whose size can be set.
    """
    for attribute, size in (
        ("screen_width", config.render_width),
        ("screen_height", config.render_height),
    ):
        if size is None:
            continue
        if not hasattr(env.unwrapped, attribute):
            raise UserError(
                f"env.{attribute.replace('screen', 'render')}={size}: {config.id} has no "
                "screen whose size can be set; leave the key out"
            )
        setattr(env.unwrapped, attribute, size)


def rendered(env: gym.Env[Any, Any], config: EnvConfig) -> gym.Env[Any, Any]:
    """The environment with rendered pictures as its observations.

    Raises:
        UserError: it cannot be rendered, or renders no 8-bit pictures.
    """
    with reporting(config.id, "reset"):
        env.reset(seed=0)  # before the first reset there is no picture
    try:
        with apart():
            picture: Any = env.render()
            wrapped = AddRenderObservation(env, render_only=True)
    except (Exception, SystemExit) as error:  # a renderer may raise anything
        raise UserError(
            f"env.observation=pixels: {config.id} cannot be rendered "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    is_array = isinstance(picture, np.ndarray)
    if not is_array or picture.dtype != np.uint8 or picture.shape[2:] not in ((1,), (3,)):
        kind = f"{picture.dtype} {picture.shape}" if is_array else type(picture).__name__
        raise UserError(
            f"env.observation=pixels: {config.id} renders {kind}, not 8-bit pictures in grey "
            "or RGB; use env.observation=state"
        )
    return wrapped


def picture_protocol(config: EnvConfig) -> str:
    """How pictures are preprocessed, in words, for the protocol of a score."""
    return (
        f"{config.width}×{config.height} {'grey' if config.grey else 'RGB'}"
        + (f", crop {list(config.crop)}" if config.crop else "")
        + (", inverted" if config.invert else "")
    )
