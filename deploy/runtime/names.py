"""Public names on a cluster: how one driver finds the control service of another's run."""

from __future__ import annotations

NAMESPACE = "raydqn"
"""Ray's namespace for the public names of all runs."""


def service_names() -> dict[str, str]:
    """The public name of each run's newest control service, by run.

    This process must be connected to the cluster.
    """
    from ray.util import list_named_actors

    newest: dict[str, tuple[int, str]] = {}
    for named in list_named_actors(all_namespaces=True):
        run, _, part = named["name"].rpartition(":")
        number = part.rpartition("-")[2]
        if named["namespace"] == NAMESPACE and run and number.isdecimal():
            newest[run] = max(newest.get(run, (-1, "")), (int(number), named["name"]))
    return {run: name for run, (_, name) in sorted(newest.items())}
