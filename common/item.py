"""The item of the replay memory: its columns, from which rows, messages and batches derive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from common.types import EnvironmentSpec


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an item.

    Attributes:
        name: in rows, chunks, samples and batches.
        dtype: as numpy spells it.
        shape: of one item's value; `()` for a number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        """`next_mask uint8 (2,)`."""
        return f"{self.name} {self.dtype} {self.shape}"


@dataclass(frozen=True)
class ItemSpec:
    """The columns of an item.

    A shard's rows (`dtype`), the chunks of actors, samples and the learner's batches have these
    columns and no others, so another kind of item is another `ItemSpec`: a sequence is an item with
    longer columns.

    Attributes:
        observations: frame numbers, int32 `(…, S)`; the memory keeps each frame once, and the
            learner's device puts frames in the place of their numbers.
        values: the other columns. `version` is among them: the version of the weights that acted.
    """

    observations: tuple[Column, ...]
    values: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order of a message."""
        return self.observations + self.values

    @cached_property
    def forms(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Of each column, numpy's type and the shape of one item's value."""
        return {column.name: (np.dtype(column.dtype), column.shape) for column in self.columns}

    @property
    def stack(self) -> int:
        """S, frames in one observation."""
        return self.observations[0].shape[-1]

    @cached_property
    def places(self) -> dict[str, slice]:
        """By column of observations, where an item's stacks hold its own."""
        places, begin = {}, 0
        for column in self.observations:
            end = begin + math.prod(column.shape[:-1])
            places[column.name] = slice(begin, end)
            begin = end
        return places

    @property
    def num_stacks(self) -> int:
        """Observations of one item, each of S frames."""
        return sum(math.prod(column.shape[:-1]) for column in self.observations)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """Type of a row: reading an item costs one access to memory, not one per column.

        `stacks`, `(num_stacks, S)` int32, are rows of the frame store.
        """
        stacks = ("stacks", np.int32, (self.num_stacks, self.stack))
        return np.dtype([stacks, *((c.name, c.dtype, c.shape) for c in self.values)])

    @property
    def mask_bytes(self) -> int:
        """M, bytes of an action mask; 0: there is none."""
        return next((c.shape[-1] for c in self.values if c.name == "next_mask"), 0)


def transition_item(stack: int, mask_bytes: int = 0) -> ItemSpec:
    """The item of a transition (`common.types.Transition`).

    Args:
        stack: S, frames in an observation.
        mask_bytes: M; 0: items have no action mask.
    """
    return ItemSpec(
        observations=(
            Column("observation", "int32", (stack,)),
            Column("next_observation", "int32", (stack,)),
        ),
        values=(
            Column("action", "int32"),
            Column("reward", "float32"),  # n-step return
            Column("discount", "float32"),  # γ^k for k steps, 0 if and only if terminated
            Column("version", "int64"),
            # Legal actions of the state to bootstrap from: action a is bit a % 8 of byte a // 8,
            # the lowest bit first.
            *([Column("next_mask", "uint8", (mask_bytes,))] if mask_bytes else []),
        ),
    )


def item_of(spec: EnvironmentSpec) -> ItemSpec:
    """The item that the memory keeps of an environment."""
    return transition_item(spec.stack, spec.mask_bytes)
