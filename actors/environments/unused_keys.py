"""Keys of the configuration that have no effect on an environment."""

from __future__ import annotations

from common.config_sections import EnvConfig
from common.errors import UserError
from common.types import FrameSpec

ATARI_KEYS = ("sticky_actions", "frame_skip", "noop_max", "max_episode_frames")
PICTURE_KEYS = ("crop", "grey", "invert", "width", "height")
RENDER_KEYS = ("render_width", "render_height")


def refuse_unused_keys(config: EnvConfig, frame: FrameSpec) -> None:
    """Refuse a changed key that has no effect on this environment.

    Args:
        config: of the environment.
        frame: shape and type of its frames.

    Raises:
        UserError: names the key, its value and the environments that it has an effect on.
    """
    unused = dict.fromkeys(ATARI_KEYS, "an Atari game (ALE/…)")
    if config.observation != "pixels":
        unused |= dict.fromkeys(RENDER_KEYS, "env.observation=pixels")
    if not frame.is_picture or frame.scale == 1.0:  # vectors, or MinAtar's binary planes
        unused |= dict.fromkeys(PICTURE_KEYS, "an observation of pictures")
    for key, needs in unused.items():
        value = getattr(config, key)
        if value != EnvConfig.model_fields[key].default:
            raise UserError(f"env.{key}={value}: has no effect on {config.id}, it needs {needs}")
