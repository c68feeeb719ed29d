"""N copies of an environment behind one class, whichever family the environment is of.

Every vector environment resets in Gymnasium's mode NEXT_STEP: the step that ends an episode returns
its true last observation. The step after it ignores the action and returns the first observation of
the next episode. An environment in another mode is refused.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from common.types import Array, EnvironmentSpec, TimeStep

OWN_FOLDER = Path(__file__).parents[1]


class Environment:
    """N copies that step together. Actions of the agent go in, frames come out."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        spec: EnvironmentSpec,
        to_frames: Callable[[Array], Array],
        first_action: int,
        frames_per_step: int,
    ) -> None:
        """Wrap a gymnasium vector environment.

        Args:
            vector: in autoreset mode NEXT_STEP.
            spec: what comes out.
            to_frames: batch of observations → `[N, *frame]`.
            first_action: number of the environment's first action (Discrete's `start`).
            frames_per_step: emulator frames per env step.

        Raises:
            UserError: another autoreset mode.
        """
        mode = vector.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise UserError(
                f"{vector}: autoreset mode is {mode}; raydqn needs {AutoresetMode.NEXT_STEP}"
            )
        self.spec = spec
        self.num_envs = vector.num_envs
        self.frames_per_step = frames_per_step
        self._vector = vector
        self._to_frames = to_frames
        self._first_action = first_action
        self._done: Array = np.zeros(self.num_envs, bool)
        self._lives: Array = np.zeros(self.num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Array:
        """Begin an episode in every copy; returns the first frames, `[N, *frame]`."""
        with reporting(self._name, "reset"):
            observation, info = self._vector.reset(seed=seed)
        self._done[:] = False
        self._lives = self._lives_in(info)
        return self._frames(observation)

    def step(self, actions: Array) -> TimeStep:
        """Apply one action (0 … A−1) to each copy, `[N]` int."""
        first = self._done
        with reporting(self._name, "step"):
            observation, reward, terminated, truncated, info = self._vector.step(
                actions + self._first_action
            )
        self._done = np.asarray(terminated | truncated, bool)
        lives = self._lives_in(info)
        lost = (lives < self._lives) & ~first & ~self._done
        self._lives = lives
        return TimeStep(
            observation=self._frames(observation),
            reward=np.asarray(reward, np.float32),
            terminated=np.asarray(terminated, bool),
            truncated=np.asarray(truncated, bool),
            life_lost=lost,
            first=first,
        )

    def render(self) -> list[Array]:
        """One `[H, W, 3]` uint8 picture of each copy.

        Raises:
            UserError: the environment renders no pictures.
        """
        with reporting(self._name, "render"):
            pictures = self._vector.render()
        if pictures is None:
            raise UserError(f"env.id={self._name}: renders no pictures")
        return [np.asarray(picture) for picture in pictures]

    def close(self) -> None:
        """Free the resources of the copies."""
        with reporting(self._name, "close"):
            self._vector.close()

    @property
    def _name(self) -> str:
        return str(self.spec.protocol["env"])

    def _frames(self, observation: Array) -> Array:
        """Frames of their own memory: an environment may reuse that of its observations."""
        frames = self._to_frames(observation)
        return frames.copy() if np.may_share_memory(frames, observation) else frames

    def _lives_in(self, info: dict[str, Any]) -> Array:
        lives = info.get("lives")
        return np.zeros(self.num_envs, np.int64) if lives is None else np.array(lives, np.int64)


@contextmanager
def reporting(env_id: str, method: str) -> Iterator[None]:
    """Turn an error of the environment into one line that names the method and the place.

    Raises:
        EnvironmentFailedError: the environment raised any other error than a `UserError`.
    """
    try:
        yield
    except (UserError, EnvironmentFailedError):
        raise
    except Exception as error:
        # The cause lies outside this package, and inside Gymnasium only if nowhere else.
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if OWN_FOLDER not in Path(frame.filename).parents
        ]
        own = [f for f in frames if f"{os.sep}gymnasium{os.sep}" not in f.filename] or frames
        place = ""
        if own:
            place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})"
        raise EnvironmentFailedError(
            f"env.id={env_id}: {method}() raised {type(error).__name__}: "
            f"{first_line(error)}{place}",
            "".join(traceback.format_list(own)),
        ) from error


def cannot_be_made(config: EnvConfig, error: Exception) -> UserError:
    """The error for a constructor that raised `error`."""
    return UserError(
        f"env.id={config.id}: cannot be made ({type(error).__name__}: {first_line(error)})"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [""])[0]
