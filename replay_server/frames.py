"""The frame store of a shard: a ring of rows, compressed or not.

The number of a frame is the count of rows written before it; its row is `number % capacity`. The
store holds the rows from `first` up to `written`. The row `capacity` is the frame of zeros, for
`PAD`.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from common.text import counted
from common.types import Array, FrameSpec, PackedFrames
from replay_server.codec import GROUP_FRAMES, Codec

GROUP_BYTES = 50
"""Overhead of a compressed group: Python's object, its place in the list, and its counters."""
THREADED_BYTES = 1 << 20
"""From this size on two threads gather, because one alone mostly waits for memory. Below it, the
handover takes longer than the copy."""
MAX_ROWS = (1 << 31) - GROUP_FRAMES - 1
"""Items name rows in 32 bits."""


Columns = dict[str, Array]


@dataclass(frozen=True, slots=True)
class FrameCopy:
    """Frames on their way to a newer place in the ring.

    Attributes:
        rows, nbytes: that they will take.
        places: `[n]`, row of each frame behind the first that is written.
        data: the frames, as their store keeps them.
    """

    rows: int
    nbytes: int
    places: Array
    data: Any


class FrameStore(Protocol):
    """A ring of frames.

    Attributes:
        capacity: rows.
        written: rows ever written.
        first: number of the oldest frame in the store.
    """

    capacity: int
    written: int
    first: int

    @property
    def nbytes(self) -> int:
        """Bytes of the frames in the store."""
        ...

    def bytes_from(self, number: int) -> int:
        """Bytes of the frames from `number` on."""
        ...

    def cost(self, frames: Array | PackedFrames) -> tuple[int, int]:
        """Rows and bytes that `frames` would take."""
        ...

    def write(self, frames: Array | PackedFrames) -> None:
        """Append frames; `forget` the rows that they overwrite first."""
        ...

    def copy_out(self, numbers: Array) -> FrameCopy:
        """A copy of these frames (`[n]` int), for `write_copy`."""
        ...

    def write_copy(self, copy: FrameCopy) -> Array:
        """Append copied frames; returns their new numbers, `[n]`."""
        ...

    def forget(self, before: int) -> None:
        """Forget all frames whose number is below `before`."""
        ...

    def gather(self, rows: Array, out: Array) -> None:
        """Copy the frames of `rows` (`[n]` int, ascending) into `out` (`[n, *frame]`)."""
        ...

    def export(self, begin: int, end: int) -> Columns:
        """A copy of the frames numbered `begin` … `end` − 1, as the store keeps them.

        Both are multiples of `GROUP_FRAMES`, or `first`, or `written`.
        """
        ...

    def begin_at(self, number: int) -> None:
        """Empty the store, and give the next frame this number.

        Raises:
            ValueError: no frame can have this number.
        """
        ...

    def write_exported(self, columns: Columns, skip: int) -> None:
        """Append the result of `export` except its first `skip` frames.

        Raises:
            ValueError: columns of another kind of frames.
        """
        ...

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        ...


class RawFrames:
    """Uncompressed frames, in one array."""

    def __init__(self, frame: FrameSpec, capacity: int) -> None:
        """Memory is claimed as it fills."""
        self.capacity = capacity
        self.written = 0
        self.first = 0
        self._frame_bytes = frame.nbytes
        self._rows: Array = np.zeros((capacity + 1, *frame.shape), frame.dtype)
        # The same memory as bytes: a small frame is copied at once, not number by number.
        self._frame_size = math.prod(frame.shape)
        flat = self._rows.reshape(capacity + 1, self._frame_size)
        self._helper: ThreadPoolExecutor | None = None
        self._row_bytes: Array = flat.view(f"V{frame.nbytes}")[:, 0]

    @property
    def nbytes(self) -> int:
        """Bytes of the frames in the store."""
        return self.bytes_from(self.first)

    def bytes_from(self, number: int) -> int:
        """Bytes of the frames from `number` on."""
        return (self.written - number) * self._frame_bytes

    def cost(self, frames: Array | PackedFrames) -> tuple[int, int]:
        """Rows and bytes that `frames` would take.

        Raises:
            ValueError: frames of another shape or type.
        """
        if isinstance(frames, PackedFrames):
            raise ValueError("compressed frames: this table keeps them as they are")
        shape, dtype = self._rows.shape[1:], self._rows.dtype
        if frames.shape[1:] != shape:
            raise ValueError(f"frames of shape {frames.shape[1:]}: must be {shape}")
        if frames.dtype != dtype:
            raise ValueError(f"frames of {frames.dtype}: must be {dtype}")
        return len(frames), len(frames) * self._frame_bytes

    def write(self, frames: Array | PackedFrames) -> None:
        """Append frames; `forget` the rows that they overwrite first."""
        assert not isinstance(frames, PackedFrames)
        begin = self.written % self.capacity
        head = min(len(frames), self.capacity - begin)
        self._rows[begin : begin + head] = frames[:head]
        if head < len(frames):
            self._rows[: len(frames) - head] = frames[head:]
        self.written += len(frames)

    def copy_out(self, numbers: Array) -> FrameCopy:
        """A copy of these frames."""
        frames = self._rows[numbers % self.capacity]
        return FrameCopy(len(frames), frames.nbytes, np.arange(len(frames)), frames)

    def write_copy(self, copy: FrameCopy) -> Array:
        """Append copied frames; returns their new numbers."""
        begin = self.written
        self.write(copy.data)
        return begin + copy.places

    def forget(self, before: int) -> None:
        """Forget all frames whose number is below `before`."""
        self.first = max(self.first, before)

    def gather(self, rows: Array, out: Array) -> None:
        """Copy the frames of `rows` into `out`."""
        # Rows are right by construction; mode "raise" would gather into a second buffer first.
        row_bytes = out.reshape(len(out), self._frame_size).view(self._row_bytes.dtype)[:, 0]
        if out.nbytes < THREADED_BYTES:
            np.take(self._row_bytes, rows, out=row_bytes, mode="clip")
            return
        if self._helper is None:  # a thread of the process that gathers
            self._helper = ThreadPoolExecutor(1, "gather-frames")
        half = len(rows) // 2
        helped = self._helper.submit(
            np.take, self._row_bytes, rows[:half], out=row_bytes[:half], mode="clip"
        )
        np.take(self._row_bytes, rows[half:], out=row_bytes[half:], mode="clip")
        helped.result()

    def export(self, begin: int, end: int) -> Columns:
        """A copy of these frames."""
        return {"frames": np.take(self._rows, np.arange(begin, end) % self.capacity, axis=0)}

    def begin_at(self, number: int) -> None:
        """Empty the store, and continue with this number."""
        self.first = self.written = number

    def write_exported(self, columns: Columns, skip: int) -> None:
        """Append the result of `export` except its first `skip` frames."""
        frames = columns.get("frames")
        if frames is None or not frames.ndim:
            raise ValueError("frames are missing")
        self.cost(frames)  # raises what is wrong with them
        for begin in range(skip, len(frames), self.capacity):
            self.write(frames[begin : begin + self.capacity])

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert 0 <= self.written - self.first <= self.capacity
        assert not self._rows[self.capacity].any(), "the frame of zeros was written"


class PackedFrameStore:
    """Frames in compressed groups: a ring of groups with a count of their bytes."""

    def __init__(self, capacity: int, codec: Codec) -> None:
        """`capacity` is rounded up to whole groups."""
        self._groups: list[bytes] = [b""] * -(-capacity // GROUP_FRAMES)
        self._counts: Array = np.zeros(len(self._groups), np.int8)  # frames in each
        # Bytes ever written before each group, so that bytes of a range are one subtraction.
        self._bytes_before: Array = np.zeros(len(self._groups), np.int64)
        self._bytes_written = 0
        self.capacity = len(self._groups) * GROUP_FRAMES
        self.written = 0
        self.first = 0
        self._codec = codec

    @property
    def nbytes(self) -> int:
        """Bytes of the groups in the store."""
        return self.bytes_from(self.first)

    def bytes_from(self, number: int) -> int:
        """Bytes of the groups that hold the frames from `number` on."""
        if number >= self.written:
            return 0
        slot = number // GROUP_FRAMES % len(self._groups)
        return self._bytes_written - int(self._bytes_before[slot])

    def cost(self, frames: Array | PackedFrames) -> tuple[int, int]:
        """Rows and bytes that `frames` would take.

        Raises:
            ValueError: frames that are not compressed, or whose sizes do not add up.
        """
        if not isinstance(frames, PackedFrames):
            raise ValueError("frames as they are: this table keeps them compressed")
        sizes = frames.sizes.tolist()  # Python's integers: their sum cannot overflow
        if len(sizes) != -(-frames.count // GROUP_FRAMES):
            raise ValueError(
                f"{counted(len(sizes), 'group')}: not those of {counted(frames.count, 'frame')}"
            )
        if any(size < 1 for size in sizes) or sum(sizes) != len(frames.data):
            raise ValueError(
                f"{counted(len(frames.data), 'byte')} of frames: not what their sizes say"
            )
        return len(sizes) * GROUP_FRAMES, len(frames.data) + len(sizes) * GROUP_BYTES

    def write(self, frames: Array | PackedFrames) -> None:
        """Append frames. A last group that is not full takes the rows of a full one."""
        assert isinstance(frames, PackedFrames)
        data = frames.data.tobytes()
        begin, left = 0, frames.count
        for size in frames.sizes.tolist():
            self._append(data[begin : begin + size], min(GROUP_FRAMES, left))
            begin, left = begin + size, left - GROUP_FRAMES

    def _append(self, group: bytes, count: int) -> None:
        slot = self.written // GROUP_FRAMES % len(self._groups)
        self._groups[slot] = group
        self._counts[slot] = count
        self._bytes_before[slot] = self._bytes_written
        self._bytes_written += len(group) + GROUP_BYTES
        self.written += GROUP_FRAMES

    def copy_out(self, numbers: Array) -> FrameCopy:
        """The groups of these frames, as they are."""
        groups, order = np.unique(numbers // GROUP_FRAMES, return_inverse=True)
        slots = (groups % len(self._groups)).tolist()
        data = [(self._groups[slot], int(self._counts[slot])) for slot in slots]
        nbytes = sum(len(group) + GROUP_BYTES for group, _ in data)
        places = order * GROUP_FRAMES + numbers % GROUP_FRAMES
        return FrameCopy(len(groups) * GROUP_FRAMES, nbytes, places, data)

    def write_copy(self, copy: FrameCopy) -> Array:
        """Append copied frames; returns their new numbers."""
        begin = self.written
        for group, count in copy.data:
            self._append(group, count)
        return begin + copy.places

    def forget(self, before: int) -> None:
        """Forget all groups that lie wholly below `before`."""
        gone = range(self.first // GROUP_FRAMES, before // GROUP_FRAMES)
        # First of all: by it a thread that exports them sees that its copy is not reliable.
        self.first = max(self.first, before // GROUP_FRAMES * GROUP_FRAMES)
        for index in gone:
            self._groups[index % len(self._groups)] = b""

    def gather(self, rows: Array, out: Array) -> None:
        """Unpack the groups of `rows`, each once, and copy the frames into `out`."""
        end = int(np.searchsorted(rows, self.capacity))
        out[end:] = 0  # padding
        groups = rows[:end] // GROUP_FRAMES
        within = rows[:end] - groups * GROUP_FRAMES
        begins = np.flatnonzero(np.diff(groups, prepend=-1))
        slots = groups[begins]
        counts = self._counts[slots].tolist()
        bounds = [*begins.tolist(), end]
        # A call per group: the libraries take one at a time. Its work is that of unpacking.
        for i, slot in enumerate(slots.tolist()):
            frames = self._codec.unpack(self._groups[slot], counts[i])
            begin, stop = bounds[i], bounds[i + 1]
            first, last = int(within[begin]), int(within[stop - 1])
            if last - first == stop - begin - 1:  # a run of neighbours
                out[begin:stop] = frames[first : last + 1]
            else:
                out[begin:stop] = frames[within[begin:stop]]

    def export(self, begin: int, end: int) -> Columns:
        """The groups of these frames, end to end."""
        indices = np.arange(begin // GROUP_FRAMES, end // GROUP_FRAMES) % len(self._groups)
        groups = [self._groups[index] for index in indices.tolist()]
        return {
            "packed": np.frombuffer(b"".join(groups), np.uint8),
            "sizes": np.array([len(group) for group in groups], np.int64),
            "counts": self._counts[indices],
        }

    def begin_at(self, number: int) -> None:
        """Empty the store, and continue with this number, a multiple of `GROUP_FRAMES`."""
        if number % GROUP_FRAMES:
            raise ValueError(f"frame {number}: in the middle of a group")
        self.first = self.written = number

    def write_exported(self, columns: Columns, skip: int) -> None:
        """Append the result of `export` except its first `skip` frames."""
        for name, dtype in (("packed", np.uint8), ("sizes", np.int64), ("counts", np.int8)):
            if name not in columns or columns[name].dtype != dtype or columns[name].ndim != 1:
                raise ValueError(f"compressed frames without a right column {name!r}")
        data, counts = columns["packed"].tobytes(), columns["counts"].tolist()
        sizes = columns["sizes"].tolist()
        if len(sizes) != len(counts) or any(size < 1 for size in sizes) or sum(sizes) != len(data):
            raise ValueError("compressed frames: their sizes do not add up")
        if any(not 1 <= count <= GROUP_FRAMES for count in counts):
            raise ValueError(f"compressed frames: groups must hold 1 to {GROUP_FRAMES}")
        if skip % GROUP_FRAMES:
            raise ValueError("compressed frames: they begin in the middle of a group")
        begin = 0
        for index, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            if index >= skip // GROUP_FRAMES:
                self._append(data[begin : begin + size], count)
            begin += size

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert 0 <= self.written - self.first <= self.capacity
        there = range(self.first // GROUP_FRAMES, self.written // GROUP_FRAMES)
        assert all(self._groups[index % len(self._groups)] for index in there)
        held = sum(map(len, self._groups)) + len(there) * GROUP_BYTES
        assert self.nbytes == held, "bytes are miscounted"


def make_frame_store(frame: FrameSpec, capacity: int, codec: Codec | None) -> FrameStore:
    """A store for at least `capacity` frames, compressed if there is a codec.

    Raises:
        ValueError: more rows than items can name.
    """
    if not 1 <= capacity <= MAX_ROWS:
        raise ValueError(f"frame_capacity={capacity}: must be between 1 and {MAX_ROWS}")
    return RawFrames(frame, capacity) if codec is None else PackedFrameStore(capacity, codec)
