import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import replay_server
from replay_server.sum_tree import COMPILED_AFTER_CALLS, SumTree
from support.hypothesis_profiles import examples
from support.replay import chi_square_is_plausible, count_calls

# Masses of very different size, and many zeros: where rounding and empty leaves bite.
MASSES = st.one_of(
    st.just(0.0),
    st.floats(0, 1, allow_subnormal=True),
    st.sampled_from([1e-300, 1e-6, 1.0, 1e6, 1e300]),
)
POINTS = st.one_of(st.floats(0, 1, exclude_max=True), st.just(np.nextafter(1.0, 0.0)), st.just(0.0))


@st.composite
def trees_and_sets(draw):
    capacity = draw(st.one_of(st.integers(1, 20), st.integers(21, 1100)))
    sets = draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, capacity - 1), MASSES), min_size=1, max_size=80),
            min_size=1,
            max_size=6,
        )
    )
    return capacity, sets


def apply(tree, pairs):
    leaves, masses = zip(*pairs, strict=True)
    tree.set(np.array(leaves, np.int64), np.array(masses, np.float64))


def make_tree(capacity, compiled):
    tree = SumTree(capacity)
    if compiled:
        tree.compile()
        assert tree.compiled, "numba belongs to the tools of the tests (make setup)"
    return tree


def tree_of(masses, compiled=False):
    tree = make_tree(len(masses), compiled)
    tree.set(np.arange(len(masses)), np.asarray(masses, np.float64))
    return tree


@given(trees_and_sets(), st.lists(POINTS, min_size=1, max_size=20), st.booleans())
@examples(300)
def test_it_is_equal_to_a_list_of_masses_over_random_operations(operations, points, compiled):
    capacity, sets = operations
    tree, naive = make_tree(capacity, compiled), np.zeros(capacity)
    for pairs in sets:
        apply(tree, pairs)
        for leaf, mass in pairs:  # where a leaf is named twice the last counts
            naive[leaf] = mass
        tree.check()
        assert np.array_equal(tree.get(np.arange(capacity)), naive)
        np.testing.assert_allclose(tree.total, naive.sum(), rtol=1e-13)
        assert type(tree.total) is float
        if tree.total > 0:
            # u < total by construction, also where the product rounds up.
            u = np.minimum(np.array(points) * tree.total, np.nextafter(tree.total, 0))
            found = tree.find(u)
            assert ((found >= 0) & (found < capacity)).all()
            assert (naive[found] > 0).all(), "a leaf of zero mass was drawn"
            ends = np.cumsum(naive)
            tolerance = 1e-12 * tree.total
            assert (u <= ends[found] + tolerance).all()
            assert (u >= ends[found] - naive[found] - tolerance).all()


@given(trees_and_sets())
@examples(60)
def test_equal_leaves_give_an_equal_tree_whatever_happened_before(operations):
    # A tree whose parents are nudged by differences fails here after a few large masses.
    capacity, sets = operations
    tree, once = SumTree(capacity), SumTree(capacity)
    for pairs in sets:
        apply(tree, pairs)
    once.set(np.arange(capacity), tree.get(np.arange(capacity)))
    assert tree.total == once.total
    u = np.linspace(0, 1, 50, endpoint=False) * tree.total
    assert np.array_equal(tree.find(u), once.find(u))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any))
@examples(100)
def test_whole_masses_are_found_exactly_at_every_point(masses):
    # Sums of small whole numbers are exact: each point of the line has one right answer.
    found = tree_of(masses).find(np.arange(sum(masses), dtype=np.float64))
    assert np.array_equal(found, np.repeat(np.arange(len(masses)), masses))


def test_a_large_mass_that_came_and_went_leaves_no_trace():
    tree = tree_of([1e-3, 1e-3, 1e-3])
    tree.set(np.array([1]), np.array([1e17]))
    tree.set(np.array([1]), np.array([0.0]))
    assert tree.total == 2e-3
    assert set(tree.find(np.linspace(0, 2e-3, 100, endpoint=False)).tolist()) == {0, 2}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 9, 16, 17, 40])
def test_the_very_last_point_hits_the_last_leaf_that_has_mass(capacity, compiled):
    for last in range(capacity):
        masses = np.zeros(capacity)
        masses[: last + 1] = 0.1
        tree = tree_of(masses, compiled)
        assert tree.find(np.array([np.nextafter(tree.total, 0)])).tolist() == [last]
        # Even a point that is not below the total, which no caller makes, stays among them.
        assert tree.find(np.array([tree.total])).tolist() == [last]


def test_masses_are_kept_in_double_precision():
    mass = 1 + 2.0**-50
    tree = tree_of([mass, 2.0**-50])
    assert tree.get(np.array([0]))[0] == mass
    assert tree.total == mass + 2.0**-50


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-9])
def test_a_mass_that_is_no_size_is_refused_and_nothing_is_set(bad, compiled):
    tree = tree_of([1.0, 2.0, 3.0], compiled)
    with pytest.raises(ValueError, match="NaN, infinite or negative"):
        tree.set(np.array([0, 1]), np.array([5.0, bad]))
    tree.check()
    assert tree.get(np.arange(3)).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ValueError, match=f"capacity={capacity}: must be at least 1"):
        SumTree(capacity)


def test_finding_leaves_its_points_alone_and_accepts_none():
    tree = tree_of([1.0, 2.0])
    points = np.array([2.5, 0.5])
    points.flags.writeable = False
    assert tree.find(points).tolist() == [1, 0]
    assert points.tolist() == [2.5, 0.5]
    assert tree.find(np.zeros(0)).tolist() == []


def test_setting_nothing_changes_nothing():
    tree = tree_of([1.0, 2.0])
    tree.set(np.zeros(0, np.int64), np.zeros(0))
    tree.check()
    assert tree.total == 3.0


def test_check_finds_a_parent_that_is_not_the_sum_of_its_children():
    tree = tree_of([1.0, 2.0, 3.0])
    tree._sums[1] += 1e-9
    with pytest.raises(AssertionError):
        tree.check()
    tree = tree_of(np.ones(100))
    tree._masses[40] += 1e-9
    with pytest.raises(AssertionError):
        tree.check()


@given(trees_and_sets(), st.lists(POINTS, max_size=40))
@examples(150)
def test_compiled_loops_give_the_same_bits(operations, points):
    # A run may go over to them at any time, and still give the same weights bit for bit.
    capacity, sets = operations
    plain, compiled = make_tree(capacity, False), make_tree(capacity, True)
    for pairs in sets:
        apply(plain, pairs)
        apply(compiled, pairs)
        assert plain._sums.tobytes() == compiled._sums.tobytes()
        u = np.minimum(np.array(points, float) * plain.total, np.nextafter(plain.total, 0))
        assert np.array_equal(plain.find(u), compiled.find(u))


def test_a_tree_that_is_used_a_lot_goes_over_to_compiled_loops_by_itself():
    tree, plain = tree_of(np.ones(100)), tree_of(np.ones(100))
    assert not tree.compiled
    for number in range(COMPILED_AFTER_CALLS):
        tree.set(np.array([number % 100]), np.array([0.5 + number]))
        plain._masses[number % 100] = 0.5 + number
    for thread in threading.enumerate():
        if thread.name == "sum-tree-compiler":
            thread.join(timeout=60)
    assert tree.compiled
    assert np.array_equal(tree.get(np.arange(100)), plain._masses[:100])
    tree.check()


def test_without_numba_it_stays_with_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "replay_server.tree_kernels", None)  # as if not installed
    monkeypatch.delattr(replay_server, "tree_kernels", raising=False)
    tree = tree_of(np.ones(8))
    tree.compile()
    assert not tree.compiled
    tree.set(np.array([3]), np.array([5.0]))
    assert tree.total == 12.0


def test_leaves_are_drawn_in_proportion_to_their_masses():
    masses = np.array([1.0, 0.0, 2.0, 4.0, 8.0, 0.0, 0.5])
    tree = tree_of(masses)
    u = np.random.default_rng(0).random(20_000) * tree.total
    counts = np.bincount(tree.find(u), minlength=len(masses))
    assert not counts[masses == 0].any()
    has_mass = masses > 0
    assert chi_square_is_plausible(counts[has_mass], masses[has_mass] / masses.sum())


def test_work_does_not_grow_with_the_number_of_points_or_leaves_set():
    tree = tree_of(np.ones(1 << 14))
    rng = np.random.default_rng(0)

    def find(count):
        points = rng.random(count) * tree.total
        return count_calls(lambda: tree.find(points))

    def update(count):
        leaves = rng.permutation(1 << 14)[:count]
        return count_calls(lambda: tree.set(leaves, np.full(count, 2.0)))

    assert find(32) == find(4096)
    # A level is deduplicated or not, hence the factor; a loop over leaves would give 128.
    assert update(4096) < 8 * update(32)
