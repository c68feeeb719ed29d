"""The ε-greedy agent."""

import numpy as np
import pytest
import torch

from actors.agent import Agent
from common.config_network import NetworkConfig
from common.networks import make_network
from common.types import EnvironmentSpec, FrameSpec
from common.weights import pack_weights
from support.acting import make_config, network_that_prefers, vector_spec

SPEC = vector_spec(size=3, actions=4)
CPU = torch.device("cpu")


def make_agent(seed=0, spec=SPEC, config=None):
    network = make_network(spec, config or NetworkConfig(hidden=(16,)), seed=seed)
    return Agent(network, CPU, np.random.default_rng(seed)), network


def some_stacks(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 1, 3)).astype(np.float32)


def q_of(network, stacks):
    with torch.no_grad():
        return network(torch.from_numpy(stacks)).numpy()


def test_without_exploration_the_action_of_the_greatest_q_value_is_taken():
    agent, network = make_agent()
    stacks = some_stacks(200)
    choice = agent.select_actions(stacks, np.zeros(200))
    q = q_of(network, stacks)
    assert len(set(choice.actions.tolist())) > 1, "the example must not be trivial"
    assert np.array_equal(choice.actions, q.argmax(axis=1))


def test_with_epsilon_one_every_action_is_equally_likely_whatever_the_network_says():
    config = make_config()
    network = network_that_prefers(SPEC, config, action=2)
    agent = Agent(network, CPU, np.random.default_rng(0))
    count = 8000
    choice = agent.select_actions(some_stacks(count), np.ones(count))
    # Each count is binomial(8000, 1/4): σ is 39; 5 σ.
    assert np.abs(np.bincount(choice.actions, minlength=4) - count / 4).max() < 195


def test_epsilon_counts_for_each_copy_on_its_own():
    network = network_that_prefers(SPEC, make_config(), action=0)
    agent = Agent(network, CPU, np.random.default_rng(0))
    count = 6000
    epsilons = np.repeat([0.0, 0.5, 1.0], count // 3)
    others = agent.select_actions(some_stacks(count), epsilons).actions.reshape(3, -1) != 0
    # A random action is another one three times of four.
    assert others.mean(axis=1) == pytest.approx([0.0, 0.375, 0.75], abs=0.05)


def test_q_values_reported_are_those_of_the_action_taken_and_of_the_best():
    agent, network = make_agent()
    stacks = some_stacks(100)
    choice = agent.select_actions(stacks, np.full(100, 0.5))
    q = q_of(network, stacks)
    assert (choice.actions != q.argmax(axis=1)).any(), "some must have explored"
    assert choice.taken[:, 0] == pytest.approx(q[np.arange(100), choice.actions])
    assert choice.best[:, 0] == pytest.approx(q.max(axis=1))


def test_the_same_stream_gives_the_same_actions_and_another_stream_others():
    stacks, epsilons = some_stacks(50), np.ones(50)

    def actions(seed):
        network = make_network(SPEC, NetworkConfig(hidden=(4,)))
        return Agent(network, CPU, np.random.default_rng(seed)).select_actions(stacks, epsilons)[0]

    assert np.array_equal(actions(1), actions(1))
    assert not np.array_equal(actions(1), actions(2))


def test_what_explores_at_a_low_epsilon_explores_at_a_higher_one_too():
    # As many random numbers whatever ε is: runs stay comparable.
    network = network_that_prefers(SPEC, make_config(), action=0)

    def explored(epsilon):
        agent = Agent(network, CPU, np.random.default_rng(3))
        rounds = [agent.select_actions(some_stacks(20), np.full(20, epsilon)) for _ in range(20)]
        return np.concatenate([choice.actions for choice in rounds])

    low, high = explored(0.2), explored(0.6)
    assert (low != 0).sum() < (high != 0).sum()
    assert np.array_equal(low[low != 0], high[low != 0])


def test_acting_builds_no_graph_for_gradients():
    agent, network = make_agent()
    outputs = []
    network.layers.register_forward_hook(lambda module, args, output: outputs.append(output))
    agent.select_actions(some_stacks(3), np.zeros(3))
    (q,) = outputs
    assert not q.requires_grad
    assert not network.training


def test_network_and_observations_are_on_the_device_that_was_asked_for():
    # Torch's "meta" device is there on every machine; it computes nothing.
    network = make_network(SPEC, NetworkConfig(hidden=(4,)))
    agent = Agent(network, torch.device("meta"), np.random.default_rng(0))
    assert {p.device.type for p in network.parameters()} == {"meta"}

    def look(module, args):
        raise KeyError(args[0].device.type)

    network.layers.register_forward_pre_hook(look)
    with pytest.raises(KeyError, match="meta"):
        agent.select_actions(some_stacks(2), np.zeros(2))


def test_published_weights_change_what_the_agent_does():
    config = make_config()
    agent = Agent(network_that_prefers(SPEC, config, 1), CPU, np.random.default_rng(0))
    assert agent.select_actions(some_stacks(5), np.zeros(5)).actions.tolist() == [1] * 5
    better = network_that_prefers(SPEC, config, 3)
    agent.load_weights(pack_weights(better.state_dict(), {"learner_steps": 77}))
    assert agent.select_actions(some_stacks(5), np.zeros(5)).actions.tolist() == [3] * 5
    assert agent.learner_steps == 77


def test_weights_are_copied_out_of_a_buffer_that_others_share():
    config = make_config()
    agent = Agent(network_that_prefers(SPEC, config, 1), CPU, np.random.default_rng(0))
    weights = pack_weights(network_that_prefers(SPEC, config, 3).state_dict(), {"learner_steps": 0})
    shared = weights.copy()
    shared.flags.writeable = False  # as Ray hands it out; torch would warn of it
    agent.load_weights(shared)
    shared.flags.writeable = True
    shared[:] = 0
    assert agent.select_actions(some_stacks(5), np.zeros(5)).actions.tolist() == [3] * 5


def test_the_notebooks_network_acts_on_stacks_of_its_pictures():
    spec = EnvironmentSpec(FrameSpec((3, 40, 90), "uint8", 1 / 255), 2, 2, {})
    agent, network = make_agent(spec=spec, config=NetworkConfig(kind="notebook"))
    sizes = [(m.in_features, m.out_features) for m in network.layers if hasattr(m, "in_features")]
    assert sizes == [(2 * 3 * 40 * 90, 24), (24, 32), (32, 2)]
    pictures = np.random.default_rng(0).integers(256, size=(6, 2, 3, 40, 90), dtype=np.uint8)
    choice = agent.select_actions(pictures, np.zeros(6))
    assert np.array_equal(choice.actions, q_of(network, pictures).argmax(axis=1))
