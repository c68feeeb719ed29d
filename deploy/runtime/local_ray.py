"""Ray on this machine alone, started and stopped by this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from common.config import Config
from common.config_operation import SupervisionConfig
from common.errors import RunFailedError, UserError, first_line
from common.handles import Future, Ready
from common.parts import LEARNER, PartId
from deploy.resources.memory import ACTOR_BYTES, available_bytes
from deploy.resources.requests import resource_requests
from deploy.runtime.environment import environment
from deploy.runtime.local_token import own_token
from deploy.runtime.ray_private import (
    loopback_only,
    messages_to,
    no_other_ray,
    packages_first,
    processes_in_own_groups,
)
from deploy.runtime.ray_runtime import RayRuntime
from deploy.runtime.temp_folder import package_links, private_temp_folder

ENDED_WITHIN_S = 10.0
"""Time limit for each process of Ray's to be gone after SIGKILL."""
CORE_PROGRAMS = ("gcs_server", "raylet")
START_TRIES = 3
START_TIMED_OUT = "timed out during startup"
"""Ray's words when its raylet did not start within 30 s.

The raylet ends itself if its helpers, two Python processes, need longer than 15 s to start; Ray has
no setting for that (the open issue ray-project/ray#65983). A busy machine or a cold disk is enough.
"""


class OneMachine:
    """All remotes on this machine; the user decides how many share its cores."""

    autoscaling = False

    def __init__(self, config: Config | None = None) -> None:
        """Without a configuration there is no learner."""
        self._config = config
        self._limit = max(1, available_bytes() // ACTOR_BYTES)

    def options(self, part: PartId | None) -> Mapping[str, Any]:
        """No CPU by Ray's count; GPUs for the learner, as many as the machine has."""
        import ray

        gpus = 0
        if part == LEARNER and self._config is not None:
            # If the learner requested more than Ray knows of, it would wait for ever. A remote
            # without any sees all: CUDA may work where Ray cannot count its devices.
            there = int(ray.cluster_resources().get("GPU", 0))
            gpus = min(resource_requests(self._config, (), there > 0)[0].gpus, there)
        return {"num_cpus": 0, "num_gpus": gpus}

    def capacity(self, env_workers: Mapping[str, PartId], starting: int) -> Future[int]:
        """One actor for each core that the learner leaves."""
        learner = max(1, self._config.learner.threads) if self._config is not None else 0
        return Ready(max(1, len(os.sched_getaffinity(0)) - learner))

    def max_actors(self) -> int | None:
        """As many processes as its memory holds."""
        return self._limit

    def consolidate(self, env_workers: Mapping[str, PartId]) -> Future[str | None]:
        """No actor: there is only one node."""
        return Ready(None)


@contextmanager
def local_ray(
    object_store_bytes: int,
    config: Config | None = None,
    notify: Callable[[str], object] = lambda line: None,
    check: Callable[[], object] = lambda: None,
    record: Callable[[str], object] = lambda text: None,
    warn: Callable[[str], object] = lambda line: None,
    cpus: int = 1,
) -> Iterator[RayRuntime]:
    """A Ray of this process's own, stopped at the end of the block.

    Args:
        object_store_bytes: shared memory for data on its way between processes.
        config: of the run.
        notify: receives a line before the start, and before each retry.
        check: called before each step of the start; an exception from it ends the start safely.
        record: receives messages of Ray's own, in another thread.
        warn: receives a line if Ray starts without a token.
        cpus: that Ray counts with; the remotes of a run request none.

    Raises:
        UserError: Ray does not start, or its token is switched off (see `own_token`).
    """
    _check_no_ray()
    with ExitStack() as stack:
        allow_no_token = config is not None and config.security.allow_no_token
        stack.enter_context(own_token(allow_no_token, warn))
        import ray  # not before: it reads the token's variables when it is imported

        notify("starting Ray …")
        folder, packages = _folders()
        # Also after a signal during the start: no process must stay.
        started: list[subprocess.Popen[Any]] = []
        stack.enter_context(no_other_ray())
        stack.callback(lambda: end_processes(started))
        stack.callback(ray.shutdown)
        # Ray's processes inherit all three.
        with (
            environment(_settings()),
            loopback_only(),
            processes_in_own_groups(check) as processes,
        ):
            started = processes
            check()
            start = partial(
                ray.init,
                address="local",  # never join a cluster that happens to be there
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=object_store_bytes,
                job_config=packages_first(packages),
                _temp_dir=str(folder),
            )
            _start(start, processes, notify, folder)
        with messages_to(record):
            supervision = SupervisionConfig() if config is None else config.supervision
            watch = CoreProcesses(processes, _logs(folder))
            yield RayRuntime(OneMachine(config), watch.check, supervision.heartbeat_every_s)


def _check_no_ray() -> None:
    ray_module = sys.modules.get("ray")
    if ray_module is not None and ray_module.is_initialized():
        raise UserError("Ray runs in this process already: end it first (ray.shutdown())")


class CoreProcesses:
    """Watches the two processes that Ray cannot do without.

    When one is gone, Ray says so to its own log alone, and ends this process a minute later.
    """

    def __init__(self, processes: Iterable[subprocess.Popen[Any]], logs: Path) -> None:
        """Those among the processes that Ray has started; `logs` is the folder of its logs."""
        self._logs = logs
        named = [(_program(process), process) for process in processes]
        self._watched = {name: process for name, process in named if name in CORE_PROGRAMS}

    def check(self) -> None:
        """Look once more at each.

        Raises:
            RunFailedError: one has ended since the last look.
        """
        for name, process in list(self._watched.items()):
            code = process.poll()
            if code is not None:
                del self._watched[name]
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise RunFailedError(
                    f"Ray's process {name} ended ({how}), and the run with it; Ray's logs are in "
                    f"{self._logs}"
                )


def _program(process: subprocess.Popen[Any]) -> str:
    command = process.args
    return Path(str(command[0])).name if isinstance(command, list) and command else ""


def _folders() -> tuple[Path, Path]:
    """Ray's own, and that of links to raydqn's packages."""
    try:
        folder = private_temp_folder()
        return folder, package_links(folder)
    except OSError as error:
        raise UserError(
            f"Ray does not start on this machine: no folder for its files ({error}); set TMPDIR "
            "to one; --inline trains without it"
        ) from None


def _logs(folder: Path) -> Path:
    """The folder of the logs of the Ray that was started last."""
    return (folder / "session_latest").resolve() / "logs"


def _settings() -> dict[str, str]:
    """Environment variables of Ray's processes."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        # See `loopback_only`: the same for Ray's own processes.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray starts workers at niceness 15: beside any other load they would starve.
        "RAY_worker_niceness": "0",
        # Ray would keep a record of each of the last 100,000 calls: 40 MiB within half an hour.
        "RAY_task_events_report_interval_ms": "0",
        # Ray would start as many workers at a time as it knows of CPUs, one for each beforehand.
        "RAY_worker_maximum_startup_concurrency": str(len(os.sched_getaffinity(0))),
        "RAY_prestart_worker_first_driver": "0",
        # One thread for each remote's numerics; the learner sets its own number.
        "OMP_NUM_THREADS": "1",
    }


def _start(
    start: Callable[[], object],
    processes: list[subprocess.Popen[Any]],
    notify: Callable[[str], object],
    folder: Path,
) -> None:
    """Start Ray, in up to `START_TRIES` tries; `processes` are those that it has started."""
    import ray

    for tries_left in reversed(range(START_TRIES)):
        try:
            start()
            return
        except Exception as error:  # Ray has no class of its own for it
            line = first_line(error)
            if START_TIMED_OUT not in line or not tries_left:
                raise UserError(
                    f"Ray does not start on this machine: {line}; its logs are in {_logs(folder)}; "
                    "--inline trains without it"
                ) from None
        ray.shutdown()
        end_processes(processes)
        notify("Ray did not start within 30 s; retrying …")


def end_processes(processes: list[subprocess.Popen[Any]]) -> None:
    """Kill the processes that `ray.shutdown` has left, with their groups, and clear the list.

    After a complete start, Ray has ended them all, and those it did not wait for are about to go.
    After a start that failed, it ends none. Each process leads a group of its own with the raylet's
    helpers in it, which would outlive it by a minute. As long as the leader was not waited for, the
    group's number belongs to no other group.
    """
    for process in processes:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:  # on a busy machine that takes its time
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDED_WITHIN_S)
    processes.clear()
