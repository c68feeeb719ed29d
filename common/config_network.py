"""The section `network` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from common.config_sections import Section

Kind = Literal["mlp", "nature-cnn", "small-cnn", "minatar-cnn", "impala-cnn", "notebook"]
OwnTorso = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""A class of the user's own: `package.module:Class`."""


class NetworkConfig(Section):
    """The deep Q-network: a stack of frames in, q(s, a) or its distribution per action out."""

    kind: Kind | OwnTorso = Field(
        "mlp",
        description='"mlp"; for pictures: "nature-cnn" (84×84), "small-cnn" (42×42), '
        '"minatar-cnn" (3×3 and more), "impala-cnn" (residual); "notebook": 24 → 32; '
        '"package.module:Class": your own torch.nn.Module',
    )
    width: int = Field(
        1, ge=1, le=16, description="impala-cnn: factor of its channels, 16, 32 and 32"
    )
    pool: int | None = Field(
        None, ge=1, description="impala-cnn: at its end, pool to n×n positions; none: as they are"
    )
    spectral_norm: bool = Field(
        False, description="impala-cnn: divide residual convolutions by their spectral norm"
    )
    hidden: tuple[int, ...] = Field(
        (128, 128),
        description='units of the hidden layers (after the convolutions; not "notebook")',
    )
    head: Literal["value", "categorical", "quantile", "implicit-quantile"] = Field(
        "value",
        description='for each action: "value": q(s, a); the distribution of the return as '
        '"categorical" (C51), "quantile" (QR-DQN), "implicit-quantile" (IQN)',
    )
    atoms: int = Field(
        51, ge=2, le=1_000, description="categorical: values that the return can have"
    )
    value_min: float = Field(-10.0, description="categorical: the least of these values")
    value_max: float = Field(10.0, description="categorical: the greatest of these values")
    quantiles: int = Field(
        200, ge=1, le=1_000, description="quantile: fractions of the distribution"
    )
    cosines: int = Field(
        64, ge=1, le=1_000, description="implicit-quantile: features of a fraction τ"
    )
    action_taus: int = Field(
        32,
        ge=1,
        le=1_000,
        description="implicit-quantile: fractions, evenly spaced, whose mean is q(s, a)",
    )
    noisy: bool = Field(
        False, description="noise on the weights of all fully connected layers, for exploration"
    )
    noisy_sigma: float = Field(0.5, gt=0, description="noisy: σ of the noise in the beginning")
    dueling: bool = Field(
        False,
        description="separate streams for value and advantage; the last hidden layer is theirs",
    )
    layer_norm: bool = Field(
        False, description="normalise the outputs of each hidden layer before its ReLU"
    )
    init: str | None = Field(
        None,
        description="run folder (its best weights) or .safetensors file: weights to start with",
    )

    @model_validator(mode="after")
    def _sizes(self) -> NetworkConfig:
        if any(n < 1 for n in self.hidden):
            raise ValueError(f"hidden={list(self.hidden)}: each layer must have at least 1 unit")
        if self.kind.endswith("-cnn") and not self.hidden:
            raise ValueError(
                f"hidden=[]: {self.kind} needs at least one layer after its convolutions"
            )
        if self.dueling and not self.hidden:
            raise ValueError("dueling=true: needs at least one hidden layer, for its streams")
        if self.head == "implicit-quantile" and len(self.hidden) < 2 and self.kind == "mlp":
            raise ValueError(
                f"hidden={list(self.hidden)}: head=implicit-quantile needs two hidden layers of an "
                "mlp, one before and one after the fractions join in"
            )
        if self.head == "implicit-quantile" and not self.hidden:
            raise ValueError("hidden=[]: head=implicit-quantile needs at least one hidden layer")
        if not self.value_min < self.value_max:
            raise ValueError(
                f"value_min={self.value_min:g}: must be less than value_max={self.value_max:g}"
            )
        if self.kind == "notebook" and (self.head != "value" or self.noisy):
            wrong = "noisy=true" if self.head == "value" else f"head={self.head}"
            raise ValueError(f"{wrong}: the notebook's network must give q(s, a), without noise")
        if self.kind == "notebook" and self.dueling:
            raise ValueError("dueling=true: the notebook's network has no dueling streams")
        if self.kind == "notebook" and self.layer_norm:
            raise ValueError("layer_norm=true: the notebook's network has none")
        return self
