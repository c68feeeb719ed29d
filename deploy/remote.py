"""Where parts live: in this process, or in Ray's. The only module that talks to Ray.

Ray's actors are called *remotes* here; "actor" always means the one that acts.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from common.handles import Future, Handle, InlineHandle, RemoteDiedError
from common.types import EnvironmentFailedError, UserError

ALIVE = "alive"


def part_name(title: str, incarnation: int) -> str:
    """What a part that can be replaced is called in process lists and errors."""
    return f"{title}-{incarnation}"


class Runtime(Protocol):
    """Makes parts and waits for their answers.

    Attributes:
        parallel: parts work side by side; where they do not, a call is over when it was made.
    """

    parallel: bool

    def spawn(self, cls: type, *args: Any, name: str, gpus: int = 0) -> Handle:
        """Make `cls(*args)`, which may use `gpus` GPUs, and a handle to it.

        Calls may be queued before it is ready.
        """
        ...

    def ping(self, handle: Handle) -> Future[Any]:
        """A sign of life: done as soon as the part is made, whatever it is at.

        Its result raises what the part's constructor raised, or `RemoteDiedError`.
        """
        ...

    def crash(self, handle: Handle) -> None:
        """Have a part die as processes do, for tests and `raydqn chaos`."""
        ...

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """The futures that are done; waits for the first of them, at the most `timeout_s`."""
        ...

    def kill(self, handle: Handle) -> None:
        """End a part at once."""
        ...

    def close(self) -> None:
        """End everything that was spawned."""
        ...


class InlineRuntime:
    """Everything in this process and thread: no Ray, deterministic, breakpoints work."""

    parallel = False

    def spawn(self, cls: type, *args: Any, name: str, gpus: int = 0) -> Handle:
        """Make the object now. It has no name and whatever GPUs there are."""
        return InlineHandle(cls(*args), name)

    def ping(self, handle: Handle) -> Future[Any]:
        """Done: nothing is ever under way."""
        assert isinstance(handle, InlineHandle)
        return handle.ping()

    def crash(self, handle: Handle) -> None:
        """The part is gone; its handle acts as that of a dead process."""
        assert isinstance(handle, InlineHandle)
        handle.end()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """All of them: they ran when they were called."""
        return list(futures)

    def kill(self, handle: Handle) -> None:
        """Nothing: it ends with the last reference to it."""

    def close(self) -> None:
        """Nothing: everything ends with this process."""


class _Host:
    """Lives in a remote's process and holds the part.

    The part is made by the constructor, but its error is kept for the first call: Ray would
    otherwise report a dead remote, and the reason would be lost.
    """

    def __init__(self, cls: type, args: tuple[Any, ...]) -> None:
        self._error: BaseException | None = None
        try:
            self._target: Any = cls(*args)
        except Exception as error:  # whatever it is, the first caller gets it
            self._error = error

    def call(self, method: str, *args: Any) -> Any:
        if self._error is not None:
            raise self._error
        return getattr(self._target, method)(*args)

    def ping(self) -> None:
        if self._error is not None:
            raise self._error

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RemoteFuture:
    """An object reference of Ray's as a `Future`."""

    def __init__(self, reference: Any, part: str) -> None:
        """`part` names the remote in errors."""
        self.reference = reference
        self._part = part

    def result(self) -> Any:
        """Wait for the value.

        Raises:
            RemoteDiedError: the remote's process is gone, or its result was lost.
            Exception: what the call raised, with the remote's traceback in its cause.
        """
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(self.reference)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (UserError, EnvironmentFailedError, RemoteDiedError, OSError)):
                raise cause from None
            raise
        except (RayActorError, ray.exceptions.ObjectLostError) as error:
            raise RemoteDiedError(self._part, _plain_line(error)) from error

    def done(self) -> bool:
        """Whether the value is there, without waiting."""
        import ray

        ready, _ = ray.wait([self.reference], timeout=0)
        return bool(ready)


def _plain_line(error: Exception) -> str:
    """The first line of Ray's message, without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error).splitlines()[0])


class RemoteHandle:
    """`Handle` over a remote. Travels inside arguments."""

    def __init__(self, remote: Any, name: str) -> None:
        self.remote = remote
        self.name = name

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Queue the call; Ray keeps the order of one caller's calls."""
        return RemoteFuture(self.remote.call.remote(method, *args), self.name)

    def share(self, value: Any) -> Future[Any]:
        """Put `value` into Ray's object store once, for all readers."""
        import ray

        return RemoteFuture(ray.put(value), "the owner of a shared value")


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables for as long as it takes; what was there comes back."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class RayRuntime:
    """Remotes on a Ray instance of this machine that starts and ends with the run."""

    parallel = True

    def __init__(self, object_store_bytes: int) -> None:
        """Start Ray.

        Args:
            object_store_bytes: shared memory for what is under way between processes.
        """
        import ray

        if ray.is_initialized():
            raise UserError("Ray runs in this process already: end it first (ray.shutdown())")
        settings = {
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray starts workers at niceness 15: beside anything else they would starve.
            "RAY_worker_niceness": "0",
            # One thread for each remote's numerics; the learner sets its own number.
            "OMP_NUM_THREADS": "1",
        }
        with _environment(settings):  # Ray's processes inherit it
            try:
                ray.init(
                    address="local",  # never join a cluster that happens to be there
                    # Ray keeps an idle worker for each CPU it knows of. The number of remotes is
                    # the configuration's to decide here, so one is enough.
                    num_cpus=1,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                    object_store_memory=object_store_bytes,
                )
            except BaseException:  # Ctrl-C too: what was started must not stay
                ray.shutdown()
                raise
        self._remotes: list[RemoteHandle] = []

    def spawn(self, cls: type, *args: Any, name: str, gpus: int = 0) -> Handle:
        """Start a remote; process lists and Ray's tools show `name`."""
        import ray

        # Ray names a remote's process after its class: one of that name tells who it is.
        host = type(
            name,
            (_Host,),
            {
                # Signs of life come from a thread of their own, however long a call takes.
                "ping": ray.method(concurrency_group=ALIVE)(_Host.ping),
                "crash": ray.method(concurrency_group=ALIVE)(_Host.crash),
            },
        )
        # For more than Ray knows of, it would wait for ever. At none it hides none from a remote:
        # CUDA may work where Ray cannot count its devices.
        gpus = min(gpus, int(ray.cluster_resources().get("GPU", 0)))
        remote_class = ray.remote(concurrency_groups={ALIVE: 1})(host)
        remote = remote_class.options(name=name, num_cpus=0, num_gpus=gpus).remote(cls, args)
        handle = RemoteHandle(remote, name)
        self._remotes.append(handle)
        return handle

    def ping(self, handle: Handle) -> Future[Any]:
        """A sign of life, from a thread of its own."""
        assert isinstance(handle, RemoteHandle)
        return RemoteFuture(handle.remote.ping.remote(), handle.name)

    def crash(self, handle: Handle) -> None:
        """SIGKILL, by the remote's own hand: it may live on any machine."""
        assert isinstance(handle, RemoteHandle)
        handle.remote.crash.remote()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """The futures that are done; waits for the first of them, at the most `timeout_s`."""
        import ray

        by_reference = {f.reference: f for f in futures if isinstance(f, RemoteFuture)}
        references = list(by_reference)
        if not references:
            return []
        ready, rest = ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and rest:  # take along whatever else is done by now
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)
            ready += more
        return [by_reference[reference] for reference in ready]

    def kill(self, handle: Handle) -> None:
        """Kill the remote's process."""
        import ray

        assert isinstance(handle, RemoteHandle)
        ray.kill(handle.remote)
        self._remotes = [remote for remote in self._remotes if remote is not handle]

    def close(self) -> None:
        """End all remotes and Ray."""
        import ray

        self._remotes.clear()
        ray.shutdown()
