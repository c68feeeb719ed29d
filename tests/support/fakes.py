"""Fakes for whole runs in this process: views, runtimes, and handles that die or hang."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from actors.environments import environment_spec
from common.checkpoint import read_verified
from common.config_toml import merge
from common.errors import RemoteDiedError
from common.handles import Failed, InlineHandle
from common.parts import Role, part_name
from deploy.launch.presets import make_config
from deploy.program import build
from deploy.runs.folder import RunFolder
from deploy.runtime.inline import InlineRuntime
from deploy.supervisor.loop import Supervisor
from deploy.supervisor.timeouts import Timeouts
from support.program import TINY, checkpoints_in

# --- views ----------------------------------------------------------------------------------------


class Messages:
    """A view that keeps the events of level INFO and above."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[tuple[int, str, str]] = []  # level, text, detail

    def update(self, report) -> None:
        pass

    def notify(self, text: str, level: int = logging.INFO, detail: str = "") -> None:
        self.events.append((level, text, detail))
        if level >= logging.INFO:
            self.lines.append(text)

    def close(self) -> None:
        pass


class Crashing(Messages):
    """Kills parts, once, after some learner steps; notes what a restarted part starts with.

    A run waits at each report while a part restarts: so it outlasts the restart in few steps.

    `looked` holds by part: of a shard its summary, of others the run's learner steps. `looks`:
    whether that is noted at all. `waits`: whether the run waits.
    """

    def __init__(self, parts, after_steps=150) -> None:
        super().__init__()
        self.parts, self.after_steps = parts, after_steps
        self.supervisor = None
        self.looks = self.waits = True
        self.killed = False
        self.looked = {}
        self.version = -1

    def slot(self, part):
        fleet = self.supervisor.fleet
        return {slot.part: slot for slot in [*fleet.core_parts, *fleet.env_workers]}[part]

    def update(self, report) -> None:
        if report["learner_steps"] >= self.after_steps and self.parts:
            self.supervisor.settle_checkpoint(5.0)  # one that is being written is whole first
            parts, self.parts, self.killed = self.parts, [], True
            self.version = self.supervisor.context.records.version
            for part in parts:
                self.supervisor.context.runtime.crash(self.slot(part).handle)
        elif self.killed and self.waits and not self.all_are_ready():
            time.sleep(0.02)

    def all_are_ready(self) -> bool:
        return all(slot.ready for slot in self.supervisor.fleet.core_parts)

    def notify(self, text, level=logging.INFO, detail="") -> None:
        super().notify(text, level, detail)
        name = text.partition(" ")[0]
        if not text.endswith("; restarted") or not self.looks:
            return
        fleet = self.supervisor.fleet
        slots = [*fleet.core_parts, *fleet.env_workers]
        (slot,) = [slot for slot in slots if str(slot.part) == name]
        if slot.part.role is Role.SHARD:
            self.looked[slot.part] = slot.client.summary().result()
        else:
            self.looked[slot.part] = self.supervisor.context.counters.learner_steps


# --- runs -----------------------------------------------------------------------------------------


CHEAP = {"network": {"hidden": []}, "learner": {"batches_per_sample": 5}}
"""Where the supervisor is tested and not what is learnt: a linear network, large messages."""


def tiny(**over):
    """Configuration of a run that ends in less than a second."""
    return make_config("cartpole", overrides=merge(merge(TINY, CHEAP), over))


def supervisor_for(config, path, view=None, runtime=None, **timeouts):
    """A supervisor of a new run; further arguments are fields of `Timeouts`."""
    return supervisor_in(RunFolder.create(path, config), view, runtime, **timeouts)


def supervisor_in(folder, view=None, runtime=None, **timeouts):
    """A supervisor of a new run in a folder that exists."""
    spec = environment_spec(folder.config.env)
    program = build(folder.config, spec, runtime or InlineRuntime())
    return Supervisor(program, folder, view or Messages(), time.monotonic(), Timeouts(**timeouts))


def supervisor_that_resumes(path, view=None, over=None, runtime=None, **timeouts):
    """As `resume` makes it: learner and shards are built from the newest checkpoint."""
    folder = RunFolder.open(path, over)
    checkpoint = folder.checkpoints.newest()
    spec = environment_spec(folder.config.env)
    program = build(folder.config, spec, runtime or InlineRuntime(), 1, checkpoint)
    view, timeouts = view or Messages(), Timeouts(**timeouts)
    supervisor = Supervisor(program, folder, view, time.monotonic(), timeouts)
    supervisor.restore(checkpoint)
    return supervisor


def use_timeouts(monkeypatch, **timeouts) -> None:
    """Have `train` and `resume` use other timeouts; the arguments are fields of `Timeouts`."""
    supervisor = partial(Supervisor, timeouts=Timeouts(**timeouts))
    monkeypatch.setattr("deploy.launch.run.Supervisor", supervisor)


def saved_counters(path):
    """Counters in the newest checkpoint of a run."""
    return checkpoints_in(path).newest().state["counters"]


def sound_checkpoints(supervisor):
    """Names of all checkpoints, each of them verified to the last byte."""
    store = supervisor.context.folder.checkpoints
    for name in store.names():
        checkpoint = store.load(name)
        for file in checkpoint.files:
            read_verified(store.storage, file, checkpoint.files)
    return store.names()


# --- runtimes -------------------------------------------------------------------------------------


class OneAtATime(InlineHandle):
    """Serves one caller at a time, as a process does: checkpoints are written in a thread."""

    def __init__(self, target, name) -> None:
        super().__init__(target, name)
        self._lock = threading.RLock()

    def call(self, method, *args):
        with self._lock:
            return super().call(method, *args)


class HostedHandle(OneAtATime):
    """As on Ray, errors come with the results, those of the constructor as well."""

    def __init__(self, make, name) -> None:
        try:
            super().__init__(make(), name)
        except Exception as error:
            super().__init__(error, name)

    def call(self, method, *args):
        if isinstance(self._target, Exception):
            return Failed(self._target)
        try:
            return super().call(method, *args)
        except Exception as error:
            return Failed(error)

    def ping(self):
        return Failed(self._target) if isinstance(self._target, Exception) else super().ping()


class HostedRuntime(InlineRuntime):
    """In this process, with handles as on Ray."""

    parallel = True

    def spawn(self, cls, *args, part, incarnation, public_name=None):
        name = part_name(part, incarnation)
        handle = HostedHandle(lambda: cls(*args), name)
        self.spawned(name, handle)
        return handle

    def spawned(self, name, handle) -> None:
        """For subclasses: a part of that name was started."""


class Heartbeat:
    """A ping's answer; it comes as soon as the runtime does not silence the part."""

    def __init__(self, runtime, handle) -> None:
        self.runtime, self.handle = runtime, handle

    def result(self):
        handle = getattr(self.handle, "handle", self.handle)
        return InlineRuntime.ping(self.runtime, handle).result()

    def done(self) -> bool:
        return self.runtime.silent not in ("all", self.handle)


class SideBySide(HostedRuntime):
    """As on Ray, answers may come late. `silent`: the handle without heartbeats, or "all"."""

    silent = "none"

    def ping(self, handle):
        return Heartbeat(self, handle)

    def wait(self, futures, timeout_s):
        ready = [future for future in futures if future.done()]
        if not ready:
            time.sleep(min(timeout_s, 0.01))
        return ready


# --- parts that do not answer ---------------------------------------------------------------------


class Never:
    """An answer that does not come before the test is over; see `tests/simulation/conftest.py`."""

    test_is_over = threading.Event()

    def result(self):
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("to wait for it would be to hang")
        self.test_is_over.wait()
        raise RemoteDiedError("part", "the test is over")

    def done(self) -> bool:
        return False


class Hanging:
    """A handle whose part stops answering after some calls, of some methods or of all."""

    def __init__(self, handle, after=0, methods=None) -> None:
        self.handle, self.left, self.methods = handle, after, methods
        self.asked: list[str] = []

    def call(self, method, *args):
        self.asked.append(method)
        if self.methods is None or method in self.methods:
            self.left -= 1
        return Never() if self.left < 0 else self.handle.call(method, *args)

    def share(self, value):
        return self.handle.share(value)


class Silent:
    """A handle whose part never answers."""

    name = "silent"

    def call(self, method, *args):
        return Never()

    def share(self, value):
        raise AssertionError
