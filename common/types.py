"""Types of the data that travel between the parts of raydqn, with shapes and units.

Letters in shapes: N environment copies of one actor, T vector steps, K transitions of a chunk,
F frames of a chunk or sample, B batch, S frames in a stack, A actions, `*frame` the shape of
one frame (`(C, H, W)` for pictures, `(D,)` for vectors), M bytes of a packed action mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from common.parts import PartId

Array = npt.NDArray[Any]

PAD = -1
"""Frame number in a stack that stands for "before the episode began": a frame of zeros."""


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """Shape and type of one frame.

    Attributes:
        shape: `(C, H, W)` for pictures, `(D,)` for vectors.
        dtype: `"uint8"` for pictures, `"float32"` for vectors.
        scale: factor that the network multiplies a frame with (1/255 for 8-bit pictures).
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float

    @property
    def is_picture(self) -> bool:
        """Whether it suits a convolution: `(C, H, W)`."""
        return len(self.shape) == 3

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class TrialCost:
    """What the first copy of an environment took, about.

    Attributes:
        bytes: of memory, without the modules that all copies share.
        seconds: until its first step.
    """

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """The properties of an environment that the rest of the program needs.

    Attributes:
        frame: shape and type of one frame.
        stack: S, consecutive frames in one observation.
        num_actions: A, discrete actions.
        protocol: settings that a score is meaningless without (sticky actions, frame skip …);
            printed with every score.
        max_episode_steps: env steps after which the environment itself cuts an episode off; None:
            it never does, or does not tell.
        masks_actions: the environment returns action masks; see `env.action_mask`.
        trial: what a trial copy took; None: there was none.
    """

    frame: FrameSpec
    stack: int
    num_actions: int
    protocol: dict[str, Any]
    max_episode_steps: int | None = None
    masks_actions: bool = False
    trial: TrialCost | None = field(default=None, compare=False)

    @property
    def mask_bytes(self) -> int:
        """M, bytes of a packed action mask (`common.item`); 0: there are no masks."""
        return -(-self.num_actions // 8) if self.masks_actions else 0


class TimeStep(NamedTuple):
    """The outcome of N actions in N environment copies.

    After `terminated | truncated` the observation is the true last one of the episode. The next
    step ignores that copy's action and returns the first observation of a new episode
    (`first`); that step is not a transition (gymnasium's autoreset mode NEXT_STEP).
    """

    observation: Array  # [N, *frame]
    reward: Array  # [N] float32, as the environment gave it
    terminated: Array  # [N] bool: the task ended: no bootstrap
    truncated: Array  # [N] bool: cut off by a limit; bootstrap from `observation`
    life_lost: Array  # [N] bool: the episode goes on, but a life is gone
    first: Array  # [N] bool: `observation` opens a new episode, the action was ignored


class Transition(NamedTuple):
    """Experience as the learner trains on it; fields may carry a leading batch dimension.

    The notebook's `Experience(state, action, next_state, reward)` with the two fields it lacked:
    `reward` is the n-step return Σ γ^j r_j, and `discount` is γ^k for the k steps really taken,
    0 if and only if the episode terminated (or a life was lost, where that counts as an end).
    """

    observation: Any  # [B, S, *frame]
    action: Any  # [B] int64
    reward: Any  # [B] float32
    discount: Any  # [B] float32
    next_observation: Any  # [B, S, *frame]
    next_mask: Any = None  # [B, M] uint8, packed (`common.item`); None: all actions are legal


@dataclass(frozen=True, slots=True)
class PackedFrames:
    """Compressed frames: groups of consecutive ones, end to end (see `replay_server.codec`).

    Attributes:
        data: `[bytes]` uint8.
        sizes: `[groups]` int32, bytes of each group.
        count: frames.
    """

    data: Array
    sizes: Array
    count: int


@dataclass(slots=True)
class Chunk:
    """K transitions of one actor in one message: each frame once, stacks as frame numbers.

    Chunks of one actor to one shard form a stream. A chunk names frames of the previous chunk
    instead of sending them again: its frames are first those that it reuses, then its own.

    Attributes:
        frames: `[F, *frame]`, or the same compressed.
        columns: by name, `[K, …]`, those of the memory's items (`common.item`). Observations,
            `[K, …, S]`, are frame numbers, oldest first; `PAD` for none. Numbers 0 … R−1 are those
            of reused frames, R … R+F−1 those of `frames`.
        priority: `[K]` float32, |TD error| by the actor's own Q values; None: the running maximum.
        reused: `[R]` int32, numbers of the reused frames in the previous chunk.
        stream: index of the actor.
        number: of the chunk in its stream; its predecessor has `number − 1`.
    """

    frames: Array | PackedFrames
    columns: dict[str, Array]
    priority: Array | None
    reused: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    stream: int = 0
    number: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Array:
        """A column by name."""
        return self.columns[name]

    @property
    def num_frames(self) -> int:
        """F, frames in this message."""
        return self.frames.count if isinstance(self.frames, PackedFrames) else len(self.frames)


@dataclass(slots=True)
class ShardSummary:
    """State of one shard, sent with each of its samples.

    Attributes:
        shard: index of the shard.
        incarnation: how often the shard was started before; keys of others are stale.
        total: sum of all priority masses.
        size: live items.
        nbytes: bytes of live items and their frames.
        inserted: items ever inserted.
        sampled: items ever sampled.
        evicted: items ever pushed out.
        evicted_unsampled: items pushed out without ever being sampled.
        stale: priority updates that came too late and were dropped.
        refused: priorities that were NaN, infinite or negative.
        orphaned: transitions refused because the shard lacks frames that they reuse.
    """

    shard: int
    incarnation: int
    total: float
    size: int
    nbytes: int
    inserted: int
    sampled: int
    evicted: int
    evicted_unsampled: int
    stale: int
    refused: int
    orphaned: int


@dataclass(slots=True)
class ShardStatistics:
    """Statistics of a shard's items and of draws from it; more work than a summary.

    Attributes:
        summary: sizes and counters.
        times_sampled: live items by how often they were drawn: 0, 1, 2, 3–4, 5–8, … (`TIMES`).
        priorities: live items by priority, a decade each (`PRIORITIES`); empty if α is 0, when
            none are kept.
        drawn: items drawn since the last statistics; the means are over these.
        age: mean number of inserts into the shard between an item's insert and its draw.
        version_lag: mean difference between the newest version of the weights that acted, as far
            as the shard knows, and the version behind a drawn item.
    """

    summary: ShardSummary
    times_sampled: list[int]
    priorities: list[int]
    drawn: int
    age: float
    version_lag: float


TIMES = ("0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-128", ">128")
PRIORITIES = ("<1e-4", "<1e-3", "<1e-2", "<1e-1", "<1", "<10", "<100", ">=100")


@dataclass(slots=True)
class Sample:
    """Items drawn from one shard: the frames they need, once each, and their columns.

    Attributes:
        frames: `[F, *frame]`; a stack's `PAD` is a frame of zeros among them. Very small frames
            may stand there more than once.
        columns: by name, `[B, …]`, those of the memory's items (`common.item`). Observations,
            `[B, …, S]` int32, are rows of `frames`.
        key: `[B]` int64, name of the item within its shard and incarnation.
        probability: `[B]` float64, chance of each draw within this shard.
        age: `[B]` int64, items inserted into the shard since this one.
        summary: state of the shard at the time.
    """

    frames: Array
    columns: dict[str, Array]
    key: Array
    probability: Array
    age: Array
    summary: ShardSummary

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, name: str) -> Array:
        """A column by name."""
        return self.columns[name]


@dataclass(slots=True)
class Episode:
    """One finished episode of an exploring actor.

    Attributes:
        ret: undiscounted sum of the environment's own rewards.
        length: env steps (agent decisions).
        epsilon: ε of that copy when the episode ended.
    """

    ret: float
    length: int
    epsilon: float


@dataclass(slots=True)
class ActorReport:
    """The results of one `Actor.collect`.

    Attributes:
        index: the actor's index. incarnation: how often it was replaced.
        env_steps: agent decisions. frames: emulator frames.
        transitions: transitions accepted by the replay memory.
        episodes: episodes that ended.
        epsilon: mean ε of the copies.
        version: version of the weights at the end. fetches: versions fetched.
        inserts_in_flight: chunks sent and not yet confirmed, at the end.
        dropped: transitions lost because shards died.
        unreachable: parts found dead and not replaced yet (`Actor.reconnect`).
        wall_s, env_s, policy_s, insert_wait_s: seconds in all, in the environment, in the policy,
            and waiting for replay shards to accept chunks.
    """

    index: int
    incarnation: int
    env_steps: int
    frames: int
    transitions: int
    episodes: list[Episode]
    epsilon: float
    version: int
    fetches: int
    inserts_in_flight: int
    dropped: int
    unreachable: list[PartId]
    wall_s: float
    env_s: float
    policy_s: float
    insert_wait_s: float


@dataclass(slots=True)
class LearnerReport:
    """The results of one `Learner.train`.

    Attributes:
        learner_steps: total since the run began. steps: in this call. samples: in this call.
        version: newest published version of the weights. target_syncs: total.
        publications: in this call. publishing_s: seconds that they took. weights_bytes: of one.
        loss, mean_q, td_error, grad_norm: means over the call (td_error absolute).
        weight_lag: mean of (version − version that acted) over the samples.
        data_age: mean inserts, over all shards, since a sampled item was inserted.
        replay: the newest summary of every shard.
        rounds_in_flight: batch groups requested and not yet taken, at the end.
        unreachable: parts found dead and not replaced yet (`Learner.reconnect`).
        wall_s, sample_wait_s: seconds in all, and waiting for replay shards to answer.
        device: of the networks, and build of torch, in words. threads: of torch.
        diverged: a non-finite loss stopped training; `batch` then holds the batch (wire format).
    """

    learner_steps: int
    steps: int
    samples: int
    version: int
    target_syncs: int
    loss: float
    mean_q: float
    td_error: float
    grad_norm: float
    weight_lag: float
    data_age: float
    replay: list[ShardSummary]
    rounds_in_flight: int
    wall_s: float
    sample_wait_s: float
    unreachable: list[PartId] = field(default_factory=list)
    device: str = ""
    threads: int = 1
    publications: int = 0
    publishing_s: float = 0.0
    weights_bytes: int = 0
    diverged: bool = False
    batch: Array | None = None


@dataclass(slots=True)
class EvaluationReport:
    """Greedy episodes of one version of the weights.

    Attributes:
        version: weights that were evaluated. learner_steps: when they were published.
        score: mean undiscounted return. returns: one per episode. lengths: env steps of each.
        copies: number of the copy that played each. endings: how each ended, `terminated`,
            `truncated` (by the environment's own limit) or `cut off` (by the evaluation's).
        epsilon: exploration while evaluating (0: greedy).
        wall_s: seconds it took.
        weights: the evaluated weights (wire format).
    """

    version: int
    learner_steps: int
    score: float
    returns: list[float]
    lengths: list[int]
    epsilon: float
    wall_s: float
    weights: Array | None = field(default=None, repr=False)
    copies: list[int] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
