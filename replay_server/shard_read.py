"""Reading the files of a shard into a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common import wire
from common.checkpoint import Files, read_verified
from common.errors import CheckpointError
from common.storage import Storage, is_name
from common.types import Array
from replay_server.frames import FrameStore
from replay_server.shard_file import SavedShard, decode_shard
from replay_server.table import Table
from replay_server.table_image import restore_image


def fill(table: Table, saved: SavedShard, storage: Storage, files: Files) -> None:
    """Restore a saved shard into an empty table of the same layout.

    Raises:
        ValueError: frames are missing, or a name leads out of the storage.
    """
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
    restore_image(table, image)


def _append(store: FrameStore, columns: dict[str, Array], first: int) -> None:
    """Append frames from number `first` on; the store may hold some of them already."""
    if first > store.written:
        raise ValueError(f"frames {store.written} to {first} are missing")
    store.write_exported(columns, store.written - first)


def read_shard(storage: Storage, name: str, files: Files) -> SavedShard:
    """Read and verify the file of a shard.

    Raises:
        CheckpointError: see `restore_shard`.
    """
    with naming(storage.url, name):
        return decode_shard(read_verified(storage, name, files))


@contextmanager
def naming(url: str, name: str) -> Iterator[None]:
    """Turn errors about the content of a file into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())  # one line, whatever text the file holds
        message = f"{url}/{name}: cannot be understood ({reason:.200})"
        raise CheckpointError(message, name) from None
