"""All parts in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from common.handles import Future, Handle, InlineHandle, Ready
from common.parts import PartId, part_name
from deploy.runtime.interface import Place

T = TypeVar("T")


class InlineRuntime:
    """All parts in this process and thread: no Ray, deterministic, breakpoints work."""

    parallel = False
    autoscaling = False

    def spawn(
        self,
        cls: type,
        *args: Any,
        part: PartId,
        incarnation: int,
        public_name: str | None = None,
    ) -> Handle:
        """Create the object now."""
        return InlineHandle(cls(*args), part_name(part, incarnation))

    def ping(self, handle: Handle) -> Future[Place | None]:
        """A result at once: no call is ever under way."""
        assert isinstance(handle, InlineHandle)
        return handle.ping()

    def run_on(self, part: PartId, function: Callable[..., T], *args: Any) -> T:
        """Result of `function(*args)` in this process."""
        return function(*args)

    def capacity(self, env_workers: Sequence[Handle], starting: int) -> Future[int]:
        """One: more actors would only take turns."""
        return Ready(1)

    def max_actors(self) -> int | None:
        """No limit: actors take turns."""
        return None

    def consolidate(self, env_workers: Sequence[Handle]) -> Future[Handle | None]:
        """No actor: there is only one node."""
        return Ready(None)

    def crash(self, handle: Handle) -> None:
        """Drop the object; from now on its handle acts like that of a dead process."""
        assert isinstance(handle, InlineHandle)
        handle.end()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        """All futures: each call ran when it was made."""
        return list(futures)

    def kill(self, handle: Handle) -> None:
        """No effect: the object goes with the last reference to it."""

    def pending_placement(self, handles: Sequence[Handle]) -> Future[list[bool]]:
        """False for each part."""
        return Ready([False] * len(handles))

    def cancel(self, future: Future[Any]) -> None:
        """No effect: the result exists already."""
