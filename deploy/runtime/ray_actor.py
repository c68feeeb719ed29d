"""A part in a process of Ray's: the object there, the handle and the futures here.

Ray's actors are called *remotes*; "actor" always means the RL actor.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import pickle
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.errors import (
    EnvironmentFailedError,
    RemoteDiedError,
    UserError,
    first_line,
    shorten,
    without_colours,
)
from common.handles import Future
from common.parts import PartId
from common.version import VERSION
from deploy.runtime.children import end_children
from deploy.runtime.heartbeats import HEARTBEAT_EVERY_S, Heartbeats
from deploy.runtime.interface import Place
from deploy.runtime.ray_private import name_process

PR_SET_PDEATHSIG = 1
CLOSE = "close"
"""The last call of a part with environments."""
RENAMED_AFTER_S = 0.2
EXIT = re.compile(
    r"Worker exit type: (\S+)\s+Worker exit detail: (.*?)\s*(?:Some common|There are some|$)", re.M
)
DEAD = re.compile(r"^The actor is dead because (.*)", re.M)
"""Where Ray says why: its first line is the same for every death."""
NODE_DIED = "its node has died"
"""Ray's words in the reason of a remote's death when the whole node is gone."""


def reason_in(detail: str) -> str:
    """Ray's exit detail of a process, in brief; empty where Ray gives none."""
    exit_of = EXIT.search(detail)
    if exit_of is not None:
        return f"its process ended ({exit_of[1]}: {shorten(exit_of[2]).rstrip('.')})"
    dead = DEAD.search(detail)
    return shorten(dead[1]).rstrip(".") if dead is not None else ""


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent, Ray's raylet, is gone.

    A worker of Ray's usually ends by itself then. A worker that is stopped, or that hangs while it
    exits, does not.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux only
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Suspend garbage collection while torch is imported: that saves an eighth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def without_interrupt(error: BaseException, where: str) -> BaseException:
    """The error, or an EnvironmentFailedError in place of a KeyboardInterrupt.

    No terminal reaches a remote, so an environment has raised it.

    Args:
        error: of the part.
        where: the part and its method.
    """
    if not isinstance(error, KeyboardInterrupt):
        return error
    text = f": {first_line(error)}" if str(error) else ""
    trace = traceback.format_list(traceback.extract_tb(error.__traceback__)[-1:])
    return EnvironmentFailedError(f"{where} raised {type(error).__name__}{text}", "".join(trace))


class PartHost:
    """Holds the part in the remote's process.

    The constructor creates the part and keeps its error for the first call. Otherwise Ray would
    report a dead remote, without the reason.
    """

    def __init__(
        self,
        name: str,
        version: str,
        pickled: bytes,
        args: tuple[Any, ...],
        heartbeat_key: str | None = None,
        heartbeat_every_s: float = HEARTBEAT_EVERY_S,
    ) -> None:
        """Create the part.

        Args:
            name: of the part's incarnation, for process lists.
            version: of raydqn in the driver; this node must have the same.
            pickled: the class, pickled once more so that a failing import is an error like others.
            args: for its constructor.
            heartbeat_key: calls run in the main thread, and long ones send heartbeats under that
                key; None: a separate thread answers pings.
            heartbeat_every_s: see `Heartbeats`.
        """
        self._heartbeats: Heartbeats | None = None
        self._error: BaseException | None = None
        end_with_parent()
        if heartbeat_key is not None:
            # Ray's handler raises SystemExit, which a call would report as an error of its own.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # No terminal interrupts this process; a KeyboardInterrupt is the environment's own.
            signal.signal(signal.SIGINT, lambda number, frame: None)
            self._heartbeats = Heartbeats(heartbeat_key, heartbeat_every_s)
        self._name = name
        type(self).__name__ = name  # Ray names an idle process after the class
        name_process(f"ray::{name}.__init__")
        try:
            if version != VERSION:
                raise UserError(
                    f"node {socket.gethostname()} has raydqn {VERSION}, the driver {version}: "
                    "install the same everywhere"
                )
            with collecting_no_garbage():
                cls: type = pickle.loads(pickled)
            self._target: Any = cls(*args)
        except (Exception, KeyboardInterrupt) as error:  # of any kind: the first caller gets it
            self._error = without_interrupt(error, f"{name}: constructor")
            if heartbeat_key is not None:
                end_children()
        # When the constructor is over, Ray shows the class's former name until a call ends.
        timer = threading.Timer(RENAMED_AFTER_S, name_process, [f"ray::{name}"])
        timer.daemon = True
        timer.start()

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the part."""
        name_process(f"ray::{self._name}.{method}")
        if self._error is not None:
            raise self._error
        if self._heartbeats is not None:
            self._heartbeats.call_from_s = time.monotonic()
        try:
            return getattr(self._target, method)(*args)
        except KeyboardInterrupt as error:
            raise without_interrupt(error, f"{self._name}: {method}()") from error
        finally:
            if self._heartbeats is not None:
                self._heartbeats.call_from_s = math.inf
                if method == CLOSE:
                    end_children()

    def ping(self) -> Place:
        """Where the part lives."""
        name_process(f"ray::{self._name}")
        if self._error is not None:
            raise self._error
        return Place(socket.gethostname(), os.getpid())

    def crash(self) -> None:
        """Kill this process."""
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
            RemoteDiedError: the remote's process is gone (killed for lack of memory, too), or its
                result was lost.
            Exception: the error of the call, with the remote's traceback in its cause.
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
            detail = without_colours(str(error)).strip()
            machine = NODE_DIED in detail
            reason = "its machine is gone" if machine else reason_in(detail) or first_line(error)
            raise RemoteDiedError(self._part, reason, machine, detail) from error

    def done(self) -> bool:
        """Whether the value is available, without waiting."""
        import ray

        ready, _ = ray.wait([self.reference], timeout=0)
        return bool(ready)


class RemoteHandle:
    """`Handle` over a remote. Travels inside arguments."""

    def __init__(
        self, remote: Any, name: str, part: PartId, heartbeat_key: str | None = None
    ) -> None:
        """A handle to a remote that exists, or that Ray is starting.

        Args:
            remote: Ray's actor handle.
            name: in errors.
            part: that the remote is an incarnation of.
            heartbeat_key: see `PartHost`.
        """
        self.remote = remote
        self.name = name
        self.part = part
        self.heartbeat_key = heartbeat_key

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Queue the call; Ray keeps the order of one caller's calls."""
        return RemoteFuture(self.remote.call.remote(method, *args), self.name)

    def share(self, value: Any) -> Future[Any]:
        """Put `value` into Ray's object store once, for all readers."""
        import ray

        return RemoteFuture(ray.put(value), "the owner of a shared value")
