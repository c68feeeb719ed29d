"""Human-normalised scores: the table, and which environments it fits."""

from __future__ import annotations

import ale_py
import gymnasium
import pytest

from deploy.reporting.human_scores import atari_game, human_scores, normalised

ATARI = {"frame_skip": 4}


def test_the_table_has_the_57_games_under_the_names_of_ale_py():
    gymnasium.register_envs(ale_py)
    assert len(human_scores()) == 57
    for name, (random, human) in human_scores().items():
        assert f"ALE/{name}-v5" in gymnasium.registry, name
        assert human > random, name
    # Read off Wang et al. 2016, the table of no-op starts.
    assert human_scores()["Pong"] == (-20.7, 14.6)
    assert human_scores()["MsPacman"] == (307.3, 6951.6)
    assert human_scores()["Skiing"] == (-17098.1, -4336.9)


@pytest.mark.parametrize(
    ("env_id", "protocol", "game"),
    [
        ("ALE/Pong-v5", ATARI, "Pong"),
        ("ale_py:ALE/UpNDown-v5", ATARI, "UpNDown"),
        ("PongNoFrameskip-v4", ATARI, "Pong"),
        ("BreakoutDeterministic-v4", ATARI, "Breakout"),
        ("ALE/Pong-ram-v5", ATARI, None),
        ("ALE/Adventure-v5", ATARI, None),
        ("MinAtar/Breakout-v1", {"sticky_actions": 0.1}, None),
        ("Breakout-v1", {}, None),
    ],
)
def test_only_games_of_the_emulator_are_normalised(env_id, protocol, game):
    assert atari_game(env_id, protocol) == game


def test_zero_is_random_and_one_is_human():
    assert normalised("Breakout", 1.7) == 0.0
    assert normalised("Breakout", 30.5) == 1.0
    assert normalised("Pong", 21.0) == pytest.approx(41.7 / 35.3)
