"""An environment that changes the state of the whole process, and what the program finds."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from contextlib import suppress
from contextvars import ContextVar
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from actors.environments import environment_spec, make_environment, process_state
from actors.environments.process_state import apart
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from support.acting import register
from support.environments import actions_of, forget_states


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    forget_states()


class Acting(gym.Env):
    """Calls `act` in each step, `in_reset` in each reset."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, act=lambda: None, in_reset=lambda: None):
        self.act, self.in_reset = act, in_reset

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.in_reset()
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.act()
        return np.zeros(2, np.float32), 0.0, False, False, {}


ACTING = register("ProcessActing", Acting)


def acting(**kwargs):
    environment = make_environment(EnvConfig(id=ACTING, kwargs=kwargs), 1)
    environment.reset(0)
    return environment


def step(environment):
    environment.step(actions_of(0))


class TooLate(Exception):  # noqa: N818
    pass


def ring(number, frame):
    raise TooLate


def test_an_alarm_that_is_left_pending_rings_in_the_environment_only():
    seen = []

    def act():
        if not seen:
            signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            seen.append("set")
            return
        with suppress(TooLate):
            time.sleep(3)
            return
        seen.append("rung")

    before = signal.getsignal(signal.SIGALRM)
    environment = acting(act=act)
    step(environment)
    assert signal.getsignal(signal.SIGALRM) is before
    time.sleep(0.15)  # the program's own time
    step(environment)
    assert seen == ["set", "rung"]


def test_an_alarm_without_a_handler_does_not_end_the_program():
    environment = acting(act=lambda: signal.setitimer(signal.ITIMER_REAL, 30))
    before_s, _ = signal.getitimer(signal.ITIMER_REAL)  # that of the test's time limit, or 0
    for _ in range(2):
        step(environment)
        assert signal.getitimer(signal.ITIMER_REAL) == (pytest.approx(before_s, abs=5), 0)


def test_the_programs_own_alarm_goes_on_whatever_the_environment_does():
    rung = []

    def act():
        signal.signal(signal.SIGALRM, ring)
        signal.alarm(5)
        signal.alarm(0)

    environment = acting(act=act)
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    left = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        step(environment)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2
        step(environment)
        time.sleep(0.3)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def own_alarm():
    """Sets the program's alarm: `set(left_s, every_s, handler)`; returns what it rang."""
    rung = []

    def set_alarm(left_s, every_s=0.0, handler=lambda *_: rung.append(1)):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left_s, every_s)
        return rung

    before, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.parametrize("theirs", [(0,), (1,), (1, 1), (100, 5)])
@pytest.mark.parametrize("every_s", [0, 200])
def test_the_programs_timer_is_restored_if_the_environment_sets_it(own_alarm, theirs, every_s):
    environment = acting(act=lambda: signal.setitimer(signal.ITIMER_REAL, *theirs))
    own_alarm(100, every_s)
    for _ in range(2):
        step(environment)
        left_s, interval_s = signal.getitimer(signal.ITIMER_REAL)
        assert 95 < left_s <= 100
        assert interval_s == every_s


def test_a_timer_that_has_rung_goes_on_as_the_program_has_set_it(own_alarm):
    def act():
        time.sleep(0.04)
        if off:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def set_anew(*_):
        signal.setitimer(signal.ITIMER_REAL, 50)

    environment, off = acting(act=act), True
    rung = own_alarm(0.01, 100)
    step(environment)
    assert 95 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    assert rung == [1]
    off = False
    own_alarm(0.01, 0, set_anew)
    step(environment)
    assert 45 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50


def test_an_alarm_of_the_programs_without_a_handler_runs_on_in_a_reset(own_alarm):
    own_alarm(100, 0, signal.SIG_DFL)
    acting()
    assert 95 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100


def test_an_alarm_that_rings_before_the_call_leaves_the_programs_state(tmp_path, monkeypatch):
    def act():
        os.chdir(tmp_path)
        np.seterr(over="raise")
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 50)

    def rings(alarm):
        raise TooLate

    before = (os.getcwd(), np.geterr(), signal.getsignal(signal.SIGALRM))  # noqa: PTH109
    environment = acting(act=act)
    step(environment)
    with monkeypatch.context() as patch:
        patch.setattr(process_state, "resume_alarm", rings)
        with pytest.raises(EnvironmentFailedError, match="raised TooLate"):
            step(environment)
    after = (os.getcwd(), np.geterr(), signal.getsignal(signal.SIGALRM))  # noqa: PTH109
    assert after == before
    step(environment)
    assert os.getcwd() == before[0], "later calls are kept apart, too"  # noqa: PTH109


def test_a_context_variable_with_an_array_does_not_matter(tmp_path):
    variable = ContextVar("variable", default=None)

    def act():
        variable.set(np.zeros(2))
        os.chdir(tmp_path)

    before = os.getcwd()  # noqa: PTH109
    variable.set(np.ones(2))
    try:
        step(acting(act=act))
        assert os.getcwd() == before  # noqa: PTH109
    finally:
        variable.set(None)


def test_a_watchdog_without_a_handler_does_not_kill_the_program():
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        acting(in_reset=lambda: signal.alarm(1))
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        with apart():
            signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)


def test_numpys_errors_and_the_filters_of_warnings_are_kept_apart():
    seen = []

    def act():
        seen.append((np.geterr()["over"], warnings.filters[0][0]))
        np.seterr(over="raise")
        warnings.simplefilter("always")

    before = (np.geterr(), list(warnings.filters))
    environment = acting(act=act)
    for _ in range(3):
        step(environment)
        assert (np.geterr(), list(warnings.filters)) == before
    assert seen[0][0] == before[0]["over"]
    assert seen[1:] == [("raise", "always")] * 2, "the environment finds what it left"


@pytest.mark.skipif(sys.platform != "linux", reason="the mask is read from /proc")
def test_the_mask_of_new_files_is_the_programs_own(tmp_path):
    before = os.umask(0o022)
    try:
        acting(in_reset=lambda: os.umask(0o777))
        path = tmp_path / "file"
        path.touch()
        assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_constructor_draws_from_generators_that_are_seeded():
    drawn = []

    class Random(Acting):
        def __init__(self):
            super().__init__()
            drawn.append((random.random(), np.random.randint(1 << 30)))  # noqa: NPY002

    config = EnvConfig(id=register("RandomInit", Random))
    for seed in (3, 3, 4):
        make_environment(config, 1, seed=seed)
    assert drawn[0] == drawn[1] != drawn[2]
    environment_spec(config, 7)
    assert drawn[3] != drawn[2]
    environment_spec(config, 7)
    assert drawn[3] == drawn[4]


def interrupt():
    raise KeyboardInterrupt("closed the window")


@pytest.fixture
def handled():
    """The handler of a run: it raises, as a second Ctrl-C does."""

    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled")
def test_an_interrupt_of_the_environments_own_is_its_failure():
    environment = acting(act=interrupt)
    with pytest.raises(EnvironmentFailedError) as caught:
        step(environment)
    assert "step() raised KeyboardInterrupt: closed the window" in str(caught.value)
    assert str(caught.value).endswith(", in interrupt; copy 0, step 1 of its episode)")

    class Broken(Acting):
        def __init__(self):
            interrupt()

    with pytest.raises(UserError, match=r"cannot be made \(KeyboardInterrupt: closed the window"):
        make_environment(EnvConfig(id=register("InterruptedInit", Broken)), 1)


@pytest.mark.usefixtures("handled")
def test_an_interrupt_from_the_terminal_stays_one():
    environment = acting(act=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        step(environment)


class Stopped(KeyboardInterrupt):
    pass


def raise_interrupt(kind, number=0, frame=None):
    raise kind


def stop_in_helper(number, frame):
    raise_interrupt(KeyboardInterrupt)


class Handler:
    def __call__(self, number, frame):
        raise KeyboardInterrupt


HANDLERS = [
    stop_in_helper,
    partial(raise_interrupt, KeyboardInterrupt),
    Handler(),
    Handler().__call__,
]


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("is_the_programs", [True, False])
def test_an_interrupt_of_any_handler_is_one_from_the_terminal(handler, is_the_programs):
    def act():
        if not is_the_programs:
            signal.signal(signal.SIGINT, handler)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if raises_anew:
                raise Stopped from None
            raise

    if is_the_programs:
        signal.signal(signal.SIGINT, handler)
    for raises_anew in (False, True):  # noqa: B007 # read in `act`
        with pytest.raises(KeyboardInterrupt):
            step(acting(act=act))


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stopped])
def test_an_interrupt_without_a_signal_is_the_environments_whatever_handler_it_has(kind):
    def act():
        signal.signal(signal.SIGINT, Handler())
        raise kind

    with pytest.raises((EnvironmentFailedError, KeyboardInterrupt)) as caught:
        step(acting(act=act))
    assert "raised KeyboardInterrupt" in str(caught.value)


def test_known_code_that_changes_nothing_is_not_kept_apart(monkeypatch):
    def refuse(**_):
        raise AssertionError("apart")

    config, users = EnvConfig(), EnvConfig(backend="gymnasium")
    known, own, shown = (
        make_environment(config, 2), make_environment(users, 2), make_environment(config, 2, True)
    )  # fmt: skip
    for environment in (known, own, shown):
        environment.reset(0)
    with monkeypatch.context() as patch:
        patch.setattr("actors.environments.environment.apart", refuse)
        known.step(actions_of(0, 1))
        for environment in (own, shown):  # a renderer is not known so well
            with pytest.raises(EnvironmentFailedError, match="apart"):
                environment.step(actions_of(0, 1))
    for environment in (known, own, shown):
        environment.close()
