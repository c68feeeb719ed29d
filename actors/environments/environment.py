"""N copies of an environment behind one class, whichever family the environment is of.

Every vector environment resets in Gymnasium's mode NEXT_STEP: the step that ends an episode returns
its true last observation. The step after it ignores the action and returns the first observation of
the next episode. An environment in another mode is refused.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np
from gymnasium.vector import AutoresetMode

from actors.environments.actions import ToActions
from actors.environments.masks import ActionMasks
from actors.environments.member import noted_place, place_of
from actors.environments.process_state import apart, seed_global_generators
from actors.environments.vector import Vector
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from common.types import Array, EnvironmentSpec, TimeStep
from common.version import PACKAGES

OWN_FOLDER = Path(__file__).parents[1]
ONLY_ONE = (
    "another copy is open: if one alone can exist, set actors.count=1, actors.envs=1, "
    "evaluation.envs=1 and evaluation.every_learner_steps=none"
)
_open: WeakSet[Environment] = WeakSet()


class Environment:
    """N copies that step together. Actions of the agent go in, frames come out.

    Attributes:
        spec: what comes out.
        num_envs: N.
        frames_per_step: emulator frames per env step.
        legal: `[N, A]` bool, the legal actions for the newest observations, at least one per copy;
            None: the environment has no action masks. Each step makes a new array.
    """

    def __init__(
        self,
        vector: Vector,
        spec: EnvironmentSpec,
        to_frames: Callable[[Array], Array],
        to_actions: ToActions,
        frames_per_step: int,
        reads_lives: bool = False,
        masks: ActionMasks | None = None,
        is_pure: bool = False,
    ) -> None:
        """Wrap a gymnasium vector environment.

        Args:
            vector: in autoreset mode NEXT_STEP.
            spec: what comes out.
            to_frames: batch of observations → `[N, *frame]`.
            to_actions: batch of numbers 0 … A−1 → batch of actions.
            frames_per_step: emulator frames per env step.
            reads_lives: `info["lives"]` is the number of lives; otherwise it is not read.
            masks: checks `info["action_mask"]`; None: masks are not read.
            is_pure: its steps change nothing in the process, so that they are not kept apart, which
                takes longer than the step of a small game.

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
        self._reads_lives = reads_lives
        self._masks = masks
        self._is_pure = is_pure
        self.legal: Array | None = None
        self._to_frames = to_frames
        self._to_actions = to_actions
        self._steps: Array = np.zeros(self.num_envs, np.int64)
        self._done: Array = np.zeros(self.num_envs, bool)
        self._lives: Array = np.zeros(self.num_envs, np.int64)
        _open.add(self)

    def reset(self, seed: int | None = None) -> Array:
        """Begin an episode in every copy; returns the first frames, `[N, *frame]`."""
        with reporting(self._name, "reset", self._is_pure):
            if seed is not None:
                seed_global_generators(seed)
            observation, info = self._vector.reset(seed=seed)
        self._done[:] = False
        self._steps[:] = 0
        self._lives[:] = 0
        self._lives = self._lives_in(info)
        frames = self._frames(observation)
        if self._masks is not None:
            self.legal = self._masks.legal(info["action_mask"], self._done, self._steps)
        return frames

    def step(self, actions: Array) -> TimeStep:
        """Apply one action (0 … A−1) to each copy, `[N]` int."""
        first = self._done
        with reporting(self._name, "step", self._is_pure):
            observation, reward, terminated, truncated, info = self._vector.step(
                self._to_actions(actions)
            )
        self._steps = np.where(first, 0, self._steps + 1)
        self._done = np.asarray(terminated | truncated, bool)
        if self._reads_lives:  # of the episode before, which tell nothing about a new one
            self._lives = np.where(first, 0, self._lives)
        lives = self._lives_in(info)
        lost = (lives < self._lives) & ~first & ~self._done
        self._lives = lives
        outcome = TimeStep(
            observation=self._frames(observation),
            reward=self._rewards(reward),
            terminated=np.asarray(terminated, bool),
            truncated=np.asarray(truncated, bool),
            life_lost=lost,
            first=first,
        )
        if self._masks is not None:
            self.legal = self._masks.legal(info["action_mask"], outcome.terminated, self._steps)
        return outcome

    def render(self) -> list[Array]:
        """One `[H, W, 3]` uint8 picture of each copy.

        Raises:
            UserError: the environment renders no pictures.
        """
        with reporting(self._name, "render", self._is_pure):
            pictures = self._vector.render()
        if pictures is None:
            raise UserError(f"env.id={self._name}: renders no pictures")
        return [np.asarray(picture) for picture in pictures]

    def close(self) -> None:
        """Free the resources of the copies."""
        _open.discard(self)
        with reporting(self._name, "close", self._is_pure):
            self._vector.close()

    @property
    def _name(self) -> str:
        return str(self.spec.protocol["env"])

    def _frames(self, observation: Array) -> Array:
        """Frames of their own memory: an environment may reuse that of its observations."""
        with np.errstate(over="ignore"):  # the number becomes infinite, and is refused
            frames = self._to_frames(observation)
        if frames.dtype.kind == "f":
            self._check_finite("observation", frames)
        return frames.copy() if np.may_share_memory(frames, observation) else frames

    def _rewards(self, reward: Array) -> Array:
        with np.errstate(over="ignore"):
            rewards: Array = np.asarray(reward, np.float32)
        self._check_finite("reward", rewards)
        return rewards

    def _check_finite(self, name: str, values: Array) -> None:
        """Refuse what a network cannot learn from.

        Args:
            name: of the values.
            values: `[N, …]` float32.

        Raises:
            EnvironmentFailedError: a value is NaN or infinite; names copy and step.
        """
        if np.isfinite(values).all():
            return
        finite = np.isfinite(values).reshape(self.num_envs, -1).all(axis=1)
        copy = int(np.flatnonzero(~finite)[0])
        is_nan = bool(np.isnan(values[copy]).any())
        raise EnvironmentFailedError(
            f"env.id={self._name}: {name} is "
            f"{'NaN' if is_nan else 'infinite, or too large for float32'} "
            f"({place_of(copy, int(self._steps[copy]))})"
        )

    def _lives_in(self, info: dict[str, Any]) -> Array:
        """Lives of each copy; a copy that does not tell has as many as before."""
        given = info.get("lives") if self._reads_lives else None
        if given is None:
            return self._lives
        told = info.get("_lives", np.ones(self.num_envs, bool))  # Gymnasium fills gaps with 0
        lives = self._lives.copy()
        for i, value in enumerate(given):
            if value is None or not told[i]:
                continue
            number = np.asarray(value)
            is_count = number.size == 1 and number.dtype.kind in "iuf"
            if not is_count or not float(number.item()).is_integer():
                raise EnvironmentFailedError(
                    f'env.id={self._name}: info["lives"] is {str(value)[:40]!r}, not a whole '
                    f"number ({place_of(i, int(self._steps[i]))}); leave out env.life_loss_ends"
                )
            lives[i] = int(number.item())
        return lives


@contextmanager
def reporting(env_id: str, method: str, is_pure: bool = False) -> Iterator[None]:
    """Turn an error of the environment into one line that names the method and the place.

    Args:
        env_id: of the environment.
        method: of the environment.
        is_pure: see `Environment`.

    Raises:
        EnvironmentFailedError: the environment raised any other error than a `UserError`.
    """
    try:
        with nullcontext() if is_pure else apart(is_step=method == "step"):
            yield
    except (UserError, EnvironmentFailedError):
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        # The cause lies outside this package, and inside Gymnasium only if nowhere else.
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if OWN_FOLDER not in Path(frame.filename).parents
        ]
        own = [f for f in frames if f"{os.sep}gymnasium{os.sep}" not in f.filename] or frames
        places = [f"{Path(f.filename).name}, line {f.lineno}, in {f.name}" for f in own[-1:]]
        place = "; ".join(filter(None, (*places, noted_place(error))))
        raise EnvironmentFailedError(
            f"env.id={env_id}: {method}() raised {type(error).__name__}: "
            f"{first_line(error)}{_taken_name(error)}{f' ({place})' if place else ''}",
            "".join(traceback.format_list(own)),
        ) from error


def cannot_be_made(config: EnvConfig, error: BaseException, copy: int = 0) -> UserError:
    """The error for a constructor that raised `error`; `copy` counts those made with it."""
    is_second = copy or any(other._name == config.id for other in _open)
    return UserError(
        f"env.id={config.id}: cannot be made ({type(error).__name__}: {first_line(error)}"
        f"{_taken_name(error)}){f'; {ONLY_ONE}' if is_second else ''}"
    )


def taken_package(error: BaseException) -> str | None:
    """The package of raydqn's that a module of the user's was looked for in, if that is the cause.

    Python has imported raydqn's `common` already when an environment imports one of its own.
    """
    name: Any = None
    if isinstance(error, ImportError):
        name = error.name
    elif isinstance(error, AttributeError):
        name = getattr(error.obj, "__name__", None) if isinstance(error.obj, ModuleType) else None
    package = name.partition(".")[0] if isinstance(name, str) else None
    return package if package in PACKAGES else None


def _taken_name(error: BaseException) -> str:
    package = taken_package(error)
    if package is None:
        return ""
    return f"; raydqn has a package `{package}`, too: rename yours"


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [""])[0]
