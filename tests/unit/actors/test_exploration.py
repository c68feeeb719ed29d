"""ε of the notebook, of Mnih et al. 2015 and of Ape-X."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.exploration import EpsilonSchedule, ladder
from common.config_sections import ExplorationConfig
from common.schedule import exponential, linear


@given(
    step=st.integers(0, 100_000),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    decay=st.floats(1e-6, 1),
)
def test_exponential_is_the_formula_of_the_notebook(step, start, end, decay):
    # As EpsilonGreedyStrategy.get_exploration_rate has it, character by character.
    assert exponential(step, start, end, decay) == pytest.approx(
        end + (start - end) * math.exp(-1.0 * step * decay)
    )


def test_exponential_starts_at_start_and_has_a_known_value_on_the_way():
    assert exponential(0, 1.0, 0.01, 0.001) == 1.0
    # After 1/decay steps 1/e of the way is left.
    assert exponential(1000, 1.0, 0.01, 0.001) == pytest.approx(0.01 + 0.99 / math.e)
    assert exponential(10**6, 1.0, 0.01, 0.001) == pytest.approx(0.01)


def test_linear_goes_straight_from_start_to_end_and_stays_there():
    values = [linear(step, 1.0, 0.2, 100) for step in (0, 25, 50, 100, 101, 10_000)]
    assert values == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2, 0.2])


def test_the_ladder_of_ape_x_goes_from_base_to_base_to_the_power_of_one_plus_alpha():
    rungs = ladder(np.arange(5), 5, 0.4, 7.0)
    assert rungs[0] == pytest.approx(0.4)
    assert rungs[-1] == pytest.approx(0.4**8)
    # Horgan et al. 2018: ε_i = ε^(1 + i/(N−1)·α)
    assert rungs == pytest.approx([0.4 ** (1 + 7 * i / 4) for i in range(5)])


def test_a_single_copy_has_the_base():
    assert ladder(np.arange(1), 1, 0.4, 7.0).tolist() == [0.4]
    assert EpsilonSchedule(ExplorationConfig(), 0, 1, 1).epsilons(0).tolist() == [0.4]


@given(count=st.integers(2, 200), base=st.floats(0.05, 0.99), alpha=st.floats(0.5, 8))
def test_each_rung_is_lower_than_the_one_before_and_a_probability(count, base, alpha):
    rungs = ladder(np.arange(count), count, base, alpha)
    assert (np.diff(rungs) < 0).all()
    assert ((rungs > 0) & (rungs <= 1)).all()


def test_copies_of_several_actors_share_one_ladder_without_gap_or_repeat():
    config = ExplorationConfig(base=0.4, alpha=7.0)
    parts = [EpsilonSchedule(config, actor, 3, 4).epsilons(0) for actor in range(3)]
    assert np.concatenate(parts) == pytest.approx(ladder(np.arange(12), 12, 0.4, 7.0))


def test_the_ladder_does_not_depend_on_steps():
    schedule = EpsilonSchedule(ExplorationConfig(), 0, 1, 3)
    assert schedule.epsilons(0).tolist() == schedule.epsilons(10**6).tolist()


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_falling_schedule_falls_with_env_steps_for_every_copy_alike(kind):
    config = ExplorationConfig(kind=kind, start=0.9, end=0.1, decay=0.01, decay_steps=200)
    schedule = EpsilonSchedule(config, 1, 2, 3)
    values = np.array([schedule.epsilons(step) for step in range(0, 200, 20)])
    assert values.shape == (10, 3)
    assert values[0] == pytest.approx([0.9] * 3)
    assert (np.diff(values, axis=0) < 0).all()
    assert (values == values[:, :1]).all()
    assert schedule.epsilons(10**6) == pytest.approx([0.1] * 3)


def test_constant_is_its_start_for_ever():
    schedule = EpsilonSchedule(ExplorationConfig(kind="constant", start=0.3), 0, 1, 2)
    assert schedule.epsilons(0).tolist() == schedule.epsilons(10**6).tolist() == [0.3, 0.3]


@pytest.mark.parametrize("kind", ["ladder", "exponential", "linear", "constant"])
def test_all_actions_are_random_until_learning_can_start(kind):
    config = ExplorationConfig(kind=kind, start=0.3, end=0.1)
    schedule = EpsilonSchedule(config, 1, 3, 4, warmup=1000)
    plain = EpsilonSchedule(config, 1, 3, 4)
    assert schedule.epsilons(0).tolist() == [1.0] * 4
    assert schedule.epsilons(999).tolist() == [1.0] * 4
    assert schedule.epsilons(1000).tolist() == plain.epsilons(1000).tolist()
    unasked = config.model_copy(update={"random_warmup": False})
    off = EpsilonSchedule(unasked, 1, 3, 4, warmup=1000)
    assert off.epsilons(0).tolist() == plain.epsilons(0).tolist()
