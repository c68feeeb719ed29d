"""A shard on disk: its items in one file, its frames in segments that are written once.

Frames are numbered and never change, so a checkpoint writes those that came since the one before.
A segment that is full belongs to every checkpoint that needs it; the newest frames, which fill none
yet, go with the items. All of it is in wire format.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import wire
from common.checkpoint import Files, entry_of, read_verified
from common.errors import CheckpointError, StillSavingError
from common.storage import Storage, is_name, open_storage
from common.types import Array, FrameSpec
from replay_server.codec import COMPRESSIONS, GROUP_FRAMES, make_codec
from replay_server.frames import MAX_ROWS, FrameStore
from replay_server.table import COUNTERS, PRIORITY_FLOOR, Table, TableImage, item_dtype

FORMAT = 1
SEGMENT_BYTES = 16 << 20
"""Of frames before compression: few files, and little to write anew for a checkpoint."""
LEAST_SEGMENTS = 8
"""A small memory is cut into so many: what falls behind can go."""
NAME_DIGITS = 12
"""Hexadecimal, of a segment's SHA-256: in its name."""
CHUNK_ITEMS = 1024
"""That are taken over from another shard at once."""
ROUND_ITEMS = 4096
"""Neighbours that stay together when items are dealt to another number of shards: they share
frames. Fewer, and more frames lie in several shards."""
MAX_ROUNDS = 64
MAX_OVERHEAD_BYTES = 1024
"""More than compression adds to a group that it cannot make smaller."""
MAX_PRIORITY = 1e100
"""Sums of greater ones might overflow; no TD error is so large."""


@dataclass(frozen=True, slots=True)
class ShardRestore:
    """What a shard begins with: a part of what a checkpoint holds.

    Attributes:
        url: of the storage.
        shards: names of the files of all shards of the checkpoint.
        files: of the checkpoint.
        part, parts: this shard's index, and how many shards there are now.
    """

    url: str
    shards: tuple[str, ...]
    files: Files
    part: int
    parts: int


@dataclass(frozen=True, slots=True)
class _Segment:
    """A file of frames: their first number, and how many."""

    name: str
    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count


def segment_frames(frame: FrameSpec, frame_rows: int) -> int:
    """Frames in a full segment: whole groups."""
    wanted = min(SEGMENT_BYTES // frame.nbytes, frame_rows // LEAST_SEGMENTS)
    return max(1, wanted // GROUP_FRAMES) * GROUP_FRAMES


class ShardSaver:
    """Writes a table to a storage, beside its work if asked to; knows what is written already."""

    def __init__(self, table: Table, frame: FrameSpec) -> None:
        """Nothing written yet."""
        self._table = table
        self._length = segment_frames(frame, table.frames.capacity)
        self._segments: dict[int, _Segment] = {}  # by number: first frame // length
        self._files: Files = {}  # of those
        self._url = ""
        self._thread: threading.Thread | None = None
        self._outcome: Files | Exception | None = None

    def begin(self, url: str, name: str, beside: bool) -> None:
        """Save the table as it is now.

        Args:
            url: of the storage.
            name: of the file for items.
            beside: return at once and write in a thread, while the table goes on.

        Raises:
            StillSavingError: the last save is under way.
        """
        if self._thread is not None and self._thread.is_alive():
            raise StillSavingError(f"shard {self._table.shard}: is being saved already")
        if url != self._url:
            self._segments, self._files, self._url = {}, {}, url
        self._outcome = None
        image = self._table.image()
        if not beside:
            self._write(name, image)
            return
        self._thread = threading.Thread(
            target=self._write, args=(name, image), name="save-shard", daemon=True
        )
        self._thread.start()

    def outcome(self) -> Files | None:
        """The files that the save begun last consists of; None while it is under way.

        Raises:
            OSError: it could not be written.
        """
        outcome = self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def knows(self, url: str, segments: Sequence[_Segment], files: Files) -> None:
        """Segments of the table's frames that a storage holds already."""
        self._url = url
        for segment in segments:
            # One that the layout of before cut elsewhere, or cut short, is written anew.
            index = segment.first // self._length
            if segment.end == (index + 1) * self._length:
                self._segments[index] = segment
                self._files[segment.name] = files[segment.name]

    def _write(self, name: str, image: TableImage) -> None:
        try:
            self._outcome = self._written(open_storage(self._url), name, image)
        except Exception as error:  # the caller of `outcome` gets it, from whatever thread
            self._outcome = error

    def _written(self, storage: Storage, name: str, image: TableImage) -> Files:
        first, end = image.first_frame, image.written_frames
        numbers = range(first // self._length, end // self._length)
        # What a checkpoint that failed left was removed, and what only older ones needed.
        there = storage.sizes() if self._segments else {}
        for index, known in list(self._segments.items()):
            if index not in numbers or there.get(known.name) != self._files[known.name]["bytes"]:
                del self._files[self._segments.pop(index).name]
        segments: list[_Segment] = []
        for index in numbers:
            if index not in self._segments:
                begin, columns = self._export(index * self._length, (index + 1) * self._length)
                if begin > index * self._length:  # forgotten by now, and all before it too
                    segments = []
                if not columns:
                    continue
                data = wire.encode(columns, {"first": begin})
                entry = entry_of(data)
                # The same number may come again, with other frames: a run that goes on from an
                # older checkpoint, or on two machines. What a checkpoint needs is never replaced.
                which = f"{self._table.shard}-{self._table.incarnation}-{index:06d}"
                path = f"frames/{which}-{entry['sha256'][:NAME_DIGITS]}.rdqn"
                storage.write(path, data)
                count = (index + 1) * self._length - begin
                self._segments[index] = _Segment(path, begin, count)
                self._files[path] = entry
            segments.append(self._segments[index])
        rest, columns = self._export(end // self._length * self._length, end)
        if rest > end // self._length * self._length:
            segments = []
        image.without_frames_before(segments[0].first if segments else rest)
        data = _encode(image, rest, columns, segments)
        storage.write(name, data)
        return {name: entry_of(data), **{s.name: self._files[s.name] for s in segments}}

    def _export(self, begin: int, end: int) -> tuple[int, dict[str, Array]]:
        """Frames from `begin`, or the oldest that is there, and its number.

        The table may be forgetting and overwriting them meanwhile: then what is left is copied.
        """
        frames = self._table.frames
        while True:
            begin = min(max(begin, frames.first), end)
            columns = frames.export(begin, end) if begin < end else {}
            if frames.first <= begin or begin == end:
                return begin, columns


def _encode(
    image: TableImage, rest: int, frames: dict[str, Array], segments: Sequence[_Segment]
) -> Array:
    """A shard's file: items, and the frames from number `rest` on."""
    columns = {f"item.{field}": image.items[field] for field in image.items.dtype.names or ()}
    columns |= {"mass": image.mass, "times_sampled": image.times_sampled, "runs": image.runs}
    columns |= {f"frame.{name}": column for name, column in frames.items()}
    meta = {
        "format": FORMAT,
        "layout": image.layout,
        "counters": image.counters,
        "max_priority": image.max_priority,
        "first_frame": image.first_frame,
        "written_frames": image.written_frames,
        "inserted": image.inserted,
        "newest_version": image.newest_version,
        "rest": rest,
        "segments": [[s.name, s.first, s.count] for s in segments],
    }
    return wire.encode(columns, meta)


@dataclass(slots=True)
class _Saved:
    """A shard's file, read."""

    image: TableImage
    rest: int
    frames: dict[str, Array]
    segments: list[_Segment]


def _decode(data: Array) -> _Saved:
    """What `_encode` made.

    Raises:
        ValueError: bytes of another kind (a `WireError`), or values that cannot be.
    """
    arrays, meta = wire.decode(data)
    try:
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']!r:.40}: must be {FORMAT}")
        layout, counters = dict(meta["layout"]), dict(meta["counters"])
        segments = [
            _Segment(str(name), _natural(first, name), _natural(count, name))
            for name, first, count in meta["segments"]
        ]
        if set(counters) != set(COUNTERS):
            raise ValueError("counters of another table")
        for name, value in counters.items():
            _natural(value, name)
        alpha, max_priority = float(layout["alpha"]), float(meta["max_priority"])
        if not 0 <= alpha <= 1 or not 0 <= max_priority < MAX_PRIORITY:
            raise ValueError(f"alpha={alpha}, max_priority={max_priority}")
        items = _items(arrays, _natural(layout["stack"], "stack"))
        mass = _column(arrays, "mass", np.float64, items.shape)
        greatest = (max_priority + PRIORITY_FLOOR) ** alpha * (1 + 1e-9)  # but for rounding
        if not ((mass > 0) & (mass <= greatest)).all():
            raise ValueError("a mass that no priority gives")
        runs = _column(arrays, "runs", np.int64, (-1, 2))
        if len(runs) and not (runs[0, 0] >= 0 and (np.diff(runs, axis=0) >= 0).all()):
            raise ValueError("runs out of order")
        image = TableImage(
            items=items,
            mass=mass,
            times_sampled=_column(arrays, "times_sampled", np.uint32, items.shape),
            runs=runs,
            first_frame=_natural(meta["first_frame"], "first_frame"),
            written_frames=_natural(meta["written_frames"], "written_frames"),
            layout=layout,
            inserted=_natural(meta["inserted"], "inserted"),
            counters=counters,
            max_priority=max_priority,
            newest_version=_natural(meta["newest_version"], "newest_version"),
        )
        rest = _natural(meta["rest"], "rest")
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a shard: {error!r}") from None
    begin = "frame."
    frames = {n.removeprefix(begin): a for n, a in arrays.items() if n.startswith(begin)}
    return _Saved(image, rest, frames, segments)


def _natural(value: Any, name: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{name}={value!r:.40}: must be a whole number from 0")
    return value


def _column(
    arrays: dict[str, Array], name: str, dtype: type | np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """A column of this type and shape, where −1 stands for any length."""
    column = arrays[name]
    fits = len(column.shape) == len(shape) and all(
        wanted in (-1, is_) for is_, wanted in zip(column.shape, shape, strict=True)
    )
    if column.dtype != dtype or not fits:
        raise ValueError(f"column {name!r} of {column.dtype} {list(column.shape)}")
    return column


def _items(arrays: dict[str, Array], stack: int) -> Array:
    if not 1 <= stack <= 1024:
        raise ValueError(f"stack={stack}")
    dtype = item_dtype(stack)
    count = len(_column(arrays, "item.action", np.int32, (-1,)))
    columns = {
        name: _column(arrays, f"item.{name}", dtype[name].base, (count, *dtype[name].shape))
        for name in dtype.names or ()
    }
    items: Array = np.empty(count, dtype)  # only now: so many bytes are really there
    for name, column in columns.items():
        items[name] = column
    return items


def restore_shard(table: Table, saver: ShardSaver, frame: FrameSpec, origin: ShardRestore) -> None:
    """Fill an empty table with its part of a checkpoint.

    As many shards of the same layout as were saved become exactly what they were. Otherwise all
    items are dealt out anew, oldest first, in blocks of neighbours: none twice, and none left out
    but the oldest, where there is less room now.

    Args:
        table: empty.
        saver: of the table; learns what need not be written again.
        frame: shape and type of a frame.
        origin: what to restore.

    Raises:
        CheckpointError: a file that is not what was written, or cannot be understood.
    """
    storage = open_storage(origin.url)
    if len(origin.shards) == origin.parts:
        name = origin.shards[origin.part]
        saved = _read(storage, name, origin.files)
        if saved.image.layout == table.layout():
            with _naming(origin.url, name):
                _fill(table, saved, storage, origin.files)
            saver.knows(origin.url, saved.segments, origin.files)
            return
    _deal(table, storage, frame, origin)


def _deal(table: Table, storage: Storage, frame: FrameSpec, origin: ShardRestore) -> None:
    """This part's share of all shards' items, in order of age as far as that is known."""
    sources: list[Table] = []
    for name in origin.shards:
        with _naming(origin.url, name):
            saved = _read(storage, name, origin.files)
            before = _table_for(saved, frame, origin.files)
            _fill(before, saved, storage, origin.files)
            if before.stack != table.stack:
                raise ValueError(f"stacks of {before.stack} frames: must be {table.stack}")
            table.expect_priority(saved.image.max_priority)
            sources.append(before)
    size = _chunk_items(table, frame)
    for source, first, count in _share([len(s) for s in sources], origin.part, origin.parts):
        with _naming(origin.url, origin.shards[source]):  # unpacking may fail
            for chunk, times_sampled in sources[source].chunks(first, count, size):
                table.absorb(chunk, times_sampled)


def _chunk_items(table: Table, frame: FrameSpec) -> int:
    """Items in a chunk that fits the table, even if each frame needs a group of its own."""
    rows = table.frames.capacity
    if table.max_frame_bytes is not None:
        group_bytes = GROUP_FRAMES * frame.nbytes + MAX_OVERHEAD_BYTES
        rows = min(rows, table.max_frame_bytes // group_bytes * GROUP_FRAMES)
    # 2 S frames of an item in as many groups, and one group that is not full.
    return max(1, min(CHUNK_ITEMS, table.capacity, rows // (3 * GROUP_FRAMES * table.stack)))


def _share(sizes: Sequence[int], part: int, parts: int) -> Iterator[tuple[int, int, int]]:
    """What is one part's, of items that lie in several places: (place, first, count), oldest first.

    The parts are equal to one item: none overflows while another has room.
    """
    each = sum(sizes) // parts
    rounds = min(MAX_ROUNDS, max(1, each // ROUND_ITEMS))
    # All items in a row: of each place a first part, of each a second, and so on.
    pieces = [
        (place, r * size // rounds, (r + 1) * size // rounds)
        for r in range(rounds)
        for place, size in enumerate(sizes)
    ]
    mine = []
    for r in range(rounds):
        begin = parts * (r * each // rounds)
        end = parts * ((r + 1) * each // rounds) if r + 1 < rounds else sum(sizes)
        span = end - begin
        mine.append((begin + part * span // parts, begin + (part + 1) * span // parts))
    position = 0
    for place, first, last in pieces:
        for begin, end in mine:
            low, high = max(begin - position, 0), min(end - position, last - first)
            if low < high:
                yield place, first + low, high - low
        position += last - first


def _table_for(saved: _Saved, frame: FrameSpec, files: Files) -> Table:
    """An empty table just large enough for a shard of any layout; its items name rows there.

    Nothing is made for what the layout claims, only for what is there.

    Raises:
        ValueError: frames of another kind, or sizes that cannot be.
    """
    image, layout = saved.image, saved.image.layout
    if (layout["frame_shape"], layout["frame_dtype"]) != (list(frame.shape), frame.dtype):
        raise ValueError(f"frames of {layout['frame_dtype']!r:.40} {layout['frame_shape']!r:.40}")
    if layout["compression"] not in COMPRESSIONS:
        raise ValueError(f"compression={layout['compression']!r:.40}")
    codec = make_codec(layout["compression"], frame)
    rows, count = _natural(layout["frame_rows"], "frame_rows"), image.frame_count
    there = sum(column.nbytes for column in saved.frames.values())
    there += sum(files[s.name]["bytes"] for s in saved.segments if s.name in files)
    least = count * frame.nbytes if codec is None else count // GROUP_FRAMES
    if not 0 <= count <= min(rows, MAX_ROWS) or least > there:
        raise ValueError(f"{count} frames in {rows} rows and {there} bytes: impossible")
    table = Table(
        capacity=max(1, len(image.items)),
        frame=frame,
        stack=_natural(layout["stack"], "stack"),
        alpha=layout["alpha"],
        frame_capacity=max(1, count),
        rng=np.random.default_rng(0),  # nothing is drawn
        codec=codec,
    )
    stacks = image.items["stacks"].astype(np.int64)
    behind = (stacks - image.first_frame) % max(1, rows)
    if not ((stacks >= 0) & ((behind < count) & (stacks < rows) | (stacks == rows))).all():
        raise ValueError("a stack names a frame that is not there")
    numbers = (image.first_frame + behind) % table.frames.capacity
    image.items["stacks"] = np.where(stacks == rows, table.frames.capacity, numbers)
    image.layout = table.layout()
    return table


def _fill(table: Table, saved: _Saved, storage: Storage, files: Files) -> None:
    """Make an empty table of the image's layout what was saved."""
    store, image = table.frames, saved.image
    store.begin_at(image.first_frame)
    for segment in saved.segments:
        if not is_name(segment.name):
            raise ValueError(f"names {segment.name!r:.80}, outside the checkpoints")
        columns, _ = wire.decode(read_verified(storage, segment.name, files))
        _append(store, columns, segment.first)
        if store.written != segment.end:
            raise ValueError(f"{segment.name}: frames up to {store.written}, not {segment.end}")
    if saved.frames:
        _append(store, saved.frames, saved.rest)
    if store.written != image.written_frames:
        raise ValueError(f"frames up to {store.written}, not {image.written_frames}")
    table.restore(image)


def _append(store: FrameStore, columns: dict[str, Array], first: int) -> None:
    """Frames from number `first` on, where others may be needed first."""
    if first > store.written:
        raise ValueError(f"frames {store.written} to {first} are missing")
    store.write_exported(columns, store.written - first)


def _read(storage: Storage, name: str, files: Files) -> _Saved:
    with _naming(storage.url, name):
        return _decode(read_verified(storage, name, files))


@contextmanager
def _naming(url: str, name: str) -> Iterator[None]:
    """Whatever cannot be understood is named by its file."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())  # one line, whatever a file has put into it
        message = f"{url}/{name}: cannot be understood ({reason:.200})"
        raise CheckpointError(message, name) from None
