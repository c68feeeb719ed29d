"""Helpers of the tests of the learner: a learner between its shards and its weight store."""

from __future__ import annotations

import numpy as np

from common import wire
from common.handles import InlineHandle
from common.networks import make_network
from common.types import Chunk
from common.weights import WeightStore, unpack_weights
from learner.learner import Learner
from replay_server.messages import encode_chunk
from support.acting import make_config, make_server, vector_spec

STATES, ACTIONS = 5, 2
SPEC = vector_spec(STATES, ACTIONS)


def items(states, actions, rewards, discounts, next_states, version=0):
    """A chunk of transitions between states, each shown as a one-hot vector."""
    count = len(states)
    return Chunk(
        frames=np.eye(STATES, dtype=np.float32),
        columns={
            "observation": np.asarray(states, np.int32)[:, None],
            "next_observation": np.asarray(next_states, np.int32)[:, None],
            "action": np.asarray(actions, np.int32),
            "reward": np.asarray(rewards, np.float32),
            "discount": np.asarray(discounts, np.float32),
            "version": np.full(count, version, np.int64),
        },
        priority=None,
    )


def random_items(count=60, seed=0, version=0):
    rng = np.random.default_rng(seed)
    return items(
        rng.integers(STATES, size=count),
        rng.integers(ACTIONS, size=count),
        rng.normal(size=count),
        rng.choice([0.0, 0.9], size=count),
        rng.integers(STATES, size=count),
        version,
    )


class Bench:
    """A learner between shards with something in them and its variables."""

    def __init__(
        self,
        shards=1,
        chunks=None,
        handle=InlineHandle,
        incarnation=0,
        state=None,
        servers=None,
        variables=None,
        learner_incarnation=0,
        spec=None,
        **sections,
    ):
        learner = {
            "batches_per_sample": 1,
            "samples_in_flight": 1,
            "target_sync_steps": 1000,
            "publish_steps": 1000,
        }
        sections["learner"] = learner | sections.pop("learner", {})
        sections["network"] = {"hidden": [16]} | sections.pop("network", {})
        self.config = make_config(**sections)
        self.servers = servers or [
            filled_server(i, incarnation, chunks[i] if chunks else random_items(seed=i), spec)
            for i in range(shards)
        ]
        self.handles = [handle(server) for server in self.servers]
        self.weight_store = variables or WeightStore()
        self.learner = Learner(
            self.config,
            spec or SPEC,
            self.handles,
            InlineHandle(self.weight_store),
            learner_incarnation,
            state,
        )

    def network(self, which):
        """The policy or target network as it is now, rebuilt from the learner's state."""
        return network_in(self.learner.state(), which, self.config)

    def published(self):
        """(version, weights, meta) of what actors would fetch."""
        version, reference = self.weight_store.fetch(-1)
        return version, *unpack_weights(reference.result())


def filled_server(index, incarnation, chunk, spec=None):
    server = make_server(spec or SPEC, index, incarnation=incarnation)
    server.insert(encode_chunk(chunk))
    return server


def network_in(state, which, config):
    tensors, _ = unpack_weights(state)
    network = make_network(SPEC, config.network)
    prefix = f"{which}."
    network.load_state_dict(
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    )
    return network


def without_versions(state):
    """A state without versions: those of a restored learner are ahead by one."""
    arrays, meta = wire.decode(state)
    meta.pop("version")
    return wire.encode(arrays, meta)
