"""`network.kind = "package.module:Class"`: a torso of the user's own."""

from __future__ import annotations

import sys
from itertools import count

import pytest
import torch

from common.config_network import NetworkConfig
from common.errors import UserError
from common.networks import make_network
from common.types import EnvironmentSpec, FrameSpec
from deploy.launch.presets import make_config

MODULES = count()
VECTOR = EnvironmentSpec(FrameSpec((3,), "float32", 1.0), 2, 4, {})
PICTURE = EnvironmentSpec(FrameSpec((2, 9, 8), "uint8", 1 / 255), 3, 4, {})
GOOD = """
class Torso(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(torch.Size(shape).numel(), 6)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        assert x.dtype == torch.float32 and x.shape[1:] == self.shape, x.shape
        return self.drop(torch.relu(self.first(x.view(len(x), -1)))).view(len(x), 2, 3)
"""


@pytest.fixture
def torso(tmp_path, monkeypatch):
    """Writes a module of a name of its own, and returns the `network.kind` of its class."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(text, name="Torso"):
        module = f"own_torso_{next(MODULES)}"
        code = f"import torch\nfrom torch import nn\n{text}"
        (tmp_path / f"{module}.py").write_text(code)
        written.append(module)
        return f"{module}:{name}"

    yield write
    for module in written:
        sys.modules.pop(module, None)


def made(kind, spec=VECTOR, **values):
    return make_network(spec, NetworkConfig(kind=kind, hidden=(7,), **values))


@pytest.mark.parametrize("spec", [VECTOR, PICTURE], ids=["vector", "picture"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"dueling": True, "noisy": True},
        {"head": "categorical", "value_min": 0.0, "value_max": 1.0, "layer_norm": True},
        {"head": "quantile", "quantiles": 5},
        {"head": "implicit-quantile", "dueling": True},
    ],
    ids=lambda values: values.get("head", "value"),
)
def test_it_goes_with_every_head_and_sees_one_scaled_stack(torso, spec, values):
    network = made(torso(GOOD), spec, **values)
    frames = torch.randint(0, 255, (5, spec.stack, *spec.frame.shape))
    seen = []
    inner = next(m for m in network.modules() if type(m).__name__ == "Torso")
    inner.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    dtype = torch.uint8 if spec is PICTURE else torch.float32
    assert network(frames.to(dtype)).shape == (5, 4)
    expected = frames.flatten(1, 2).float() * spec.frame.scale
    torch.testing.assert_close(seen[0], expected)
    assert any(name.endswith("first.weight") for name in network.state_dict())


def test_frozen_parts_and_their_modes_stay_as_the_class_made_them(torso):
    frozen = "self.first.requires_grad_(False); self.drop.eval()"
    text = GOOD.replace("nn.Dropout(0.5)\n", f"nn.Dropout(0.5)\n        {frozen}\n")
    network = made(torso(text))
    inner = next(m for m in network.modules() if type(m).__name__ == "Torso")
    assert (inner.training, inner.drop.training, inner.first.training) == (True, False, True)
    assert [p.requires_grad for p in inner.parameters()] == [False, False]
    assert all(p.grad is None for p in network.parameters())


def test_weights_depend_on_the_seed_alone(torso):
    kind = torso(GOOD)
    one, other = made(kind), made(kind)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


BODY = "class Torso(nn.Module):\n    def __init__(self, shape):\n        super().__init__()\n"
PASS = "\n    def forward(self, x):\n        return "
FORWARD = f"{BODY}{PASS}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Torsi(nn.Module):\n    pass\n", "has no Torso; did you mean Torsi?"),
        ("1 / 0\n", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("import not_there_at_all\n", "cannot be imported (ModuleNotFoundError: No module"),
        ("Torso = 3\n", "Torso is not a class"),
        (
            "class Torso:\n    def __init__(self, shape):\n        pass\n",
            "Torso((6,)) gives a Torso, but must give a torch",
        ),
        (f"{BODY}        raise OSError('no')\n", "Torso((6,)) raised OSError: no"),
        ("class Torso(nn.Module):\n    pass\n", "Torso((6,)) raised TypeError: "),
        (f"{FORWARD}1 / 0\n", "forward of a tensor [1, 6] raised ZeroDivisionError: division"),
        (f"{FORWARD}[x]\n", "forward gives a list, not a tensor"),
        (f"{FORWARD}x.double()\n", "forward gives float64, but must give float32"),
        (f"{FORWARD}x.sum()\n", "forward of a tensor [1, 6] gives [], but must give features"),
        (f"{FORWARD}x.T\n", "forward of a tensor [1, 6] gives [6, 1], but must give features of"),
        (f"{FORWARD}x.squeeze()\n", "forward of a tensor [1, 6] gives [6], but must"),
        (f"{FORWARD}x @ x.T\n", "forward gives 1 features of one input, but 2 of each of two"),
        (f"{BODY}        raise SystemExit(3)\n", "Torso((6,)) raised SystemExit: 3"),
        (f"{BODY}        self.a = nn.Linear(6, 2)\n{PASS}x", "a.weight gets no gradient; use it"),
        (f"{FORWARD}x.sub_(1.0)\n", "forward changes its input in place"),
        (f"{FORWARD}x[:1]\n", "forward of a tensor [2, 6] gives [1, 6], but must"),
        (f"{BODY}        raise OSError\n", "Torso((6,)) raised OSError"),
        (
            f"{BODY}        self.norm = nn.BatchNorm1d(6)\n",
            "norm.num_batches_tracked is int64, but parameters",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(torso, text, says):
    kind = torso(text)
    with pytest.raises(UserError) as caught:
        made(kind)
    assert str(caught.value).startswith(f"network.kind={kind}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["a-b:C", "module:", ":Class", "transformer", "m:C.d"])
def test_another_name_is_refused_with_the_names_that_there_are(kind):
    with pytest.raises(UserError) as caught:
        make_config("cartpole", overrides={"network": {"kind": kind}})
    assert f"network.kind={kind}: must be mlp, nature-cnn, small-cnn" in str(caught.value)
    assert "package.module:Class" in str(caught.value)
