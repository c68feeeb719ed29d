"""The rate limiter: its range, changes of the ratio, explanations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_server.rate_limiter import RateLimiter
from support.hypothesis_profiles import examples
from support.limiting import ANY_RATIO, Clock, insert, make, sample, settings_that_are_allowed


@given(settings_that_are_allowed())
@examples(60)
def test_the_least_error_range_is_accepted_and_anything_below_is_refused(arguments):
    ratio, min_size, _, quantum, batch = arguments
    least = max(ratio * quantum, batch)
    RateLimiter(ratio, min_size, least, quantum, batch)
    with pytest.raises(ValueError, match=f"error={least - 0.25:g}: must be at least {least:g}"):
        RateLimiter(ratio, min_size, least - 0.25, quantum, batch)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"ratio": 0.0}, "samples_per_insert=0: must be greater than 0"),
        ({"ratio": -1.0}, "samples_per_insert=-1: must be greater than 0"),
        ({"min_size": 0}, "min_size=0: must be at least 1"),
        ({"error": 9.99}, "error=9.99: must be at least 10"),
        ({"error": 10.0, "sample": 11}, "error=10: must be at least 11"),
        ({"error": -1.0}, "error=-1: must be at least 10"),
    ],
)
def test_settings_that_must_deadlock_are_refused_with_value_and_advice(named, message):
    with pytest.raises(ValueError, match=message):
        make(**named)


@pytest.mark.parametrize("name", ["ratio", "error"])
def test_nan_is_refused_for_no_comparison_with_it_would_ever_let_anyone_go(name):
    with pytest.raises(ValueError, match="=nan"):
        make(**{name: float("nan")})


@pytest.mark.parametrize("name", ["insert", "sample"])
def test_a_quantum_below_one_is_refused(name):
    with pytest.raises(ValueError, match="must be at least 1"):
        make(**{name: 0})


@given(settings_that_are_allowed(), st.data())
@examples(150)
def test_the_surplus_stays_in_its_range_and_some_side_can_always_move(arguments, data):
    # Reports come back late and in any order, as from many actors: work under way is reserved.
    ratio, min_size, error, quantum, batch = arguments
    limiter = RateLimiter(*arguments)
    inserting, sampling = 0, []
    moves = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=80))
    for move in moves:
        batches = limiter.sampleable(batch)
        can_insert = limiter.can_insert(quantum)
        assert can_insert or batches or inserting or sampling, "each side waits for the other"
        if move == 0 and can_insert:
            limiter.begin_insert(quantum)
            inserting += 1
        elif move == 1 and batches:
            amount = batch * data.draw(st.integers(1, min(batches, 20)))
            limiter.begin_sample(amount)
            sampling.append(amount)
        elif move == 2 and inserting:
            limiter.end_insert(quantum, quantum)
            inserting -= 1
        elif move == 3 and sampling:
            amount = sampling.pop(0)
            limiter.end_sample(amount, amount)
        surplus = ratio * limiter.inserted - limiter.sampled - ratio * min_size
        assert surplus <= error
        assert surplus >= -error or limiter.inserted < min_size
        if limiter.inserted < min_size:
            assert limiter.sampled == 0


@given(settings_that_are_allowed(slack=0), st.lists(st.booleans(), max_size=200))
@examples(100)
def test_with_the_least_error_range_a_run_never_stops(arguments, preferences):
    ratio, _, _, quantum, batch = arguments
    limiter = RateLimiter(*arguments)
    for prefers_insert in preferences:
        before = limiter.inserted, limiter.sampled
        if limiter.can_insert(quantum) and (prefers_insert or not limiter.sampleable(batch)):
            insert(limiter, quantum)
        elif limiter.sampleable(batch):
            sample(limiter, batch)
        assert (limiter.inserted, limiter.sampled) != before
    assert ratio == limiter.samples_per_insert


@given(settings_that_are_allowed(), st.data())
@examples(60)
def test_reports_that_bring_more_or_less_than_reserved_never_stop_a_run(arguments, data):
    # Tails of n-step windows come late, and dead actors bring nothing.
    _, _, _, quantum, batch = arguments
    limiter = RateLimiter(*arguments)
    for _ in range(40):
        batches = limiter.sampleable(batch)
        can_insert = limiter.can_insert(quantum)
        assert can_insert or batches
        if can_insert:
            limiter.begin_insert(quantum)
            limiter.end_insert(quantum, data.draw(st.integers(0, 2 * quantum)))
        else:
            limiter.begin_sample(batch)
            limiter.end_sample(batch, data.draw(st.sampled_from([0, batch])))
        assert limiter._inserting == limiter._sampling == 0


def test_nothing_is_sampled_before_the_first_transitions_are_there():
    limiter = make(ratio=100.0, min_size=10, error=1000.0, insert=5, sample=4)
    insert(limiter, 9)
    assert limiter.sampleable(4) == 0
    limiter.begin_insert(1)
    assert limiter.sampleable(4) == 0  # on their way is not there
    limiter.end_insert(1, 1)
    assert limiter.sampleable(4) == 250


def test_both_ends_of_the_range_are_exact():
    # centre 2·10 = 20, range 0..40: with 20 inserted the surplus is 40.
    limiter = make()
    insert(limiter, 15)
    assert limiter.can_insert(5)
    assert not limiter.can_insert(6)
    assert limiter.sampleable(4) == 7  # surplus 30, 7 batches of 4 leave 2
    sample(limiter, 28)
    assert limiter.sampleable(4) == 0
    assert limiter.sampleable(2) == 1
    assert limiter.can_insert(19)
    assert not limiter.can_insert(20)


def test_work_under_way_counts_as_done_on_its_own_side_only():
    limiter = make()
    insert(limiter, 20)
    limiter.begin_sample(40)
    assert limiter.sampleable(4) == 0
    assert not limiter.can_insert(5)  # those samples may never be drawn
    limiter.end_sample(40, 0)
    assert limiter.sampleable(4) == 10
    limiter.begin_sample(8)
    limiter.end_sample(8, 8)
    assert limiter.sampleable(4) == 8
    limiter.begin_insert(4)
    assert not limiter.can_insert(1)
    assert limiter.sampleable(4) == 8  # those transitions are not there yet
    limiter.end_insert(4, 0)
    assert limiter.can_insert(4)


def test_many_actors_cannot_overrun_the_range_together():
    limiter = make(ratio=1.0, min_size=10, error=50.0, insert=5, sample=4)
    started = 0
    while limiter.can_insert(5):
        limiter.begin_insert(5)
        started += 1
    assert started == 12  # (10 + 50) / 5
    for _ in range(started):
        limiter.end_insert(5, 5)
    assert limiter.inserted == 60


def test_the_ratio_is_that_of_samples_to_inserts_after_the_warm_up():
    limiter = make(min_size=10)
    assert limiter.ratio == 0.0
    insert(limiter, 10)
    assert limiter.ratio == 0.0
    insert(limiter, 20)
    sample(limiter, 30)
    assert limiter.ratio == 1.5


# --- changed during the run ---------------------------------------------------------------------


def test_a_change_does_not_make_the_past_count_by_the_new_ratio():
    limiter = make(ratio=2.0, min_size=10, error=100.0)
    insert(limiter, 1_010)
    sample(limiter, 1_980)  # 20 behind of 2 · 1,000
    assert limiter.sampleable(4) == (20 + 100) // 4
    limiter.change(8.0, 100.0)
    assert limiter.sampleable(4) == (20 + 100) // 4, "8 · 1,000 would be 6,020 behind"
    assert limiter.can_insert(10)
    assert not limiter.can_insert(11)  # 20 + 8 · 11 > 100
    limiter.change(0.5, 100.0)
    assert limiter.sampleable(4) == (20 + 100) // 4, "0.5 · 1,000 would be 1,480 ahead"
    assert limiter.can_insert(160)
    assert not limiter.can_insert(161)
    insert(limiter, 160)
    assert limiter.sampleable(4) == 200 // 4, "what comes counts by the new ratio"


def test_during_the_warm_up_a_change_counts_as_if_it_had_been_so_from_the_start():
    # What is missing of the warm-up is no debt: kept as one, it would stop the actors before it.
    limiter = make(ratio=1.0, min_size=100, error=100.0)
    insert(limiter, 5)
    limiter.change(20.0, 100.0)
    while limiter.inserted < 100:
        assert limiter.can_insert(5)
        insert(limiter, 5)
    assert limiter.sampleable(4) == 100 // 4
    insert(limiter, 5)
    assert not limiter.can_insert(5)
    assert limiter.sampleable(4) == 200 // 4


def test_the_reported_ratio_is_that_since_the_change():
    limiter = make(ratio=2.0, min_size=10, error=1_000.0)
    insert(limiter, 1_010)
    sample(limiter, 2_000)
    assert limiter.ratio == 2.0
    limiter.change(2.0, 500.0)
    assert limiter.ratio == 2.0, "the ratio is unchanged"
    limiter.change(4.0, 1_000.0)
    insert(limiter, 100)
    sample(limiter, 400)
    assert limiter.ratio == 4.0
    assert limiter.explain() == "balanced: 4.00 samples per insert, 4 wanted"


@pytest.mark.parametrize(
    ("ratio", "error", "message"),
    [
        (0.0, 20.0, "samples_per_insert=0: must be greater than 0"),
        (float("nan"), 20.0, "samples_per_insert=nan: must be"),
        (2.0, 9.99, "error=9.99: must be at least 10"),
        (4.1, 20.0, "error=20: must be at least 20.5"),
        (2.0, float("nan"), "error=nan: must be"),
    ],
)
def test_a_change_is_refused_like_settings_at_the_start_and_leaves_all_as_it_was(
    ratio, error, message
):
    limiter, twin = make(), make()
    for one in (limiter, twin):
        insert(one, 20)
        sample(one, 8)
    with pytest.raises(ValueError, match=message):
        limiter.change(ratio, error)
    assert vars(limiter).keys() == vars(twin).keys()
    assert {k: v for k, v in vars(limiter).items() if k != "_clock"} == {
        k: v for k, v in vars(twin).items() if k != "_clock"
    }


def test_a_narrower_range_lets_the_side_that_is_behind_catch_up():
    limiter = make(ratio=2.0, min_size=10, error=1_000.0)
    insert(limiter, 510)  # as far as the actors may
    assert not limiter.can_insert(1)
    limiter.change(2.0, 10.0)
    assert not limiter.can_insert(1)
    assert limiter.waiting == "actors"
    sample(limiter, limiter.sampleable(4) * 4)
    assert limiter.can_insert(5)
    assert limiter.waiting == "learner"


@given(settings_that_are_allowed(), st.data())
@examples(200)
def test_whatever_is_changed_the_range_is_kept_and_never_do_both_sides_wait(arguments, data):
    # Against a twin that adds up, insert by insert and sample by sample, what each was worth when
    # it happened.
    ratio, min_size, error, quantum, batch = arguments
    limiter = RateLimiter(*arguments, clock=Clock())
    inserting, sampling = 0, []
    ahead, low, high = 0.0, -error, error  # of the twin; where it may be
    for move in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=80)):
        batches, can_insert = limiter.sampleable(batch), limiter.can_insert(quantum)
        if not inserting and not sampling:
            assert can_insert or batches, "each side waits for the other"
            assert (limiter.waiting == "actors") == (not can_insert)
            assert (limiter.waiting == "learner") == (not batches)
        before = limiter.inserted
        if move == 0 and can_insert:
            limiter.begin_insert(quantum)
            inserting += quantum
        elif move == 1 and batches:
            amount = batch * data.draw(st.sampled_from([1, batches]))
            limiter.begin_sample(amount)
            sampling.append(amount)
        elif move in (2, 3) and inserting:
            limiter.end_insert(quantum, quantum)
            inserting -= quantum
            ahead += ratio * max(0, limiter.inserted - max(before, min_size))
        elif move == 4 and sampling:
            amount = sampling.pop(0)
            limiter.end_sample(amount, amount)
            ahead -= amount
        elif move == 5:
            ratio = data.draw(ANY_RATIO)
            error = max(ratio * quantum, batch) + data.draw(st.integers(0, 400)) / 4
            limiter.change(ratio, error)
            high, low = error, -error
        # Where it will be when what is under way is done.
        coming = max(0, limiter.inserted + inserting - max(limiter.inserted, min_size))
        most, least = ahead + ratio * coming, ahead - sum(sampling)
        if move == 5:  # in the new range; or outside, if the change found it there
            high, low = max(high, most), min(low, least)
        margin = 1e-6 * (1 + abs(ahead))
        assert low - margin <= least <= most <= high + margin
        if limiter.inserted >= min_size:
            assert limiter._ahead == pytest.approx(ahead, abs=margin)
        if limiter.inserted < min_size:
            assert limiter.sampled == 0


# --- in words, and since when -------------------------------------------------------------------


def test_a_waiting_learner_says_how_many_first_transitions_are_missing():
    limiter = make(min_size=10_000)
    insert(limiter, 1_234)
    assert limiter.explain() == "learner waits: 1,234 of 10,000 first transitions"


def test_in_the_middle_neither_side_waits():
    limiter = make()
    insert(limiter, 10)
    assert limiter.sampleable(4)
    assert limiter.can_insert(5)
    assert limiter.explain() == "balanced: 0.00 samples per insert, 2 wanted"


def test_at_the_ends_it_names_the_side_that_waits():
    limiter = make()
    insert(limiter, 20)
    assert limiter.explain() == "actors wait for learner: 0.00 samples per insert, 2 wanted"
    sample(limiter, 40)
    assert limiter.explain() == "learner waits for actors: 4.00 samples per insert, 2 wanted"


@given(settings_that_are_allowed(), st.lists(st.booleans(), max_size=60))
@examples(150)
def test_a_side_that_cannot_move_is_said_to_wait(arguments, preferences):
    # Also with the least error range, where "may not move" begins close to the middle.
    _, min_size, _, quantum, batch = arguments
    limiter = RateLimiter(*arguments)
    for prefers_insert in preferences:
        if limiter.can_insert(quantum) and (prefers_insert or not limiter.sampleable(batch)):
            insert(limiter, quantum)
        else:
            sample(limiter, batch)
        if limiter.inserted < min_size:
            assert limiter.explain().startswith("learner waits: ")
        elif not limiter.sampleable(batch):
            assert limiter.explain().startswith("learner waits for actors: ")
        elif not limiter.can_insert(quantum):
            assert limiter.explain().startswith("actors wait for learner: ")


def test_it_says_since_when_a_side_waits():
    clock = Clock()
    limiter = make(clock=clock)
    clock.now_s += 12.4
    assert limiter.explain() == "learner waits for 12 s: 0 of 10 first transitions"
    assert (limiter.waiting, limiter.waiting_s) == ("learner", pytest.approx(12.4))
    insert(limiter, 9)
    clock.now_s += 3_600
    assert limiter.explain() == "learner waits for 3,612 s: 9 of 10 first transitions"
    insert(limiter, 1)
    assert (limiter.waiting, limiter.waiting_s) == (None, 0.0)
    assert limiter.explain() == "balanced: 0.00 samples per insert, 2 wanted"
    clock.now_s += 50
    insert(limiter, 10)
    clock.now_s += 0.9
    assert limiter.explain() == "actors wait for learner: 0.00 samples per insert, 2 wanted"
    clock.now_s += 11.1
    assert (
        limiter.explain() == "actors wait for learner for 12 s: 0.00 samples per insert, 2 wanted"
    )
    assert (limiter.waiting, limiter.waiting_s) == ("actors", pytest.approx(12.0))
    sample(limiter, 40)
    assert (limiter.waiting, limiter.waiting_s) == ("learner", 0.0)
    clock.now_s += 7
    assert (
        limiter.explain() == "learner waits for actors for 7 s: 4.00 samples per insert, 2 wanted"
    )


def test_since_when_is_kept_where_counters_change_and_not_where_they_are_read():
    clock = Clock()
    limiter = make(clock=clock)
    insert(limiter, 20)
    clock.now_s += 30  # no read meanwhile
    limiter.begin_sample(8)
    limiter.begin_insert(5)
    assert (limiter.waiting, limiter.waiting_s) == ("actors", 30.0), "nothing is done yet"
    limiter.end_sample(8, 0)
    assert limiter.waiting_s == 30.0, "nothing came of it"
    limiter.begin_sample(4)
    limiter.end_sample(4, 4)
    assert limiter.waiting_s == 30.0, "less than one insert is worth"
    limiter.change(1.0, 20.0)
    assert (limiter.waiting, limiter.waiting_s) == ("actors", 30.0), "16 + 5 > 20"
    limiter.change(1.0, 21.0)
    limiter.change(1.0, 60.0)
    assert (limiter.waiting, limiter.waiting_s) == (None, 0.0)
    clock.now_s += 5
    limiter.change(1.0, 20.0)
    assert (limiter.waiting, limiter.waiting_s) == ("actors", 0.0), "waits since the change"


def test_it_knows_since_when_nothing_moved():
    clock = Clock()
    limiter = make(clock=clock)
    clock.now_s += 10
    assert limiter.idle_s == 10
    insert(limiter, 15)
    assert limiter.idle_s == 0
    clock.now_s += 10
    limiter.begin_insert(5)
    limiter.end_insert(5, 0)  # an actor that died
    limiter.begin_sample(4)
    limiter.end_sample(4, 0)
    limiter.change(1.0, 50.0)
    assert limiter.idle_s == 10
    sample(limiter, 4)
    assert limiter.idle_s == 0
