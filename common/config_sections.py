"""The tables of the configuration: every key with its type, default, limits and description.

A key or its description names the unit. `none` on the command line and "none" in TOML, which has no
null, mean None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

NONE = "none"


class Section(BaseModel):
    """A table of the configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none_in_words(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not any(map(is_none, values.values())):
            return values
        optional = {
            name
            for name, info in cls.model_fields.items()
            if type(None) in get_args(info.annotation)
        }
        return {
            name: None if is_none(value) and name in optional else value
            for name, value in values.items()
        }


def is_none(value: Any) -> bool:
    """Whether a value is the word none, in letters of either case."""
    return isinstance(value, str) and value.lower() == NONE


def _holds_none(value: Any) -> bool:
    below = value.values() if isinstance(value, Mapping) else value
    return value is None or (
        isinstance(value, Mapping | list | tuple) and any(map(_holds_none, below))
    )


_MASK_SOURCE = re.compile(r"info(:.+)?|method(:[^\W\d]\w*)?")


class EnvConfig(Section):
    """The environment and what the agent sees of it."""

    id: str = Field(
        "CartPole-v1",
        description='Gymnasium id; "module:Id-v0" imports module first, ALE/… needs ale-py',
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="passed on to the environment's constructor"
    )
    wrappers: tuple[str, ...] = Field(
        (), description='"module:Class", innermost first; each is called with the environment'
    )
    action_mask: str | None = Field(
        None,
        description='legal actions: "info" reads info["action_mask"], "info:KEY" another entry, '
        '"method" calls action_masks(), "method:NAME" another method; none: every action is legal',
    )
    backend: Literal["auto", "gymnasium", "envpool"] = Field(
        "auto",
        description='"auto": all copies at once where that is possible; "gymnasium": copy by copy; '
        '"envpool": EnvPool (extra `envpool`), for the ids that it has',
    )
    observation: Literal["state", "pixels", "picture", "grid", "planes", "vector"] = Field(
        "state",
        description='"state": what the environment returns, by its space; "picture", "grid", '
        '"planes" or "vector": likewise, as this; "pixels": rendered frames',
    )
    scale: float | None = Field(
        None,
        gt=0,
        description="factor on observations before the network; none: 1/255 for 8-bit pictures "
        "and vectors, else 1",
    )
    render_width: int | None = Field(
        None, ge=16, description="pixels: width of the environment's own screen, if it has one"
    )
    render_height: int | None = Field(None, ge=16, description="likewise its height")
    crop: tuple[float, float, float, float] | None = Field(
        None, description="pictures: left, top, right, bottom to keep, as fractions of the picture"
    )
    invert: bool = Field(
        False, description="pictures: 255 − value; a mostly white screen becomes mostly zero"
    )
    grey: bool = Field(True, description="pictures: one channel of luminance, else RGB")
    width: int = Field(84, ge=1, description="pictures: width after resizing, pixels")
    height: int = Field(84, ge=1, description="pictures: height after resizing, pixels")
    stack: int = Field(1, ge=1, le=64, description="consecutive frames in one observation")
    reward_clip: float | None = Field(
        None, gt=0, description="learn from rewards clipped to ±this; returns are never clipped"
    )
    life_loss_ends: bool = Field(
        False, description="a lost life ends the episode for learning (never resets the game)"
    )
    sticky_actions: float = Field(
        0.25, ge=0, lt=1, description="Atari: probability that the last action is repeated"
    )
    frame_skip: int = Field(4, ge=1, description="Atari: emulator frames per agent decision")
    noop_max: int = Field(30, ge=0, description="Atari: up to so many no-ops at an episode's start")
    max_episode_frames: int = Field(108_000, ge=1, description="Atari: emulator frames per episode")

    @model_validator(mode="after")
    def _kwargs_can_be_recorded(self) -> EnvConfig:
        if _holds_none(self.kwargs):
            raise ValueError(
                f"kwargs={self.kwargs}: holds null, which TOML cannot record; leave that entry out"
            )
        return self

    @model_validator(mode="after")
    def _action_mask_has_a_source(self) -> EnvConfig:
        if self.action_mask is not None and not _MASK_SOURCE.fullmatch(self.action_mask):
            raise ValueError(
                f"action_mask={self.action_mask!r}: must be none, info, info:KEY, method or "
                "method:NAME"
            )
        return self

    @model_validator(mode="after")
    def _crop_is_a_box(self) -> EnvConfig:
        if self.crop is not None:
            left, top, right, bottom = self.crop
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(
                    f"crop={list(self.crop)}: must be left, top, right, bottom as fractions with "
                    "left < right and top < bottom"
                )
        return self


class ExplorationConfig(Section):
    """ε: the probability of a random action."""

    kind: Literal["ladder", "exponential", "linear", "constant"] = Field(
        "ladder",
        description=(
            '"ladder": one ε per environment copy, base^(1 + alpha·i/(N−1)); "exponential": '
            'end + (start − end)·exp(−step·decay); "linear": start to end; "constant": start'
        ),
    )
    base: float = Field(0.4, gt=0, le=1, description="ladder: ε of the most curious copy")
    alpha: float = Field(7.0, ge=0, description="ladder: how fast ε falls from copy to copy")
    start: float = Field(1.0, ge=0, le=1, description="ε at env step 0")
    end: float = Field(0.01, ge=0, le=1, description="ε in the limit")
    decay: float = Field(0.001, gt=0, description="exponential: per env step of the whole run")
    decay_steps: int = Field(10_000, ge=1, description="linear: env steps from start to end")
    random_warmup: bool = Field(
        True,
        description="ε is 1 in the first learner.warmup_transitions env steps of the run, before "
        "learning starts: the untrained network prefers one action everywhere",
    )


AUTO = "auto"


def _count_of(value: Any, whole_number: ValidatorFunctionWrapHandler) -> int:
    if value == AUTO:
        return 0
    try:
        count: int = whole_number(value)
    except ValidationError:
        count = 0
    if count < 1:
        raise ValueError(f"must be a whole number of at least 1, or {AUTO}")
    return count


Count = Annotated[
    int,
    WrapValidator(_count_of),
    PlainSerializer(lambda count: count or AUTO, return_type=int | str),
]
"""A number, or `"auto"`, which is kept as 0."""


class ActorsConfig(Section):
    """The actors, and how often they report."""

    count: Count = Field(
        1,
        description='actors (processes of their own on Ray); "auto": as many as there is room for, '
        "also on nodes that the cluster can start",
    )
    envs: int = Field(16, ge=1, description="environment copies per actor")
    collect_steps: int = Field(
        16, ge=1, description="vector steps per report; one vector step steps each copy once"
    )
    chunk_steps: int = Field(16, ge=1, description="vector steps per message to the replay memory")
    inserts_in_flight: int = Field(4, ge=1, description="messages in flight per actor, at the most")


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", re.IGNORECASE)
_SIZE = (
    "must be a whole number of transitions, or bytes with a unit (kB, MB, GB, TB, KiB, MiB, GiB, "
    "TiB), such as 4 GiB"
)


class ReplayConfig(Section):
    """The replay memory."""

    capacity: int | str = Field(
        100_000,
        description='over all shards: transitions (100_000), or bytes with a unit ("4 GiB"): as '
        "many transitions as fit",
    )
    shards: int = Field(1, ge=1, description="replay servers that share the capacity")
    alpha: float = Field(
        0.6, ge=0, le=1, description="how much priority counts; 0: uniform sampling"
    )
    beta: float = Field(
        0.4, ge=0, le=1, description="importance weights (N·P(i))^−beta; 1: full correction"
    )
    beta_end: float | None = Field(
        None, ge=0, le=1, description="beta moves to this on a straight line; none: it stays"
    )
    beta_steps: int = Field(100_000, ge=1, description="learner steps until it is beta_end")
    compression: Literal["none", "lz4", "zstd", "png"] = Field(
        "none",
        description='frames on their way to the memory and in it: "none", "lz4" (fast), "zstd" '
        '(smaller), "png" (8-bit pictures only)',
    )

    @field_validator("capacity", mode="before")
    @classmethod
    def _capacity_is_a_number_or_text(cls, value: Any) -> Any:
        whole = isinstance(value, float) and value.is_integer()
        if not whole and not isinstance(value, int | str):
            raise ValueError(_SIZE)
        return value

    @model_validator(mode="after")
    def _capacity_is_a_size(self) -> ReplayConfig:
        if isinstance(self.capacity, str):
            self.capacity_bytes  # noqa: B018  # raises what is wrong with it
        elif self.capacity < 1:
            raise ValueError(f"capacity={self.capacity}: must be at least 1")
        return self

    @property
    def capacity_bytes(self) -> int | None:
        """The capacity if it is given in bytes.

        Raises:
            ValueError: a text that is no number of bytes.
        """
        if isinstance(self.capacity, int):
            return None
        match = _BYTES.fullmatch(self.capacity.strip())
        if match is None or not float(match[1]) > 0:
            raise ValueError(f"capacity={self.capacity!r}: {_SIZE}")
        power = "kmgt".index(match[2][0].lower()) + 1
        return int(float(match[1]) * (1024 if "i" in match[2].lower() else 1000) ** power)


class EvaluationConfig(Section):
    """Greedy episodes, apart from the exploring actors."""

    every_learner_steps: int | None = Field(
        500,
        ge=1,
        description="learner steps between evaluations; none: no evaluation, and no environments "
        "for it",
    )
    episodes: int = Field(100, ge=1, description="episodes of one evaluation: score is their mean")
    envs: int = Field(100, ge=1, description="environment copies that play them in parallel")
    epsilon: float = Field(0.0, ge=0, le=1, description="probability of a random action")
    max_episode_steps: int = Field(
        27_000, ge=1, description="env steps after which an evaluation episode is cut off"
    )


class StopConfig(Section):
    """The run stops at the first of these; none: that one never stops it."""

    learner_steps: int | None = Field(None, ge=1, description="learner steps")
    env_steps: int | None = Field(
        None,
        ge=1,
        description="env steps of all actors together; seen after each report of an actor",
    )
    wall_s: float | None = Field(
        None,
        gt=0,
        description="seconds since the command began, Ray's start and the time before a resume "
        "included",
    )
    score: float | None = Field(
        None, description="mean of evaluation.episodes greedy episodes, reached or passed"
    )

    def reached(
        self, *, score: float | None, learner_steps: int, env_steps: int, wall_s: float
    ) -> str | None:
        """The first condition, by its key, that a run with these numbers has reached."""
        keys = ("score", "learner_steps", "env_steps", "wall_s")
        for key, value in zip(keys, (score, learner_steps, env_steps, wall_s), strict=True):
            goal = getattr(self, key)
            if goal is not None and value is not None and value >= goal:
                return key
        return None
