"""What the tests of the replay memory share: random chunks, a naive twin, a handle on command."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from common import wire
from common.item import transition_item
from common.types import PAD, Chunk, FrameSpec, Sample
from replay_server.codec import Codec
from replay_server.frame_retention import MAX_BACKREFERENCE
from replay_server.messages import encode_chunk
from replay_server.table import PRIORITY_FLOOR, Table

VECTOR = FrameSpec(shape=(3,), dtype="float32", scale=1.0)
PICTURE = FrameSpec(shape=(1, 2, 2), dtype="uint8", scale=1 / 255)
NAN, INF = float("nan"), float("inf")


def random_chunk(
    rng: np.random.Generator,
    count: int,
    frames: int,
    stack: int = 2,
    spec: FrameSpec = PICTURE,
    priority: Any = "random",
    mask_bytes: int = 0,
) -> Chunk:
    """A chunk of random content whose stacks name any of its frames, or `PAD`."""
    if spec.dtype == "uint8":
        pixels = rng.integers(0, 256, (frames, *spec.shape), np.uint8)
    else:
        pixels = rng.normal(size=(frames, *spec.shape)).astype(spec.dtype)
    if isinstance(priority, str):
        priority = rng.random(count).astype(np.float32)
    elif priority is not None:
        priority = np.asarray(priority, np.float32)
    masks = {}
    if mask_bytes:
        masks["next_mask"] = rng.integers(0, 256, (count, mask_bytes), np.uint8)
    columns = {
        "observation": rng.integers(PAD, frames, (count, stack), np.int32),
        "next_observation": rng.integers(PAD, frames, (count, stack), np.int32),
        "action": rng.integers(0, 1000, count).astype(np.int32),
        "reward": rng.normal(size=count).astype(np.float32),
        "discount": rng.random(count).astype(np.float32),
        "version": rng.integers(0, 1000, count),
        **masks,
    }
    return Chunk(pixels, columns, priority)


def columns_of(chunk: Chunk) -> dict[str, np.ndarray]:
    """A chunk's columns as they travel."""
    return wire.decode(encode_chunk(chunk))[0]


class Reader:
    """Follows streams of chunks: fills in the frames that a chunk reuses."""

    def __init__(self) -> None:
        self._named: dict[int, tuple[int, np.ndarray]] = {}

    def whole(self, chunk: Chunk) -> Chunk:
        """The chunk with all the frames it names, reusing none."""
        frames = chunk.frames
        if len(chunk.reused):
            number, named = self._named[chunk.stream]
            assert number == chunk.number - 1
            frames = np.concatenate((named[chunk.reused], frames))
        self._named[chunk.stream] = (chunk.number, frames)
        return replace(chunk, frames=frames, reused=chunk.reused[:0])


def make_table(
    capacity: int = 8,
    frame_capacity: int = 32,
    stack: int = 2,
    alpha: float = 0.6,
    seed: int = 0,
    spec: FrameSpec = PICTURE,
    compression: str = "none",
    mask_bytes: int = 0,
    **named: Any,
) -> Table:
    rng = np.random.default_rng(seed)
    if compression != "none":
        named["codec"] = Codec(compression, spec)
    item = transition_item(stack, mask_bytes)
    return Table(capacity, spec, item, alpha, frame_capacity, rng, **named)


def filled_table(priorities: Any, **named: Any) -> Table:
    """A table that has exactly these items, whose actions are their keys."""
    count = len(priorities)
    named = {"capacity": count, "frame_capacity": count, **named}
    table = make_table(**named)
    chunk = random_chunk(
        np.random.default_rng(1),
        count,
        count,
        stack=named.get("stack", 2),
        spec=named.get("spec", PICTURE),
        priority=priorities,
    )
    chunk.columns["action"] = np.arange(count, dtype=np.int32)
    table.insert(chunk)
    return table


def mask_of(columned: Chunk | Sample, row: int) -> bytes:
    """The action mask of one item; empty: there is none."""
    masks = columned.columns.get("next_mask")
    return b"" if masks is None else masks[row].tobytes()


@dataclass
class NaiveItem:
    """One transition with its whole stacks, as no store keeps it."""

    observation: np.ndarray
    next_observation: np.ndarray
    action: int
    reward: float
    discount: float
    version: int
    priority: float
    first_frame: int  # when the ring overwrites this frame, the item's chunk goes
    next_mask: bytes  # empty: there is none


@dataclass
class NaiveTable:
    """The obviously right twin of `Table`: a dictionary of items and plain loops.

    With `group`, the rows of frames go in groups of so many, as in a table that compresses.
    """

    capacity: int
    frame_capacity: int
    stack: int
    alpha: float
    incarnation: int = 0
    items: dict[int, NaiveItem] = field(default_factory=dict)
    inserted: int = 0
    frames_written: int = 0
    max_priority: float = 1.0
    stale: int = 0
    refused: int = 0
    group: int = 1
    # Of each stream, every frame that its newest chunk named, and its number in the ring.
    streams: dict[int, list[tuple[np.ndarray, int]]] = field(default_factory=dict)

    def insert(self, chunk: Chunk) -> int:
        if len(chunk) == 0:
            return 0
        before = len(self.items)
        named = [self.streams[chunk.stream][i] for i in chunk.reused]
        first_frame = min([self.frames_written, *(number for _, number in named)])
        needed = self.frames_written - first_frame + self.round_up(len(chunk.frames))
        capacity = self.round_up(self.frame_capacity)
        back = self.frames_written - first_frame
        if back > int(capacity * MAX_BACKREFERENCE) or needed > capacity:
            # Too far back: they are written again, before the chunk's own.
            first_frame = self.frames_written
            self.frames_written += self.copied_rows(chunk)
            groups = sorted({number // self.group for _, number in named})
            places = [groups.index(n // self.group) * self.group + n % self.group for _, n in named]
            if self.group == 1:  # one by one, in the chunk's order
                places = list(range(len(named)))
            named = [(f, first_frame + place) for (f, _), place in zip(named, places, strict=True)]
        own = range(self.frames_written, self.frames_written + len(chunk.frames))
        named += [(frame.copy(), n) for frame, n in zip(chunk.frames, own, strict=True)]
        self.streams[chunk.stream] = named
        chunk = replace(chunk, frames=np.stack([f for f, _ in named])) if named else chunk
        self.frames_written += self.round_up(len(own))
        kept = self.frames_written - self.round_up(self.frame_capacity)
        gone = max([k for k, item in self.items.items() if item.first_frame < kept], default=-1)
        self.items = {k: item for k, item in self.items.items() if k > gone}
        given = [None] * len(chunk) if chunk.priority is None else chunk.priority.tolist()
        good = [p for p in given if p is not None and np.isfinite(p) and p >= 0]
        self.refused += sum(p is not None for p in given) - len(good)
        self.max_priority = max([self.max_priority, *good])
        for i, p in enumerate(given):
            is_good = p is not None and np.isfinite(p) and p >= 0
            self.items[self.inserted] = NaiveItem(
                observation=self._whole(chunk, chunk["observation"][i]),
                next_observation=self._whole(chunk, chunk["next_observation"][i]),
                action=int(chunk["action"][i]),
                reward=float(chunk["reward"][i]),
                discount=float(chunk["discount"][i]),
                version=int(chunk["version"][i]),
                priority=p if is_good else self.max_priority,
                first_frame=first_frame,
                next_mask=mask_of(chunk, i),
            )
            self.inserted += 1
        self.items = {k: v for k, v in self.items.items() if k >= self.inserted - self.capacity}
        return before + len(chunk) - len(self.items)

    def copied_rows(self, chunk: Chunk) -> int:
        """Rows that reused frames take when they are written again: theirs, or their groups'."""
        numbers = [self.streams[chunk.stream][i][1] for i in chunk.reused]
        if self.group == 1:
            return len(numbers)
        return len({number // self.group for number in numbers}) * self.group

    def round_up(self, frames: int) -> int:
        return -(-frames // self.group) * self.group

    def update_priorities(self, keys: Any, priorities: Any, incarnation: int) -> None:
        for key, p in zip(keys.tolist(), priorities.tolist(), strict=True):
            if incarnation != self.incarnation or key not in self.items:
                self.stale += 1
            elif not np.isfinite(p) or p < 0:
                self.refused += 1
            else:
                self.items[key].priority = p
                self.max_priority = max(self.max_priority, p)

    def mass(self, key: int) -> float:
        return float((self.items[key].priority + PRIORITY_FLOOR) ** self.alpha)

    @property
    def total(self) -> float:
        return sum(self.mass(key) for key in self.items)

    def _whole(self, chunk: Chunk, numbers: np.ndarray) -> np.ndarray:
        zero = np.zeros(chunk.frames.shape[1:], chunk.frames.dtype)
        return np.stack([zero if n == PAD else chunk.frames[n].copy() for n in numbers])


def assert_same_as_twin(table: Table, twin: NaiveTable, draws: int = 32) -> None:
    """All counters, and every bit of a sample, are the twin's."""
    summary = table.summary()
    assert summary.size == len(table) == len(twin.items)
    assert summary.inserted == twin.inserted
    assert summary.evicted == twin.inserted - len(twin.items)
    assert (summary.stale, summary.refused) == (twin.stale, twin.refused)
    np.testing.assert_allclose(summary.total, twin.total, rtol=1e-12)
    if not twin.items:
        return
    sample = table.sample(draws)
    assert sample.frames.dtype == table.sample(0).frames.dtype
    for row in range(draws):
        key = int(sample.key[row])
        item = twin.items[key]
        assert np.array_equal(sample.frames[sample["observation"][row]], item.observation)
        assert np.array_equal(sample.frames[sample["next_observation"][row]], item.next_observation)
        assert sample["action"][row] == item.action
        assert sample["reward"][row] == np.float32(item.reward)
        assert sample["discount"][row] == np.float32(item.discount)
        assert sample["version"][row] == item.version
        assert mask_of(sample, row) == item.next_mask
        assert sample.age[row] == twin.inserted - key
        np.testing.assert_allclose(sample.probability[row], twin.mass(key) / twin.total, rtol=1e-9)


@dataclass
class HeldFuture:
    """Done when told so, or at the first wait for it; both are noted."""

    handle: HeldHandle
    number: int
    value: Any = None
    is_done: bool = False

    def complete(self) -> None:
        self.is_done = True

    def result(self) -> Any:
        if not self.is_done:
            self.handle.waited_for.append(self.number)
            self.is_done = True
        if self in self.handle.outstanding:
            self.handle.outstanding.remove(self)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def done(self) -> bool:
        return self.is_done

    __hash__ = object.__hash__


class HeldHandle:
    """A handle whose calls stay under way until the test completes them, or the caller waits.

    Answers come from `target` (whatever it answers at the time of the call).
    """

    def __init__(self, target: Any, methods: tuple[str, ...]) -> None:
        self._target = target
        self._methods = methods  # the others are answered and not tracked
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.futures: list[HeldFuture] = []
        self.outstanding: deque[HeldFuture] = deque()
        self.waited_for: list[int] = []
        self.peak = 0

    def call(self, method: str, *args: Any) -> HeldFuture:
        try:
            value = getattr(self._target, method)(*args)
        except Exception as error:
            value = error
        if method not in self._methods:
            return HeldFuture(self, -1, value, is_done=True)
        future = HeldFuture(self, len(self.futures), value)
        self.calls.append((method, args))
        self.futures.append(future)
        self.outstanding.append(future)
        self.peak = max(self.peak, len(self.outstanding))
        return future

    def share(self, value: Any) -> HeldFuture:
        return HeldFuture(self, -1, value, is_done=True)


def count_calls(function: Callable[[], Any]) -> int:
    """How many functions, Python's and C's, `function` calls in all: work without a clock."""
    calls = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def chi_square_is_plausible(counts: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether `counts` may come from `probabilities`.

    Pearson's statistic has mean k − 1 and variance near 2(k − 1) for k cells (with k cells of
    some size, five or more expected each); six standard deviations away is no chance.
    """
    expected = counts.sum() * probabilities
    assert (expected >= 5).all(), "the bound needs at least five expected in each cell"
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return bool(statistic < freedom + 6 * np.sqrt(2 * freedom))
