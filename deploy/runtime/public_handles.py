"""Handles of the parts of other drivers' runs, by their public names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.handles import Handle
from deploy.runtime.names import NAMESPACE, service_names
from deploy.runtime.placement import connect
from deploy.runtime.ray_runtime import RemoteHandle


@contextmanager
def service_handles(address: str) -> Iterator[dict[str, Handle]]:
    """The control service of each run on a cluster, by run, while this process is connected.

    Args:
        address: of the cluster.

    Raises:
        UserError: there is no cluster at the address (see `connect`).
    """
    import ray

    try:
        connect(address)
        handles: dict[str, Handle] = {}
        for run, name in service_names().items():
            with suppress(ValueError):  # the run has ended since the names were listed
                remote = ray.get_actor(name, NAMESPACE)
                handles[run] = RemoteHandle(remote, f"the control service of {run}")
        yield handles
    finally:
        ray.shutdown()
