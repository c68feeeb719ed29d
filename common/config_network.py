"""The section `network` of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.config_sections import Section


class NetworkConfig(Section):
    """The deep Q-network: a stack of frames in, one q(s, a) per action out."""

    kind: Literal["mlp", "nature-cnn", "small-cnn", "minatar-cnn", "notebook"] = Field(
        "mlp",
        description='"mlp"; for pictures: "nature-cnn" (84×84), "small-cnn" (42×42), "minatar-cnn" '
        '(3×3 and more); "notebook": 24 → 32',
    )
    hidden: tuple[int, ...] = Field(
        (128, 128),
        description='units of the hidden layers (after the convolutions; not "notebook")',
    )
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
        if self.kind == "notebook" and self.dueling:
            raise ValueError("dueling=true: the notebook's network has no dueling streams")
        if self.kind == "notebook" and self.layer_norm:
            raise ValueError("layer_norm=true: the notebook's network has none")
        return self
