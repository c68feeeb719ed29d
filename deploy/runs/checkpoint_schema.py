"""The state of a checkpoint as a model: validated before a part is made from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common import wire
from common.checkpoint import Checkpoint
from common.config import Config
from common.config_errors import in_toml
from common.config_toml import build, one_line
from common.errors import CheckpointError, UserError
from common.parts import shard as shard_part
from common.text import counted
from common.types import Array
from replay_server.shard_restore import ShardRestore

FORMAT = 2
LEARNING_KEYS = ("reward_clip", "life_loss_ends", "init", "action_taus", "noisy_sigma")
"""Keys that change neither game nor observations nor network: a resume may change them."""
MAX_COUNT = 1 << 53
"""Greater than any count of a run; floating point numbers count exactly up to it."""

_Count = Annotated[int, Field(ge=0, lt=MAX_COUNT)]


class _Part(BaseModel):
    """Known keys must have exactly their type; unknown keys, of a newer version, are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class LearnerState(_Part):
    """Metadata of `Learner.state`; it is passed on as it is, so further keys are refused."""

    model_config = ConfigDict(extra="forbid")

    learner_steps: _Count
    version: Annotated[int, Field(ge=-1, lt=MAX_COUNT)]
    target_syncs: _Count


class LimiterState(_Part):
    """See `RateLimiter.state`."""

    inserted: _Count
    sampled: _Count
    ahead: float
    samples_per_insert: float
    ratio_from_inserted: _Count
    ratio_from_sampled: _Count


class CountersState(_Part):
    """See `Counters`; a counter that is newer than the checkpoint is 0."""

    env_steps: _Count = 0
    frames: _Count = 0
    transitions: _Count = 0
    episodes: _Count = 0
    learner_steps: _Count = 0
    samples: _Count = 0
    evaluations: _Count = 0
    restarts: _Count = 0
    lost_with_nodes: _Count = 0
    dropped: _Count = 0
    wall_s: Annotated[float, Field(ge=0)] = 0.0


class RanOn(_Part):
    """The runtime of a run: this process, Ray on this machine, or a Ray cluster at an address."""

    inline: bool
    address: str | None = None


class RunState(_Part):
    """`state.json` of a checkpoint.

    Attributes:
        counters: of the run.
        learner: metadata of the learner's tensors.
        limiter: state of the rate limiter.
        score, best_score: of the evaluations; None before the first.
        shards: number of shards that the checkpoint holds; 0: replay was not saved.
        incarnation: greatest incarnation that the run had used.
        config: the whole configuration, nested by section.
        next_evaluation_steps: learner steps at which an evaluation is due; None in checkpoints of
            earlier versions.
        ran_on: the runtime of the attempt that wrote the checkpoint; None: it was not recorded.
    """

    counters: CountersState
    learner: LearnerState
    limiter: LimiterState
    score: float | None
    best_score: float | None
    shards: _Count
    incarnation: _Count
    config: dict[str, Any]
    next_evaluation_steps: _Count | None = None
    ran_on: RanOn | None = None


def parse_state(checkpoint: Checkpoint) -> RunState:
    """The state of a checkpoint, validated.

    Raises:
        CheckpointError: the state is of another version, or damaged; the message is one line.
    """
    raw = checkpoint.state
    required = {name for name, field in RunState.model_fields.items() if field.is_required()}
    if raw.get("format") != FORMAT or required - raw.keys() or "learner" not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint}: is of another version of raydqn")
    try:
        state = RunState.model_validate(raw)
        _check_shards(checkpoint, state.shards)
        build(state.config, "config")
    except (ValidationError, UserError, ValueError, RecursionError) as error:
        reason = one_line(error) if isinstance(error, ValidationError) else str(error)
        reason = " ".join(reason.split())  # values of the file may hold line breaks
        raise CheckpointError(
            f"{checkpoint}: its state cannot be understood ({reason:.200})"
        ) from None
    return state


def check_state(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose state is not valid.

    Raises:
        CheckpointError: as `parse_state`.
    """
    parse_state(checkpoint)


def _check_shards(checkpoint: Checkpoint, count: int) -> None:
    if count > len(checkpoint.files):
        there = counted(len(checkpoint.files), "file")
        raise ValueError(f"shards={count}: the checkpoint has {there} in all")
    for index in range(count):
        name = shard_file(checkpoint.name, index)
        if name not in checkpoint.files:
            raise ValueError(f"shards={count}: there is no {name}")


def shard_file(name: str, index: int) -> str:
    """Name of a shard's file in checkpoint `name`."""
    return f"{name}/{shard_part(index)}.rdqn"


def shard_restore(checkpoint: Checkpoint, part: int, parts: int) -> ShardRestore | None:
    """What shard `part` of `parts` restores from a checkpoint.

    None if the checkpoint holds no replay memory, or if the run is to resume without it.

    Raises:
        CheckpointError: as `parse_state`.
    """
    if not checkpoint.replay:
        return None
    count = parse_state(checkpoint).shards
    if not count:
        return None
    names = tuple(shard_file(checkpoint.name, index) for index in range(count))
    return ShardRestore(checkpoint.url, names, checkpoint.files, part, parts)


def learner_state(checkpoint: Checkpoint) -> Array:
    """The state that the learner restores from a checkpoint, as `Learner.state` returned it.

    Raises:
        CheckpointError: as `parse_state`.
    """
    return wire.encode(checkpoint.tensors["learner"], parse_state(checkpoint).learner.model_dump())


def check_restorable(checkpoint: Checkpoint, config: Config) -> RunState:
    """The state of a checkpoint that a run with `config` can restore.

    Raises:
        CheckpointError: as `parse_state`.
        UserError: the checkpoint has another game, other observations, or another network; the
            message names the key and both values.
    """
    state = parse_state(checkpoint)
    saved = build(state.config).model_dump(mode="json")
    mine = config.model_dump(mode="json")
    keys = [(section, key) for section in ("env", "network") for key in mine[section]]
    for section, key in keys:
        wanted = mine[section][key]
        was = saved[section][key]  # the default, if the key is newer than the checkpoint
        if was != wanted and key not in LEARNING_KEYS:
            raise UserError(
                f"{section}.{key}={_told(wanted)}: the checkpoint {checkpoint} was made with "
                f"{_told(was)} and belongs to another "
                f"{'environment' if section == 'env' else section}; resume without the key"
            )
    was, wanted = saved["learner"]["optimizer"], config.learner.optimizer
    if was != wanted and "rmsprop" in (was, wanted):  # adam and adamw keep the same
        raise UserError(
            f"learner.optimizer={wanted}: the checkpoint {checkpoint} was made with {was}, which "
            f"keeps other averages; resume with {was}"
        )
    return state


def _told(value: Any) -> str:
    """A value as a configuration spells it."""
    return str(value).lower() if isinstance(value, bool) else in_toml(value).strip('"')
