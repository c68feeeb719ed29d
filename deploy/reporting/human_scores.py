"""Human-normalised scores of Atari games: 0 is a random agent's score, 1 a human tester's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

SOURCE = (
    "random and human scores of Mnih et al. 2015 (Nature 518) and Wang et al. 2016 (arXiv "
    "1511.06581), no-op starts, as in dqn_zoo"
)
_ID = re.compile(
    r"(?:[\w.]+:)?(?:ALE/)?(?P<game>[A-Z][A-Za-z]*?)(?:NoFrameskip|Deterministic)?-v\d+", re.ASCII
)
"""`ALE/Pong-v5`, `ale_py:ALE/Pong-v5`, `PongNoFrameskip-v4`; names with -ram are other tasks."""


@cache
def human_scores() -> Mapping[str, tuple[float, float]]:
    """Scores of a random agent and of a human by the game's name in ale-py's ids (`MsPacman`)."""
    file = resources.files("deploy.reporting") / "tables" / "atari57.csv"
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("#")]
    scores = {}
    for line in lines[1:]:
        name, random, human = line.split(",")
        scores["".join(word.capitalize() for word in name.split("_"))] = float(random), float(human)
    return scores


def atari_game(env_id: str, protocol: Mapping[str, object]) -> str | None:
    """The game in the table that was played; None: another environment, or another game.

    Args:
        env_id: id of the environment.
        protocol: of the run; an emulator's protocol names its frame skip, which tells the Atari
            game `Breakout` from an environment of that name elsewhere.
    """
    found = _ID.fullmatch(env_id)
    if found is None or "frame_skip" not in protocol:
        return None
    return found["game"] if found["game"] in human_scores() else None


def normalised(game: str, score: float) -> float:
    """The human-normalised score: 0 for a random agent's score, 1 for a human's.

    Args:
        game: as `atari_game` returns it.
        score: mean return of raw rewards.
    """
    random, human = human_scores()[game]
    return (score - random) / (human - random)
