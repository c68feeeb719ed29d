"""Public names of remotes: how other drivers of a cluster find the runs on it."""

from __future__ import annotations

from contextlib import suppress

from common.handles import Handle
from common.parts import CONTROL_SERVICE, part_name
from deploy.runtime.ray_actor import RemoteHandle

NAMESPACE = "raydqn"
"""Ray's namespace of all public names."""


def service_name(run: str, incarnation: int) -> str:
    """Public name of one incarnation of a run's control service."""
    return f"{run}:{part_name(CONTROL_SERVICE, incarnation)}"


def service_names() -> dict[str, str]:
    """Public names of the newest control services on the cluster, by the names of their runs.

    Only their names (see `service_name`) say so. This process must be connected to the cluster.
    """
    from ray.util import list_named_actors

    newest: dict[str, tuple[int, str]] = {}
    for named in list_named_actors(all_namespaces=True):
        run, _, service = named["name"].rpartition(":")
        number = service.rpartition("-")[2]
        if named["namespace"] == NAMESPACE and run and number.isdecimal():
            newest[run] = max(newest.get(run, (-1, "")), (int(number), named["name"]))
    return {run: name for run, (_, name) in sorted(newest.items())}


def service_handles() -> dict[str, Handle]:
    """Handles to the control services on the cluster, by the names of their runs."""
    import ray

    services: dict[str, Handle] = {}
    for run, name in service_names().items():
        with suppress(ValueError):  # the run has ended meanwhile
            remote = ray.get_actor(name, NAMESPACE)
            services[run] = RemoteHandle(remote, f"the control service of {run}", CONTROL_SERVICE)
    return services
