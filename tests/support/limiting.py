"""Helpers of the tests of the rate limiter."""

from hypothesis import strategies as st

from replay_server.rate_limiter import RateLimiter


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make(ratio=2.0, min_size=10, error=20.0, insert=5, sample=4, clock=None):
    return RateLimiter(ratio, min_size, error, insert, sample, clock or Clock())


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


ANY_RATIO = st.floats(0.01, 100.0)
