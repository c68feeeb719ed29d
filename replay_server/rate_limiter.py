"""One ratio governs speed: how many samples the learner draws per inserted transition.

After Reverb's `SampleToInsertRatio` (Cassirer et al. 2021, section 3.4). The supervisor asks before
it hands out work, so nothing ever blocks inside a shard, and the side that waits can say why.
"""

from __future__ import annotations

from common.config import least_ratio_error


class RateLimiter:
    """Counts inserts and samples over all shards and decides who may go on.

    `surplus = samples_per_insert · inserted − sampled` is kept within `error` of
    `samples_per_insert · min_size`. Work under way counts as done (it is reserved), so the range
    holds however many actors are at it.
    """

    def __init__(
        self,
        samples_per_insert: float,
        min_size: int,
        error: float,
        insert_quantum: int,
        sample_quantum: int,
    ) -> None:
        """A limiter at the start of a run.

        Args:
            samples_per_insert: the ratio.
            min_size: transitions in the memory before the first sample.
            error: samples that either side may be ahead.
            insert_quantum: transitions of the smallest piece of acting (one actor report).
            sample_quantum: samples of the smallest piece of learning (one batch).

        Raises:
            ValueError: settings with which both sides would come to wait for each other.
        """
        if not samples_per_insert > 0:
            raise ValueError(f"samples_per_insert={samples_per_insert:g}: must be greater than 0")
        if min_size < 1:
            raise ValueError(f"min_size={min_size}: must be at least 1")
        for name, value in (("insert_quantum", insert_quantum), ("sample_quantum", sample_quantum)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self._insert_quantum, self._sample_quantum = insert_quantum, sample_quantum
        least = least_ratio_error(samples_per_insert, insert_quantum, sample_quantum)
        if not error >= least:
            raise ValueError(
                f"error={error:g}: must be at least {least:g}, the larger of one insert × "
                "samples_per_insert and one batch, or both sides would wait for each other"
            )
        self.samples_per_insert = samples_per_insert
        self.min_size = min_size
        self.error = error
        self.inserted = 0
        self.sampled = 0
        self._inserting = 0
        self._sampling = 0

    @property
    def ratio(self) -> float:
        """Samples per insert so far; the inserts of the warm-up are not counted."""
        after_warmup = self.inserted - self.min_size
        return self.sampled / after_warmup if after_warmup > 0 else 0.0

    @property
    def _centre(self) -> float:
        return self.samples_per_insert * self.min_size

    def can_insert(self, count: int) -> bool:
        """Whether `count` more transitions keep the memory from running ahead of the learner."""
        inserted = self.inserted + self._inserting + count
        surplus = self.samples_per_insert * inserted - self.sampled
        return surplus <= self._centre + self.error

    def sampleable(self, batch_size: int) -> int:
        """How many whole batches the learner may draw now."""
        if self.inserted < self.min_size:
            return 0
        surplus = self.samples_per_insert * self.inserted - (self.sampled + self._sampling)
        return max(0, int((surplus - self._centre + self.error) // batch_size))

    def begin_insert(self, count: int) -> None:
        """Reserve: `count` transitions are on their way."""
        self._inserting += count

    def end_insert(self, reserved: int, inserted: int) -> None:
        """`inserted` transitions arrived of `reserved` on their way."""
        self._inserting -= reserved
        self.inserted += inserted

    def begin_sample(self, count: int) -> None:
        """Reserve: `count` samples are about to be drawn."""
        self._sampling += count

    def end_sample(self, reserved: int, sampled: int) -> None:
        """`sampled` samples were drawn of `reserved`."""
        self._sampling -= reserved
        self.sampled += sampled

    def explain(self) -> str:
        """What the state means, in words: who waits, for what."""
        if self.inserted < self.min_size:
            return f"learner waits: {self.inserted:,} of {self.min_size:,} first transitions"
        surplus = self.samples_per_insert * self.inserted - self.sampled - self._centre
        ratio = f"{self.ratio:.2f} samples per insert, {self.samples_per_insert:g} wanted"
        if surplus < self._sample_quantum - self.error:
            return f"learner waits for actors: {ratio}"
        if surplus > self.error - self.samples_per_insert * self._insert_quantum:
            return f"actors wait for learner: {ratio}"
        return f"balanced: {ratio}"
