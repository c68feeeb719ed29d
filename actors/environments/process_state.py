"""State of the whole process that an environment may change, kept apart from the program's own.

A simulator may change the folder, install signal handlers, or switch torch's gradients off. Inside
a call the environment finds the state that it left behind; after the call the program finds its
own. Signal handlers are the exception: those of the program are always back.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
_NUMBERS = tuple(map(int, SIGNALS))
_handler_of = getattr(signal, "_signal", signal).getsignal  # 0.1 µs; `signal.getsignal` takes 2.5

_MAIN_THREAD = threading.main_thread().ident

State = tuple[str | None, bool, torch.dtype, int, Any, Any, Any]

_inside: int | None = None
"""The thread whose call of an environment is apart."""
_theirs: State | None = None
"""What the environments of this process left behind, where it differs from the program's own."""


@contextmanager
def apart(fresh: bool = False) -> Iterator[None]:
    """Run a call of an environment, and undo its changes to the process afterwards.

    Within such a block another one changes nothing.

    Args:
        fresh: the call finds the program's own state, as a constructor expects it.
    """
    global _theirs, _inside  # as the state that they describe
    if _inside == threading.get_ident():
        yield
        return
    ours, handlers = _state(), _handlers()
    if _theirs is not None and not fresh:
        _change(ours, _theirs)
    _inside = threading.get_ident()
    try:
        yield
    finally:
        _inside = None
        after = _state()
        _theirs = None
        if after != ours:
            _theirs = after
            _change(after, ours)
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
    )


def _change(now: State, wanted: State) -> None:
    folder, grad, dtype, threads, device, sys.stdout, sys.stderr = wanted
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


def _handlers() -> tuple[Any, ...]:
    """Of the signals that end a run; empty outside the main thread, which cannot set them."""
    if threading.get_ident() != _MAIN_THREAD:
        return ()
    return tuple(map(_handler_of, _NUMBERS))
