"""An environment that changes the state of the whole process, and what the program finds."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest

from actors.environments import environment_spec, make_environment, process_state
from actors.environments.process_state import apart
from common.config_sections import EnvConfig
from common.errors import EnvironmentFailedError, UserError
from support.acting import register
from support.environments import actions_of


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    for name in ("_theirs", "_their_alarm", "_their_errors"):
        setattr(process_state, name, None)


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
