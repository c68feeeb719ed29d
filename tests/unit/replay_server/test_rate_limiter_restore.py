"""The rate limiter saved, restored and reset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_server.rate_limiter import RateLimiter
from support.hypothesis_profiles import examples
from support.limiting import ANY_RATIO, Clock, insert, make, sample, settings_that_are_allowed


def played(arguments, preferences):
    """A limiter that has got somewhere, with nothing under way."""
    _, _, _, quantum, batch = arguments
    limiter = RateLimiter(*arguments, clock=Clock())
    for prefers_insert in preferences:
        if limiter.can_insert(quantum) and (prefers_insert or not limiter.sampleable(batch)):
            insert(limiter, quantum)
        elif limiter.sampleable(batch):
            sample(limiter, batch)
    return limiter


def goes_on(limiter, arguments, preferences):
    """Fails if both sides wait for each other, whatever is preferred."""
    _, _, _, quantum, batch = arguments
    for prefers_insert in preferences:
        can_insert, batches = limiter.can_insert(quantum), limiter.sampleable(batch)
        assert can_insert or batches, "each side waits for the other"
        if can_insert and (prefers_insert or not batches):
            insert(limiter, quantum)
        else:
            sample(limiter, batch)


@st.composite
def settings_with_any_ratio(draw):
    ratio, min_size, _, quantum, batch = draw(settings_that_are_allowed())
    ratio = draw(ANY_RATIO)
    return ratio, min_size, max(ratio * quantum, batch) + draw(st.integers(0, 99)), quantum, batch


MOVES = st.lists(st.booleans(), max_size=60)


@given(settings_with_any_ratio(), MOVES, MOVES)
@examples(150)
def test_a_limiter_restored_from_its_own_state_stands_where_it_stood_bit_for_bit(
    arguments, before, after
):
    _, _, _, quantum, batch = arguments
    limiter = played(arguments, before)
    state, held = limiter.state(), limiter.inserted
    other = RateLimiter(*arguments, clock=Clock())
    other.restore(state, held)
    assert other.state() == state
    limiter.restore(state, held)  # as the resume of a run in one process does
    assert limiter.state() == state
    for prefers_insert in after:
        assert limiter.state() == other.state()
        assert limiter.can_insert(quantum) == other.can_insert(quantum)
        assert limiter.sampleable(batch) == other.sampleable(batch)
        for one in (limiter, other):
            if one.can_insert(quantum) and (prefers_insert or not one.sampleable(batch)):
                insert(one, quantum)
            elif one.sampleable(batch):
                sample(one, batch)


def test_how_far_one_side_is_ahead_is_kept_whatever_the_ratio_was():
    limiter = make(ratio=2.0, min_size=10, error=100.0)
    insert(limiter, 1_010)
    sample(limiter, 1_980)  # 20 behind of 2 · 1,000
    for ratio in (0.5, 2.0, 8.0):
        other = make(ratio=ratio, min_size=10, error=100.0)
        other.restore(limiter.state(), held=500)  # the memory forgets, the counters do not
        assert (other.inserted, other.sampled) == (1_010, 1_980)
        assert other.sampleable(4) == (20 + 100) // 4
        assert other.can_insert(int(80 / ratio))
        assert not other.can_insert(int(80 / ratio) + 1)


def test_of_ratio_and_range_nothing_is_saved():
    limiter = make(ratio=2.0, error=20.0)
    other = make(ratio=4.0, error=40.0)
    other.restore(limiter.state(), held=1_000)
    assert other.samples_per_insert == 4.0
    assert other.explain().endswith("4 wanted")


@pytest.mark.parametrize("held", [0, 3, 9])
def test_a_memory_that_holds_too_little_fills_up_first_and_then_owes_nothing(held):
    limiter = make(ratio=2.0, min_size=10, error=100.0)
    insert(limiter, 1_010)
    sample(limiter, 1_900)  # the learner is behind by 100
    other = make(ratio=2.0, min_size=10, error=20.0)
    other.restore(limiter.state(), held)
    assert other.explain() == f"learner waits: {held} of 10 first transitions"
    for _ in range(10 - held):
        assert other.sampleable(4) == 0
        assert other.can_insert(1)
        insert(other, 1)
    assert other.sampleable(4) == 20 // 4
    assert other.state()["ahead"] == 0
    assert other.can_insert(10)
    assert not other.can_insert(11)


@given(settings_with_any_ratio(), MOVES, st.data())
@examples(200)
def test_after_a_restore_under_other_settings_no_side_waits_for_ever(arguments, before, data):
    limiter = played(arguments, before)
    held = data.draw(st.integers(0, limiter.inserted), "held")
    others = data.draw(settings_with_any_ratio(), "settings")
    other = RateLimiter(*others, clock=Clock())
    other.restore(limiter.state(), held)
    goes_on(other, others, data.draw(MOVES, "after"))


@given(settings_with_any_ratio(), MOVES, st.data())
@examples(150)
def test_a_memory_restored_with_less_fills_up_and_the_run_continues(arguments, before, data):
    _, min_size, _, quantum, batch = arguments
    limiter = played(arguments, before)
    held = data.draw(st.integers(0, limiter.inserted), "held")
    limiter.reset(held)
    assert limiter.state()["ahead"] <= 0, "nothing is owed to the learner"
    while held < min_size:
        assert limiter.sampleable(batch) == 0
        assert limiter.waiting == "learner"
        assert limiter.can_insert(quantum)
        insert(limiter, quantum)
        held += quantum
    assert limiter.sampleable(batch) > 0
    goes_on(limiter, arguments, data.draw(MOVES, "after"))


def test_work_under_way_when_the_memory_is_lost_is_settled_as_ever():
    limiter = make(ratio=2.0, min_size=10, error=100.0)
    insert(limiter, 20)
    limiter.begin_insert(5)
    limiter.begin_sample(8)
    limiter.reset(0)
    limiter.end_sample(8, 0)
    limiter.end_insert(5, 5)
    assert limiter.explain() == "learner waits: 5 of 10 first transitions"
    insert(limiter, 5)
    state = limiter.state()
    assert (state["inserted"], state["sampled"], state["ahead"]) == (30, 0, 0)
    assert limiter.sampleable(4) == 100 // 4


def test_a_change_while_a_lost_memory_fills_up_counts_as_if_it_had_been_so_before():
    limiter = make(ratio=2.0, min_size=10, error=100.0)
    insert(limiter, 50)
    limiter.reset(4)
    limiter.change(20.0, 100.0)
    while limiter.sampleable(4) == 0:
        assert limiter.can_insert(1)
        insert(limiter, 1)
    assert limiter.inserted == 56
    assert limiter.sampleable(4) == 100 // 4
