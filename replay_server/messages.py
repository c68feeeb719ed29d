"""Messages to and from a shard, as flat buffers in wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from common import wire
from common.errors import WireError
from common.text import counted
from common.types import Array, Chunk, PackedFrames, Sample, ShardSummary

CHUNK_COLUMNS = ("observation", "next_observation", "action", "reward", "discount", "version")
_CHUNK_FORM = {
    **dict.fromkeys(("observation", "next_observation"), ("int32", 2)),
    **dict.fromkeys(("action", "reused", "sizes"), ("int32", 1)),
    **dict.fromkeys(("reward", "discount", "priority"), ("float32", 1)),
    "version": ("int64", 1),
    "packed": ("uint8", 1),
    "next_mask": ("uint8", 2),
}
"""Type and dimensions of each column; the table checks those of `frames`."""
OPTIONAL = ("priority", "next_mask")
"""Columns that a chunk may lack."""
SAMPLE_COLUMNS = tuple(
    field.name for field in fields(Sample) if field.name not in ("summary", "next_mask")
)


def encode_chunk(chunk: Chunk) -> Array:
    """A chunk as one flat buffer, `[bytes]` uint8."""
    columns = {name: getattr(chunk, name) for name in (*CHUNK_COLUMNS, "reused")}
    for name in OPTIONAL:
        column = getattr(chunk, name)
        if column is not None:
            columns[name] = column
    meta: dict[str, Any] = {"stream": chunk.stream, "number": chunk.number}
    if isinstance(chunk.frames, PackedFrames):
        columns |= {"packed": chunk.frames.data, "sizes": chunk.frames.sizes}
        meta["frames"] = chunk.frames.count
    else:
        columns["frames"] = chunk.frames
    return wire.encode(columns, meta)


def decode_chunk(buffer: Array) -> Chunk:
    """The chunk in a flat buffer; its arrays are views that keep the buffer alive.

    Raises:
        WireError: bytes that are no chunk.
    """
    arrays, meta = wire.decode(buffer)
    is_packed = "packed" in arrays
    frames_columns = ("packed", "sizes") if is_packed else ("frames",)
    for name in (*CHUNK_COLUMNS, "reused", *frames_columns):
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
    count = len(arrays["action"])
    for name in (*CHUNK_COLUMNS, *OPTIONAL):
        if name in arrays and len(arrays[name]) != count:
            rows = counted(len(arrays[name]), "row")
            raise WireError(f"chunk column {name!r} has {rows}, not {count}")
    stream, number = _number(meta, "stream"), _number(meta, "number")
    frames: Array | PackedFrames
    if is_packed:
        frames = PackedFrames(arrays["packed"], arrays["sizes"], _number(meta, "frames"))
    else:
        frames = arrays["frames"]
    return Chunk(
        frames=frames,
        **{name: arrays[name] for name in (*CHUNK_COLUMNS, "reused")},
        priority=arrays.get("priority"),
        stream=stream,
        number=number,
        next_mask=arrays.get("next_mask"),
    )


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
        columns: dict[str, Any] = {name: arrays[name] for name in SAMPLE_COLUMNS}
        return Sample(**columns, summary=ShardSummary(**meta), next_mask=arrays.get("next_mask"))
    except (KeyError, TypeError) as error:
        raise WireError(f"not a sample: {error}") from error
