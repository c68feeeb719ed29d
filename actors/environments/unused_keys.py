"""Keys of the configuration that have no effect on an environment."""

from __future__ import annotations

from actors.environments.meaning import Meaning
from common.config_sections import EnvConfig
from common.errors import UserError

ATARI_KEYS = ("sticky_actions", "frame_skip", "noop_max", "max_episode_frames")
PICTURE_KEYS = ("crop", "grey", "invert", "width", "height")
RENDER_KEYS = ("render_width", "render_height")


def refuse_unused_keys(config: EnvConfig, meaning: Meaning) -> None:
    """Refuse a changed key that has no effect on this environment.

    Args:
        config: of the environment.
        meaning: of its observations.

    Raises:
        UserError: names the key, its value and the environments that it has an effect on.
    """
    unused = dict.fromkeys(ATARI_KEYS, "an Atari game (ALE/…)")
    if config.observation != "pixels":
        unused |= dict.fromkeys(RENDER_KEYS, "env.observation=pixels")
    if meaning != "picture":
        unused |= dict.fromkeys(PICTURE_KEYS, "an observation of pictures")
    for key, needs in unused.items():
        value = getattr(config, key)
        if value != EnvConfig.model_fields[key].default:
            raise UserError(f"env.{key}={value}: has no effect on {config.id}, it needs {needs}")
