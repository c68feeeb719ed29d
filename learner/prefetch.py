"""Batch groups on the learner's device, where indexing makes the stacks.

This is the learner's half of "preprocess states". Each frame arrives once, 8-bit, with the frame
numbers of every stack; indexing on the device turns them into `[B, S, *frame]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.types import Array, Sample, Transition
from replay_server.sampler import BatchGroup

_COLUMNS = ("observation", "next_observation", "action", "reward", "discount")


@dataclass(slots=True)
class DeviceBatchGroup:
    """A batch group on the device; `batch(i)` makes its i-th batch."""

    frames: Tensor  # [F, *frame]
    columns: dict[str, Tensor]  # of all items, laid end to end
    rows: Tensor  # [batches, B]
    weights: Tensor  # [batches, B]

    def batch(self, number: int) -> tuple[Transition, Tensor]:
        """Stacked transitions and importance weights of one batch."""
        rows = self.rows[number]
        picked = {name: column[rows] for name, column in self.columns.items()}
        transition = Transition(
            observation=self.frames[picked["observation"]],
            action=picked["action"],
            reward=picked["reward"],
            discount=picked["discount"],
            next_observation=self.frames[picked["next_observation"]],
            next_mask=picked.get("next_mask"),
        )
        return transition, self.weights[number]


class Stager:
    """Copies batch groups out of shared memory into a staging buffer, and on to the device.

    On CUDA the buffer is pinned, so that the transfer overlaps with the computation. The copy also
    releases Ray's shared memory, which a view would pin.
    """

    def __init__(self, device: torch.device) -> None:
        """For batch groups that train on `device`."""
        self._device = device
        self._pin = device.type == "cuda"

    def stage(self, group: BatchGroup) -> DeviceBatchGroup:
        """Copy a batch group to the device."""
        columns: dict[str, Tensor] = {}
        masks = ("next_mask",) if group.samples[0].next_mask is not None else ()
        for name in (*_COLUMNS, *masks):
            parts = [self._column(name, sample) for sample in group.samples]
            if name.endswith("observation"):
                begin = np.cumsum([0] + [len(sample.frames) for sample in group.samples])
                parts = [part + offset for part, offset in zip(parts, begin[:-1], strict=True)]
            columns[name] = self._transfer([np.concatenate(parts)])
        return DeviceBatchGroup(
            frames=self._transfer([sample.frames for sample in group.samples]),
            columns=columns,
            rows=self._transfer([group.rows]),
            weights=self._transfer([group.weights]),
        )

    @staticmethod
    def _column(name: str, sample: Sample) -> Array:
        column: Array = getattr(sample, name)
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
