"""Learning curves: on a common grid, with a band over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.reporting.curves import Curve, at, band


def curve(x, y, end=None):
    return Curve(np.array(x, float), np.array(y, float), float(x[-1] if end is None else end))


def test_a_score_holds_until_the_next_evaluation_and_no_value_comes_from_a_later_one():
    one = curve([10, 30], [1.0, 5.0], end=40)
    known = at(one, np.array([0.0, 10, 29.9, 30, 40, 40.1]))
    np.testing.assert_array_equal(known, [np.nan, 1, 1, 5, 5, np.nan])


def test_a_band_reaches_as_far_as_all_curves_do():
    found = band([curve([10, 20], [0, 4], end=100), curve([30, 50], [2, 8], end=60)], points=4)
    np.testing.assert_allclose(found.x, [30, 40, 50, 60])
    np.testing.assert_allclose(found.mean, [3, 3, 6, 6])
    np.testing.assert_allclose(found.low, [2, 2, 4, 4])
    np.testing.assert_allclose(found.high, [4, 4, 8, 8])
    assert found.longest == 100
    assert found.is_cut
    assert not band([curve([1], [1], end=9), curve([1], [2], end=9)]).is_cut


def test_a_single_curve_has_no_band_and_equal_ones_a_band_of_no_width():
    assert band([curve([1, 2], [3, 4])]).low is None
    same = band([curve([1, 2, 3], [0.1, 0.2, 0.7])] * 7)
    np.testing.assert_allclose(same.low, same.mean)
    np.testing.assert_allclose(same.high, same.mean)


def test_curves_without_a_place_in_common_have_no_band():
    assert band([curve([1], [1], end=2), curve([5], [1], end=9)]) is None
    assert band([]) is None


def test_whole_curves_are_drawn_so_that_crossing_ones_widen_the_band_where_they_differ():
    found = band([curve([0, 1, 2], [0, 5, 10]), curve([0, 1, 2], [10, 5, 0])], points=3)
    np.testing.assert_allclose(found.mean, [5, 5, 5])
    assert found.high - found.low == pytest.approx([10, 0, 10])
