import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_server.rate_limiter import RateLimiter


def make(ratio=2.0, min_size=10, error=20.0, insert=5, sample=4):
    return RateLimiter(ratio, min_size, error, insert, sample)


def insert(limiter, count):
    limiter.begin_insert(count)
    limiter.end_insert(count, count)


def sample(limiter, count):
    limiter.begin_sample(count)
    limiter.end_sample(count, count)


# Whole numbers and quarters, so that the bounds are exact and need no tolerance.
RATIOS = st.integers(1, 64).map(lambda n: n / 4)
QUANTA = st.integers(1, 40)


@st.composite
def settings_that_are_allowed(draw, slack=400):
    ratio, quantum, batch = draw(RATIOS), draw(QUANTA), draw(QUANTA)
    error = max(ratio * quantum, batch) + draw(st.integers(0, slack)) / 4
    return ratio, draw(st.integers(1, 100)), error, quantum, batch


@given(settings_that_are_allowed())
@settings(max_examples=60, deadline=None)
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
def test_settings_that_must_deadlock_are_refused_with_value_and_wish(named, message):
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
@settings(max_examples=150, deadline=None)
def test_the_surplus_stays_in_its_range_and_some_side_can_always_move(arguments, data):
    # Reports come back late and in any order, as from many actors: work under way is reserved.
    ratio, min_size, error, quantum, batch = arguments
    limiter = RateLimiter(*arguments)
    inserting, sampling = 0, []
    moves = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=80))
    for move in moves:
        batches = limiter.sampleable(batch)
        can_insert = limiter.can_insert(quantum)
        assert can_insert or batches or inserting or sampling, "everybody waits for everybody"
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
@settings(max_examples=100, deadline=None)
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
@settings(max_examples=60, deadline=None)
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


def test_it_follows_a_ratio_that_is_changed_while_the_run_goes_on():
    limiter = make(error=100.0)
    insert(limiter, 20)
    assert limiter.sampleable(4) == (40 - 20 + 100) // 4
    limiter.samples_per_insert = 4.0
    assert limiter.sampleable(4) == (80 - 40 + 100) // 4


def test_a_waiting_learner_says_how_many_first_transitions_are_missing():
    limiter = make(min_size=10_000)
    insert(limiter, 1_234)
    assert limiter.explain() == "learner waits: 1,234 of 10,000 first transitions"


def test_in_the_middle_nobody_waits():
    limiter = make()
    insert(limiter, 10)
    assert limiter.sampleable(4)
    assert limiter.can_insert(5)
    assert limiter.explain() == "balanced: 0.00 samples per insert, 2 wanted"


def test_at_the_ends_it_says_who_waits_for_whom():
    limiter = make()
    insert(limiter, 20)
    assert limiter.explain() == "actors wait for learner: 0.00 samples per insert, 2 wanted"
    sample(limiter, 40)
    assert limiter.explain() == "learner waits for actors: 4.00 samples per insert, 2 wanted"


@given(settings_that_are_allowed(), st.lists(st.booleans(), max_size=60))
@settings(max_examples=150, deadline=None)
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
