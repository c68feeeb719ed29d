"""Items on their way from one table to another, of any layout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.types import PAD, Array, Chunk, PackedFrames
from replay_server.table import PRIORITY_FLOOR, Table


def chunks_of(table: Table, first: int, count: int, size: int) -> Iterator[tuple[Chunk, Array]]:
    """Live items as chunks, whose frames are not compressed.

    Args:
        table: to copy the items from.
        first: how many of the oldest items to skip.
        count: items.
        size: items of a chunk.

    Yields:
        A chunk, which reuses frames of the previous one, and how often each of its items was
        sampled. Priorities are float64, so that a table of the same α gives each item the same
        mass.
    """
    named: Array = np.zeros(0, np.int32)  # rows of the frames that the previous chunk named
    end = table.oldest + first + count
    for number, begin in enumerate(range(table.oldest + first, end, size)):
        slots = np.arange(begin, min(begin + size, end)) % table.capacity
        items = table.items[slots]
        stacks, item = items["stacks"], table.item
        rows = np.unique(stacks)
        rows = rows[rows != table.frames.capacity]  # the frame of zeros
        reused = np.flatnonzero(np.isin(named, rows)).astype(np.int32)
        new = rows[~np.isin(rows, named)]
        named = np.concatenate((named[reused], new))
        number_of = np.full(table.frames.capacity + 1, PAD, np.int32)
        number_of[named] = np.arange(len(named))
        numbers = number_of[stacks]
        frames = np.empty((len(new), *table.frame.shape), table.frame.dtype)
        table.frames.gather(new, frames)
        masses = table.tree.get(slots)
        priority = None
        if table.alpha > 0:
            with np.errstate(over="ignore"):  # with an α near 0 all priorities are alike
                priority = masses ** (1 / table.alpha) - PRIORITY_FLOOR
            priority = np.clip(priority, 0.0, table.max_priority)
        chunk = Chunk(
            frames=frames,
            columns={
                **{
                    column.name: numbers[:, item.places[column.name]].reshape(-1, *column.shape)
                    for column in item.observations
                },
                **{column.name: items[column.name] for column in item.values},
            },
            priority=priority,
            reused=reused,
            stream=-1,  # no actor has it
            number=number,
        )
        yield chunk, table.times_sampled[slots]


def insert_copied(table: Table, chunk: Chunk, times_sampled: Array) -> None:
    """Insert a chunk of `chunks_of`, and set how often its items were sampled."""
    if table.codec is not None:
        assert not isinstance(chunk.frames, PackedFrames)
        chunk.frames = table.codec.pack(chunk.frames)
    table.insert(chunk)
    keys = np.arange(table.inserted - len(chunk), table.inserted)
    table.times_sampled[keys % table.capacity] = times_sampled
