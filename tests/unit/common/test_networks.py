import pytest
import torch
from torch import nn

from common.config_network import NetworkConfig
from common.errors import UserError
from common.network_shapes import warning_of_torso
from common.networks import (
    Dueling,
    QNetwork,
    choose_device,
    describe_device,
    make_network,
    shape_difference,
)
from common.networks.layers import Output
from common.networks.torsos import Residual
from common.types import EnvironmentSpec, FrameSpec

VECTOR = EnvironmentSpec(FrameSpec((4,), "float32", 1.0), stack=1, num_actions=2, protocol={})
NOTEBOOK = EnvironmentSpec(
    FrameSpec((3, 40, 90), "uint8", 1 / 255), stack=1, num_actions=2, protocol={}
)
ATARI = EnvironmentSpec(
    FrameSpec((1, 84, 84), "uint8", 1 / 255), stack=4, num_actions=6, protocol={}
)

PONG42 = EnvironmentSpec(FrameSpec((1, 42, 42), "uint8", 1 / 255), 4, num_actions=6, protocol={})
MINATAR = EnvironmentSpec(FrameSpec((7, 10, 10), "uint8", 1.0), 1, num_actions=6, protocol={})


def observation(spec, count):
    shape = (count, spec.stack, *spec.frame.shape)
    if spec.frame.dtype == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8)
    return torch.randn(shape)


def linears(network):
    found = [m for m in network.modules() if isinstance(m, nn.Linear)]
    return [(m.in_features, m.out_features) for m in found]


def test_the_notebooks_network_is_height_width_3_to_24_to_32_to_actions():
    network = make_network(NOTEBOOK, NetworkConfig(kind="notebook"))
    assert linears(network) == [(40 * 90 * 3, 24), (24, 32), (32, 2)]
    kinds = [type(layer) for layer in network.layers]
    assert kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, Output]
    assert network(observation(NOTEBOOK, 5)).shape == (5, 2)


def test_the_notebooks_network_ignores_hidden_units_of_the_configuration():
    network = make_network(NOTEBOOK, NetworkConfig(kind="notebook", hidden=(7,)))
    assert linears(network)[1] == (24, 32)


def test_an_mlp_has_the_layers_asked_for_and_sees_the_whole_stack():
    spec = EnvironmentSpec(VECTOR.frame, stack=3, num_actions=5, protocol={})
    network = make_network(spec, NetworkConfig(kind="mlp", hidden=(8, 16, 4)))
    assert linears(network) == [(12, 8), (8, 16), (16, 4), (4, 5)]
    network = make_network(spec, NetworkConfig(kind="mlp", hidden=()))
    assert linears(network) == [(12, 5)]


def test_the_convolutions_are_those_of_nature():
    network = make_network(ATARI, NetworkConfig(kind="nature-cnn", hidden=(512,)))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in convolutions] == [
        (4, 32, (8, 8), (4, 4)),
        (32, 64, (4, 4), (2, 2)),
        (64, 64, (3, 3), (1, 1)),
    ]
    assert linears(network) == [(3136, 512), (512, 6)]
    # The number known from the paper's network with 6 actions.
    assert sum(p.numel() for p in network.parameters()) == 1_687_206


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        (VECTOR, NetworkConfig(hidden=(8,))),
        (VECTOR, NetworkConfig(hidden=(8,), dueling=True)),
        (NOTEBOOK, NetworkConfig(kind="notebook")),
        (NOTEBOOK, NetworkConfig(kind="nature-cnn", hidden=(8,))),
        (ATARI, NetworkConfig(kind="nature-cnn", hidden=(8,), dueling=True)),
        (ATARI, NetworkConfig(kind="mlp", hidden=(8,))),
        (ATARI, NetworkConfig(kind="small-cnn", hidden=(8,), layer_norm=True)),
        (VECTOR, NetworkConfig(hidden=(8, 8), dueling=True, layer_norm=True)),
        (MINATAR, NetworkConfig(kind="minatar-cnn", hidden=(8,), layer_norm=True)),
        (MINATAR, NetworkConfig(kind="impala-cnn", hidden=(8,), layer_norm=True)),
        (PONG42, NetworkConfig(kind="impala-cnn", hidden=(8,), width=2, pool=3)),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_every_kind_gives_one_float_per_action_and_row(spec, config, count):
    network = make_network(spec, config)
    batch = observation(spec, count)
    q = network(batch)
    assert q.shape == (count, spec.num_actions)
    assert q.dtype == torch.float32
    # Rows do not see each other, and an action's value is no constant.
    torch.testing.assert_close(network(batch[:1]), q[:1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(q, network(torch.zeros_like(batch)))


def test_the_residual_convolutions_are_those_of_impala_times_the_width():
    config = NetworkConfig(kind="impala-cnn", hidden=(256,), width=2, spectral_norm=True)
    network = make_network(ATARI, config)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    expected, inputs = [], 4
    for outputs in (32, 64, 64):
        expected += [(inputs, outputs), *[(outputs, outputs)] * 4]
        inputs = outputs
    assert [(c.in_channels, c.out_channels) for c in convolutions] == expected
    assert linears(network)[0] == (64 * 11 * 11, 256)
    normed = [m for m in convolutions if hasattr(m, "parametrizations")]
    assert [(c.in_channels, c.out_channels) for c in normed] == [
        pair for pair in expected if pair not in ((4, 32), (32, 64))
    ][: len(normed)]
    assert len(normed) == 12  # the residual ones
    network.eval()
    for layer in normed[:2]:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
        assert largest == pytest.approx(1, abs=0.3)  # by power iteration, so far
    pooled = make_network(ATARI, config.model_copy(update={"pool": 6}))
    assert linears(pooled)[0] == (64 * 6 * 6, 256)


def test_a_residual_part_adds_to_its_input():
    part = Residual(3, NetworkConfig(kind="impala-cnn"))
    x = torch.randn(2, 3, 5, 5)
    for layer in part.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, 0.5)
    torch.testing.assert_close(part(x), x + 0.5)


@pytest.mark.parametrize("kind", ["mlp", "nature-cnn"])
def test_every_frame_of_the_stack_and_every_channel_counts(kind):
    spec = EnvironmentSpec(
        FrameSpec((3, 40, 40), "uint8", 1 / 255), stack=2, num_actions=3, protocol={}
    )
    network = make_network(spec, NetworkConfig(kind=kind, hidden=(8,)))
    zeros = torch.zeros((1, 2, 3, 40, 40), dtype=torch.uint8)
    seen = {tuple(network(zeros)[0].tolist())}
    for frame in range(2):
        for channel in range(3):
            changed = zeros.clone()
            changed[0, frame, channel] = 255
            seen.add(tuple(network(changed)[0].tolist()))
    assert len(seen) == 7


def test_pictures_are_scaled_in_the_network():
    config = NetworkConfig(kind="mlp", hidden=(8,))
    bytes_network = make_network(ATARI, config)
    floats = EnvironmentSpec(FrameSpec((1, 84, 84), "float32", 1.0), 4, 6, {})
    floats_network = make_network(floats, config)
    batch = observation(ATARI, 2)
    expected = floats_network(batch.to(torch.float32) / 255)
    torch.testing.assert_close(bytes_network(batch), expected, rtol=1e-4, atol=1e-5)


def test_dueling_is_value_plus_advantage_less_its_mean():
    head = Dueling(3, 7, 4)
    features = torch.randn(5, 3)
    q = head(features)
    # Equation 9 of Wang et al. 2016: the mean over actions is the value, whatever the advantages.
    torch.testing.assert_close(q.mean(dim=1, keepdim=True), head.value(features))
    advantage = head.advantage(features)
    torch.testing.assert_close(q - q[:, :1], advantage - advantage[:, :1])


def test_a_dueling_head_is_not_one_linear_layer():
    # q of a linear head is affine in the features; two ReLU streams are not.
    head = Dueling(3, 7, 4)
    a, b = torch.randn(50, 3), torch.randn(50, 3)
    middle = (head(a) + head(b)) / 2
    assert (head((a + b) / 2) - middle).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("spec", "config", "expected"),
    [
        (VECTOR, NetworkConfig(hidden=(8,), dueling=True), [(4, 8), (8, 1), (4, 8), (8, 2)]),
        (
            VECTOR,
            NetworkConfig(hidden=(16, 8), dueling=True),
            [(4, 16), (16, 8), (8, 1), (16, 8), (8, 2)],
        ),
        # Wang et al. 2016, section 4.2: both streams have 512 units behind the convolutions.
        (
            ATARI,
            NetworkConfig(kind="nature-cnn", hidden=(512,), dueling=True),
            [(3136, 512), (512, 1), (3136, 512), (512, 6)],
        ),
    ],
    ids=["one layer", "two layers", "pictures"],
)
def test_each_dueling_stream_has_a_hidden_layer_of_its_own(spec, config, expected):
    assert linears(make_network(spec, config)) == expected


def test_dueling_weights_of_an_older_release_are_named():
    wanted = make_network(VECTOR, NetworkConfig(hidden=(8,), dueling=True)).state_dict()
    given = {
        "layers.3.value.weight": torch.zeros(1, 8),
        "layers.3.advantage.weight": torch.zeros(2, 8),
    }
    difference = shape_difference(given, wanted)
    assert "no hidden layer, since an earlier version" in difference


def test_a_convolution_on_vectors_is_a_users_error():
    with pytest.raises(UserError, match=r"nature-cnn: needs pictures, .* vector of 4"):
        make_network(VECTOR, NetworkConfig(kind="nature-cnn"))


@pytest.mark.parametrize(("height", "width"), [(35, 84), (84, 35)])
def test_a_convolution_on_tiny_pictures_is_a_users_error(height, width):
    spec = EnvironmentSpec(FrameSpec((1, height, width), "uint8", 1 / 255), 4, 6, {})
    advice = f"36×36 or larger, not {height}×{width}; use small-cnn or minatar-cnn"
    with pytest.raises(UserError, match=advice):
        make_network(spec, NetworkConfig(kind="nature-cnn"))


@pytest.mark.parametrize(
    ("kind", "side"), [("nature-cnn", 36), ("small-cnn", 18), ("minatar-cnn", 3)]
)
def test_the_smallest_picture_allowed_works(kind, side):
    spec = EnvironmentSpec(FrameSpec((1, side, side), "uint8", 1 / 255), 1, 2, {})
    network = make_network(spec, NetworkConfig(kind=kind, hidden=(8,)))
    assert network(observation(spec, 1)).shape == (1, 2)
    smaller = EnvironmentSpec(FrameSpec((1, side, side - 1), "uint8", 1 / 255), 1, 2, {})
    with pytest.raises(UserError, match=f"{kind}: needs pictures of {side}×{side} or larger"):
        make_network(smaller, NetworkConfig(kind=kind, hidden=(8,)))


@pytest.mark.parametrize(
    ("spec", "kind", "hidden", "features"),
    [
        # Young and Tian 2019: 16 filters of 3×3, then 128 units.
        (MINATAR, "minatar-cnn", 128, 16 * 8 * 8),
        (PONG42, "small-cnn", 256, 32 * 7 * 7),
        (PONG42, "nature-cnn", 256, 64),
    ],
)
def test_torsos_leave_as_many_features(spec, kind, hidden, features):
    network = make_network(spec, NetworkConfig(kind=kind, hidden=(hidden,)))
    assert linears(network)[0] == (features, hidden)


def test_layer_norm_makes_q_independent_of_the_scale_of_the_weights():
    network = make_network(ATARI, NetworkConfig(kind="small-cnn", hidden=(8,), layer_norm=True))
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    assert [type(m) for m in norms] == [nn.GroupNorm] * 3 + [nn.LayerNorm]
    batch = observation(ATARI, 2)
    before = network(batch)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 5
                module.bias *= 5
    torch.testing.assert_close(network(batch), before, rtol=1e-2, atol=1e-3)


def test_convolutions_that_leave_one_pixel_are_told():
    def warning(kind, spec):
        return warning_of_torso(NetworkConfig(kind=kind, hidden=(8,)), spec)

    told = warning("nature-cnn", PONG42)
    assert "sees a picture of 42×42 as one pixel, and 64 features are left" in told
    assert told.endswith("use network.kind=small-cnn or larger pictures")
    for kind, spec in [
        ("small-cnn", PONG42),
        ("nature-cnn", ATARI),
        ("minatar-cnn", MINATAR),
        ("mlp", VECTOR),
    ]:
        assert warning(kind, spec) is None


def weights(seed):
    return make_network(VECTOR, NetworkConfig(hidden=(8,)), seed).layers[1].weight


def test_equal_seeds_give_equal_weights_and_others_others():
    assert torch.equal(weights(12), weights(12))
    assert not any(torch.equal(weights(12), weights(seed)) for seed in (0, 1, 13, 2**31 - 1))


def test_making_a_network_leaves_torchs_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights(12)
    assert torch.equal(torch.rand(3), expected)


def test_what_torchs_global_generator_did_before_does_not_matter():
    torch.manual_seed(5)
    first = weights(12)
    torch.rand(7)
    assert torch.equal(weights(12), first)


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (None, "is a build without CUDA; install torch's CUDA build"),
        ("12.6", "cannot use CUDA 12.6"),
    ],
)
def test_auto_leaves_no_reserved_gpu_idle(monkeypatch, cuda, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match=r"GPU 0 is reserved for the learner") as caught:
        choose_device("auto")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert choose_device("cpu").type == "cpu"  # asked for by name
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert choose_device("auto").type == "cpu"


def test_a_device_is_described_with_the_build_of_torch():
    assert describe_device(torch.device("cpu")) == f"cpu, torch {torch.__version__}"


def test_auto_chooses_cuda_exactly_when_there_is_one(monkeypatch):
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == kind


@pytest.mark.parametrize(
    ("name", "advice"),
    [("nonsense", "must be auto or one of cpu"), ("cuda:99", "cannot be used here")],
)
def test_a_device_that_is_not_here_is_a_users_error_in_one_line(name, advice):
    with pytest.raises(UserError, match=f"learner.device={name}: {advice}") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_always_here():
    assert choose_device("cpu") == torch.device("cpu")


def test_state_dicts_fit_between_policy_and_target():
    config = NetworkConfig(hidden=(8,), dueling=True)
    policy, target = QNetwork(VECTOR, config), QNetwork(VECTOR, config)
    target.load_state_dict(policy.state_dict())
    batch = observation(VECTOR, 3)
    assert torch.equal(policy(batch), target(batch))
