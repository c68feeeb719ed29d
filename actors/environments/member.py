"""One copy of an environment, as the environment's author made it, and checked."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from actors.environments.observations import is_as_before, mismatch, short
from common.errors import EnvironmentFailedError

NO_NUMBERS = (type(None), str, bytes)
NOTE = "copy"
"""First word of the place of an error, among the notes of the error."""


class CheckedMember(gym.Wrapper[Any, Any, Any, Any]):
    """Holds each observation against the declared space: the first one as a whole, others cheaply.

    An observation that is an array of the declared type and shape needs no second look.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, copy: int) -> None:
        """Wrap a copy.

        Args:
            env: as it was made.
            name: of the environment, for messages.
            copy: its number, for messages.
        """
        super().__init__(env)
        self._space = env.observation_space
        self._name, self._copy = name, copy
        self._steps = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`.

        Raises:
            EnvironmentFailedError: the observation is not as declared.
        """
        self._steps = 0
        try:
            result: Any = self.env.reset(**options)
        except BaseException as error:
            error.add_note(place_of(self._copy, 0))
            raise
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._error("reset()", f"returned {type(result).__name__}, not two values")
        self._check("reset()", result[0])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`.

        Raises:
            EnvironmentFailedError: the observation is not as declared.
        """
        self._steps += 1
        try:
            result = self.env.step(action)
        except BaseException as error:
            error.add_note(place_of(self._copy, self._steps))
            raise
        self._check("step()", result[0])
        if isinstance(result[1], NO_NUMBERS):  # NumPy would make numbers of them
            text = f"returned the reward {short(result[1])}, which is no number"
            raise self._error("step()", text)
        return result

    def _check(self, method: str, observation: Any) -> None:
        if is_as_before(self._space, observation):
            return
        difference = mismatch(self._space, observation)
        if difference is not None:
            raise self._error(method, f"returned what was not declared: {difference}")

    def _error(self, method: str, text: str) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            f"env.id={self._name}: {method} {text} ({place_of(self._copy, self._steps)})"
        )


def noted_place(error: BaseException) -> str | None:
    """Copy and step of an error that an environment raised, if they are known."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(NOTE)]
    return notes[-1] if notes else None


def place_of(copy: int, step: int) -> str:
    """Where something happened, for a message."""
    return f"{NOTE} {copy}, step {step} of its episode"
