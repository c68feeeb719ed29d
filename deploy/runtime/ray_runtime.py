"""Parts as remotes on the Ray that this process is connected to."""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from common.errors import UserError
from common.handles import Future, Handle, Mapped, Ready
from common.parts import PartId, Role, part_name
from common.version import VERSION
from deploy.runtime import ray_private
from deploy.runtime.heartbeats import HEARTBEAT_EVERY_S
from deploy.runtime.interface import Place
from deploy.runtime.ping import HeartbeatReader, Ping
from deploy.runtime.ray_actor import PartHost, RemoteFuture, RemoteHandle

T = TypeVar("T")
HEARTBEAT = "heartbeat"
"""Concurrency group of the calls that have a thread of their own."""
IN_MAIN_THREAD = (Role.ACTOR, Role.EVALUATOR)
"""Roles that hold environments, which may need the main thread of their process."""
CRASH_WITHIN_S = 2.0
"""A remote that is asked to crash during a longer call is killed through Ray."""
REMOVE_S = 2.0
"""Longest wait for the removal of heartbeats at the end."""
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

    def __init__(
        self,
        placement: Placement,
        check: Callable[[], object] = lambda: None,
        heartbeat_every_s: float = HEARTBEAT_EVERY_S,
    ) -> None:
        """A runtime without remotes.

        Args:
            placement: decides which node a remote goes to.
            check: called before each wait; raises an error if Ray itself has ended.
            heartbeat_every_s: see `Heartbeats`.
        """
        self._placement = placement
        self._check = check
        self._remote_classes: dict[bool, Any] = {}
        self._heartbeat_every_s = heartbeat_every_s
        self._heartbeat_keys = f"heartbeat/{uuid.uuid4().hex}/"  # prefix of this runtime's keys
        self._reader = HeartbeatReader(heartbeat_every_s)
        self._pings: weakref.WeakKeyDictionary[Handle, Ping] = weakref.WeakKeyDictionary()
        self._crashing: list[tuple[RemoteHandle, float]] = []  # with the time to kill it
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
        in_main_thread = part.role in IN_MAIN_THREAD
        key = f"{self._heartbeat_keys}{uuid.uuid4().hex}" if in_main_thread else None
        try:
            remote = (
                self._host_class(in_main_thread)
                .options(**options)
                .remote(name, VERSION, cloudpickle.dumps(cls), args, key, self._heartbeat_every_s)
            )
        except name_taken:
            if public_name is None:
                raise
            raise UserError(f"{public_name}: another run of that name has just begun") from None
        return RemoteHandle(remote, name, part, key)

    def _host_class(self, in_main_thread: bool) -> Any:
        """One of the two classes of remotes: Ray exports a class once, which takes 15 ms.

        Args:
            in_main_thread: calls run in the main thread of the process, one after another with
                pings; otherwise a separate thread answers pings, however long a call takes, and Ray
                has calls run in another thread, too.
        """
        if in_main_thread not in self._remote_classes:
            import ray

            groups: dict[str, Any] = {}
            methods: dict[str, Any] = {}
            if not in_main_thread:
                groups = {"concurrency_groups": {HEARTBEAT: 1}}
                in_group = ray.method(concurrency_group=HEARTBEAT)  # marks the function itself
                methods = {
                    "ping": in_group(lambda host: PartHost.ping(host)),
                    "crash": in_group(lambda host: PartHost.crash(host)),
                }
            host = type(PartHost.__name__, (PartHost,), methods)
            # A number of restarts is Ray's default; it makes `ray.remote` take options.
            self._remote_classes[in_main_thread] = ray.remote(max_restarts=0, **groups)(host)
        return self._remote_classes[in_main_thread]

    def ping(self, handle: Handle) -> Future[Place | None]:
        """Request a heartbeat: a reply, or a heartbeat of a call in the main thread."""
        assert isinstance(handle, RemoteHandle)
        if handle.heartbeat_key is None:
            return RemoteFuture(handle.remote.ping.remote(), handle.name)
        last = self._pings.get(handle)
        is_queued = last is not None and not last.is_replied()  # one waits behind a call
        reference = last.reference if last and is_queued else handle.remote.ping.remote()
        ping = Ping(reference, handle.name, handle.heartbeat_key, self._reader)
        self._pings[handle] = ping
        return ping

    def crash(self, handle: Handle) -> None:
        """Have the remote kill its own process, on whichever node it lives.

        A remote that does so only after its current call is killed by a later `wait`.
        """
        assert isinstance(handle, RemoteHandle)
        handle.remote.crash.remote()
        if handle.heartbeat_key is not None:  # a call may be under way
            self._crashing.append((handle, time.monotonic() + CRASH_WITHIN_S))

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """The futures that are done, after waiting up to `timeout_s` for the first one.

        Raises:
            RunFailedError: Ray itself has ended; once, so that a last checkpoint may be tried.
        """
        import ray

        self._check()
        self._kill_crashing()
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
        self._pings.pop(handle, None)
        self._crashing = [(one, due_s) for one, due_s in self._crashing if one is not handle]
        ray.kill(handle.remote)

    def remove_heartbeats(self) -> None:
        """Remove the heartbeats of this runtime's remotes from a cluster that stays."""
        remove = threading.Thread(
            target=ray_private.unpublish, args=[self._heartbeat_keys], daemon=True
        )
        remove.start()
        remove.join(REMOVE_S)  # Ray's store may not respond

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

    def _kill_crashing(self) -> None:
        now = time.monotonic()
        for handle in [handle for handle, due_s in self._crashing if due_s <= now]:
            with suppress(Exception):  # it is dead
                self.kill(handle)

    def _parts_by_id(self, handles: Sequence[Handle]) -> dict[str, PartId]:
        """Part ids by Ray's hexadecimal ids of their remotes."""
        parts = {}
        for handle in handles:
            assert isinstance(handle, RemoteHandle)
            parts[ray_private.id_of(handle.remote)] = handle.part
        return parts
