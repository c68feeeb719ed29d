"""How one part calls another, wherever it lives.

A `Handle` stands for an object in this process (`InlineHandle`) or in another (deploy's
`RemoteHandle`); callers cannot tell, which is why the same program runs both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from common.errors import RemoteDiedError

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class Future(Protocol[T_co]):
    """A result that is there, or will be."""

    def result(self) -> T_co:
        """The result; waits for it. Raises what the call raised."""
        ...

    def done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        ...


class Handle(Protocol):
    """The far end of a conversation with one object."""

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call `method(*args)` on the object. Calls of one handle run in their order."""
        ...

    def share(self, value: Any) -> Future[Any]:
        """A reference to `value` that may travel inside arguments and is read with `result`.

        Many readers on one machine then share one copy.
        """
        ...


class Ready(Generic[T]):
    """A future whose result is known."""

    def __init__(self, value: T) -> None:
        self._value = value

    def result(self) -> T:
        """The value."""
        return self._value

    def done(self) -> bool:
        """Always true."""
        return True


class Mapped(Generic[S, T]):
    """What a function makes of another future's result, once that is there."""

    def __init__(self, future: Future[S], function: Callable[[S], T]) -> None:
        self._future = future
        self._function = function

    def result(self) -> T:
        """Of the function; raises what the future raises."""
        return self._function(self._future.result())

    def done(self) -> bool:
        """Whether the other is."""
        return self._future.done()


class Failed:
    """A future of which it is known that there will be no result."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> Any:
        """Raises the error."""
        raise self._error

    def done(self) -> bool:
        """Always true."""
        return True


class InlineHandle:
    """Calls an object of this process, at once and in this thread: breakpoints work."""

    def __init__(self, target: Any, name: str = "part") -> None:
        """`name` is for errors."""
        self._target = target
        self.name = name

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Run it now. An error of the call is raised here, where a debugger shows its origin."""
        if self._target is None:  # the death of another process is seen in the result
            return Failed(RemoteDiedError(self.name, "it was ended"))
        return Ready(getattr(self._target, method)(*args))

    def ping(self) -> Future[None]:
        """Done, unless it was ended: then the result says so."""
        if self._target is None:
            return Failed(RemoteDiedError(self.name, "it was ended"))
        return Ready(None)

    def end(self) -> None:
        """Be from now on what the handle of a process that died is."""
        self._target = None

    def share(self, value: Any) -> Future[Any]:
        """The value itself."""
        return Ready(value)
