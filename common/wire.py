"""Named arrays to and from one flat buffer: the format of the wire and of the disk.

    magic "RDQNWIRE" | uint32 length of header | header (msgpack) | padding | columns

The header is `{"meta": {…}, "columns": [[name, dtype, shape, offset], …]}`; each column is raw
little-endian memory at a multiple of 64 bytes, so that decoding makes views, never copies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from common.errors import WireError
from common.text import counted
from common.types import Array

MAGIC = b"RDQNWIRE"
ALIGNMENT_BYTES = 64
MAX_HEADER_BYTES = 1 << 20
MAX_DIMENSIONS = 8
MAX_EXTENT_BYTES = 1 << 62
_PREFIX_BYTES = len(MAGIC) + 4
TYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)
"""Types of columns."""
_DTYPES = {np.dtype(name).str: np.dtype(name).newbyteorder("<") for name in TYPES}


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def allocate(
    columns: Mapping[str, tuple[tuple[int, ...], Any]], meta: Mapping[str, Any] | None = None
) -> tuple[Array, dict[str, Array]]:
    """An encoded buffer with empty columns, and views to fill them through.

    Gathering into the views saves the copy that `encode` makes.

    Args:
        columns: name → (shape, dtype).
        meta: anything msgpack can hold.

    Returns:
        The buffer, `[bytes]` uint8, and the writable view of each column.

    Raises:
        TypeError: a dtype outside the format (objects, strings, dates).
    """
    entries: list[list[Any]] = []
    offset = 0  # relative to the first column
    for name, (shape, dtype) in columns.items():
        code = np.dtype(dtype).newbyteorder("<").str
        if code not in _DTYPES:
            raise TypeError(f"column {name!r}: dtype {np.dtype(dtype)} cannot travel")
        offset = _aligned(offset)
        sizes = [int(n) for n in shape]
        entries.append([name, code, sizes, offset])
        offset += math.prod(sizes) * np.dtype(dtype).itemsize
    header = msgpack.packb({"meta": dict(meta or {}), "columns": entries})
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"header of {counted(len(header), 'byte')}: at most {MAX_HEADER_BYTES}")
    start = _aligned(_PREFIX_BYTES + len(header))
    buffer: Array = np.empty(start + offset, np.uint8)
    prefix = MAGIC + len(header).to_bytes(4, "little") + header
    buffer[: len(prefix)] = np.frombuffer(prefix, np.uint8)
    buffer[len(prefix) : start] = 0
    end = start
    for _, code, shape, column_offset in entries:
        buffer[end : start + column_offset] = 0  # padding: equal content gives equal bytes
        end = start + column_offset + math.prod(shape) * _DTYPES[code].itemsize
    return buffer, _views(buffer, entries, start)


def encode(arrays: Mapping[str, Array], meta: Mapping[str, Any] | None = None) -> Array:
    """One flat buffer `[bytes]` uint8 with these arrays and this meta in it."""
    buffer, views = allocate({name: (a.shape, a.dtype) for name, a in arrays.items()}, meta)
    for name, array in arrays.items():
        views[name][...] = array
    return buffer


def decode(buffer: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Views of the arrays in `buffer`, and its meta, without a copy.

    Args:
        buffer: result of `encode`, or any bytes-like object with the same bytes. The views keep
            it alive, and are read-only if it is.

    Raises:
        WireError: truncated, oversized or foreign bytes. Claims are checked against the length of
            the buffer before anything is made from them.
    """
    flat = np.frombuffer(buffer, np.uint8)
    if len(flat) < _PREFIX_BYTES or flat[: len(MAGIC)].tobytes() != MAGIC:
        raise WireError("not a raydqn buffer: the first eight bytes are not RDQNWIRE")
    header_bytes = int.from_bytes(flat[len(MAGIC) : _PREFIX_BYTES].tobytes(), "little")
    if header_bytes > MAX_HEADER_BYTES or _PREFIX_BYTES + header_bytes > len(flat):
        raise WireError(f"header of {counted(header_bytes, 'byte')} in a buffer of {len(flat)}")
    packed = flat[_PREFIX_BYTES : _PREFIX_BYTES + header_bytes].tobytes()
    try:
        header = msgpack.unpackb(packed)
        meta, entries = header["meta"], header["columns"]
    except Exception as error:  # msgpack raises a dozen kinds; all mean the same here
        raise WireError(f"header cannot be read: {type(error).__name__}") from error
    if not isinstance(meta, dict) or not isinstance(entries, list):
        raise WireError("header of another shape")
    start = _aligned(_PREFIX_BYTES + header_bytes)
    for entry in entries:
        _check_entry(entry, len(flat) - start)
    if len({entry[0] for entry in entries}) != len(entries):
        raise WireError("two columns of one name")
    return _views(flat, entries, start), meta


def _check_entry(entry: Any, available_bytes: int) -> None:
    if not isinstance(entry, list) or len(entry) != 4:
        raise WireError("column entry of another shape")
    name, code, shape, offset = entry
    if not isinstance(name, str):
        raise WireError("column name is no string")
    if not isinstance(code, str) or code not in _DTYPES:
        raise WireError(f"column {name!r}: dtype {code!r} is not one that travels")
    sizes_ok = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    if not sizes_ok or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"column {name!r}: impossible shape")
    size = extent = _DTYPES[code].itemsize
    for n in shape:  # Python integers: no overflow
        size *= n
        extent *= max(1, n)
    if extent > MAX_EXTENT_BYTES:  # numpy cannot hold it, not even when another side is 0
        raise WireError(f"column {name!r}: impossible shape")
    if type(offset) is not int or offset < 0 or offset % ALIGNMENT_BYTES:
        raise WireError(f"column {name!r}: impossible offset")
    if offset + size > available_bytes:
        late = counted(offset + size - available_bytes, "byte")
        raise WireError(f"column {name!r} ends {late} too late")


def _views(flat: Array, entries: list[list[Any]], start: int) -> dict[str, Array]:
    views: dict[str, Array] = {}
    for name, code, shape, offset in entries:
        dtype = _DTYPES[code]
        count = 1
        for n in shape:
            count *= n
        begin = start + offset
        views[name] = flat[begin : begin + count * dtype.itemsize].view(dtype).reshape(shape)
    return views
