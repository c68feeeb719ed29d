"""n-step windows against a naive twin, and examples that can be followed by eye.

The twin keeps, for every copy, one plain Python list of what happened, and builds each transition
on its own: whole stacks, one loop per window.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.accumulator import NStepAccumulator
from actors.priorities import td_error
from common.types import PAD, Array, Chunk, EnvironmentSpec, FrameSpec
from common.value_rescaling import rescale, unscale
from support.acting import vector_spec
from support.hypothesis_profiles import examples
from support.replay import Reader, columns_of

GO, TERMINATED, TRUNCATED, BOTH, LIFE_LOST = "go", "terminated", "truncated", "both", "life lost"
GARBAGE = 1e6  # what an ignored step carries: it must show up nowhere


@dataclass
class Slot:
    """One frame of one copy, and what was done there."""

    frame: float
    first: bool
    ignored: bool
    action: int
    reward: float
    outcome: str
    q_taken: float
    q_max: float
    version: int


@dataclass
class Expected:
    """A transition as it must be, with whole stacks."""

    observation: list[float]
    next_observation: list[float]
    action: int
    reward: float
    discount: float
    priority: float
    version: int
    next_mask: int  # as a number: that of the last frame of the next observation


ACTIONS = 11  # their masks take two bytes, of which the last bits stay empty


def mask_of(frame: float) -> Array:
    """The legal actions of a frame in this test: the bits of its number."""
    return np.array([bool(int(frame) >> action & 1) for action in range(ACTIONS)])


def stack_that_ends_at(slots: list[Slot], index: int, stack: int) -> list[float]:
    """Walk back until the frame that opened the episode, then zeros."""
    frames: list[float] = []
    while len(frames) < stack:
        frames.insert(0, slots[index].frame)
        if slots[index].first:
            break
        index -= 1
    return [0.0] * (stack - len(frames)) + frames


def twin(slots: list[Slot], n_step: int, gamma: float, stack: int) -> dict[float, Expected]:
    """Every transition whose window is complete, by the frame that its action was taken on."""
    result = {}
    for start, slot in enumerate(slots):
        if slot.ignored:
            continue
        total, steps, ended = 0.0, 0, False
        while steps < n_step and not ended and start + steps < len(slots):
            here = slots[start + steps]
            total += gamma**steps * here.reward
            steps += 1
            ended = here.outcome != GO
        after = start + steps
        if after >= len(slots) or (steps < n_step and not ended):
            continue  # the frame that follows is not known yet
        nothing_follows = slots[after - 1].outcome in (TERMINATED, BOTH, LIFE_LOST)
        discount = 0.0 if nothing_follows else gamma**steps
        target = total + discount * slots[after].q_max
        result[slot.frame] = Expected(
            observation=stack_that_ends_at(slots, start, stack),
            next_observation=stack_that_ends_at(slots, after, stack),
            action=slot.action,
            reward=total,
            discount=discount,
            priority=abs(target - slot.q_taken),
            version=slot.version,
            next_mask=int(slots[after].frame),
        )
    return result


@dataclass
class Rig:
    """Feeds an accumulator and the twin's lists with the same steps, in gymnasium's NEXT_STEP."""

    copies: int
    n_step: int
    stack: int
    gamma: float
    max_slots: int
    rescaled: bool = False
    slots: list[list[Slot]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)  # each with all its frames
    reader: Reader = field(default_factory=Reader)
    drained: int = 0

    def __post_init__(self) -> None:
        self.accumulator = NStepAccumulator(
            replace(vector_spec(1, ACTIONS, self.stack), masks_actions=True),
            self.copies,
            self.n_step,
            self.gamma,
            self.max_slots,
            numbers=1,
            measure=td_error(self.rescaled),
        )
        self.slots = [[] for _ in range(self.copies)]
        self.rng = np.random.default_rng(0)
        self.next_frame = 1.0  # every frame has a number of its own; 0 is the padding

    def step(self, outcomes: list[str]) -> None:
        new = []
        for copy, outcome in enumerate(outcomes):
            before = self.slots[copy][-1] if self.slots[copy] else None
            ended = before is not None and before.outcome in (TERMINATED, TRUNCATED, BOTH)
            slot = Slot(
                frame=self.next_frame,
                first=before is None or before.ignored,
                ignored=ended,
                action=int(self.rng.integers(3)),
                reward=GARBAGE if ended else float(self.rng.integers(-5, 6)),
                outcome=GO if ended else outcome,
                q_taken=float(self.rng.normal()),
                q_max=float(self.rng.normal()),
                version=len(self.slots[copy]) // 3,
            )
            self.next_frame += 1
            new.append(slot)
            self.slots[copy].append(slot)
        self.accumulator.append(
            frames=np.array([[s.frame] for s in new], np.float32),
            first=np.array([s.first for s in new]),
            action=np.array([s.action for s in new]),
            taken=np.array([[s.q_taken] for s in new], np.float32),
            best=np.array([[s.q_max] for s in new], np.float32),
            version=new[0].version,
            reward=np.array([s.reward for s in new], np.float32),
            terminated=np.array([s.outcome in (TERMINATED, BOTH) for s in new]),
            truncated=np.array([s.outcome in (TRUNCATED, BOTH) for s in new]),
            life_ended=np.array([s.outcome == LIFE_LOST for s in new]),
            ignored=np.array([s.ignored for s in new]),
            legal=np.array([mask_of(s.frame) for s in new]),
        )

    def drain(self, continues: bool = False) -> Chunk | None:
        """The chunk as it is sent; the rig keeps it as its reader sees it."""
        chunk = self.accumulator.drain(continues)
        if chunk is not None:
            self.drained += 1
            chunk.number = self.drained
            self.chunks.append(self.reader.whole(chunk))
        return chunk

    def emitted(self) -> dict[float, Expected]:
        """What came out so far; fails on a start that came out twice."""
        result: dict[float, Expected] = {}
        for chunk in self.chunks:
            frames = [*chunk.frames[:, 0].tolist(), 0.0]  # PAD is −1: the last one
            for k in range(len(chunk)):
                observation = [frames[i] for i in chunk["observation"][k]]
                assert observation[-1] not in result, "two transitions from one step"
                assert chunk.priority is not None
                result[observation[-1]] = Expected(
                    observation,
                    [frames[i] for i in chunk["next_observation"][k]],
                    int(chunk["action"][k]),
                    float(chunk["reward"][k]),
                    float(chunk["discount"][k]),
                    float(chunk.priority[k]),
                    int(chunk["version"][k]),
                    int.from_bytes(chunk["next_mask"][k].tobytes(), "little"),
                )
        return result

    def check(self) -> None:
        """Exactly what the twin says has been emitted by now, no more, no less, no later."""
        expected: dict[float, Expected] = {}
        for slots in self.slots:
            expected |= twin(slots, self.n_step, self.gamma, self.stack)
        got = self.emitted()
        assert got.keys() == expected.keys()
        for frame, one in got.items():
            other = expected[frame]
            assert one.observation == other.observation
            assert one.next_observation == other.next_observation
            assert one.next_mask == other.next_mask == one.next_observation[-1]
            assert (one.action, one.version) == (other.action, other.version)
            assert one.reward == pytest.approx(other.reward, rel=1e-5, abs=1e-5)
            assert one.discount == pytest.approx(other.discount, rel=1e-6)
            assert (one.discount == 0) == (other.discount == 0)
            assert one.priority == pytest.approx(other.priority, rel=1e-4, abs=1e-4)


def outcomes(copies: int) -> st.SearchStrategy[list[list[str]]]:
    # Ends are frequent: short episodes are where windows, stacks and chunks get into each other's
    # way. Simple values first, for small counterexamples.
    one = st.sampled_from([GO, GO, GO, GO, TERMINATED, TRUNCATED, LIFE_LOST, BOTH])
    return st.lists(st.lists(one, min_size=copies, max_size=copies), max_size=40)


def drawn_rig(data):
    """A rig of any sizes."""
    copies = data.draw(st.integers(1, 3), "copies")
    return Rig(
        copies=copies,
        n_step=data.draw(st.integers(1, 6), "n_step"),
        stack=data.draw(st.integers(1, 4), "stack"),
        gamma=data.draw(st.sampled_from([0.5, 1.0, 0.99]), "gamma"),
        max_slots=data.draw(st.integers(1, 8), "max_slots"),
    )


def play_any(rig, data):
    """Steps of any outcomes, drained now and then: what each drain gave."""
    steps = data.draw(outcomes(rig.copies), "outcomes")
    while steps:
        length = data.draw(st.integers(1, rig.max_slots), "chunk length")
        for step in steps[:length]:
            rig.step(step)
        steps = steps[length:]
        yield rig.drain(continues=bool(rig.chunks) and data.draw(st.booleans(), "continues"))


@examples(300)
@given(data=st.data())
def test_every_real_step_becomes_the_one_transition_that_a_naive_twin_makes_of_it(data):
    rig = drawn_rig(data)
    for chunk in play_any(rig, data):
        if chunk is not None:
            check_form(chunk, rig)
        rig.check()
    # What is left open is no more than the n slots that windows may still reach over.
    real = sum(not slot.ignored for slots in rig.slots for slot in slots)
    assert real - len(rig.emitted()) <= rig.copies * rig.n_step


def check_form(chunk: Chunk, rig: Rig) -> None:
    numbers = rig.chunks[-1].frames[:, 0].tolist()
    assert len(set(numbers)) == len(numbers), "a frame is named twice in one chunk"
    used = np.concatenate((chunk["observation"].ravel(), chunk["next_observation"].ravel()))
    own = set(range(len(chunk.reused), len(numbers)))
    assert set(used[used != PAD].tolist()) >= own, "an unused frame"
    assert used.max() < len(numbers)
    if len(chunk.reused):
        before = set(rig.chunks[-2].frames[:, 0].tolist())
        assert not before & set(chunk.frames[:, 0].tolist()), "a frame travels again"
    assert ((chunk.priority is not None) and (chunk.priority >= 0)).all()
    # Config.max_chunk_transitions and the size of the shards rest on it.
    assert len(chunk) <= rig.copies * (rig.max_slots + rig.n_step)
    assert len(chunk.frames) <= rig.copies * (rig.max_slots + rig.n_step + rig.stack - 1)
    dtypes = {name: str(column.dtype) for name, column in columns_of(chunk).items()}
    assert dtypes == {
        "frames": "float32",
        "observation": "int32",
        "next_observation": "int32",
        "action": "int32",
        "reward": "float32",
        "discount": "float32",
        "version": "int64",
        "priority": "float32",
        "reused": "int32",
        "next_mask": "uint8",
    }


def play(rig: Rig, *outcomes: str) -> list[Expected]:
    """One copy through these outcomes, drained once; in the order of starts."""
    for outcome in outcomes:
        rig.step([outcome])
    rig.drain()
    return [one for _, one in sorted(rig.emitted().items())]


def one_copy(n_step: int, stack: int = 1, gamma: float = 0.5, rescaled: bool = False) -> Rig:
    return Rig(1, n_step, stack, gamma, max_slots=20, rescaled=rescaled)


def test_an_episode_shorter_than_n_gives_a_transition_for_each_of_its_steps():
    rig = one_copy(n_step=5)
    got = play(rig, GO, GO, TERMINATED, GO)  # frames 1 2 3, then 4, the last one
    r1, r2, r3 = (slot.reward for slot in rig.slots[0][:3])
    assert [one.observation for one in got] == [[1.0], [2.0], [3.0]]
    assert [one.next_observation for one in got] == [[4.0]] * 3
    assert [one.reward for one in got] == [r1 + r2 / 2 + r3 / 4, r2 + r3 / 2, r3]
    assert [one.discount for one in got] == [0, 0, 0]


def test_truncation_bootstraps_from_the_true_last_frame_with_the_discount_of_the_steps_taken():
    rig = one_copy(n_step=3)
    # Frame 4 is the last of the episode, 5 opens the next.
    got = play(rig, GO, GO, TRUNCATED, GO, GO)
    assert [one.next_observation for one in got] == [[4.0]] * 3
    assert [one.discount for one in got] == [0.125, 0.25, 0.5]
    last = rig.slots[0][2]
    target = last.reward + 0.5 * rig.slots[0][3].q_max
    assert got[-1].priority == pytest.approx(abs(target - last.q_taken), rel=1e-5)


def test_a_rescaled_target_is_backed_up_in_the_unit_of_the_rewards():
    rig = one_copy(n_step=1, rescaled=True)
    got = play(rig, GO, GO)
    first, following = rig.slots[0][:2]
    value = unscale(torch.tensor([following.q_max], dtype=torch.float64))
    target = rescale(first.reward + 0.5 * value).item()
    assert got[0].priority == pytest.approx(abs(target - first.q_taken), rel=1e-5)
    assert got[0].priority != pytest.approx(
        abs(first.reward + 0.5 * following.q_max - first.q_taken), rel=1e-3
    )


def test_an_end_by_both_is_a_termination():
    assert [one.discount for one in play(one_copy(1), GO, BOTH, GO)] == [0.5, 0]


def test_the_step_after_an_end_is_no_transition():
    got = play(one_copy(1), TERMINATED, GO, GO, GO)
    # 1 ends at once; 2 is its last frame and was not acted on; 3 opens the next episode.
    assert [one.observation for one in got] == [[1.0], [3.0]]
    assert max(one.reward for one in got) < GARBAGE


def test_a_lost_life_cuts_the_window_but_neither_the_episode_nor_its_stacks():
    got = play(one_copy(n_step=2, stack=3), GO, LIFE_LOST, GO, GO, GO)
    assert [one.discount for one in got] == [0, 0, 0.25]
    # Frame 3 comes after the life was lost: the game went on, and so does the stack.
    assert got[1].next_observation == [1, 2, 3]
    assert got[2].observation == [1, 2, 3]
    assert got[2].next_observation == [3, 4, 5]


def test_stacks_of_a_new_episode_begin_with_zeros_again():
    got = play(one_copy(n_step=1, stack=3), GO, TRUNCATED, GO, GO, GO)
    assert [one.observation for one in got] == [[0, 0, 1], [0, 1, 2], [0, 0, 4]]
    assert [one.next_observation for one in got] == [[0, 1, 2], [1, 2, 3], [0, 4, 5]]


def test_nothing_is_ready_before_a_window_is_complete():
    rig = one_copy(n_step=3)
    for _ in range(3):
        rig.step([GO])
        assert rig.drain() is None
    rig.step([GO])  # the frame that follows the first window
    chunk = rig.drain()
    assert chunk is not None
    assert len(chunk) == 1
    assert rig.drain() is None, "handed out twice"


def test_more_steps_than_there_is_room_for_are_an_error_and_not_a_loss():
    rig = Rig(copies=1, n_step=2, stack=2, gamma=1.0, max_slots=3)
    for _ in range(3):
        rig.step([GO])
    room = len(rig.accumulator._action)
    for _ in range(room - 3):
        rig.step([GO])
    with pytest.raises(RuntimeError, match="drain"):
        rig.step([GO])
    assert len(rig.accumulator) == room


def test_pictures_travel_as_8_bit_frames():
    spec = EnvironmentSpec(FrameSpec((1, 2, 2), "uint8", 1 / 255), 2, 2, {})
    accumulator = NStepAccumulator(spec, 1, 1, 0.9, 4, 1, td_error())
    no, yes, zero = np.zeros(1, bool), np.ones(1, bool), np.zeros(1)
    for n in range(3):
        accumulator.append(
            frames=np.full((1, 1, 2, 2), 200 + n, np.uint8),
            first=yes if n == 0 else no,
            action=zero,
            taken=zero,
            best=zero,
            version=0,
            reward=zero,
            terminated=no,
            truncated=no,
            life_ended=no,
            ignored=no,
        )
    chunk = accumulator.drain()
    assert chunk is not None
    assert chunk.frames.dtype == np.uint8
    assert chunk.frames.shape == (3, 1, 2, 2)
    assert chunk.frames[:, 0, 0, 0].tolist() == [200, 201, 202]
    assert "next_mask" not in chunk.columns, "an environment without masks"
    assert chunk["observation"].tolist() == [[PAD, 0], [0, 1]]


def test_in_a_stream_every_frame_travels_once():
    rig = Rig(copies=2, n_step=3, stack=4, gamma=0.99, max_slots=5)
    sent = []
    for number in range(20):
        for _ in range(5):
            rig.step([GO, TERMINATED if number == 7 else GO])
        chunk = rig.drain(continues=number > 0)
        sent += chunk.frames[:, 0].tolist()
    rig.check()
    assert len(sent) == len(set(sent))
    # All frames but the newest, whose windows are open.
    assert len(sent) >= 2 * (20 * 5 - 1) - 3


def test_a_chunk_that_begins_a_turn_names_no_frames_of_the_one_before():
    rig = Rig(copies=1, n_step=2, stack=3, gamma=0.99, max_slots=4)
    for continues in (False, True, False):
        for _ in range(4):
            rig.step([GO])
        chunk = rig.drain(continues)
        assert bool(len(chunk.reused)) is continues
    rig.check()


def test_frames_lie_copy_by_copy_in_the_order_of_time():
    # Neighbours in time are alike: that is what a codec of groups lives on.
    rig = Rig(copies=3, n_step=1, stack=1, gamma=0.99, max_slots=6)
    for _ in range(6):
        rig.step([GO, GO, GO])
    numbers = rig.drain().frames[:, 0].reshape(3, 6)
    assert np.array_equal(np.diff(numbers, axis=1), np.full((3, 5), 3))


# ── cut: the end of an incarnation ─────────────────────────────────────────────────────────────


def cut(rig: Rig) -> None:
    """End the rig's windows; its lists say it was a truncation, with one frame more."""
    frames = []
    for slots in rig.slots:
        frames.append(rig.next_frame)
        if slots:
            last = slots[-1]
            if not last.ignored and last.outcome in (GO, LIFE_LOST):
                # A window that a lost life has ended stays so.
                last.outcome = TRUNCATED if last.outcome == GO else LIFE_LOST
            ended = last.outcome in (TERMINATED, TRUNCATED, BOTH)
            after = Slot(rig.next_frame, last.ignored, True, 0, GARBAGE, GO, 0.0, last.q_max, 0)
            assert ended or last.ignored or last.outcome == LIFE_LOST
            slots.append(after)
        rig.next_frame += 1
    masks = np.array([mask_of(frame) for frame in frames])
    rig.accumulator.cut(np.array(frames, np.float32)[:, None], masks)


@examples(300)
@given(data=st.data())
def test_a_cut_makes_exactly_one_transition_of_every_real_step(data):
    rig = drawn_rig(data)
    for _ in play_any(rig, data):
        pass
    real = {slot.frame for slots in rig.slots for slot in slots if not slot.ignored}
    cut(rig)
    rig.drain(continues=bool(rig.chunks) and data.draw(st.booleans(), "last continues"))
    assert rig.emitted().keys() == real
    rig.check()
    assert rig.drain() is None, "handed out twice"


def test_a_cut_bootstraps_from_the_frames_that_came_last_as_a_truncation_does():
    rig = one_copy(n_step=3)
    for _ in range(4):
        rig.step([GO])
    cut(rig)
    rig.drain()
    got = [one for _, one in sorted(rig.emitted().items())]
    assert [one.next_observation for one in got] == [[4.0], [5.0], [5.0], [5.0]]
    assert [one.discount for one in got] == [0.125, 0.125, 0.25, 0.5]


def test_a_cut_after_an_end_adds_nothing_and_reaches_into_no_other_episode():
    rig = one_copy(n_step=3, stack=2)
    got_before = play(rig, GO, TERMINATED, GO)  # 1 and 2 were acted on, 3 is the last frame
    cut(rig)
    assert rig.drain() is None
    assert [one.discount for one in got_before] == [0, 0]


def test_a_cut_right_after_a_termination_ends_its_windows_without_bootstrap():
    rig = one_copy(n_step=3)
    for outcome in (GO, TERMINATED):
        rig.step([outcome])
    cut(rig)
    rig.drain()
    assert [one.discount for one in rig.emitted().values()] == [0, 0]


def test_a_cut_of_nothing_is_nothing():
    rig = one_copy(n_step=3)
    rig.accumulator.cut(np.ones((1, 1), np.float32))
    assert rig.drain() is None
