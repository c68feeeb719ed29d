"""Messages to and from a shard, as flat buffers in wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from common import wire
from common.errors import WireError
from common.item import ItemSpec
from common.text import counted
from common.types import Array, Chunk, PackedFrames, Sample, ShardSummary

_CHUNK_FORM = {
    "priority": ("float32", 1),
    "reused": ("int32", 1),
    "packed": ("uint8", 1),
    "sizes": ("int32", 1),
}
"""Type and dimensions of the columns that are not an item's; the table checks `frames`."""
_NOT_AN_ITEMS = ("frames", *_CHUNK_FORM)
_SAMPLE_COLUMNS = ("frames", "key", "probability", "age")
"""Columns of a sample that are not an item's."""


def encode_chunk(chunk: Chunk) -> Array:
    """A chunk as one flat buffer, `[bytes]` uint8."""
    columns = {**chunk.columns, "reused": chunk.reused}
    if chunk.priority is not None:
        columns["priority"] = chunk.priority
    meta: dict[str, Any] = {"stream": chunk.stream, "number": chunk.number}
    if isinstance(chunk.frames, PackedFrames):
        columns |= {"packed": chunk.frames.data, "sizes": chunk.frames.sizes}
        meta["frames"] = chunk.frames.count
    else:
        columns["frames"] = chunk.frames
    return wire.encode(columns, meta)


def decode_chunk(buffer: Array) -> Chunk:
    """The chunk in a flat buffer; its arrays are views that keep the buffer alive.

    The table checks the columns of its items.

    Raises:
        WireError: bytes that are no chunk.
    """
    arrays, meta = wire.decode(buffer)
    is_packed = "packed" in arrays
    for name in ("reused", *(("packed", "sizes") if is_packed else ("frames",))):
        if name not in arrays:
            raise WireError(f"chunk without column {name!r}")
    for name, column in arrays.items():
        dtype, dimensions = _CHUNK_FORM.get(name, (None, None))
        if dimensions is not None and column.ndim != dimensions:
            raise WireError(f"chunk column {name!r} has {counted(column.ndim, 'dimension')}")
        if not column.ndim:
            raise WireError(f"chunk column {name!r} has no rows")
        if dtype is not None and column.dtype != dtype:
            raise WireError(f"chunk column {name!r} is of {column.dtype}: must be {dtype}")
    columns = {name: column for name, column in arrays.items() if name not in _NOT_AN_ITEMS}
    if not columns:
        raise WireError("chunk without columns of items")
    _check_rows(columns, arrays.get("priority"))
    stream, number = _number(meta, "stream"), _number(meta, "number")
    frames: Array | PackedFrames
    if is_packed:
        frames = PackedFrames(arrays["packed"], arrays["sizes"], _number(meta, "frames"))
    else:
        frames = arrays["frames"]
    return Chunk(frames, columns, arrays.get("priority"), arrays["reused"], stream, number)


def _check_rows(columns: Mapping[str, Array], priority: Array | None) -> None:
    """All columns have a row for each item; the first column tells how many these are."""
    first, *others = columns.items()
    if priority is not None:
        others.append(("priority", priority))
    count = len(first[1])
    for name, column in others:
        if len(column) != count:
            rows = counted(len(column), "row")
            raise WireError(f"chunk column {name!r} has {rows}, not {count} as column {first[0]!r}")


def _number(meta: Mapping[str, Any], name: str) -> int:
    value = meta.get(name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise WireError(f"chunk's {name} is {value!r:.40}: must be a whole number from 0")
    return value


def sample_buffer(
    columns: Mapping[str, tuple[tuple[int, ...], Any]], summary: ShardSummary
) -> tuple[Array, dict[str, Array]]:
    """A flat buffer for a sample, and its empty columns: gathering into them saves a copy."""
    return wire.allocate(columns, asdict(summary))


def decode_sample(buffer: Array) -> Sample:
    """The sample in a flat buffer; its arrays are views that keep the buffer alive.

    Raises:
        WireError: bytes that are no sample.
    """
    arrays, meta = wire.decode(buffer)
    try:
        parts: dict[str, Any] = {name: arrays.pop(name) for name in _SAMPLE_COLUMNS}
        return Sample(columns=arrays, summary=ShardSummary(**meta), **parts)
    except (KeyError, TypeError) as error:
        raise WireError(f"not a sample: {error}") from error


def check_sample(sample: Sample, item: ItemSpec) -> None:
    """Check the columns of a sample of B items.

    Raises:
        WireError: a column is missing, is not the item's, or is of another shape or type.
    """
    for name, (dtype, shape) in item.forms.items():
        column = sample.columns.get(name)
        if column is None:
            raise WireError(f"sample without column {name!r}")
        if column.shape != (len(sample), *shape) or column.dtype != dtype:
            raise WireError(f"sample column {name!r} of {column.dtype} {column.shape}")
    if len(sample.columns) != len(item.forms):
        raise WireError(f"sample with columns {', '.join(sample.columns)}")
