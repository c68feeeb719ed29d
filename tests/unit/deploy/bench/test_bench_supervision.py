"""`raydqn bench supervision`: its statistics."""

from __future__ import annotations

import pytest

from deploy.bench.supervision import median_interval


@pytest.mark.parametrize(
    ("number", "first", "last"),  # of a table of the binomial test
    [(5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (30, 10, 21)],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(number, first, last):
    assert median_interval(list(range(number, 0, -1))) == list(range(first, last + 1))
