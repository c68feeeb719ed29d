"""Starting and resuming a run: what the command line and the example notebook call."""

from __future__ import annotations

import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Any

from actors.environments import environment_spec
from common.checkpoint import Checkpoint, CheckpointStore
from common.config import Config, build, load_toml, merge, suggest, to_toml, with_actors
from common.errors import CheckpointError, UserError
from common.storage import LocalStorage, Storage, open_storage
from common.types import EnvironmentSpec
from deploy.control.file import discard
from deploy.reporting.progress import ProgressView
from deploy.reporting.view import SilentView
from deploy.resources.memory import check_memory, object_store_bytes
from deploy.runs.checkpoint_schema import check_origin, check_state
from deploy.runs.metrics import RunFolder, check_free, check_unused, is_run
from deploy.runtime.placement import as_user_errors, check_memories, check_storage, joined_cluster
from deploy.runtime.ray_runtime import (
    InlineRuntime,
    Runtime,
    check_count,
    collecting_no_garbage,
    local_ray,
)
from deploy.supervisor.loop import Supervisor

DEFAULT_PRESET = "cartpole"
STOPPING = {signal.SIGINT, signal.SIGTERM}
ATTEMPT_STRIDE = 1 << 16
"""Incarnations of one life of a run; the next life, after a resume, begins with the next."""


def preset_names() -> list[str]:
    """Names of the presets."""
    folder = resources.files("deploy.presets")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def preset_values(name: str) -> dict[str, Any]:
    """The values a preset sets, nested by section.

    Raises:
        UserError: no such preset.
    """
    names = preset_names()
    if name not in names:
        raise UserError(f"preset {name}: unknown{suggest(name, names)} (known: {', '.join(names)})")
    with resources.as_file(resources.files("deploy.presets") / f"{name}.toml") as path:
        return load_toml(path)


def preset_summary(name: str) -> str:
    """The first line of the preset's file: what it is for."""
    text = (resources.files("deploy.presets") / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].lstrip("# ")


def make_config(
    preset: str = DEFAULT_PRESET,
    file: Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> Config:
    """A configuration: preset, then file, then overrides.

    A preset's `stop.score` is meant for the preset's environment: it is dropped when a file or an
    override names another `env.id` and no score.

    Raises:
        UserError: unknown preset, unreadable file, wrong key or value.
    """
    base = preset_values(preset)
    over = merge(load_toml(file) if file else {}, overrides or {})
    for name, value in over.items():
        if isinstance(base.get(name), dict) and not isinstance(value, dict):
            raise UserError(f"{file or 'command line'}: {name}={value!r}: must be a table")
    if over.get("env", {}).get("id", base["env"]["id"]) != base["env"]["id"]:
        base.get("stop", {}).pop("score", None)
    if file:  # by itself first: an error then names it
        build(merge(base, load_toml(file)), str(file))
    return build(merge(base, over), "command line" if overrides else f"preset {preset}")


def run_name(env_id: str) -> str:
    """`CartPole-v1` → `cartpole-v1`: what runs of an environment are called."""
    return env_id.rpartition("/")[2].rpartition(":")[2].lower()


def new_run_path(name: str) -> Path:
    """runs/NAME-DATE-TIME, a new folder: made here, so that nobody else gets the same.

    Raises:
        UserError: it cannot be made.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{name}-{stamp}", 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = Path("runs") / f"{name}-{stamp}-{number}"
        except OSError as error:
            raise UserError(f"{path}: cannot be made ({error.strerror}); name --run-dir") from None


@contextmanager
def run_path(given: Path | None, name: str) -> Iterator[Path]:
    """`given`, or a new folder under `runs/`, which goes again if nothing was put into it."""
    if given is not None:
        yield given
        return
    path = new_run_path(name)
    try:
        yield path
    finally:
        with suppress(OSError):  # not empty
            path.rmdir()
            path.parent.rmdir()


def train(
    config: Config,
    run_dir: Path | None = None,
    *,
    inline: bool = True,
    address: str | None = None,
    view: ProgressView | None = None,
    started_s: float | None = None,
) -> dict[str, Any]:
    """Train from the beginning.

    Args:
        config: of the run.
        run_dir: empty or not there yet; by default under `runs/`.
        inline: in this process, without Ray.
        address: of a Ray cluster to run on; None: Ray is started on this machine.
        view: where progress is shown; by default nowhere.
        started_s: `time.monotonic()` when the command began.

    Returns:
        The summary (see `Supervisor.run`).

    Raises:
        UserError: a mistake in the configuration; nothing was written.
        RunFailedError: the run could not go on.
    """
    started_s = time.monotonic() if started_s is None else started_s
    view = view or SilentView()
    config = _from_anywhere(config)
    with run_path(run_dir, run_name(config.env.id)) as path:
        check_free(path)
        check_unused(path, config)
        spec = environment_spec(config.env, config.seed)
        with _runtime(config, spec, inline, address, view, path.name) as runtime:
            folder = RunFolder.create(path, config)
            try:
                return run_parts(folder, spec, None, runtime, view, started_s)
            finally:
                folder.discard_unless_used()


def _from_anywhere(config: Config) -> Config:
    """The same, with a storage that is found wherever a later command is given."""
    storage = config.checkpoint.storage
    if storage is None or "://" in storage:
        return config
    absolute = str(Path(storage).expanduser().absolute())
    return build(merge(config.model_dump(), {"checkpoint": {"storage": absolute}}))


def resume(
    run_dir: Path,
    overrides: dict[str, Any] | None = None,
    *,
    checkpoint_name: str | None = None,
    inline: bool = True,
    address: str | None = None,
    view: ProgressView | None = None,
    started_s: float | None = None,
) -> dict[str, Any]:
    """Go on with a run from its newest checkpoint, or the one named; else as `train`."""
    started_s = time.monotonic() if started_s is None else started_s
    folder = RunFolder.open(run_dir, overrides)
    view = view or SilentView()
    checkpoint = _checkpoint_of(folder, checkpoint_name)
    check_origin(checkpoint, folder.config)
    _check_goes_on(checkpoint, folder)
    spec = environment_spec(folder.config.env, folder.config.seed)
    with _runtime(folder.config, spec, inline, address, view, folder.path.name) as runtime:
        return run_parts(folder, spec, checkpoint, runtime, view, started_s)


def _checkpoint_of(folder: RunFolder, name: str | None) -> Checkpoint:
    store = folder.checkpoints
    if name is None:
        return store.newest()
    try:
        return store.load(name)
    except CheckpointError as error:
        raise store.with_way_out(error, name) from None


def fetch_run(url: str) -> Path:
    """A run folder for a run whose machine is gone, made of its newest checkpoint.

    Args:
        url: of the run's checkpoints, `checkpoint.storage` and the run's name.

    Returns:
        The folder, under `runs/`; one that is there already is left as it is.

    Raises:
        UserError: no checkpoint there, or the folder is of a run whose checkpoints are elsewhere.
    """
    place, _, name = url.rstrip("/").rpartition("/")
    path, storage = Path("runs") / name, open_storage(url)
    if is_run(path):
        there = RunFolder.open(path).checkpoints.storage
        if _place(there) != _place(storage):
            raise UserError(
                f"{path}: is of a run whose checkpoints are in {there.url}, not in {url}; move it "
                "away, or resume it by its folder"
            )
        return path
    # Of its files only the configuration is needed here.
    checkpoint = CheckpointStore(storage, 1, check_state, replay=False).newest()
    values = merge(checkpoint.state["config"], {"checkpoint": {"storage": place}})
    config = build(values, str(checkpoint))
    try:
        to_toml(config)
    except (ValueError, TypeError) as error:  # env.kwargs may be anything that JSON holds
        raise UserError(f"{checkpoint}: its config cannot be written ({error})") from None
    RunFolder.create(path, config)
    return path


def _place(storage: Storage) -> str:
    return str(storage.folder.resolve()) if isinstance(storage, LocalStorage) else storage.url


def _check_goes_on(checkpoint: Checkpoint, folder: RunFolder) -> None:
    """Refuse to resume a run that is where it was to stop: nothing would be done.

    Raises:
        UserError: names the stop condition that holds already.
    """
    stop, state = folder.config.stop, checkpoint.state
    reached = {**state["counters"], "score": state["score"]}
    for key in ("score", "learner_steps", "env_steps", "wall_s"):
        goal, now = getattr(stop, key), reached.get(key)
        if goal is not None and now is not None and now >= goal:
            option = key.replace("_", "-")
            raise UserError(
                f"{folder.path}: has reached stop.{key}={goal:g} already (it is at {now:g}); to go "
                f"on, name a larger one or none: --stop.{option} none"
            )


@contextmanager
def _runtime(
    config: Config,
    spec: EnvironmentSpec,
    inline: bool,
    address: str | None,
    view: ProgressView,
    run: str,
) -> Iterator[Runtime]:
    """A runtime for a configuration that is sound; ended on the way out. `run` is the run's name.

    Raises:
        UserError: it is not sound, or there is no such cluster.
    """
    if address is not None:
        view.notify(f"joining the cluster at {address} …")
        _check(config, spec, here=False)
        with joined_cluster(address, config, view, run) as runtime:
            with as_user_errors(f"--address={address}"):
                check_memories(config, spec, runtime)
            yield runtime
        return
    check_memory(config, spec, on_ray=not inline)  # before anything claims any
    if inline:
        _check(config, spec)
        yield InlineRuntime()
        return
    view.notify("starting Ray …")
    # Ray needs seconds to start and mostly waits; torch is imported meanwhile, in a thread: Ray's
    # processes end with the thread that started them.
    with ExitStack() as stack:
        with _signals_later() as came, ThreadPoolExecutor(1) as pool:

            def say(line: str) -> None:
                if came():
                    raise KeyboardInterrupt
                view.notify(line)

            checking = pool.submit(_check, config, spec)
            runtime = stack.enter_context(local_ray(object_store_bytes(config, spec), config, say))
            checking.result()
        yield runtime


@contextmanager
def _signals_later() -> Iterator[Callable[[], bool]]:
    """Ctrl-C takes effect when this is over, some seconds later; and no signal gets lost.

    Yields whether one has come.

    While two threads import, one that is interrupted in the wrong moment leaves a lock behind, and
    the command would hang for good. On SIGTERM Ray raises `SystemExit`, which Python drops if the
    signal comes in the middle of a fork: so what comes is noted beside that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python hands signals to the main thread only
        return
    noted, note = socket.socketpair()
    with noted, note:
        noted.setblocking(False)
        note.setblocking(False)

        def came() -> bool:
            with suppress(BlockingIOError):  # nothing came
                return bool(STOPPING & set(noted.recv(1 << 12, socket.MSG_PEEK)))
            return False

        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        noted_before = signal.set_wakeup_fd(note.fileno(), warn_on_full_buffer=False)
        try:
            yield came
        finally:
            signal.set_wakeup_fd(noted_before)
            signal.signal(signal.SIGINT, before)
            if came():
                raise KeyboardInterrupt


def _check(config: Config, spec: EnvironmentSpec, here: bool = True) -> None:
    with collecting_no_garbage():
        from deploy.program import check  # imports torch

    check(config, spec, here)


def run_parts(
    folder: RunFolder,
    spec: EnvironmentSpec,
    checkpoint: Checkpoint | None,
    runtime: Runtime,
    view: ProgressView,
    started_s: float,
) -> dict[str, Any]:
    """Make all parts in a runtime, and train; see `train`."""
    from deploy.program import build as build_program

    try:
        with folder.lock(), _own_changes(folder):
            with as_user_errors("the cluster") if runtime.autoscaling else nullcontext():
                if runtime.autoscaling and folder.config.checkpoint.replay:
                    url = folder.checkpoints.storage.url
                    check_storage(url, runtime, folder.config.replay.shards)
                incarnation = _new_attempt(folder, checkpoint, runtime.parallel)
                with _way_out(folder, checkpoint):  # inline, shards are filled when they are made
                    count = folder.config.actors.count or runtime.capacity([], 0).result()
                    check_count(count, runtime)
                    config = with_actors(folder.config, count)
                    program = build_program(config, spec, runtime, incarnation, checkpoint)
                supervisor = Supervisor(program, folder, view, started_s)
            with _signals(supervisor, view):
                if checkpoint is not None:
                    with _way_out(folder, checkpoint):
                        supervisor.restore(checkpoint)
                    folder.save_config()
                view.notify(f"run folder: {folder.path}")
                return supervisor.run()
    finally:
        view.close()


def _new_attempt(folder: RunFolder, checkpoint: Checkpoint | None, parallel: bool) -> int:
    """The first incarnation of all parts; another in every life."""
    before = int(checkpoint.state["incarnation"]) if checkpoint is not None else 0
    # Room for as many replacements in each life: no random stream repeats. A folder that was made
    # anew, because its machine is gone, does not know how often the run was started.
    lives = folder.new_attempt(least=math.ceil(before / ATTEMPT_STRIDE))
    if checkpoint is not None and not parallel:
        # What the run drew after the checkpoint is lost; it is drawn again, bit for bit.
        return before
    return lives * ATTEMPT_STRIDE


@contextmanager
def _way_out(folder: RunFolder, checkpoint: Checkpoint | None) -> Iterator[None]:
    """If a shard's part of a checkpoint turns out to be damaged, say how to go on."""
    try:
        yield
    except CheckpointError as error:
        assert checkpoint is not None
        raise folder.checkpoints.with_way_out(error, checkpoint.name) from None


@contextmanager
def _own_changes(folder: RunFolder) -> Iterator[None]:
    """A change that one life of a run did not take is not meant for the next."""
    discard(folder.path)
    try:
        yield
    finally:
        discard(folder.path)


@contextmanager
def _signals(supervisor: Supervisor, view: ProgressView) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a clean stop, the second ends the command at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread only
        return
    names = {
        signal.SIGINT: "interrupted",
        signal.SIGTERM: "terminated",
        signal.SIGHUP: "terminated",  # its terminal, or the connection to it, is gone
    }
    seen = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True
        supervisor.request_stop(names[signal.Signals(number)])
        with suppress(RuntimeError):  # it came while a line was being printed
            view.notify(
                f"{names[signal.Signals(number)]}: ends what is under way and saves a checkpoint; "
                "once more stops at once, without one"
            )

    before = {number: signal.signal(number, handler) for number in names}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
