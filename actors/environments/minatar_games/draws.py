"""Random numbers of N copies, in the order in which N generators of numpy's would give them.

`numpy.random.RandomState` makes all its numbers from 32-bit words of one Mersenne Twister. Here
words are drawn ahead in blocks, one block per copy, and turned into numbers as numpy does, for many
copies in one call: `rand` takes two words, `randint` one word per try.
"""

from __future__ import annotations

import numpy as np

from common.types import Array

BLOCK = 1024
"""Words drawn ahead per copy: 4 KiB."""
WINDOW = 64
"""Words looked at to find several whole numbers of one copy."""
TRIES = 8
"""Words looked at to find one whole number of each copy; more than half of them fit."""
_AHEAD: Array = np.arange(TRIES)
_MASKS: Array = np.array([(1 << n.bit_length()) - 1 for n in range(64)], np.uint32)
"""The smallest mask of ones that covers a number."""


class Draws:
    """N streams, each equal to that of `numpy.random.RandomState(seed)`."""

    def __init__(self, copies: int) -> None:
        """Streams without a seed so far: from the operating system's entropy."""
        self._streams = [np.random.RandomState() for _ in range(copies)]  # MinAtar's
        self._words: Array = np.zeros((copies, BLOCK), np.uint32)
        self._flat: Array = self._words.reshape(-1)
        self._end: Array = (np.arange(copies) + 1) * BLOCK
        self._at: Array = self._end.copy()  # of the next word in `_flat`

    def seed(self, copy: int, seed: int) -> None:
        """Begin the stream of a copy anew."""
        self._streams[copy] = np.random.RandomState(seed)  # MinAtar's
        self._at[copy] = self._end[copy]

    def uniform_of_all(self) -> Array:
        """`rand()` of each copy: `[N]` float64 in [0, 1)."""
        at = self._at
        if (at > self._end - 2).any():
            return self.uniform(np.arange(len(at)))
        self._at = at + 2
        return self._doubles(at)

    def uniform(self, copies: Array) -> Array:
        """`rand()` of each of these copies: `[M]` float64 in [0, 1).

        Args:
            copies: `[M]` int, each copy once.
        """
        return self._doubles(self._take(copies, 2))

    def bits(self, copies: Array, count: int) -> Array:
        """`randint(2 ** count)` of each of these copies, `[M]` int: every word fits."""
        words: Array = self._flat[self._take(copies, 1)] & ((1 << count) - 1)
        return words.astype(np.int64)

    def below(self, copies: Array, bound: Array) -> Array:
        """`randint(bound)` of each of these copies: `[M]` int.

        Args:
            copies: `[M]` int, each copy once.
            bound: `[M]` int, 1 … 64.
        """
        most = bound - 1
        at = self._ahead(copies, TRIES)
        each = np.arange(len(copies))
        words = self._flat[at[:, None] + _AHEAD] & _MASKS[most][:, None]  # [M, TRIES]
        fits = words <= most[:, None]
        first = fits.argmax(axis=1)
        drawn: Array = words[each, first].astype(np.int64)
        self._at[copies] = at + np.where(most > 0, first + 1, 0)  # a single choice takes no word
        if not fits[each, first].all():
            for i in (~fits[each, first]).nonzero()[0]:
                self._at[copies[i]] = at[i]
                drawn[i] = self.below_of(int(copies[i]), int(bound[i]), 1)[0]
        return drawn

    def below_of(self, copy: int, bound: int, count: int) -> Array:
        """`randint(bound, size=count)` of one copy: `[count]` int; bound: 2 … 64."""
        mask, window = _MASKS[bound - 1], WINDOW
        while True:
            at = self._look_ahead(copy, window)
            words = self._flat[at : at + window] & mask
            fitting = np.flatnonzero(words < bound)[:count]
            if len(fitting) == count:
                self._at[copy] = at + fitting[-1] + 1
                drawn: Array = words[fitting].astype(np.int64)
                return drawn
            window = min(2 * window, BLOCK)  # a block always holds enough: 512 on average

    def uniform_of(self, copy: int, count: int) -> Array:
        """`rand(count)` of one copy: `[count]` float64."""
        at = self._look_ahead(copy, 2 * count)
        self._at[copy] += 2 * count
        return self._doubles(at + 2 * np.arange(count))

    def _doubles(self, at: Array) -> Array:
        """The doubles of the two words from each of these places: 53 bits, as numpy's."""
        high, low = self._flat[at] >> 5, self._flat[at + 1] >> 6
        doubles: Array = (high * float(1 << 26) + low) / float(1 << 53)
        return doubles

    def _take(self, copies: Array, count: int) -> Array:
        """The places of the next words of these copies, which are used up now."""
        at = self._ahead(copies, count)
        self._at[copies] = at + count
        return at

    def _ahead(self, copies: Array, count: int) -> Array:
        """The places of the next words of these copies; `count` of them are there."""
        at = self._at[copies]
        short = at + count > self._end[copies]
        if short.any():
            for copy in copies[short]:
                self._refill(copy)
            at = self._at[copies]
        return at

    def _look_ahead(self, copy: int, count: int) -> int:
        """The place of the next words of one copy; `count` of them are there."""
        if self._at[copy] + count > self._end[copy]:
            self._refill(copy)
        return int(self._at[copy])

    def _refill(self, copy: int) -> None:
        """Move the words that are left to the front, and draw the rest of the block."""
        words = self._words[copy]
        left = int(self._end[copy] - self._at[copy])
        words[:left] = words[BLOCK - left :].copy()
        words[left:] = self._streams[copy].randint(0, 1 << 32, BLOCK - left, np.uint32)
        self._at[copy] = copy * BLOCK
