"""Handles over Ray: a Ray of this test's own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.environments.process_state import apart
from common.config import Config
from common.errors import RemoteDiedError, UserError
from common.parts import LEARNER, actor
from common.version import PACKAGES, VERSION
from deploy.runtime import ray_private
from deploy.runtime.inline import InlineRuntime
from deploy.runtime.interface import check_count
from deploy.runtime.local_ray import OneMachine, local_ray
from deploy.runtime.ray_actor import PartHost, RemoteFuture
from deploy.runtime.ray_runtime import RayRuntime
from ray import exceptions as ray_errors
from support.paths import ROOT, TESTS, import_path


class Part:
    """Something to call."""

    def __init__(self, value: int, fail: bool = False) -> None:
        if fail:
            raise UserError(f"value={value}: unwanted")
        self.value = value

    def add(self, number: int) -> int:
        self.value += number
        return self.value

    def wait(self, seconds: float) -> str:
        time.sleep(seconds)
        return "awake"

    def fail(self) -> None:
        raise ZeroDivisionError("on purpose")

    def read(self, references: list) -> tuple[float, bool]:
        (array,) = [reference.result() for reference in references]
        return float(array.sum()), bool(array.flags.writeable)

    def threads(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    def pid(self) -> int:
        return os.getpid()

    def start_child(self) -> int:
        self.child = multiprocessing.Process(target=time.sleep, args=(600,))
        self.child.start()
        return self.child.pid

    def close(self) -> None:
        """Forgets its child."""

    def alarm(self, seconds: float) -> str:
        def ring(*_):
            raise TimeoutError

        with apart():
            signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                time.sleep(60)
            except TimeoutError:
                return threading.current_thread().name
        return "no alarm"

    def ask(self, other) -> int:
        return other.call("add", 1).result()


class SlowPart:
    """Something that takes its time to be made."""

    def __init__(self) -> None:
        time.sleep(5.0)


MANY_GPUS = {"learner": {"device": "cuda:99"}, "supervision": {"hung_after_s": 4.0}}


@pytest.fixture(scope="module")
def ray_runtime():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", import_path(TESTS / "ray"))  # remotes import `Part` from here
        patch.setenv("OMP_NUM_THREADS", "3")  # set from outside
        with local_ray(100 * 2**20, Config.model_validate(MANY_GPUS)) as runtime:
            yield runtime


@pytest.fixture(params=["inline", "ray"])
def runtime(request):
    return InlineRuntime() if request.param == "inline" else request.getfixturevalue("ray_runtime")


def test_calls_run_in_their_order(runtime):
    handle = runtime.spawn(Part, 10, part=actor(0), incarnation=0)
    futures = [handle.call("add", n) for n in range(5)]
    assert [f.result() for f in futures] == [10, 11, 13, 16, 20]
    assert all(f.done() for f in futures)


def test_each_remote_computes_with_one_thread_whatever_the_command_was_given(ray_runtime):
    # TRAPS 27: many processes with a thread for each core would be in each other's way.
    handle = ray_runtime.spawn(Part, 0, part=actor(0), incarnation=0)
    assert handle.call("threads").result() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3", "what was there before Ray's start is back"


def test_raydqns_packages_come_before_modules_of_the_working_folder(ray_runtime):
    first = ray_runtime.run_on(actor(0), lambda: Path(sys.path[0]))
    assert sorted(link.name for link in first.iterdir()) == sorted(PACKAGES)
    assert (first / "deploy").resolve() == ROOT / "deploy"
    # As the driver asks for it: modules of the user's are found behind them.
    config = ray_private.packages_first(Path("/packages"))
    config._py_driver_sys_path.extend(["/script", "/working/folder"])
    assert config._py_driver_sys_path == ["/script", "/working/folder", "/packages"]


def test_no_remote_waits_for_gpus_unknown_to_ray(ray_runtime):
    import ray

    assert ray.cluster_resources().get("GPU", 0) < 100
    handle = ray_runtime.spawn(Part, 1, part=LEARNER, incarnation=0)
    call = handle.call("add", 1)
    assert ray_runtime.wait([call], 20.0) == [call]


def test_handles_travel_inside_arguments(runtime):
    a = runtime.spawn(Part, 1, part=actor(0), incarnation=0)
    b = runtime.spawn(Part, 5, part=actor(1), incarnation=0)
    assert a.call("ask", b).result() == 6


def test_what_is_shared_is_read_where_it_arrives(runtime):
    handle = runtime.spawn(Part, 0, part=actor(0), incarnation=0)
    reference = handle.share(np.ones(300_000))
    total, writeable = handle.call("read", [reference]).result()
    assert total == 300_000
    # Ray's shared memory is read-only: a part copies in what it keeps (TRAPS 15).
    assert writeable == isinstance(runtime, InlineRuntime)


def test_waiting_returns_what_is_done(runtime):
    handle = runtime.spawn(Part, 0, part=actor(0), incarnation=0)
    futures = [handle.call("add", 1), handle.call("add", 1)]
    ready = []
    while len(ready) < 2:
        ready = runtime.wait(futures, 5.0)
    assert set(map(id, ready)) == set(map(id, futures))
    assert runtime.wait([], 0.1) == []


def test_waiting_ends_after_its_time(ray_runtime):
    handle = ray_runtime.spawn(Part, 0, part=actor(0), incarnation=0)
    future = handle.call("wait", 5.0)
    assert ray_runtime.wait([future], 0.1) == []
    assert not future.done()
    ray_runtime.kill(handle)


def test_a_part_answers_a_ping_when_it_is_made_or_could_not_be(runtime):
    handle = runtime.spawn(Part, 3, part=actor(0), incarnation=0)
    assert runtime.wait([runtime.ping(handle)], 30.0)
    assert handle.call("add", 1).result() == 4


def test_an_environment_has_the_main_thread_and_a_long_call_of_it_sends_heartbeats(runtime):
    # Python runs signal handlers in the main thread: a step may set itself a time limit.
    handle = runtime.spawn(Part, 3, part=actor(0), incarnation=0)
    assert handle.call("add", 1).result() == 4  # it is made
    call = handle.call("alarm", 3.0)
    ping = runtime.ping(handle)
    place = ping.result()
    assert call.done() != runtime.parallel, "the heartbeat comes during the call"
    assert call.result() == "MainThread"
    assert runtime.ping(handle).result() == place
    if not runtime.parallel:
        return
    assert place.pid == handle.call("pid").result()
    child = handle.call("start_child").result()
    handle.call("close").result()
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"
    call = handle.call("wait", 60.0)
    runtime.crash(handle)
    deadline = time.monotonic() + 15
    while not runtime.wait([call], 0.2) and time.monotonic() < deadline:
        pass  # as the control loop does
    assert call.done()
    for future in (call, runtime.ping(handle)):
        with pytest.raises(RemoteDiedError):
            future.result()
    assert ray_private.published(handle.heartbeat_key) is not None
    runtime.remove_heartbeats()
    assert ray_private.published(handle.heartbeat_key) is None


def test_a_part_that_is_still_made_does_not_answer_a_ping(ray_runtime):
    ping = ray_runtime.ping(ray_runtime.spawn(SlowPart, part=actor(0), incarnation=0))
    assert ray_runtime.wait([ping], 1.0) == []
    assert ray_runtime.wait([ping], 30.0) == [ping]
    failed = ray_runtime.spawn(Part, 3, True, part=actor(0), incarnation=0)
    assert ray_runtime.wait([ray_runtime.ping(failed)], 30.0), "its first call says why"


def test_a_users_mistake_in_a_remote_arrives_as_one(ray_runtime):
    handle = ray_runtime.spawn(Part, 3, True, part=actor(0), incarnation=0)
    with pytest.raises(UserError, match=r"^value=3: unwanted$"):
        handle.call("add", 1).result()
    with pytest.raises(UserError, match="unwanted"):
        handle.call("add", 1).result()


def test_any_other_error_arrives_with_its_traceback(ray_runtime):
    handle = ray_runtime.spawn(Part, 3, part=actor(0), incarnation=0)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        handle.call("fail").result()
    assert handle.call("add", 1).result() == 4, "the remote lives on"


def test_a_killed_process_is_the_failure_of_its_own_call(ray_runtime):
    handle = ray_runtime.spawn(Part, 3, part=actor(0), incarnation=0)
    other = ray_runtime.spawn(Part, 3, part=actor(1), incarnation=0)
    pid = handle.call("pid").result()
    future = handle.call("wait", 60.0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RemoteDiedError):
        future.result()
    assert other.call("add", 1).result() == 4


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (ray_errors.OutOfMemoryError("\x1b[31mTask was killed due to the node running low\nx"), 0),
        (ray_errors.WorkerCrashedError(), 0),
        (ray_errors.ObjectLostError("00" * 28, "127.0.0.1:1", ""), 0),
        (ray_errors.NodeDiedError("its node has died"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_rays_own_is_a_death_in_one_line(monkeypatch, error, machine):
    import ray

    def get(reference):
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(RemoteDiedError) as caught:
        RemoteFuture("reference", "learner-0").result()
    assert caught.value.part == "learner-0"
    assert caught.value.machine == bool(machine)
    assert len(str(caught.value).splitlines()) == 1
    assert "\x1b" not in str(caught.value)
    assert "\x1b" not in caught.value.detail
    if str(error).strip():
        assert caught.value.detail.splitlines()[-1] == str(error).splitlines()[-1]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.detail) == (str(caught.value), caught.value.detail)


class Autoscaling(OneMachine):
    """One machine that acts as if more could come; one part asks for more than there is."""

    autoscaling = True

    def options(self, part):
        return {"num_cpus": 99} if part == actor(1) else {"num_cpus": 0}


def test_a_part_that_is_being_made_has_a_machine_and_one_without_room_waits_for_one(ray_runtime):
    autoscaling = RayRuntime(Autoscaling())
    slow = autoscaling.spawn(SlowPart, part=actor(0), incarnation=0)
    waiting = autoscaling.spawn(Part, 0, part=actor(1), incarnation=0)
    deadline = time.monotonic() + 60
    both = [slow, waiting]
    while (
        autoscaling.pending_placement(both).result() != [False, True]
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    assert autoscaling.pending_placement(both).result() == [False, True]
    assert ray_runtime.pending_placement(both).result() == [False, False], (
        "no machine will ever come here"
    )
    for handle in (slow, waiting):
        autoscaling.kill(handle)


def test_a_query_without_a_node_is_cancelled(ray_runtime):
    class Nowhere(Autoscaling):
        def options(self, part):
            return {"resources": {"no such node": 1}}

    autoscaling = RayRuntime(Nowhere())
    question = autoscaling.pending_placement([])
    assert not question.done()
    autoscaling.cancel(question)
    with pytest.raises(RemoteDiedError):
        question.result()


def test_more_actors_than_the_memory_holds_are_refused(ray_runtime):
    limit = ray_runtime.max_actors()
    check_count(limit, ray_runtime)
    says = f"actors.count={limit + 1}: the memory of this machine can never hold more than {limit}"
    with pytest.raises(UserError, match=re.escape(says)):
        check_count(limit + 1, ray_runtime)
    assert 1 <= limit < 100_000


def test_kill_ends_the_process(ray_runtime):
    handle = ray_runtime.spawn(Part, 3, part=actor(0), incarnation=0)
    process = psutil.Process(handle.call("pid").result())
    assert "ray::actor-0-0" in " ".join(process.cmdline())
    ray_runtime.kill(handle)
    process.wait(timeout=15)


def test_a_node_that_has_another_version_of_the_project_is_named():
    host = PartHost("part-0", "0.0.1", pickle.dumps(Part), (1,))
    for asked in (lambda: host.call("add", 1), host.ping):
        with pytest.raises(UserError) as caught:
            asked()
        assert f"{socket.gethostname()} has raydqn {VERSION}, the driver 0.0.1" in str(caught.value)


def test_a_remote_that_does_not_end_by_itself_ends_with_the_process_that_started_it():
    sleeper = (
        "import time; from deploy.runtime.ray_actor import end_with_parent; end_with_parent(); "
        "print('ready', flush=True); time.sleep(600)"
    )
    starter = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    root = str(ROOT)
    with subprocess.Popen(
        [sys.executable, "-c", starter],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs([child], timeout=5)
        for process in alive:
            process.kill()
        assert not alive


def test_ray_that_cannot_start_is_one_line(tmp_path):
    command = [sys.executable, "-m", "deploy", "train", "cartpole", "--run-dir", "run"]
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:  # a short path, but no folder
        environment = {**os.environ, "RAY_TMPDIR": file.name, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "Ray does not start on this machine" in line
    assert "--inline" in line
