"""State of the whole process that an environment may change, kept apart from the program's own.

A simulator may change the folder, install signal handlers, or switch torch's gradients off. Inside
a call the environment finds the state that it left behind; after the call the program finds its
own. The handlers of the signals that end a run are the exception: those of the program are always
back.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch

from actors.environments.alarms import Alarm, alarm_of_now, exchange_alarm, resume_alarm

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
_NUMBERS = tuple(map(int, SIGNALS))
_handler_of = getattr(signal, "_signal", signal).getsignal  # 0.1 µs; `signal.getsignal` takes 2.5

_MAIN_THREAD = threading.main_thread().ident

State = tuple[str | None, bool, torch.dtype, int, Any, Any, Any, Sequence[Any]]

PROCESS_STATUS = Path("/proc/self/status")

_inside: int | None = None
"""The thread whose call of an environment is apart."""
_theirs: State | None = None
"""What the environments of this process left behind, where it differs from the program's own."""
_their_alarm: Alarm | None = None
_their_errors: Any = None
"""What numpy is to do about floating-point errors, likewise."""


class OwnInterrupt(Exception):  # noqa: N818 # its name is that of what it replaces
    """A KeyboardInterrupt that an environment has raised by itself."""


OwnInterrupt.__name__ = KeyboardInterrupt.__name__


@contextmanager
def apart(fresh: bool = False, is_step: bool = False) -> Iterator[None]:
    """Run a call of an environment, and undo its changes to the process afterwards.

    Within such a block another one changes nothing.

    Args:
        fresh: the call finds the program's own state, as a constructor expects it.
        is_step: look only for what costs microseconds: not for the mask of new files.
    """
    global _inside, _their_alarm, _their_errors  # as the state that they describe
    if _inside == threading.get_ident():
        yield
        return
    ours, handlers, context = _state(), _handlers(), copy_context()
    alarm = alarm_of_now() if handlers else None
    mask = None if is_step else _file_mask()
    try:
        _inside = threading.get_ident()
        if _theirs is not None:  # filters that a module has installed last
            _change(ours, (*ours[:-1], _theirs[-1]) if fresh else _theirs)
        if _their_errors is not None and not fresh:
            np.seterr(**_their_errors)
        if _their_alarm is not None and alarm is not None and not fresh:
            resume_alarm(_their_alarm)  # the last: it may ring at once
        yield
    except KeyboardInterrupt as error:
        if _is_from_terminal(error, handlers):
            raise
        own = OwnInterrupt(*error.args)
        own.__notes__ = getattr(error, "__notes__", [])
        raise own.with_traceback(error.__traceback__) from None
    finally:
        try:
            if alarm is not None:
                _their_alarm = exchange_alarm(alarm)
        except BaseException:  # it rang at the last moment
            _their_alarm = exchange_alarm(alarm) if alarm is not None else None
            raise
        finally:
            _inside = None
            try:
                _put_back(ours, mask, handlers)
            finally:
                _their_errors = _put_numpy_back(context)


def _put_numpy_back(context: Context) -> Any:
    """Put back what numpy does about errors; what the environment wants, None: the same."""
    with suppress(Exception):  # of values that cannot be compared, such as arrays
        if copy_context() == context:
            return None
    now, before = np.geterr(), context.run(np.geterr)
    if now == before:
        return None
    np.seterr(**before)
    return now


def _put_back(ours: State, mask: int | None, handlers: tuple[Any, ...]) -> None:
    global _theirs  # as the state that it describes
    after = _state()
    _theirs = None
    if after != ours:
        _theirs = after
        _change(after, ours)
    if mask is not None and _file_mask() != mask:
        os.umask(mask)
    if handlers and _handlers() != handlers:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            # None: installed by C code, which Python cannot install again.
            if handler is not None and _handler_of(int(number)) is not handler:
                signal.signal(number, handler)


def seed_global_generators(seed: int) -> None:
    """Seed the generators that all code of a process shares: an environment may draw from them."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 # the one that others draw from
    torch.manual_seed(seed)


def _state() -> State:
    folder = None
    with suppress(FileNotFoundError):  # it was removed
        folder = os.getcwd()  # noqa: PTH109 # a path costs 10 µs
    return (
        folder,
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_default_device(),
        sys.stdout,
        sys.stderr,
        warnings.filters[:],
    )


def _change(now: State, wanted: State) -> None:
    folder, grad, dtype, threads, device, sys.stdout, sys.stderr, filters = wanted
    if folder is not None and folder != now[0]:
        with suppress(OSError):  # it was removed
            os.chdir(folder)
    if grad != now[1]:
        torch.set_grad_enabled(grad)
    if dtype != now[2]:
        torch.set_default_dtype(dtype)
    if threads != now[3]:
        torch.set_num_threads(threads)
    if device != now[4]:
        torch.set_default_device(None if device == torch.device("cpu") else device)
    if filters != now[7]:
        warnings.filters[:] = filters  # type: ignore[index] # a list, declared as a Sequence


def _is_from_terminal(error: BaseException, handlers: tuple[Any, ...]) -> bool:
    """Whether a signal may have caused the error, and not the environment itself.

    A handler that is written in Python has a frame in the traceback. Python's default has none.

    Args:
        error: out of a call of the environment.
        handlers: the program's, as of `_handlers`.
    """
    if not handlers:  # signals arrive in the main thread
        return False
    possible = filter(callable, (handlers[0], _handler_of(_NUMBERS[0])))
    codes = set(map(_code_of, possible))
    if None in codes:
        return True
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    frames = (frame for link in links for frame, _ in traceback.walk_tb(link.__traceback__))
    return any(frame.f_code in codes for frame in frames)


def _code_of(handler: Any) -> CodeType | None:
    """The code of a function, method, callable object or partial; None: not in Python."""
    while isinstance(handler, partial):
        handler = handler.func
    if not hasattr(handler, "__code__"):
        handler = handler.__call__
    code: CodeType | None = getattr(handler, "__code__", None)
    return code


def _file_mask() -> int | None:
    """The mask of new files, where it can be read without setting it: other threads make files."""
    with suppress(OSError, ValueError):
        for line in PROCESS_STATUS.read_bytes().splitlines():
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return None


def _handlers() -> tuple[Any, ...]:
    """Of the signals that end a run; empty outside the main thread, which cannot set them."""
    if threading.get_ident() != _MAIN_THREAD:
        return ()
    return tuple(map(_handler_of, _NUMBERS))
