"""Writing a shard to a storage: its items in one file, its frames in segments.

Frames are numbered and never change, so a checkpoint writes only the frames that are new since the
previous one. A full segment is written once and belongs to every checkpoint that needs it. The
newest frames, which do not fill a segment yet, go into the file of the items.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from common import wire
from common.checkpoint import Files, entry_of
from common.errors import StillSavingError
from common.storage import Storage, open_storage
from common.types import Array, FrameSpec
from replay_server.codec import GROUP_FRAMES
from replay_server.shard_file import Segment, encode_shard
from replay_server.table import Table
from replay_server.table_image import TableImage, image_of

SEGMENT_BYTES = 16 << 20
"""Of frames before compression: few files, and little to write again for a checkpoint."""
LEAST_SEGMENTS = 8
"""Segments that a small memory is cut into, so that old ones can be removed."""
NAME_DIGITS = 12
"""Hexadecimal digits of a segment's SHA-256 in its name."""


def segment_frames(frame: FrameSpec, frame_rows: int) -> int:
    """Frames in a full segment: whole groups."""
    wanted = min(SEGMENT_BYTES // frame.nbytes, frame_rows // LEAST_SEGMENTS)
    return max(1, wanted // GROUP_FRAMES) * GROUP_FRAMES


class ShardSaver:
    """Writes a table to a storage, in the background if asked to, and each full segment once."""

    def __init__(self, table: Table, frame: FrameSpec) -> None:
        """Nothing written yet."""
        self._table = table
        self._length = segment_frames(frame, table.frames.capacity)
        self._segments: dict[int, Segment] = {}  # by number: first frame // length
        self._files: Files = {}  # of those
        self._url = ""
        self._thread: threading.Thread | None = None
        self._outcome: Files | Exception | None = None

    def begin(self, url: str, name: str, background: bool) -> None:
        """Save the table as it is at this moment.

        Args:
            url: of the storage.
            name: of the file for items.
            background: return at once and write in a thread, while the table continues.

        Raises:
            StillSavingError: the previous save is still in progress.
        """
        if self._thread is not None and self._thread.is_alive():
            raise StillSavingError(
                f"shard {self._table.shard}: the previous save is still in progress"
            )
        if url != self._url:
            self._segments, self._files, self._url = {}, {}, url
        self._outcome = None
        image = image_of(self._table)
        if not background:
            self._write(name, image)
            return
        self._thread = threading.Thread(
            target=self._write, args=(name, image), name="save-shard", daemon=True
        )
        self._thread.start()

    def outcome(self) -> Files | None:
        """The files of the newest save; None while it is in progress.

        Raises:
            OSError: a file could not be written.
        """
        outcome = self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def add_known(self, url: str, segments: Sequence[Segment], files: Files) -> None:
        """Tell the saver which segments a storage holds already.

        Args:
            url: of the storage.
            segments: of the table's frames.
            files: the entries of the segments, among others.
        """
        self._url = url
        for segment in segments:
            # A segment of another length, from another layout, is written again.
            index = segment.first // self._length
            if segment.end == (index + 1) * self._length:
                self._segments[index] = segment
                self._files[segment.name] = files[segment.name]

    def _write(self, name: str, image: TableImage) -> None:
        try:
            self._outcome = self._files_of(open_storage(self._url), name, image)
        except Exception as error:  # `outcome` raises it in the caller's thread
            self._outcome = error

    def _files_of(self, storage: Storage, name: str, image: TableImage) -> Files:
        first, end = image.first_frame, image.written_frames
        numbers = range(first // self._length, end // self._length)
        # Segments of failed checkpoints, and those that only older ones needed, were removed.
        there = storage.sizes() if self._segments else {}
        for index, known in list(self._segments.items()):
            if index not in numbers or there.get(known.name) != self._files[known.name]["bytes"]:
                del self._files[self._segments.pop(index).name]
        segments: list[Segment] = []
        for index in numbers:
            if index not in self._segments:
                begin, columns = self._export(index * self._length, (index + 1) * self._length)
                if (
                    begin > index * self._length
                ):  # the table has forgotten these frames, and all before
                    segments = []
                if not columns:
                    continue
                data = wire.encode(columns, {"first": begin})
                entry = entry_of(data)
                # A run resumed from an older checkpoint, or on two machines, may use the same
                # number for other frames. The hash in the name keeps each checkpoint's files.
                which = f"{self._table.shard}-{self._table.incarnation}-{index:06d}"
                path = f"frames/{which}-{entry['sha256'][:NAME_DIGITS]}.rdqn"
                storage.write(path, data)
                count = (index + 1) * self._length - begin
                self._segments[index] = Segment(path, begin, count)
                self._files[path] = entry
            segments.append(self._segments[index])
        rest, columns = self._export(end // self._length * self._length, end)
        if rest > end // self._length * self._length:
            segments = []
        image.without_frames_before(segments[0].first if segments else rest)
        data = encode_shard(image, rest, columns, segments)
        storage.write(name, data)
        return {name: entry_of(data), **{s.name: self._files[s.name] for s in segments}}

    def _export(self, begin: int, end: int) -> tuple[int, dict[str, Array]]:
        """Frames up to `end` from `begin`, or from the oldest in the table; and that number.

        The table may forget and overwrite frames during the copy; the loop then copies the rest.
        """
        frames = self._table.frames
        while True:
            begin = min(max(begin, frames.first), end)
            columns = frames.export(begin, end) if begin < end else {}
            if frames.first <= begin or begin == end:
                return begin, columns
