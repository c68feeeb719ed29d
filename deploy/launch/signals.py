"""Signals that end a run: a clean stop, or held back while Ray starts."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

STOP_REASONS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated",  # the terminal, or the connection to it, is gone
}
DEFERRED = {signal.SIGINT, signal.SIGTERM}

_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def restored_handlers(numbers: Iterable[signal.Signals] = STOP_REASONS) -> Iterator[None]:
    """Restore the handlers of these signals at the end.

    Until then those of `stop_on_signals` stay: a signal that arrives while the last files are
    written, or while Ray ends, must not cut that short.

    Outside the main thread nothing is restored: Python delivers signals to the main thread only.
    """
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: installed by C code; Python cannot install it again
                signal.signal(number, handler)


@contextmanager
def handlers(by_signal: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    """Install signal handlers in the main thread, and restore the previous ones at the end."""
    with restored_handlers(by_signal):
        _install(by_signal)
        yield


def _install(by_signal: Mapping[signal.Signals, _Handler]) -> None:
    if _in_main_thread():
        for number, handler in by_signal.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def stop_on_signals(
    request_stop: Callable[[str], None], notify: Callable[[str], None]
) -> Iterator[None]:
    """Turn the first signal into a request for a clean stop, a later SIGINT into KeyboardInterrupt.

    The handlers stay, for `restored_handlers` to remove.

    Args:
        request_stop: called with the stop reason.
        notify: called with one line.
    """
    received = over = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received or over:
            # Kubernetes, Slurm and `ray job stop` may each send a SIGTERM: one stop is meant.
            if number == signal.SIGINT and received:
                raise KeyboardInterrupt
            received = True
            return
        received = True
        name = signal.Signals(number)
        request_stop(STOP_REASONS[name])
        with suppress(RuntimeError):  # the signal interrupted the printing of a line
            notify(
                f"{STOP_REASONS[name]} ({name.name}): finishing the calls in flight and saving a "
                "checkpoint; a second Ctrl-C stops at once, without a checkpoint"
            )

    _install(dict.fromkeys(STOP_REASONS, handler))
    try:
        yield
    finally:
        over = True


class StartInterrupted(KeyboardInterrupt):
    """A signal arrived while a run started: nothing was trained."""


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise StartInterrupted on SIGINT, SIGTERM and SIGHUP, until other handlers are installed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise StartInterrupted

    with handlers(dict.fromkeys(STOP_REASONS, interrupt)):
        yield


@contextmanager
def deferred_signals(
    notify: Callable[[signal.Signals], object] = lambda number: None,
) -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C and SIGTERM until the end, then raise StartInterrupted; none is lost.

    Yields a function that says whether a signal has arrived.

    An interrupt while two threads import can leave a lock held, and the command would hang. On
    SIGTERM Ray raises `SystemExit`, which Python drops if the signal arrives during a fork. So
    signals are recorded through a wakeup file descriptor, too: a thread reads it, because the main
    thread may be in Ray's code for seconds.

    Args:
        notify: called with the first signal when it arrives, in another thread.
    """
    if not _in_main_thread():
        yield lambda: False
        return
    received = threading.Event()
    reader, writer = socket.socketpair()

    def watch() -> None:
        while data := reader.recv(1 << 12):  # empty: the writer is closed
            arrived = [number for number in data if number in DEFERRED]
            if arrived and not received.is_set():
                received.set()
                notify(signal.Signals(arrived[0]))

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        writer.setblocking(False)
        with handlers(dict.fromkeys(DEFERRED, lambda number, frame: None)):
            previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                yield received.is_set
            finally:
                signal.set_wakeup_fd(previous)
    finally:
        writer.close()
        watcher.join()
        reader.close()
        if received.is_set():
            raise StartInterrupted
