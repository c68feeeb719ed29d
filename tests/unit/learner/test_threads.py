"""The learner's threads: a fixed number, or the fastest on a machine that others use, too."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from common.config_learner import LearnerConfig
from common.config_toml import build
from common.errors import UserError
from learner.threads import LOOK_S, STALE_S, FreeCores, Quota, Threads
from support.learning import Bench

AUTO = LearnerConfig(threads="auto")


class Machine:
    """Cores, of which neighbours use some, and a learner whose steps take so long on them."""

    def __init__(self, cores, serial=0.0, overhead=0.0):
        self.most, self.neighbours = cores, 0.0
        self.serial, self.overhead = serial, overhead
        self.now, self.used = 0.0, []
        self.noise = lambda: 0.0
        self.threads = Threads(AUTO, self, clock=lambda: self.now, use=self.used.append)

    def free(self):
        return max(0.0, self.most - self.neighbours + self.noise())

    def step_s(self, count):
        share = min(1.0, (self.most - self.neighbours) / count)  # of the slowest thread
        return 0.01 * (self.serial + (1 - self.serial) / count / share + self.overhead * count)

    def train(self, seconds):
        end = self.now + seconds
        while self.now < end:
            steps = 10
            took = steps * self.step_s(self.threads.count)
            self.now += took
            self.threads.add(steps, took)


@pytest.mark.parametrize("count", [1, 3])
def test_a_number_is_kept(count):
    used = []
    threads = Threads(LearnerConfig(threads=count), Machine(64), use=used.append)
    for _ in range(10):
        threads.add(100, 10 * LOOK_S)
    assert (threads.count, used) == (count, [count])


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (6, 6), (8, 8)])
def test_free_cores_are_used_where_they_help(cores, expected):
    machine = Machine(cores, serial=0.1)
    machine.train(20 * LOOK_S)
    assert machine.threads.count == expected


def test_no_more_threads_than_help():
    tiny = Machine(64, overhead=0.5)
    tiny.train(20 * LOOK_S)
    assert tiny.threads.count == 1
    assert max(tiny.used) == 2, "numbers beyond a slower one are not tried"
    middling = Machine(64, serial=0.3, overhead=0.01)
    middling.train(40 * LOOK_S)
    assert middling.threads.count in (4, 8)


def test_a_gain_within_noise_costs_no_core():
    machine = Machine(2, serial=0.98)
    machine.train(20 * LOOK_S)
    assert machine.threads.count == 1


def test_threads_give_way_to_a_neighbour_and_come_back():
    machine = Machine(2, serial=0.1)
    machine.train(20 * LOOK_S)
    assert machine.threads.count == 2
    machine.neighbours = 1.0
    machine.train(3 * LOOK_S)
    assert machine.threads.count == 1
    machine.neighbours = 0.0
    machine.train(STALE_S + 5 * LOOK_S)
    assert machine.threads.count == 2


def test_a_number_that_was_slow_once_is_tried_again():
    machine = Machine(2, overhead=2.0)
    machine.train(20 * LOOK_S)
    assert machine.threads.count == 1
    machine.overhead = 0.0
    machine.train(STALE_S + 5 * LOOK_S)
    assert machine.threads.count == 2


@pytest.mark.parametrize(("low", "high", "expected"), [(4.8, 6.4, 4), (3.5, 4.6, 4), (1.4, 1.6, 1)])
def test_free_cores_that_fluctuate_leave_the_number_as_it_is(low, high, expected):
    rng = np.random.default_rng(0)
    machine = Machine(8, serial=0.1)
    machine.noise = lambda: rng.uniform(low, high) - machine.most
    machine.train(30 * LOOK_S)
    machine.used.clear()
    machine.train(300 * LOOK_S)
    assert machine.threads.count == expected
    # Every minute the neighbours of the number are tried again: there and back, each of the two.
    assert len(machine.used) <= 4 * 300 * LOOK_S / STALE_S


def test_where_nothing_can_be_measured_the_number_stays():
    machine = Machine(2, serial=0.1)
    machine.train(20 * LOOK_S)
    machine.free = lambda: None
    machine.used.clear()
    machine.train(STALE_S + 5 * LOOK_S)
    assert (machine.threads.count, machine.used) == (2, [])


def test_calls_without_a_step_decide_nothing():
    threads = Threads(AUTO, Machine(8), use=lambda _: None)
    for _ in range(5):
        threads.add(0, LOOK_S)
    assert threads.count == 1


@pytest.mark.parametrize(
    ("busy_s", "own_s", "group_s", "quota", "expected"),
    [
        (0.0, 0.0, 0.0, math.inf, 4.0),
        (20.0, 20.0, 0.0, math.inf, 4.0),  # this process alone
        (30.0, 20.0, 0.0, math.inf, 3.0),
        (99.0, 20.0, 0.0, math.inf, 0.0),
        (20.0, 20.0, 20.0, 2.0, 2.0),
        (30.0, 5.0, 20.0, 2.0, 0.5),  # others in the group take 1.5 of its 2
    ],
)
def test_free_cores_are_those_that_others_leave(busy_s, own_s, group_s, quota, expected):
    looks = iter([(100.0, 7.0, 8.0, 9.0), (110.0, 7.0 + busy_s, 8.0 + own_s, 9.0 + group_s)])
    cores = FreeCores(Quota(quota))
    cores._affinity = [0, 1, 2, 3]
    cores._look = lambda: next(looks)
    cores.free()  # the first of these looks
    assert cores.free() == pytest.approx(expected)


def test_this_machine_has_free_cores_that_a_busy_process_takes():
    cores = FreeCores()
    assert 1.0 <= cores.most <= len(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            cores.free()
            time.sleep(0.5)
            assert 0.0 <= cores.free() <= len(os.sched_getaffinity(0)) - 0.3
        finally:
            neighbour.kill()


GROUP = "0::/pod/container"


@pytest.mark.parametrize(
    ("files", "group", "expected"),
    [
        ({}, GROUP, (math.inf, 0.0)),
        ({"cpu.max": "max 100000"}, GROUP, (math.inf, 0.0)),
        (
            {
                "pod/container/cpu.max": "400000 100000",
                "pod/container/cpu.stat": "usage_usec 2500000\nuser_usec 1",
            },
            GROUP,
            (4.0, 2.5),
        ),
        (
            {"pod/cpu.max": "150000 100000", "pod/container/cpu.max": "max 100000"},
            GROUP,
            (1.5, 0.0),
        ),
        ({"unified/pod/container/cpu.max": "200000 100000"}, GROUP, (2.0, 0.0)),
        ({"pod/container/cpu.max": "nonsense"}, GROUP, (math.inf, 0.0)),
        ({}, "nonsense", (math.inf, 0.0)),
        (
            {
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/pod/cpuacct.usage": "1500000000",
            },
            "3:cpu,cpuacct:/pod",
            (0.5, 1.5),
        ),
        ({"cpu/cpu.cfs_quota_us": "-1"}, "1:cpu:/", (math.inf, 0.0)),
    ],
)
def test_the_tightest_quota_of_a_container_counts(tmp_path, files, group, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    own.write_text(f"9:name=systemd:/\n{group}\n")
    quota = Quota.of_this_process(tmp_path, own)
    assert (quota.cores, quota.used_s()) == expected
    assert Quota.of_this_process(tmp_path, tmp_path / "none").cores == math.inf


def test_a_learner_reports_its_threads():
    before = torch.get_num_threads()
    try:
        assert Bench(learner={"threads": 2}).learner.train(1).threads == 2
        assert torch.get_num_threads() == 2
        assert Bench(learner={"threads": "auto"}).learner.train(1).threads == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [0, -1, 1.5, "many"])
def test_another_value_is_refused_by_name(value):
    with pytest.raises(UserError, match=rf"learner.threads={value}: must be a whole number"):
        build({"learner": {"threads": value}}, overrides={"learner": {"threads": value}})


def test_an_exact_resume_needs_a_number():
    with pytest.raises(UserError, match=r"learner\.threads=auto, checkpoint\.exact=true"):
        build({"learner": {"threads": "auto"}, "checkpoint": {"exact": True}})
