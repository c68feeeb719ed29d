"""The learner's threads: a fixed number, or the fastest on a machine that others use, too."""

from __future__ import annotations

import math
import os

import pytest
import torch

from common.config_learner import LearnerConfig
from common.config_toml import build
from common.errors import UserError
from learner.threads import LOOK_S, STALE_S, FreeCores, Threads, cpu_quota
from support.learning import Bench

AUTO = LearnerConfig(threads="auto")


class Machine:
    """Cores, of which neighbours use some, and a learner whose steps take so long on them."""

    def __init__(self, cores, serial=0.0, overhead=0.0):
        self.cores, self.neighbours = cores, 0.0
        self.serial, self.overhead = serial, overhead
        self.now, self.used = 0.0, []
        self.threads = Threads(
            AUTO,
            free_cores=lambda: max(0.0, self.cores - self.neighbours),
            clock=lambda: self.now,
            use=self.used.append,
        )

    def step_s(self, count):
        share = min(1.0, (self.cores - self.neighbours) / count)  # of the slowest thread
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
    threads = Threads(LearnerConfig(threads=count), free_cores=lambda: 64.0, use=used.append)
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


def test_calls_without_a_step_decide_nothing():
    threads = Threads(AUTO, free_cores=lambda: 8.0, use=lambda _: None)
    for _ in range(5):
        threads.add(0, LOOK_S)
    assert threads.count == 1


def test_free_cores_are_those_of_this_process_at_the_most():
    free = FreeCores()
    for _ in range(3):
        assert 0.0 <= free() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, math.inf),
        ({"": "max 100000"}, math.inf),
        ({"pod/container": "400000 100000"}, 4.0),
        ({"pod": "150000 100000", "pod/container": "max 100000"}, 2.0),
        ({"pod/container": "20000 100000"}, 1.0),
        ({"pod/container": "nonsense"}, math.inf),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path, limits, expected):
    (tmp_path / "pod/container").mkdir(parents=True)
    for folder, text in limits.items():
        (tmp_path / folder / "cpu.max").write_text(text)
    assert cpu_quota("/pod/container", tmp_path) == expected


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
