"""Every private name of Ray's that raydqn uses, each behind one function.

Private names move between releases. `PRIVATE_NAMES` lists them with the releases in which they were
found: the wheels of 2.44.0, 2.49.0, 2.51.0 and 2.52.0 were read, and 2.60.0 (constraints.txt) is
the release that all tests run with. `tests/unit/deploy/runtime/test_ray_private.py` looks each of
them up in the installed Ray, and finds private imports of Ray's in any other file.

| function | private name | found in | moved |
|---|---|---|---|
| `id_of` | `ActorHandle._actor_id` | 2.44 to 2.60 | never |
| `without_process`, `nodes_of` | `state.actors` | 2.44 to 2.60 | never |
| `resources_left` | `state.available_resources_per_node` | 2.44 to 2.60 | never |
| `processes_in_own_groups` | `services.ConsolePopen` | 2.44 to 2.60 | never |
| `loopback_only` | `ray_constants.ENABLE_RAY_CLUSTER` | 2.44 to 2.60 | never |
| `packages_first` | `JobConfig._py_driver_sys_path` | 2.60 | not looked up |
| `name_process` | `_raylet.setproctitle` | 2.44 to 2.60 | never |
| `publish`, `published`, `unpublish` | `internal_kv` | 2.60 | not looked up |
| `reload_token` | `_raylet.AuthenticationTokenLoader`, `_raylet.Config` | 2.52 to 2.60 | never |
| `no_other_ray` | `auto_init_hook.enable_auto_connect` | 2.60 | not looked up |
| `messages_to` | `worker.print_to_stdstream` | 2.60 | not looked up |
| `grpc_channel` | `grpc_utils.init_grpc_channel` | 2.52 to 2.60 | 2.52, from `_private.utils` |
| `grpc_channel` | `ray_constants.GLOBAL_GRPC_OPTIONS` | 2.44 to 2.60 | never |
| `prefer_node` | `_spill_on_unavailable` | 2.44 to 2.60 | never |
| `complete_cluster_file` | `prepare_config`, `validate_config` | 2.44 to 2.60 | never |
| `cluster_file_schema` | `ray-schema.json` | 2.44 to 2.60 | never |
| `own_machines_type` | `LOCAL_CLUSTER_NODE_TYPE` | 2.44 to 2.60 | never |
| `ray_cluster_to_file` | `_derive_autoscaling_config_from_ray_cr` | 2.44 to 2.60 | never |
| `kubernetes_resource` | `KubernetesHttpApiClient` | 2.44 to 2.60 | never |
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMESPACE = "raydqn"  # of keys in Ray's key-value store


@dataclass(frozen=True, slots=True)
class PrivateName:
    """One private name of Ray's.

    Attributes:
        module: that holds it.
        name: within the module; a dot leads to an attribute, "(" to a parameter.
        history: where older releases had it, and what raydqn does without it.
    """

    module: str
    name: str
    history: str


PRIVATE_NAMES = (
    PrivateName("ray.actor", "ActorHandle", "its `_actor_id` is in 2.44 to 2.60"),
    PrivateName("ray._private.state", "actors(actor_id", "2.44 to 2.60 have it"),
    PrivateName("ray._private.state", "actors(actor_state_name", "2.44 to 2.60 have it"),
    PrivateName("ray._private.state", "available_resources_per_node", "2.44 to 2.60 have it"),
    PrivateName(
        "ray._private.services",
        "ConsolePopen",
        "2.44 to 2.60 have it; without it Ctrl-C ends Ray before the run can save",
    ),
    PrivateName(
        "ray._private.ray_constants",
        "ENABLE_RAY_CLUSTER",
        "2.44 to 2.60 have it; without it Ray listens on all network interfaces",
    ),
    PrivateName(
        "ray._raylet",
        "AuthenticationTokenLoader",
        "2.52 to 2.60 have it; without it a process that has imported Ray keeps its first token",
    ),
    PrivateName(
        "ray._raylet",
        "setproctitle",
        "2.44 to 2.60 have it; without it a part's process has no name while the part is created",
    ),
    PrivateName(
        "ray.experimental.internal_kv",
        "_internal_kv_put",
        "2.60 has it; without it a long call of an environment has no heartbeats",
    ),
    PrivateName("ray._raylet", "Config", "2.44 to 2.60 have it; it holds the mode of the token"),
    PrivateName(
        "ray._private.auto_init_hook",
        "enable_auto_connect",
        "2.60 has it; without it a second Ctrl-C during a checkpoint may start another Ray",
    ),
    PrivateName(
        "ray._private.worker",
        "print_to_stdstream",
        "2.60 has it; without it Ray prints its messages between the lines of the progress",
    ),
    PrivateName(
        "ray._private.grpc_utils",
        "init_grpc_channel",
        "2.52 to 2.60 have it here, 2.44 to 2.51 in ray._private.utils; without it a wrong token "
        "is reported after half a minute",
    ),
    PrivateName("ray._private.ray_constants", "GLOBAL_GRPC_OPTIONS", "2.44 to 2.60 have it"),
    PrivateName(
        "ray.util.scheduling_strategies",
        "NodeAffinitySchedulingStrategy(_spill_on_unavailable",
        "2.44 to 2.60 have it",
    ),
    PrivateName("ray.autoscaler._private.util", "prepare_config", "2.44 to 2.60 have it"),
    PrivateName("ray.autoscaler._private.util", "validate_config", "2.44 to 2.60 have it"),
    PrivateName(
        "ray.autoscaler._private.local.config", "LOCAL_CLUSTER_NODE_TYPE", "2.44 to 2.60 have it"
    ),
    PrivateName(
        "ray.autoscaler._private.kuberay.autoscaling_config",
        "_derive_autoscaling_config_from_ray_cr",
        "2.44 to 2.60 have it",
    ),
    PrivateName(
        "ray.autoscaler._private.kuberay.node_provider",
        "KubernetesHttpApiClient.get",
        "2.44 to 2.60 have it",
    ),
)


# --- remotes and nodes ----------------------------------------------------------------------------


def id_of(remote: Any) -> str:
    """Ray's hexadecimal id of a remote."""
    return str(remote._actor_id.hex())


def without_process(actor_ids: Sequence[str]) -> list[bool]:
    """For each remote, whether Ray has found no node for it, so that it has no process yet.

    Runs as a task on the cluster. Ray's public function needs its dashboard.
    """
    from ray._private import state

    # A node is named for a waiting remote as well: the one that looks for a place.
    return [not state.actors(actor_id).get("Pid") for actor_id in actor_ids]


def nodes_of(actor_ids: Sequence[str]) -> dict[str, str]:
    """Ids of the nodes where remotes live, by the ids of those that are alive.

    Runs as a task on the cluster.
    """
    from ray._private import state

    wanted = set(actor_ids)
    living = state.actors(actor_state_name="ALIVE") if wanted else {}
    return {actor_id: living[actor_id]["Address"]["NodeID"] for actor_id in wanted & living.keys()}


def resources_left() -> dict[str, dict[str, float]]:
    """Resources that no remote or task holds, by the ids of nodes. Runs as a task on the cluster.

    Ray's public function adds the nodes up.
    """
    from ray._private import state

    left: dict[str, dict[str, float]] = state.available_resources_per_node()
    return left


def prefer_node(node_id: str) -> Any:
    """A scheduling strategy: that node, or any other if it has no room at the moment.

    Without the private option Ray would wait until the preferred node has room.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, True, _spill_on_unavailable=True)


@contextmanager
def processes_in_own_groups(
    before: Callable[[], object] = lambda: None,
) -> Iterator[list[subprocess.Popen[Any]]]:
    """Have Ray start its processes in process groups of their own.

    A signal to the driver's whole group (Ctrl-C, `timeout`, `kill -- -PGID`) is the driver's to
    handle: if it ended Ray as well, the run could not be saved. The driver itself cannot leave its
    group for the start: the leader of a group cannot, and it would miss a signal meanwhile.

    Args:
        before: called before each process; an exception from it ends Ray's start.

    Yields:
        A list of the processes, which grows as they start.
    """
    from ray._private import services

    started: list[subprocess.Popen[Any]] = []
    start = getattr(services, "ConsolePopen", None)
    if start is None:  # another release of Ray: its processes share the driver's group
        yield started
        return

    def start_in_group(*args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
        before()
        process: subprocess.Popen[Any] = start(*args, process_group=0, **kwargs)
        started.append(process)
        return process

    services.ConsolePopen = start_in_group
    try:
        yield started
    finally:
        services.ConsolePopen = start


@contextmanager
def loopback_only() -> Iterator[None]:
    """Have a Ray that starts within the block listen on this machine's loopback address alone.

    Ray does so by itself on macOS and Windows. A public setting is missing: Ray replaces a loopback
    address by one that other machines reach.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class _LastStaysLast(list[str]):
    def extend(self, folders: Iterable[str]) -> None:
        self[:0] = folders


def packages_first(folder: Path) -> Any:
    """A configuration of Ray's job with which workers look for modules in that folder first.

    Otherwise a `learner.py` in the working folder would take the place of raydqn's package.
    """
    from ray.job_config import JobConfig

    # Ray adds the working folder; a worker puts one after another in front of `sys.path`.
    return JobConfig(_py_driver_sys_path=_LastStaysLast([str(folder)]))


def name_process(name: str) -> None:
    """Show a name in process lists, as Ray does after each call with the name of the class."""
    from ray import _raylet

    set_title = getattr(_raylet, "setproctitle", None)
    if set_title is not None:
        set_title(name)


def publish(key: str, value: str) -> None:
    """Store a short text on the cluster's head, for other processes of any node."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=NAMESPACE)


def published(key: str) -> str | None:
    """The text that was stored last under that key, or None."""
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
    return None if value is None else value.decode()


def unpublish(prefix: str) -> None:
    """Remove every text whose key begins so; a store that does not respond keeps them."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        internal_kv._internal_kv_del(prefix, del_by_prefix=True, namespace=NAMESPACE)


def reload_token() -> None:
    """Have Ray read mode and token from the environment again, if it is imported already."""
    raylet = sys.modules.get("ray._raylet")
    if raylet is None:
        return
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def no_other_ray() -> Iterator[None]:
    """Keep Ray from starting by itself within the block.

    A call of a thread that outlives its run, such as that of a checkpoint after a second Ctrl-C,
    would start another Ray as soon as the first one is shut down.
    """
    from ray._private import auto_init_hook

    before = getattr(auto_init_hook, "enable_auto_connect", False)
    auto_init_hook.enable_auto_connect = False
    try:
        yield
    finally:
        auto_init_hook.enable_auto_connect = before


@contextmanager
def messages_to(receive: Callable[[str], object]) -> Iterator[None]:
    """Hand messages of the cluster to a function, in a thread of Ray's.

    Ray prints them to the standard output of the driver, in colour, whatever `log_to_driver` says:
    of workers killed for lack of memory, of nodes that died.
    """
    from ray._private import worker

    show = getattr(worker, "print_to_stdstream", None)

    def hand_on(data: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        receive("\n".join(data["lines"]))

    if show is not None:
        worker.print_to_stdstream = hand_on
    try:
        yield
    finally:
        if show is not None:
            worker.print_to_stdstream = show


def grpc_channel(address: str) -> Any | None:
    """A channel to a port of Ray's, with the token and the TLS settings of Ray's own clients.

    None: this release of Ray has the function elsewhere.
    """
    try:
        from ray._private.grpc_utils import init_grpc_channel
        from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
    except ImportError:
        return None
    return init_grpc_channel(address, options=GLOBAL_GRPC_OPTIONS)


# --- cluster files --------------------------------------------------------------------------------


def complete_cluster_file(values: dict[str, Any]) -> dict[str, Any]:
    """A file of `ray up` with Ray's defaults filled in.

    Raises:
        Exception: of any class: Ray refuses the file.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    completed: dict[str, Any] = prepare_config(values)
    validate_config(completed)
    return completed


def cluster_file_schema() -> dict[str, Any]:
    """The JSON schema of a file of `ray up`, as it comes with Ray."""
    import ray.autoscaler

    schema_file = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    schema: dict[str, Any] = json.loads(schema_file.read_text(encoding="utf-8"))
    return schema


def own_machines_type() -> str:
    """Ray's name of the only node type of a cluster of the user's own machines."""
    from ray.autoscaler._private.local.config import LOCAL_CLUSTER_NODE_TYPE

    return str(LOCAL_CLUSTER_NODE_TYPE)


def ray_cluster_to_file(resource: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of `ray up` would hold for a RayCluster of Kubernetes.

    Raises:
        Exception: of any class: it is no RayCluster.
    """
    from ray.autoscaler._private.kuberay import autoscaling_config

    values: dict[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)
    return values


def kubernetes_resource(namespace: str, path: str) -> dict[str, Any]:
    """A resource of KubeRay's, by the account that Ray's autoscaler uses on the head.

    Raises:
        Exception: of any class: Kubernetes does not answer, or refuses.
    """
    from ray.autoscaler._private.kuberay import node_provider

    resource: dict[str, Any] = node_provider.KubernetesHttpApiClient(namespace).get(path)
    return resource
