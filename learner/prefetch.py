"""Batch groups on the learner's device, where indexing makes the stacks.

This is the learner's half of "preprocess states". Each frame arrives once, 8-bit, with the frame
numbers of every stack; indexing on the device turns them into `[B, S, *frame]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.item import ItemSpec
from common.types import Array, Sample, Transition
from replay_server.messages import check_sample
from replay_server.sampler import BatchGroup


@dataclass(slots=True)
class DeviceBatchGroup:
    """A batch group on the device; `batch(i)` makes its i-th batch."""

    frames: Tensor  # [F, *frame]
    columns: dict[str, Tensor]  # of all items, laid end to end
    observations: tuple[str, ...]  # the columns that are rows of `frames`
    rows: Tensor  # [batches, B]
    weights: Tensor  # [batches, B]

    def batch(self, number: int) -> tuple[Transition, Tensor]:
        """Stacked transitions and importance weights of one batch."""
        return Transition(**self.picked(number)), self.weights[number]

    def picked(self, number: int) -> dict[str, Tensor]:
        """The columns of one batch, its observations stacked: `[B, …]`."""
        rows = self.rows[number]
        picked = {name: column[rows] for name, column in self.columns.items()}
        for name in self.observations:
            picked[name] = self.frames[picked[name]]
        return picked


class Stager:
    """Copies batch groups out of shared memory into a staging buffer, and on to the device.

    On CUDA the buffer is pinned, so that the transfer overlaps with the computation. The copy also
    releases Ray's shared memory, which a view would pin.
    """

    def __init__(self, device: torch.device, item: ItemSpec) -> None:
        """For batch groups of these items that train on `device`."""
        self._device, self._item = device, item
        self._observations = tuple(column.name for column in item.observations)
        values = (column.name for column in item.values if column.name != "version")
        self._names = (*self._observations, *values)
        self._pin = device.type == "cuda"

    def stage(self, group: BatchGroup) -> DeviceBatchGroup:
        """Copy a batch group to the device.

        Raises:
            WireError: a sample whose columns are not the item's.
        """
        for sample in group.samples:
            check_sample(sample, self._item)
        columns: dict[str, Tensor] = {}
        for name in self._names:
            parts = [self._column(name, sample) for sample in group.samples]
            if name in self._observations:
                begin = np.cumsum([0] + [len(sample.frames) for sample in group.samples])
                parts = [part + offset for part, offset in zip(parts, begin[:-1], strict=True)]
            columns[name] = self._transfer([np.concatenate(parts)])
        return DeviceBatchGroup(
            frames=self._transfer([sample.frames for sample in group.samples]),
            columns=columns,
            observations=self._observations,
            rows=self._transfer([group.rows]),
            weights=self._transfer([group.weights]),
        )

    @staticmethod
    def _column(name: str, sample: Sample) -> Array:
        column = sample.columns[name]
        return column.astype(np.int64) if column.dtype.kind == "i" else column

    def _transfer(self, parts: list[Array]) -> Tensor:
        """Parts end to end on the device."""
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        dtype = torch.from_numpy(np.empty(0, parts[0].dtype)).dtype
        staging = torch.empty(shape, dtype=dtype, pin_memory=self._pin)
        target, begin = staging.numpy(), 0
        for part in parts:
            target[begin : begin + len(part)] = part
            begin += len(part)
        return staging.to(self._device, non_blocking=self._pin)
