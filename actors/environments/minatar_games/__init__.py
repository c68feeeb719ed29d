"""The five games of MinAtar for N copies at once, equal to the package's own step by step."""

from actors.environments.minatar_games.vector import GAMES, MinAtarVector, are_known

__all__ = ["GAMES", "MinAtarVector", "are_known"]
