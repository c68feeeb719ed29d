"""The five games of MinAtar for N copies at once, equal to the package's own step by step."""

from actors.environments.minatar_games.vector import MinAtarVector, make_vector

__all__ = ["MinAtarVector", "make_vector"]
