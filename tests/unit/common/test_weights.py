import numpy as np
import pytest
import torch

from common import wire
from common.errors import RemoteDiedError
from common.handles import Failed, InlineHandle, Ready
from common.weights import WeightClient, WeightStore, pack_weights, unpack_weights
from support.replay import HeldHandle


class CountingReady(Ready):
    def __init__(self, value):
        super().__init__(value)
        self.reads = 0

    def result(self):
        self.reads += 1
        return super().result()


def test_nothing_is_fetched_before_the_first_publish():
    assert WeightClient(InlineHandle(WeightStore())).fetch() is None
    assert WeightStore().fetch(-1) is None


def test_weights_are_fetched_once_per_version():
    variables = WeightStore()
    client = WeightClient(InlineHandle(variables))
    first, second = np.arange(3), np.arange(4)
    variables.publish(0, Ready(first))
    assert client.fetch() is first
    assert client.version == 0
    assert client.fetch() is None
    variables.publish(5, Ready(second))
    assert client.fetch() is second
    assert (client.version, client.fetches, variables.fetches) == (5, 2, 2)


def test_the_newest_version_is_fetched_not_every_one():
    variables = WeightStore()
    for version in range(4):
        variables.publish(version, Ready(version))
    client = WeightClient(InlineHandle(variables))
    assert client.fetch() == 3
    assert client.fetches == 1


@pytest.mark.parametrize("version", [3, 2, -1])
def test_a_version_that_is_not_newer_is_refused_and_changes_nothing(version):
    variables = WeightStore()
    variables.publish(3, Ready("kept"))
    with pytest.raises(ValueError, match=f"version={version}: must be newer than 3"):
        variables.publish(version, Ready("refused"))
    held = variables.fetch(2)
    assert held is not None
    assert (held[0], held[1].result()) == (3, "kept")


def test_one_publish_serves_all_and_is_never_opened_on_the_way():
    # TRAPS 23: the server hands the reference on; each reader opens it for itself, when newer.
    variables = WeightStore()
    payload = CountingReady(np.arange(3))
    variables.publish(0, payload)
    clients = [WeightClient(InlineHandle(variables)) for _ in range(3)]
    assert payload.reads == 0
    assert all(client.fetch() is not None for client in clients)
    assert payload.reads == 3
    assert all(client.fetch() is None for client in clients)
    late = WeightClient(InlineHandle(variables))
    assert late.fetch() is not None
    assert payload.reads == 4  # the late one cost the others nothing


def test_a_client_asks_with_the_version_it_has():
    variables = WeightStore()
    variables.publish(2, Ready("weights"))
    handle = HeldHandle(variables, ("fetch",))
    client = WeightClient(handle)
    client.fetch()
    client.fetch()
    assert handle.calls == [("fetch", (-1,)), ("fetch", (2,))]


def test_weights_survive_packing_bit_for_bit():
    state = torch.nn.Linear(3, 2).state_dict()
    state["steps"] = torch.tensor(7)
    received, meta = unpack_weights(pack_weights(state, {"learner_steps": 7}))
    assert meta == {"learner_steps": 7}
    assert list(received) == list(state)
    for name, tensor in state.items():
        assert received[name].dtype == tensor.dtype
        assert torch.equal(received[name], tensor)


def test_packed_weights_do_not_follow_later_training():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    buffer = pack_weights(layer.state_dict(), {})
    with torch.no_grad():
        layer.weight.add_(1)
    assert torch.equal(unpack_weights(buffer)[0]["weight"], before)


def test_unpacking_copies_out_of_a_shared_read_only_buffer():
    # TRAPS 15: a view would pin shared memory, and warn or crash when it is written to.
    buffer = pack_weights({"w": torch.zeros(3)}, {})
    buffer.flags.writeable = False
    received, _ = unpack_weights(buffer)
    received["w"].add_(1)
    assert not np.shares_memory(received["w"].numpy(), buffer)
    assert not wire.decode(buffer)[0]["w"].any()


def test_versions_begin_above_the_floor():
    variables = WeightStore(floor=40)
    assert variables.newest_version() == 40
    assert variables.fetch(-1) is None, "there is nothing yet"
    with pytest.raises(ValueError, match="version=40: must be newer than 40"):
        variables.publish(40, Ready("weights"))
    variables.publish(41, Ready("weights"))
    held = variables.fetch(-1)
    assert held is not None
    assert held[0] == variables.newest_version() == 41


def test_a_client_never_takes_weights_that_are_older_than_its_own():
    # WeightStore may come back with less than there was, whatever they answer.
    class Forgetful:
        def fetch(self, have):
            return 3, Ready("old")

    variables = WeightStore()
    variables.publish(7, Ready("new"))
    client = WeightClient(InlineHandle(variables))
    assert client.fetch() == "new"
    client.reconnect(InlineHandle(Forgetful()))
    assert client.fetch() is None
    assert (client.version, client.fetches) == (7, 1)


def test_a_client_survives_a_dead_weight_store_and_continues_with_the_next():
    variables = WeightStore()
    variables.publish(0, Ready("first"))
    handle = InlineHandle(variables)
    client = WeightClient(handle)
    assert client.fetch() == "first"
    assert not client.unreachable
    handle.end()
    assert client.fetch() is None
    assert client.fetch() is None
    assert (client.unreachable, client.version) == (True, 0)
    another = WeightStore(floor=100)
    client.reconnect(InlineHandle(another))
    assert client.fetch() is None, "nothing is published there yet"
    assert not client.unreachable
    another.publish(101, Ready("second"))
    assert client.fetch() == "second"
    assert client.version == 101


def test_a_client_survives_weights_whose_owner_died():
    # The reference is there, what it leads to went with the learner's process.
    variables = WeightStore()
    variables.publish(0, Failed(RemoteDiedError("learner", "it was killed")))
    client = WeightClient(InlineHandle(variables))
    assert client.fetch() is None
    assert (client.version, client.fetches) == (-1, 0)
    variables.publish(1, Ready("of the next learner"))
    assert client.fetch() == "of the next learner"
