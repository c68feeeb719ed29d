"""The section `learner` of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config_sections import Count, Section

Precision = Literal["fp32", "tf32", "bf16"]


class LearnerConfig(Section):
    """The algorithm and its pace."""

    device: str = Field("auto", description='"auto": CUDA when there is one, else CPU; or a device')
    threads: Count = Field(
        1,
        description='CPU threads of torch in the learner; "auto": the fastest number, which it '
        "measures again while it trains (another number may change the last bits of the weights)",
    )
    precision: Precision = Field(
        "fp32",
        description='of the learner\'s products: "tf32" (on a GPU) or "bf16" (all layers but the '
        "last) are faster and less exact; weights are float32",
    )
    batch_size: int = Field(256, ge=1, description="transitions per learner step")
    optimizer: Literal["adam", "adamw", "rmsprop"] = Field(
        "adam", description='"adam", "adamw" (with learner.weight_decay), "rmsprop" (centred)'
    )
    learning_rate: float = Field(5e-4, gt=0, description="the optimiser's step size")
    learning_rate_end: float | None = Field(
        None, ge=0, description="it falls to this on a straight line; none: it stays"
    )
    learning_rate_steps: int = Field(
        100_000, ge=1, description="learner steps until it is learning_rate_end"
    )
    adam_epsilon: float = Field(1e-5, gt=0, description="the optimiser's ε")
    weight_decay: float = Field(0.01, ge=0, description="adamw: share of each weight, × step size")
    rmsprop_decay: float = Field(0.95, ge=0, lt=1, description="rmsprop: memory of its averages")
    gamma: float = Field(0.99, ge=0, le=1, description="discount per env step")
    n_step: int = Field(3, ge=1, le=100, description="rewards summed before bootstrapping")
    double: bool = Field(True, description="double Q-learning")
    value_rescaling: bool = Field(
        False, description="learn h(return), about the root of the return, for returns of any size"
    )
    munchausen: bool = Field(
        False, description="Munchausen DQN: a softmax policy, and its log-policy in the reward"
    )
    munchausen_alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the log-policy in the reward"
    )
    munchausen_temperature: float = Field(0.03, gt=0, description="τ of the softmax policy")
    munchausen_floor: float = Field(-1.0, lt=0, description="the log-policy × τ is at least this")
    taus: int = Field(
        8, ge=1, le=1_000, description="implicit-quantile: fractions of q(s, a) per loss"
    )
    target_taus: int = Field(
        8, ge=1, le=1_000, description="implicit-quantile: fractions of its target"
    )
    huber_delta: float = Field(
        1.0,
        gt=0,
        description="|TD error| where the loss turns linear; of quantiles, κ; not of categorical",
    )
    max_grad_norm: float = Field(10.0, gt=0, description="gradients are scaled down to this norm")
    max_grad_value: float | None = Field(
        None, gt=0, description="each number of a gradient is at most this first; none: no limit"
    )
    target_sync_steps: int = Field(
        200,
        ge=1,
        description="learner steps between copies of policy net to target net; not with target_tau",
    )
    target_tau: float | None = Field(
        None,
        gt=0,
        le=1,
        description="instead: the target net moves by this share to the policy net in each step",
    )
    publish_steps: int = Field(20, ge=1, description="learner steps between weights for actors")
    publish_s: float = Field(
        0.0,
        ge=0,
        description="seconds between two publications of weights, at least; 0: no limit",
    )
    samples_per_insert: float = Field(
        8.0, gt=0, description="how often a transition is trained on, on average"
    )
    samples_per_insert_error: float | None = Field(
        None,
        gt=0,
        description="samples that either side may be ahead; none: as little as never blocks both",
    )
    warmup_transitions: int = Field(
        1_000, ge=1, description="transitions in the memory before learning starts"
    )
    train_steps: int = Field(20, ge=1, description="learner steps per report, at the most")
    batches_per_sample: int = Field(4, ge=1, description="batches requested in one message")
    samples_in_flight: int = Field(2, ge=1, description="such messages in flight per shard")
    stall_timeout_s: float | None = Field(
        600.0,
        gt=0,
        description="seconds without a transition inserted or a sample drawn after which the run "
        "stops, longer than any train call; none: never",
    )
