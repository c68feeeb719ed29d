"""One ratio governs speed: how many samples the learner draws per inserted transition.

After Reverb's `SampleToInsertRatio` (Cassirer et al. 2021, section 3.4). The supervisor asks before
it sends a call, so that no call blocks inside a shard, and the limiter can explain a wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from common.config import least_ratio_error
from common.text import counted

Side = Literal["actors", "learner"]

MIN_WAIT_S = 1.0
"""Shorter waits are normal turns between the two sides, and are not reported."""


class RateLimiter:
    """Counts inserts and samples over all shards and decides which side may continue.

    `samples_per_insert · (inserted − min_size) − sampled`, how far the actors are ahead in samples,
    stays within `±error`. Calls in flight count as done (they are reserved), so that the range
    holds for any number of actors.

    Attributes:
        min_size: transitions in the memory before the first sample.
        inserted: transitions, over all shards.
        sampled: samples, over all shards.
        waiting: the side that waits for the other one; None: neither does.
    """

    def __init__(
        self,
        samples_per_insert: float,
        min_size: int,
        error: float,
        insert_quantum: int,
        sample_quantum: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A limiter at the start of a run.

        Args:
            samples_per_insert: the ratio.
            min_size: transitions in the memory before the first sample.
            error: samples that either side may be ahead.
            insert_quantum: transitions of one call of an actor.
            sample_quantum: samples of one batch.
            clock: seconds; never goes back.

        Raises:
            ValueError: settings that would make both sides wait for each other.
        """
        if min_size < 1:
            raise ValueError(f"min_size={min_size}: must be at least 1")
        for name, value in (("insert_quantum", insert_quantum), ("sample_quantum", sample_quantum)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.min_size = min_size
        self.inserted = 0
        self.sampled = 0
        self._inserting = 0
        self._sampling = 0
        self._insert_quantum, self._sample_quantum = insert_quantum, sample_quantum
        self._check(samples_per_insert, error)
        self._samples_per_insert, self._error = samples_per_insert, error
        # Where the ratio counts from: counters, and how far the actors were ahead there.
        self._from_inserted, self._from_sampled, self._ahead_before = min_size, 0, 0.0
        self._ratio_from = (min_size, 0)  # counters from which `ratio` is taken
        self._empty_at = 0  # `inserted` when the memory was, or would have been, empty
        self._clock = clock
        self._moved_s = clock()
        self.waiting: Side | None = "learner"
        self._waiting_from_s = self._moved_s

    def change(self, samples_per_insert: float, error: float) -> None:
        """Continue with another ratio and error range.

        The new ratio counts from now on, and the lead of either side stays as it is. (Otherwise the
        first minutes after a change would make up for the whole run before it.) If the lead is
        outside the new range, the side that is ahead waits until it is inside.

        Raises:
            ValueError: settings that would make both sides wait for each other; nothing changes.
        """
        self._check(samples_per_insert, error)
        # Before the first sample there is no lead to keep.
        if samples_per_insert != self._samples_per_insert and not self._filling:
            self._ahead_before = self._ahead
            self._from_inserted, self._from_sampled = self.inserted, self.sampled
            self._ratio_from = (self.inserted, self.sampled)
        self._samples_per_insert, self._error = samples_per_insert, error
        self._update_waiting_side()

    def reset(self, held: int) -> None:
        """Start from a memory of `held` transitions: it fills up first, and no side is ahead."""
        self._empty_at = self.inserted - held
        self._from_inserted = max(self.inserted, self._empty_at + self.min_size)
        self._from_sampled, self._ahead_before = self.sampled, 0.0
        self._update_waiting_side()

    def state(self) -> dict[str, float]:
        """Counters and the lead, for a checkpoint. The ratio only serves a comparison."""
        inserted, sampled = self._ratio_from
        return {
            "inserted": self.inserted,
            "sampled": self.sampled,
            "ahead": self._ahead,
            "samples_per_insert": self._samples_per_insert,
            "ratio_from_inserted": inserted,
            "ratio_from_sampled": sampled,
        }

    def restore(self, state: dict[str, float], held: int) -> None:
        """Continue from a checkpoint, with the current ratio and range.

        The lead of either side is restored. A memory that holds too little fills up first.

        Args:
            state: result of `state`.
            held: transitions in the memory.
        """
        self.inserted, self.sampled = int(state["inserted"]), int(state["sampled"])
        self.reset(held)
        if state.get("samples_per_insert") == self._samples_per_insert:
            inserted, sampled = state["ratio_from_inserted"], state["ratio_from_sampled"]
            self._ratio_from = (int(inserted), int(sampled))
        else:
            self._ratio_from = (self._from_inserted, self._from_sampled)
        if held >= self.min_size:
            self._ahead_before = float(state["ahead"])

    @property
    def _filling(self) -> bool:
        """Whether the memory holds too little for the first sample."""
        return self.inserted - self._empty_at < self.min_size

    def _check(self, samples_per_insert: float, error: float) -> None:
        if not samples_per_insert > 0:
            raise ValueError(f"samples_per_insert={samples_per_insert:g}: must be greater than 0")
        least = least_ratio_error(samples_per_insert, self._insert_quantum, self._sample_quantum)
        if not error >= least:
            raise ValueError(
                f"error={error:g}: must be at least {least:g}, the larger of one insert × "
                "samples_per_insert and one batch, or both sides would wait for each other"
            )

    @property
    def samples_per_insert(self) -> float:
        """The ratio to keep; see `change`."""
        return self._samples_per_insert

    @property
    def ratio(self) -> float:
        """Samples per insert since the warm-up, or since the ratio was last changed."""
        inserted = self.inserted - self._ratio_from[0]
        return (self.sampled - self._ratio_from[1]) / inserted if inserted > 0 else 0.0

    @property
    def waiting_s(self) -> float:
        """Seconds for which one side has waited; 0 if neither waits."""
        return 0.0 if self.waiting is None else self._clock() - self._waiting_from_s

    @property
    def idle_s(self) -> float:
        """Seconds since a transition was inserted or a sample drawn."""
        return self._clock() - self._moved_s

    @property
    def _ahead(self) -> float:
        """Lead of the actors in samples; negative: lead of the learner."""
        inserted, sampled = self.inserted - self._from_inserted, self.sampled - self._from_sampled
        return self._ahead_before + self._samples_per_insert * inserted - sampled

    def can_insert(self, count: int) -> bool:
        """Whether `count` more transitions keep the memory from running ahead of the learner."""
        # Added to `_ahead`, not to its counters: where that is not above 0, one insert is then
        # allowed whatever is rounded, and where it is, `sampleable` allows a batch.
        coming = self._samples_per_insert * (self._inserting + count)
        return self._ahead + coming <= self._error

    def sampleable(self, batch_size: int) -> int:
        """How many whole batches the learner may draw now."""
        if self._filling:
            return 0
        return max(0, int((self._ahead + self._error - self._sampling) // batch_size))

    def begin_insert(self, count: int) -> None:
        """Reserve `count` transitions of a call in flight."""
        self._inserting += count

    def end_insert(self, reserved: int, inserted: int) -> None:
        """Of `reserved` transitions, `inserted` arrived."""
        self._inserting -= reserved
        self.inserted += inserted
        self._note(inserted)

    def begin_sample(self, count: int) -> None:
        """Reserve `count` samples of a call in flight."""
        self._sampling += count

    def end_sample(self, reserved: int, sampled: int) -> None:
        """Of `reserved` samples, `sampled` were drawn."""
        self._sampling -= reserved
        self.sampled += sampled
        self._note(sampled)

    def _note(self, count: int) -> None:
        if count:
            self._moved_s = self._clock()
        self._update_waiting_side()

    def _update_waiting_side(self) -> None:
        waiting = self._waiting_side()
        if waiting != self.waiting:
            self.waiting, self._waiting_from_s = waiting, self._clock()

    def _waiting_side(self) -> Side | None:
        # Finished work decides, not reserved work: a side with calls in flight does not wait.
        if self._filling or self._ahead + self._error < self._sample_quantum:
            return "learner"
        one_insert = self._samples_per_insert * self._insert_quantum
        return "actors" if self._ahead + one_insert > self._error else None

    def explain(self) -> str:
        """The state in words: which side waits, for what, and for how long."""
        waited = f" for {self.waiting_s:,.0f} s" if self.waiting_s >= MIN_WAIT_S else ""
        if self._filling:
            held = self.inserted - self._empty_at
            return (
                f"learner waits{waited}: {held:,} of {counted(self.min_size, 'first transition')}"
            )
        ratio = f"{self.ratio:.2f} samples per insert, {self._samples_per_insert:g} wanted"
        if self.waiting == "learner":
            return f"learner waits for actors{waited}: {ratio}"
        if self.waiting == "actors":
            return f"actors wait for learner{waited}: {ratio}"
        return f"balanced: {ratio}"
