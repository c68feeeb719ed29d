"""`network.init`: the weights that a run starts with, of another run or in a file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from common import wire
from common.config import Config
from common.config_network import NetworkConfig
from common.errors import UserError
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
            _check_atoms(folder.config.network, config.network)
            weights, _ = load_weights(folder, "best")
        else:
            weights = wire.encode(_tensors_in(path), {"learner_steps": 0})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    check_weights(weights, spec, config, source)
    for name, tensor in unpack_weights(weights)[0].items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{source}: contains NaN or infinity in {name}; use other weights")
    return weights


def _check_atoms(theirs: NetworkConfig, mine: NetworkConfig) -> None:
    """Refuse weights whose outputs stand for other returns.

    Raises:
        UserError: both networks are categorical, over different ranges.
    """
    for key in ("value_min", "value_max"):
        was, wanted = getattr(theirs, key), getattr(mine, key)
        if theirs.head == mine.head == "categorical" and was != wanted:
            raise UserError(
                f"its atoms have network.{key}={was:g}, and here it is {wanted:g}; use the same"
            )


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
