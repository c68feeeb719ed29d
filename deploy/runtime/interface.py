"""The interface between a run and the place where its parts live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from common.errors import UserError
from common.handles import Future, Handle
from common.parts import PartId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """The process that a part lives in."""

    host: str
    pid: int


class EventSink(Protocol):
    """Receives messages for the user."""

    def notify(self, text: str) -> None:
        """Show one line."""
        ...


class Runtime(Protocol):
    """Creates parts and waits for the results of their calls.

    Attributes:
        parallel: parts work side by side. If false, a call is over once it was made.
        autoscaling: nodes come and go, so that a part may wait for a node.
    """

    parallel: bool
    autoscaling: bool

    def spawn(
        self,
        cls: type,
        *args: Any,
        part: PartId,
        incarnation: int,
        public_name: str | None = None,
    ) -> Handle:
        """Create `cls(*args)` and return a handle. Calls may be queued before it is ready.

        Args:
            cls: of the part.
            args: for the constructor.
            part: identity; placement and resources depend on it.
            incarnation: of the part; process lists and errors show `part_name(part, incarnation)`.
            public_name: other drivers of the same cluster find the part by this name.
        """
        ...

    def ping(self, handle: Handle) -> Future[Place | None]:
        """Request a heartbeat, which comes as soon as the part exists, even during a call.

        The result is the part's place (None: this process). It raises the constructor's error, or
        `RemoteDiedError`.
        """
        ...

    def run_on(self, part: PartId, function: Callable[..., T], *args: Any) -> T:
        """Result of `function(*args)` on the node where that part lives, or will live."""
        ...

    def capacity(self, env_workers: Sequence[Handle], starting: int) -> Future[int]:
        """Number of actors that fit beside the load of other runs.

        Args:
            env_workers: this run's actors and evaluator, as far as they exist.
            starting: number of them that may hold resources already though they are not ready.
        """
        ...

    def max_actors(self) -> int | None:
        """Largest number of actors that can ever fit; None: unknown."""
        ...

    def consolidate(self, env_workers: Sequence[Handle]) -> Future[Handle | None]:
        """The actor to move so that its node becomes empty and can be removed; None: no actor.

        The next incarnation of that actor is placed on another node, if that has room.

        Args:
            env_workers: actors and evaluator.
        """
        ...

    def crash(self, handle: Handle) -> None:
        """Kill a part as if its process had crashed, for tests and `raydqn chaos`."""
        ...

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """The futures that are done, after waiting up to `timeout_s` for the first one."""
        ...

    def kill(self, handle: Handle) -> None:
        """Stop a part at once."""
        ...

    def pending_placement(self, handles: Sequence[Handle]) -> Future[list[bool]]:
        """For each part, whether it still waits for a node."""
        ...

    def cancel(self, future: Future[Any]) -> None:
        """Drop a request whose result is no longer needed."""
        ...


def check_count(count: int, runtime: Runtime) -> None:
    """Refuse a number of actors that can never fit.

    Raises:
        UserError: `count` is above `max_actors`.
    """
    limit = runtime.max_actors()
    if limit is not None and count > limit:
        where = "the cluster" if runtime.autoscaling else "the memory of this machine"
        raise UserError(f"actors.count={count}: {where} can never hold more than {limit}")
