"""Names of shards in reports and messages."""

from __future__ import annotations

_SHARD = "shard-"


def shard_title(index: int) -> str:
    """The name of shard `index`."""
    return f"{_SHARD}{index}"


def shard_index(title: str) -> int:
    """The index of the shard of this name."""
    return int(title.removeprefix(_SHARD))
