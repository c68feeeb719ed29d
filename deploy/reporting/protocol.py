"""The protocol of scores in sentences: what a reader needs to judge a figure or repeat it.

The points are those of Machado et al. 2018, "Revisiting the Arcade Learning Environment".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.config_errors import in_toml
from common.text import counted


def explain(protocol: Mapping[str, Any], epsilon: float, max_steps: int) -> list[str]:
    """How episodes are played and scored, a sentence for each point.

    Args:
        protocol: of the environment; see `EnvironmentSpec`.
        epsilon: probability of a random action.
        max_steps: env steps after which the evaluation cuts an episode off.
    """
    return list(_sentences(protocol, epsilon, max_steps))


def _sentences(protocol: Mapping[str, Any], epsilon: float, max_steps: int) -> Iterator[str]:
    clipped = protocol.get("reward_clip") is not None
    yield (
        "A return is the sum of the environment's own rewards, neither clipped nor discounted"
        f"{' (learning clips them)' if clipped else ''}."
    )
    if protocol.get("life_loss_ends"):
        yield (
            "An episode is a whole game: a lost life ends an episode for learning only, and never "
            "resets the game."
        )
    elif "frame_skip" in protocol:
        yield "An episode is a whole game: a lost life ends nothing, in learning neither."
    yield from _stochasticity(protocol)
    if epsilon:
        yield f"Every action is random with probability ε = {epsilon:g}, else greedy."
    else:
        yield "Every action is greedy (ε = 0)."
    yield from _limits(protocol, max_steps)


def _stochasticity(protocol: Mapping[str, Any]) -> Iterator[str]:
    sticky = protocol.get("sticky_actions")
    if isinstance(sticky, (int, float)):
        if sticky:
            yield (
                "Sticky actions: the game repeats the action before with probability "
                f"{sticky:g} (Machado et al. 2018)."
            )
        else:
            yield "No sticky actions: the game obeys every action."
    noops = protocol.get("noop_max")
    if isinstance(noops, int):
        yield (
            f"Each episode begins with up to {counted(noops, 'no-op')}, a random number of them."
            if noops
            else "No episode begins with no-ops."
        )


def _limits(protocol: Mapping[str, Any], max_steps: int) -> Iterator[str]:
    frames, skip = protocol.get("max_episode_frames"), protocol.get("frame_skip")
    if isinstance(frames, int) and isinstance(skip, int):
        yield (
            f"One env step is {counted(skip, 'emulator frame')}; the game is cut off after "
            f"{counted(frames, 'frame')}."
        )
    limit = protocol.get("max_episode_steps")
    if isinstance(limit, int):
        yield f"The environment truncates an episode after {counted(limit, 'env step')}."
    if not isinstance(limit, int) or max_steps < limit:
        yield f"The evaluation cuts an episode off after {counted(max_steps, 'env step')}."


def in_words(protocol: Mapping[str, Any]) -> str:
    """The protocol in one line: `env=CartPole-v1, reward_clip=none`."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else in_toml(value)}"
        for name, value in protocol.items()
    )
