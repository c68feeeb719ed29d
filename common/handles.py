"""Calls from one part to another, in the same process or in another one.

A `Handle` stands for an object in this process (`InlineHandle`) or in another (deploy's
`RemoteHandle`). Callers use both alike, so that the same program runs both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from common.errors import RemoteDiedError

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class Future(Protocol[T_co]):
    """The result of a call, now or later."""

    def result(self) -> T_co:
        """The result; waits for it. Raises the error of the call."""
        ...

    def done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        ...


class Handle(Protocol):
    """Calls the methods of one object."""

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
    """A function of another future's result."""

    def __init__(self, future: Future[S], function: Callable[[S], T]) -> None:
        self._future = future
        self._function = function

    def result(self) -> T:
        """The function's value; raises the error of the future."""
        return self._function(self._future.result())

    def done(self) -> bool:
        """Whether the other future is done."""
        return self._future.done()


class Failed:
    """A future whose call has failed."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> Any:
        """Raises the error."""
        raise self._error

    def done(self) -> bool:
        """Always true."""
        return True


class InlineHandle:
    """Calls an object of this process, at once and in this thread, so that breakpoints work."""

    def __init__(self, target: Any, name: str = "part") -> None:
        """A handle of `target`; errors name it `name`."""
        self._target = target
        self.name = name

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call the method now. Its error is raised here, where a debugger shows the origin."""
        if self._target is None:  # as with a dead process, the result raises
            return Failed(RemoteDiedError(self.name, "it was ended"))
        return Ready(getattr(self._target, method)(*args))

    def ping(self) -> Future[None]:
        """Done; raises RemoteDiedError as its result after `end`."""
        if self._target is None:
            return Failed(RemoteDiedError(self.name, "it was ended"))
        return Ready(None)

    def end(self) -> None:
        """Behave like the handle of a dead process from now on."""
        self._target = None

    def share(self, value: Any) -> Future[Any]:
        """The value itself."""
        return Ready(value)
