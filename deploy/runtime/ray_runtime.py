"""Where parts live: in this process, or in Ray's. The only module that talks to Ray.

Ray's actors are called *remotes* here; "actor" always means the one that acts.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from common.config import Config
from common.errors import EnvironmentFailedError, RemoteDiedError, UserError
from common.handles import Future, Handle, InlineHandle, Mapped, Ready
from common.version import VERSION
from deploy.resources.memory import ACTOR_BYTES, available_bytes
from deploy.resources.requests import resource_requests

T = TypeVar("T")

ALIVE = "alive"
PR_SET_PDEATHSIG = 1
ENDED_WITHIN_S = 10.0
"""How long each of Ray's processes has to be gone after it was killed."""
START_TRIES = 3
NOT_THERE = "timed out during startup"
"""In what Ray says where its raylet was not there after 30 s. It ends itself when its helpers, two
Python processes, need longer than 15 s to start, and has no setting for that (the open issue
ray-project/ray#65983). On a busy machine, or from a disk that is new, they may."""
NODE_DIED = "its node has died"
"""In Ray's reason for the end of a remote: not its own fault, its machine is gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lives."""

    host: str
    pid: int


def part_name(title: str, incarnation: int) -> str:
    """What a part that can be replaced is called in process lists and errors."""
    return f"{title}-{incarnation}"


class Runtime(Protocol):
    """Makes parts and waits for their answers.

    Attributes:
        parallel: parts work side by side; where they do not, a call is over when it was made.
        autoscaling: machines come and go, so a part may have to wait for one.
    """

    parallel: bool
    autoscaling: bool

    def spawn(
        self, cls: type, *args: Any, name: str, title: str = "", public_name: str | None = None
    ) -> Handle:
        """Make `cls(*args)`, and a handle to it. Calls may be queued before it is ready.

        Args:
            cls: of the part.
            args: for it.
            name: of this one part, in process lists and errors.
            title: of its slot: where it is placed, and what it may use, depends on that.
            public_name: by which other drivers of the same cluster find it.
        """
        ...

    def ping(self, handle: Handle) -> Future[Place | None]:
        """A sign of life: done as soon as the part is made, whatever it is at.

        Its result says where it lives (None: in this process), and raises what the part's
        constructor raised, or `RemoteDiedError`.
        """
        ...

    def run_on(self, title: str, function: Callable[..., T], *args: Any) -> T:
        """What `function(*args)` returns on the machine where the part of that title lives."""
        ...

    def capacity(self, players: Sequence[Handle], starting: int) -> Future[int]:
        """How many actors there is room for, beside whatever others run there.

        Args:
            players: actors and evaluator, as far as there are any: what they hold is ours.
            starting: how many of them may have a place already, though they are not up.
        """
        ...

    def max_actors(self) -> int | None:
        """How many actors there can ever be room for; None: there is no telling."""
        ...

    def consolidate(self, players: Sequence[Handle]) -> Future[Handle | None]:
        """An actor that should live elsewhere, so that a machine gets empty and can go.

        Whoever takes its slot next is placed on another machine, where there is room. None: there
        is no such actor.

        Args:
            players: actors and evaluator.
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

    def pending_placement(self, handles: Sequence[Handle]) -> Future[list[bool]]:
        """Which parts have no place yet: where machines come and go, one may wait for its own."""
        ...

    def cancel(self, future: Future[Any]) -> None:
        """Nobody waits for this answer any more."""
        ...


def check_count(count: int, runtime: Runtime) -> None:
    """See whether there can ever be room for so many actors.

    Raises:
        UserError: there cannot.
    """
    limit = runtime.max_actors()
    if limit is not None and count > limit:
        where = "the cluster" if runtime.autoscaling else "the memory of this machine"
        raise UserError(f"actors.count={count}: {where} can never hold more than {limit}")


class InlineRuntime:
    """Everything in this process and thread: no Ray, deterministic, breakpoints work."""

    parallel = False
    autoscaling = False

    def spawn(
        self, cls: type, *args: Any, name: str, title: str = "", public_name: str | None = None
    ) -> Handle:
        """Make the object now."""
        return InlineHandle(cls(*args), name)

    def ping(self, handle: Handle) -> Future[Place | None]:
        """Done: nothing is ever under way."""
        assert isinstance(handle, InlineHandle)
        return handle.ping()

    def run_on(self, title: str, function: Callable[..., T], *args: Any) -> T:
        """Here."""
        return function(*args)

    def capacity(self, players: Sequence[Handle], starting: int) -> Future[int]:
        """One: more would only take turns."""
        return Ready(1)

    def max_actors(self) -> int | None:
        """None: they only take turns."""
        return None

    def consolidate(self, players: Sequence[Handle]) -> Future[Handle | None]:
        """Nobody."""
        return Ready(None)

    def crash(self, handle: Handle) -> None:
        """The part is gone; its handle acts as that of a dead process."""
        assert isinstance(handle, InlineHandle)
        handle.end()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """All of them: they ran when they were called."""
        return list(futures)

    def kill(self, handle: Handle) -> None:
        """Nothing: it ends with the last reference to it."""

    def pending_placement(self, handles: Sequence[Handle]) -> Future[list[bool]]:
        """Nobody."""
        return Ready([False] * len(handles))

    def cancel(self, future: Future[Any]) -> None:
        """Nothing: it is there already."""


def _end_with_parent() -> None:
    """Have the kernel kill this process when Ray's own, which started it, is gone.

    A worker of Ray's ends by itself then, except one that is stopped, or hangs as it exits: seldom,
    but seen.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux only
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """While torch is imported: an eighth of the time that takes is the search for garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Host:
    """Lives in a remote's process and holds the part.

    The part is made by the constructor, but its error is kept for the first call: Ray would
    otherwise report a dead remote, and the reason would be lost.
    """

    def __init__(self, version: str, pickled: bytes, args: tuple[Any, ...]) -> None:
        """`pickled` is the class: that its module does not come in is an error like any other."""
        self._error: BaseException | None = None
        _end_with_parent()
        try:
            if version != VERSION:
                raise UserError(
                    f"node {socket.gethostname()} has raydqn {VERSION}, the driver {version}: "
                    "install the same everywhere"
                )
            with collecting_no_garbage():
                cls: type = pickle.loads(pickled)
            self._target: Any = cls(*args)
        except Exception as error:  # whatever it is, the first caller gets it
            self._error = error

    def call(self, method: str, *args: Any) -> Any:
        if self._error is not None:
            raise self._error
        return getattr(self._target, method)(*args)

    def ping(self) -> Place:
        if self._error is not None:
            raise self._error
        return Place(socket.gethostname(), os.getpid())

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
            RemoteDiedError: the remote's process is gone (ended for want of memory, too), or its
                result was lost.
            Exception: what the call raised, with the remote's traceback in its cause.
        """
        from ray.exceptions import RayError, RayTaskError

        import ray

        try:
            return ray.get(self.reference)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (UserError, EnvironmentFailedError, RemoteDiedError, OSError)):
                raise cause from None
            raise
        except RayError as error:  # Ray's own: there is no result, and there will be none
            machine = NODE_DIED in str(error)
            reason = "its machine is gone" if machine else _plain_line(error)
            raise RemoteDiedError(self._part, reason, machine) from error

    def done(self) -> bool:
        """Whether the value is there, without waiting."""
        import ray

        ready, _ = ray.wait([self.reference], timeout=0)
        return bool(ready)


def _without_process(actor_ids: Sequence[str]) -> list[bool]:
    """For which remotes (hexadecimal ids) Ray has found no room, and no process there, so far."""
    from ray._private import state  # the public way to ask needs Ray's dashboard

    # Of one that waits for room, a node is named as well: the one that looks for it.
    return [not state.actors(actor_id).get("Pid") for actor_id in actor_ids]


def _plain_line(error: Exception) -> str:
    """The first line of Ray's message, without terminal colours; some have none."""
    lines = str(error).strip().splitlines()
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[0]) if lines else type(error).__name__


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


def _id_of(handle: Handle) -> str:
    """Ray's id of a remote, hexadecimal."""
    assert isinstance(handle, RemoteHandle)
    return str(handle.remote._actor_id.hex())


def _name_of(handle: Handle) -> str:
    assert isinstance(handle, RemoteHandle)
    return handle.name


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


@contextmanager
def _groups_of_their_own() -> Iterator[list[subprocess.Popen[Any]]]:
    """Have Ray put the processes that it starts meanwhile into process groups of their own.

    Yields the list of them; it grows as they start.

    A signal to the driver's whole group (Ctrl-C, `timeout`, `kill -- -PGID`) is the driver's to
    heed: did it end Ray as well, nothing could be saved. (The driver itself cannot step out of its
    group for that long: the leader of a group cannot, and it would miss a signal meanwhile.)
    """
    from ray._private import services

    started: list[subprocess.Popen[Any]] = []
    start = getattr(services, "ConsolePopen", None)
    if start is None:  # another version of Ray: its processes then share the driver's group
        yield started
        return

    def start_in_group(*args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
        process: subprocess.Popen[Any] = start(*args, process_group=0, **kwargs)
        started.append(process)
        return process

    services.ConsolePopen = start_in_group
    try:
        yield started
    finally:
        services.ConsolePopen = start


class Placement(Protocol):
    """Where remotes go, and what they take up there."""

    autoscaling: bool

    def options(self, title: str) -> Mapping[str, Any]:
        """Ray's options for the remote on the slot of that title."""
        ...

    def capacity(self, players: Mapping[str, str], starting: int) -> Future[int]:
        """How many actors there is room for.

        Args:
            players: names of actors and evaluator, by the ids of their remotes.
            starting: see `Runtime.capacity`.
        """
        ...

    def max_actors(self) -> int | None:
        """How many actors there can ever be room for; None: there is no telling."""
        ...

    def consolidate(self, players: Mapping[str, str]) -> Future[str | None]:
        """See `Runtime.consolidate`; by the ids of the remotes."""
        ...


class OneMachine:
    """Everything on this machine; how many remotes share its cores is for the user to decide."""

    autoscaling = False

    def __init__(self, config: Config | None = None) -> None:
        """Without a configuration there is no learner."""
        self._config = config
        self._limit = max(1, available_bytes() // ACTOR_BYTES)

    def options(self, title: str) -> Mapping[str, Any]:
        """No CPU of Ray's counting; GPUs for the learner, as far as there are any."""
        import ray

        gpus = 0
        if title == "learner" and self._config is not None:
            # For more than Ray knows of, it would wait for ever. At none it hides none from a
            # remote: CUDA may work where Ray cannot count its devices.
            there = int(ray.cluster_resources().get("GPU", 0))
            gpus = min(resource_requests(self._config, (), there > 0)[0].gpus, there)
        return {"num_cpus": 0, "num_gpus": gpus}

    def capacity(self, players: Mapping[str, str], starting: int) -> Future[int]:
        """One for each core that the learner leaves."""
        learner = self._config.learner.threads if self._config is not None else 0
        return Ready(max(1, len(os.sched_getaffinity(0)) - learner))

    def max_actors(self) -> int | None:
        """As many as its memory holds processes."""
        return self._limit

    def consolidate(self, players: Mapping[str, str]) -> Future[str | None]:
        """Nobody."""
        return Ready(None)


@contextmanager
def local_ray(
    object_store_bytes: int,
    config: Config | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[RayRuntime]:
    """Ray on this machine, for as long as it takes.

    Args:
        object_store_bytes: shared memory for what is under way between processes.
        config: of the run.
        say: told before Ray is started once more; what it raises ends that.

    Raises:
        UserError: it does not start.
    """
    import ray

    if ray.is_initialized():
        raise UserError("Ray runs in this process already: end it first (ray.shutdown())")
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray starts workers at niceness 15: beside anything else they would starve.
        "RAY_worker_niceness": "0",
        # Ray would keep a record of each of the last 100,000 calls: 40 MiB within half an hour.
        "RAY_task_events_report_interval_ms": "0",
        # It would start as many at a time as it knows of CPUs, and one for each beforehand.
        "RAY_worker_maximum_startup_concurrency": str(len(os.sched_getaffinity(0))),
        "RAY_prestart_worker_first_driver": "0",
        # One thread for each remote's numerics; the learner sets its own number.
        "OMP_NUM_THREADS": "1",
    }
    processes: list[subprocess.Popen[Any]] = []
    try:
        # Ray's processes inherit both.
        with _environment(settings), _groups_of_their_own() as processes:
            start = partial(
                ray.init,
                address="local",  # never join a cluster that happens to be there
                num_cpus=1,  # how many remotes there are is the configuration's to decide
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=object_store_bytes,
            )
            _start(start, processes, say)
        yield RayRuntime(OneMachine(config))
    finally:  # a signal while it started, too: what was started must not stay
        ray.shutdown()
        _end(processes)


def _start(
    start: Callable[[], object],
    processes: list[subprocess.Popen[Any]],
    say: Callable[[str], object],
) -> None:
    """Start Ray, in up to `START_TRIES` tries. `processes` are those that it has started."""
    import ray

    for tries_left in reversed(range(START_TRIES)):
        try:
            start()
            return
        except Exception as error:  # Ray has no class of its own for it
            line = _plain_line(error)
            if NOT_THERE not in line or not tries_left:
                raise UserError(
                    f"Ray does not start on this machine: {line}; what it wrote is in "
                    f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs; --inline "
                    "trains without it"
                ) from None
        ray.shutdown()
        _end(processes)
        say("Ray was not there after 30 s: once more …")


def _end(processes: list[subprocess.Popen[Any]]) -> None:
    """End what is left of Ray after `ray.shutdown`.

    Where Ray had come up, it has ended them all, and whom it did not wait for is about to go. Where
    it had not, it ends none. Each leads a group of its own, in which the raylet's helpers are, who
    would outlive it by a minute; as long as nobody has waited for the leader, the group's number is
    nobody else's.
    """
    for process in processes:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:  # on a busy machine that takes its time
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDED_WITHIN_S)
    processes.clear()


class RayRuntime:
    """Remotes on the Ray that this process is connected to."""

    parallel = True

    def __init__(self, placement: Placement) -> None:
        """`placement` says what goes where."""
        self._placement = placement
        self.autoscaling = placement.autoscaling

    def spawn(
        self, cls: type, *args: Any, name: str, title: str = "", public_name: str | None = None
    ) -> Handle:
        """Start a remote; process lists and Ray's tools show `name`.

        Raises:
            UserError: there is a remote of that public name.
        """
        from ray.exceptions import ActorAlreadyExistsError

        import ray
        from ray import cloudpickle

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
        remote_class = ray.remote(concurrency_groups={ALIVE: 1})(host)
        options = {"name": public_name, **self._placement.options(title)}
        try:
            remote = remote_class.options(**options).remote(VERSION, cloudpickle.dumps(cls), args)
        except ActorAlreadyExistsError:
            raise UserError(f"{public_name}: another run of that name has just begun") from None
        return RemoteHandle(remote, name)

    def ping(self, handle: Handle) -> Future[Place | None]:
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

    def pending_placement(self, handles: Sequence[Handle]) -> Future[list[bool]]:
        """For which parts Ray has not found room yet.

        Asked in a task, as the driver may be a client from outside.
        """
        import ray

        if not self.autoscaling:
            return Ready([False] * len(handles))
        options = {**self._placement.options(""), "num_cpus": 0}
        task = ray.remote(max_retries=0)(_without_process).options(**options)
        return RemoteFuture(task.remote(list(map(_id_of, handles))), "a question to Ray")

    def cancel(self, future: Future[Any]) -> None:
        """A question that waits for a node of its own need not be answered any more."""
        import ray

        assert isinstance(future, RemoteFuture)
        ray.cancel(future.reference)

    def run_on(self, title: str, function: Callable[..., T], *args: Any) -> T:
        """What `function(*args)` returns on the machine where the part of that title lives."""
        import ray

        options = {**self._placement.options(title), "num_cpus": 0, "num_gpus": 0, "resources": {}}
        task = ray.remote(max_retries=0)(function).options(**options)
        answer: T = RemoteFuture(task.remote(*args), f"a question to {title}").result()
        return answer

    def capacity(self, players: Sequence[Handle], starting: int) -> Future[int]:
        """How many actors there is room for, beside whatever others run there."""
        names = {_id_of(handle): _name_of(handle) for handle in players}
        return self._placement.capacity(names, starting)

    def max_actors(self) -> int | None:
        """How many actors there can ever be room for; None: there is no telling."""
        return self._placement.max_actors()

    def consolidate(self, players: Sequence[Handle]) -> Future[Handle | None]:
        """An actor that should live elsewhere, so that a machine gets empty and can go."""
        by_id = {_id_of(handle): handle for handle in players}
        names = {actor_id: _name_of(handle) for actor_id, handle in by_id.items()}
        return Mapped(
            self._placement.consolidate(names),
            lambda actor_id: None if actor_id is None else by_id[actor_id],
        )
