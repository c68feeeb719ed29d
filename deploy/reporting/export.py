"""`raydqn export`: a trained policy as one file for other programs.

The file computes q(s, ·) of a batch of observations; the greedy action is the largest. It carries a
contract, which says how an observation is made: the keys of the section `env`, the shape and type
of the input, and the actions.
"""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from actors.environments import environment_spec
from common.config import Config
from common.config_network import NetworkConfig
from common.errors import UserError
from common.networks import make_network
from common.tensor_file import CONTRACT, tensor_bytes
from common.types import EnvironmentSpec
from common.version import VERSION
from common.weights import unpack_weights
from deploy.reporting.evaluation import check_weights, load_weights
from deploy.runs.folder import RunFolder

INPUT, OUTPUT = "observation", "q"


def export(folder: RunFolder, kind: str, which: str = "best") -> tuple[bytes, dict[str, Any]]:
    """The policy of a run as a file's content, and its contract.

    Args:
        folder: the run.
        kind: `safetensors`, `onnx` or `torchscript`.
        which: weights; see `load_weights`.

    Raises:
        UserError: there are no weights, they do not fit, or the format cannot hold this network.
    """
    config = folder.config
    weights, source = load_weights(folder, which)
    spec = environment_spec(config.env, config.seed)
    check_weights(weights, spec, config, source)
    state, meta = unpack_weights(weights)
    network = make_network(spec, config.network).eval()
    network.load_state_dict(state)
    contract = {**contract_of(config, spec), "weights": source, **meta}
    text = {CONTRACT: json.dumps(contract, sort_keys=True, default=str)}
    if kind == "safetensors":
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        return tensor_bytes(tensors, text), contract
    plain = _without_parametrizations(network)
    example = torch.zeros((2, spec.stack, *spec.frame.shape), dtype=_dtype(spec))
    makers: dict[str, Callable[..., bytes]] = {"onnx": _onnx, "torchscript": _torchscript}
    content = makers[kind](plain, example, text, config.network, spec.num_actions)
    return content, contract


def contract_of(config: Config, spec: EnvironmentSpec) -> dict[str, Any]:
    """How an observation is made, the input and the output, for programs that use the policy."""
    frame = ["channel", "row", "column"] if spec.frame.is_picture else ["number"]
    network = config.network.model_dump(mode="json", include={"kind", "hidden", "head", "dueling"})
    if config.network.head == "categorical":
        network |= config.network.model_dump(include={"atoms", "value_min", "value_max"})
    return {
        "version": VERSION,
        "env": config.env.model_dump(mode="json", include=_keys(config, spec)),
        "network": network,
        "input": {
            "name": INPUT,
            "shape": ["batch", spec.stack, *spec.frame.shape],
            "axes": ["batch", "stack, the oldest frame first", *frame],
            "dtype": spec.frame.dtype,
            "missing_frames": "zeros, at the start of an episode",
            "scale": "inside the network: the frame as it is",
            **_steps(config, spec),
        },
        "output": {"name": OUTPUT, "shape": ["batch", spec.num_actions], "dtype": "float32"},
        "action": "the index of the largest output",
        "protocol": spec.protocol,
    }


def _keys(config: Config, spec: EnvironmentSpec) -> set[str]:
    """The keys of the section `env` that make this environment's observations."""
    keys = {"id", "kwargs", "wrappers", "observation", "stack", "action_mask"}
    if _is_made_small(config, spec):
        keys |= {"crop", "grey", "width", "height", "invert", "render_width", "render_height"}
    return keys


def _is_made_small(config: Config, spec: EnvironmentSpec) -> bool:
    """Whether frames are pictures that were cropped and resized."""
    size = (config.env.height, config.env.width)
    return spec.frame.is_picture and spec.frame.shape[1:] == size


def _steps(config: Config, spec: EnvironmentSpec) -> dict[str, Any]:
    """How a picture becomes a frame, in this order; nothing for other observations."""
    if not _is_made_small(config, spec):
        return {}
    if config.env.id.startswith("ALE/"):
        return {"frame": "ale-py's own: the maximum of two pictures, grey, resized by area"}
    return {
        "frame": "crop; grey (ITU-R 601-2 luma) or RGB; resize (Pillow's box filter); invert; "
        "channels first"
    }


def _dtype(spec: EnvironmentSpec) -> torch.dtype:
    return torch.from_numpy(np.empty(0, spec.frame.dtype)).dtype


def _without_parametrizations(network: nn.Module) -> nn.Module:
    """The network with its spectral norms computed once for all, in place."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return network


def _onnx(
    network: nn.Module, example: Tensor, text: dict[str, str], config: NetworkConfig, actions: int
) -> bytes:
    """An ONNX file with a free batch size.

    Raises:
        UserError: the package onnx is missing, or the network has a layer that ONNX lacks.
    """
    if config.pool is not None:
        raise UserError(
            f"--format=onnx: network.pool={config.pool} pools to a fixed size, which ONNX cannot "
            "express; use torchscript"
        )
    try:
        import onnx
    except ImportError:
        raise UserError(
            "--format=onnx: needs the package onnx; run: pip install 'raydqn[export]'"
        ) from None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder, "policy.onnx")
        warnings.simplefilter("ignore")  # torch's, about this exporter's age
        torch.onnx.export(
            network,
            (example,),
            file,
            dynamo=False,  # the other one needs a further package, and names no input by itself
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
        model = onnx.load(file)
    # The exporter leaves the number of actions open for some heads.
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = actions
    onnx.helper.set_model_props(model, text)
    content: bytes = model.SerializeToString()
    return content


def _torchscript(
    network: nn.Module, example: Tensor, text: dict[str, str], config: NetworkConfig, actions: int
) -> bytes:
    """A TorchScript file; the contract is the extra file `CONTRACT`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files=text)
    return buffer.getvalue()


def write(content: bytes, file: Path) -> None:
    """Write an exported policy.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UserError(f"--out={file}: cannot be written ({error.strerror or error})") from None
