"""Checks on the nodes of a run before its parts start."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from common.config import Config
from common.errors import UserError
from common.parts import shard
from common.storage import open_storage
from common.types import EnvironmentSpec
from deploy.resources.memory import check_memory
from deploy.runtime.interface import Runtime

PROBE = "probe"
"""A file that shows whether two machines see the same storage."""


def check_memories(config: Config, spec: EnvironmentSpec, runtime: Runtime) -> None:
    """Have each node that will hold shards check its memory for its own share of them.

    Raises:
        UserError: a node has too little (see `check_memory`).
    """
    shards = [shard(index) for index in range(config.replay.shards)]
    hosts = [runtime.run_on(part, _host) for part in shards]
    for host in dict.fromkeys(hosts):
        share = hosts.count(host) / len(hosts)
        runtime.run_on(shards[hosts.index(host)], check_memory, config, spec, True, share)


def check_storage(url: str, runtime: Runtime, shards: int) -> None:
    """Check that the node of every shard sees the storage for checkpoints.

    Args:
        url: of the storage.
        runtime: where the shards will live.
        shards: how many.

    Raises:
        UserError: a node does not see it, or this one cannot write to it.
    """
    storage, token = open_storage(url), os.urandom(16).hex()
    try:
        storage.write(PROBE, token.encode())
        for part in map(shard, range(shards)):
            host, found = runtime.run_on(part, _read_probe, url)
            if found != token:
                raise UserError(
                    f"checkpoint.storage: {host}, the node of {part}, does not see {url} of "
                    f"{socket.gethostname()}; name a folder that all nodes share or a URL "
                    '("s3://your-bucket/runs"), or leave the replay memory out of checkpoints '
                    "(--checkpoint.replay false)"
                )
    except OSError as error:
        raise UserError(f"checkpoint.storage: {url}: cannot be written ({error})") from None
    finally:
        with suppress(OSError):
            storage.remove(PROBE)


def _host() -> str:
    return socket.gethostname()


def _read_probe(url: str) -> tuple[str, str]:
    """This machine's name, and the probe's content there; empty where it cannot be read."""
    try:
        found = open_storage(url).read(PROBE).tobytes().decode("ascii", "replace")
    except OSError:
        found = ""
    return socket.gethostname(), found
