"""Parts as remotes on the Ray that this process is connected to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from common.errors import UserError
from common.handles import Future, Handle, Mapped, Ready
from common.parts import PartId, part_name
from common.version import VERSION
from deploy.runtime import ray_private
from deploy.runtime.interface import Place
from deploy.runtime.ray_actor import PartHost, RemoteFuture, RemoteHandle

T = TypeVar("T")
HEARTBEAT = "heartbeat"
"""Concurrency group of the calls that have a thread of their own."""
QUERY = "a query to Ray"
"""Name of a task of the driver's own in errors."""


class Placement(Protocol):
    """Decides which node a remote goes to and which resources it holds there."""

    autoscaling: bool

    def options(self, part: PartId | None) -> Mapping[str, Any]:
        """Ray's options for a part's remote; None: for a short task of the driver's own."""
        ...

    def capacity(self, env_workers: Mapping[str, PartId], starting: int) -> Future[int]:
        """Number of actors that fit.

        Args:
            env_workers: actors and evaluator, by the ids of their remotes.
            starting: see `Runtime.capacity`.
        """
        ...

    def max_actors(self) -> int | None:
        """Largest number of actors that can ever fit; None: unknown."""
        ...

    def consolidate(self, env_workers: Mapping[str, PartId]) -> Future[str | None]:
        """The id of the remote to move (see `Runtime.consolidate`)."""
        ...


class RayRuntime:
    """Remotes on the Ray that this process is connected to."""

    parallel = True

    def __init__(self, placement: Placement, check: Callable[[], object] = lambda: None) -> None:
        """A runtime without remotes.

        Args:
            placement: decides which node a remote goes to.
            check: called before each wait; raises an error if Ray itself has ended.
        """
        self._placement = placement
        self._check = check
        self._remote_class: Any = None
        self.autoscaling = placement.autoscaling

    def spawn(
        self,
        cls: type,
        *args: Any,
        part: PartId,
        incarnation: int,
        public_name: str | None = None,
    ) -> Handle:
        """Start a remote; process lists show the part and its incarnation.

        Raises:
            UserError: a remote has that public name already.
        """
        from ray import cloudpickle, exceptions

        name = part_name(part, incarnation)
        options = {"name": public_name, **self._placement.options(part)}
        # Ray 2.60 has a class for it; 2.52 raises a ValueError.
        name_taken: type[Exception] = getattr(exceptions, "ActorAlreadyExistsError", ValueError)
        try:
            remote = (
                self._host_class()
                .options(**options)
                .remote(name, VERSION, cloudpickle.dumps(cls), args)
            )
        except name_taken:
            if public_name is None:
                raise
            raise UserError(f"{public_name}: another run of that name has just begun") from None
        return RemoteHandle(remote, name, part)

    def _host_class(self) -> Any:
        """The class of all remotes: Ray exports it once, and a remote takes a millisecond."""
        if self._remote_class is None:
            import ray

            host = type(
                PartHost.__name__,
                (PartHost,),
                {
                    # Heartbeats come from a thread of their own, however long a call takes.
                    "ping": ray.method(concurrency_group=HEARTBEAT)(PartHost.ping),
                    "crash": ray.method(concurrency_group=HEARTBEAT)(PartHost.crash),
                },
            )
            self._remote_class = ray.remote(concurrency_groups={HEARTBEAT: 1})(host)
        return self._remote_class

    def ping(self, handle: Handle) -> Future[Place | None]:
        """Request a heartbeat, which a thread of its own sends."""
        assert isinstance(handle, RemoteHandle)
        return RemoteFuture(handle.remote.ping.remote(), handle.name)

    def crash(self, handle: Handle) -> None:
        """Have the remote kill its own process, on whichever node it lives."""
        assert isinstance(handle, RemoteHandle)
        handle.remote.crash.remote()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """The futures that are done, after waiting up to `timeout_s` for the first one.

        Raises:
            RunFailedError: Ray itself has ended; once, so that a last checkpoint may be tried.
        """
        import ray

        self._check()
        by_reference = {f.reference: f for f in futures if isinstance(f, RemoteFuture)}
        references = list(by_reference)
        if not references:
            return []
        ready, rest = ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and rest:  # take along all others that are done by now
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
            ready += more
        return [by_reference[reference] for reference in ready]

    def kill(self, handle: Handle) -> None:
        """Kill the remote's process."""
        import ray

        assert isinstance(handle, RemoteHandle)
        ray.kill(handle.remote)

    def pending_placement(self, handles: Sequence[Handle]) -> Future[list[bool]]:
        """For each part, whether Ray still looks for a node for it.

        A task asks Ray: the driver may be a client outside the cluster.
        """
        import ray

        if not self.autoscaling:
            return Ready([False] * len(handles))
        options = {**self._placement.options(None), "num_cpus": 0}
        task = ray.remote(max_retries=0)(ray_private.without_process).options(**options)
        return RemoteFuture(task.remote(list(self._parts_by_id(handles))), QUERY)

    def cancel(self, future: Future[Any]) -> None:
        """Cancel a task that may still wait for a node."""
        import ray

        assert isinstance(future, RemoteFuture)
        ray.cancel(future.reference)

    def run_on(self, part: PartId, function: Callable[..., T], *args: Any) -> T:
        """Result of `function(*args)` on the node where that part lives, or will live."""
        import ray

        options = {**self._placement.options(part), "num_cpus": 0, "num_gpus": 0, "resources": {}}
        task = ray.remote(max_retries=0)(function).options(**options)
        result: T = RemoteFuture(task.remote(*args), f"a task on the node of {part}").result()
        return result

    def capacity(self, env_workers: Sequence[Handle], starting: int) -> Future[int]:
        """Number of actors that fit beside the load of other runs."""
        return self._placement.capacity(self._parts_by_id(env_workers), starting)

    def max_actors(self) -> int | None:
        """Largest number of actors that can ever fit; None: unknown."""
        return self._placement.max_actors()

    def consolidate(self, env_workers: Sequence[Handle]) -> Future[Handle | None]:
        """The actor to move so that its node becomes empty and can be removed."""
        parts = self._parts_by_id(env_workers)
        by_id = dict(zip(parts, env_workers, strict=True))
        return Mapped(
            self._placement.consolidate(parts),
            lambda actor_id: None if actor_id is None else by_id[actor_id],
        )

    def _parts_by_id(self, handles: Sequence[Handle]) -> dict[str, PartId]:
        """Part ids by Ray's hexadecimal ids of their remotes."""
        parts = {}
        for handle in handles:
            assert isinstance(handle, RemoteHandle)
            parts[ray_private.id_of(handle.remote)] = handle.part
        return parts
