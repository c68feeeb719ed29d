"""What a checkpoint of a run holds: checked before anything is made of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import wire
from common.checkpoint import Checkpoint
from common.errors import CheckpointError
from common.config import Config, build, one_line
from common.types import Array
from common.errors import UserError
from common.parts import shard as shard_part
from replay_server.shard_checkpoint import ShardRestore

FORMAT = 2
LEARNING_KEYS = ("reward_clip", "life_loss_ends")
"""Keys of `env` that change neither the game nor what is seen of it: a run may change them."""
MAX_COUNT = 1 << 53
"""Beyond any count of a run; floating point numbers count exactly up to it."""

_Count = Annotated[int, Field(ge=0, lt=MAX_COUNT)]


class _Part(BaseModel):
    """What is there must be of its type exactly; what a newer version adds is left alone."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class _Learner(_Part):
    """See `Learner.state`; it travels as it is, so nothing else may be in it."""

    model_config = ConfigDict(extra="forbid")

    learner_steps: _Count
    version: Annotated[int, Field(ge=-1, lt=MAX_COUNT)]
    target_syncs: _Count


class _Limiter(_Part):
    """See `RateLimiter.state`."""

    inserted: _Count
    sampled: _Count
    ahead: float
    samples_per_insert: float
    ratio_from_inserted: _Count
    ratio_from_sampled: _Count


class _Counters(_Part):
    """See `Counters`; one that is newer than the checkpoint is 0."""

    env_steps: _Count = 0
    frames: _Count = 0
    transitions: _Count = 0
    episodes: _Count = 0
    learner_steps: _Count = 0
    samples: _Count = 0
    evaluations: _Count = 0
    restarts: _Count = 0
    dropped: _Count = 0
    wall_s: Annotated[float, Field(ge=0)] = 0.0


class _State(_Part):
    """`state.json`."""

    counters: _Counters
    learner: _Learner
    limiter: _Limiter
    score: float | None
    best_score: float | None
    shards: _Count
    incarnation: _Count
    config: dict[str, Any]


def check_state(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose state is none that a run can go on from.

    Raises:
        CheckpointError: in one line what is wrong.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    required = {name for name, field in _State.model_fields.items() if field.is_required()}
    if state.get("format") != FORMAT or required - state.keys() or "learner" not in tensors:
        raise CheckpointError(f"{checkpoint}: is of another version of raydqn")
    try:
        _State.model_validate(state)
        _check_shards(checkpoint)
        build(state["config"], "config")
    except (ValidationError, UserError, ValueError, RecursionError) as error:
        reason = one_line(error) if isinstance(error, ValidationError) else str(error)
        reason = " ".join(reason.split())  # one line, whatever a file has put into it
        raise CheckpointError(
            f"{checkpoint}: its state cannot be understood ({reason:.200})"
        ) from None


def _check_shards(checkpoint: Checkpoint) -> None:
    count = checkpoint.state["shards"]
    if count > len(checkpoint.files):
        raise ValueError(f"shards={count}: there are only {len(checkpoint.files)} files")
    for index in range(count):
        name = shard_file(checkpoint.name, index)
        if name not in checkpoint.files:
            raise ValueError(f"shards={count}: there is no {name}")


def shard_file(name: str, index: int) -> str:
    """What the file of a shard is called in checkpoint `name`."""
    return f"{name}/{shard_part(index)}.rdqn"


def shard_restore(checkpoint: Checkpoint, part: int, parts: int) -> ShardRestore | None:
    """What shard `part` of `parts` begins with; None: with nothing.

    So it is if nothing was saved of the replay memory, or if nothing is to be gone on from.
    """
    count = checkpoint.state["shards"]
    if not count or not checkpoint.replay:
        return None
    names = tuple(shard_file(checkpoint.name, index) for index in range(count))
    return ShardRestore(checkpoint.url, names, checkpoint.files, part, parts)


def learner_state(checkpoint: Checkpoint) -> Array:
    """What `Learner.state` returned when the checkpoint was made."""
    return wire.encode(checkpoint.tensors["learner"], checkpoint.state["learner"])


def check_origin(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a checkpoint that was made with another game, another view of it, or another network.

    Raises:
        UserError: names the key and both values.
    """
    check_state(checkpoint)
    saved = build(checkpoint.state["config"]).model_dump(mode="json")
    mine = config.model_dump(mode="json")
    keys = [(section, key) for section in ("env", "network") for key in mine[section]]
    for section, key in keys:
        wanted = mine[section][key]
        was = saved[section][key]  # its default, if the key is newer than the checkpoint
        if was != wanted and key not in LEARNING_KEYS:
            raise UserError(
                f"{section}.{key}={wanted}: the checkpoint {checkpoint} was made with {was}, "
                f"it is of another {'environment' if section == 'env' else section}"
            )
