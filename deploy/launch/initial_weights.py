"""`network.init`: the weights that a run starts with, of another run or in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from common import wire
from common.config import Config
from common.config_network import NetworkConfig
from common.errors import UserError
from common.tensor_file import CONTRACT, tensor_metadata
from common.types import Array, EnvironmentSpec
from common.weights import unpack_weights
from deploy.reporting.evaluation import check_weights, load_weights
from deploy.runs.folder import RunFolder

POLICY = "policy."
"""Prefix of the policy's tensors beside those of target network and optimizer."""


def initial_weights(config: Config, spec: EnvironmentSpec) -> Array | None:
    """The weights that `network.init` names, in wire format; None: it is not set.

    Args:
        config: of the run.
        spec: of its environment.

    Raises:
        UserError: there are no such weights, or they are of another network.
    """
    given = config.network.init
    if given is None:
        return None
    path, source = Path(given).expanduser(), f"network.init={given}"
    try:
        if path.is_dir():
            folder = RunFolder.open(path)
            _check_head(folder.config.network.model_dump(), config.network)
            weights, _ = load_weights(folder, "best")
        else:
            weights = wire.encode(_tensors_in(path), {"learner_steps": 0})
            _check_head(_network_of(path), config.network)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    check_weights(weights, spec, config, source)
    for name, tensor in unpack_weights(weights)[0].items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{source}: contains NaN or infinity in {name}; use other weights")
    return weights


def _check_head(theirs: Mapping[str, Any], mine: NetworkConfig) -> None:
    """Refuse weights whose outputs stand for something else.

    Args:
        theirs: keys of the section `network` of the weights, as far as they are known.
        mine: of the run that would begin with them.

    Raises:
        UserError: the heads differ, or the values of their atoms.
    """
    keys = ("head", *(("value_min", "value_max") if mine.head == "categorical" else ()))
    for key in keys:
        was, wanted = theirs.get(key), getattr(mine, key)
        if was is not None and was != wanted:
            shown = was if isinstance(was, str) else f"{was:g}"
            raise UserError(
                f"its network has network.{key}={shown}, and this run has {wanted}; add "
                f"--network.{key.replace('_', '-')} {shown}"
            )


def _network_of(file: Path) -> dict[str, Any]:
    """The section `network` in the contract of an exported file; empty: it has none."""
    with suppress(OSError, ValueError, TypeError):
        contract = json.loads(tensor_metadata(file.read_bytes()).get(CONTRACT, "{}"))
        network = contract.get("network", {})
        return network if isinstance(network, dict) else {}
    return {}


def _tensors_in(path: Path) -> dict[str, Array]:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError("there is no such file or run folder") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"is no run folder and no .safetensors file ({error})") from None
    of_policy = {
        name.removeprefix(POLICY): array
        for name, array in tensors.items()
        if name.startswith(POLICY)
    }
    return of_policy or dict(tensors)
