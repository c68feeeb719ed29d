"""Tensors as a safetensors file whose bytes depend on its content alone."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save as save_tensors

from common.types import Array

_LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"
CONTRACT = "raydqn"
"""Name, in the metadata, of what describes an exported policy."""


def tensor_bytes(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file; equal tensors and metadata give equal bytes.

    The library writes metadata in an order that varies. The file begins with the length of its
    header (8 bytes, little endian), then the header as JSON, padded with spaces to a multiple of 8
    bytes, then the tensors: https://huggingface.co/docs/safetensors/index#format

    Args:
        tensors: by name.
        metadata: strings by name.
    """
    # The library writes raw memory: it needs C order, which channels last is not.
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    data: bytes = save_tensors(ordered, dict(metadata) if metadata else None)
    if not metadata:
        return data
    body = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES:body])
    header[_METADATA] = dict(sorted(header[_METADATA].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data[body:]


def tensor_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        ValueError: not such a file.
    """
    body = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES:body])
    metadata = header.get(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("not a safetensors file")
    return metadata
