"""Parts that are dead, unresponsive, or only slow; with a clock and heartbeats on command."""

from __future__ import annotations

import math
import time

import pytest

from actors.client import ActorClient
from common.config_operation import SupervisionConfig
from common.errors import RemoteDiedError, UnresponsiveError, one_line
from common.handles import Failed, InlineHandle, Ready
from common.parts import LEARNER, actor
from deploy.runtime.inline import InlineRuntime
from deploy.supervisor.health import HealthMonitor
from deploy.supervisor.slots import Slot
from deploy.supervisor.timeouts import Timeouts

TICK_S = 0.2
TIMEOUTS = Timeouts()


class Answer:
    """An answer that comes when the test lets it."""

    def __init__(self) -> None:
        self.error = None
        self.came = False
        self.value = None

    def done(self):
        return self.came

    def result(self):
        assert self.came, "waiting for it would block the loop"
        if self.error is not None:
            raise self.error
        return self.value


class Heartbeats(InlineRuntime):
    """A part sends heartbeats unless it is in `silent` or `dead`."""

    def __init__(self) -> None:
        self.silent = set()
        self.dead = {}
        self.pinged = []

    def ping(self, handle):
        self.pinged.append(handle)
        if handle in self.silent:
            return Answer()
        return Failed(self.dead[handle]) if handle in self.dead else Ready(None)


class Scene:
    """Slots, their monitor, and the time."""

    def __init__(
        self,
        count=1,
        hung_after_s=10.0,
        call_timeout_s=None,
        core=True,
        start_timeout_s=None,
        runtime=None,
    ):
        self.runtime = runtime or Heartbeats()
        self.now = time.monotonic()
        config = SupervisionConfig(
            hung_after_s=hung_after_s,
            call_timeout_s=call_timeout_s,
            start_timeout_s=start_timeout_s,
        )
        self.monitor = HealthMonitor(self.runtime, config, TIMEOUTS, self.now)
        self.slots = [
            Slot(actor(i), ActorClient, lambda _: InlineHandle(None), InlineHandle(None), 3, core)
            for i in range(count)
        ]

    def work(self, slot):
        slot.call, slot.called_s = Answer(), self.now

    def go_on(self, seconds, tick_s=TICK_S):
        """Time goes by under the loop's eyes; what was found in it."""
        found = []
        for _ in range(max(1, round(seconds / tick_s))):
            self.now += tick_s
            found += self.monitor.look(self.slots, self.now)
        return found


def test_parts_that_live_are_left_alone_and_asked_now_and_then():
    scene = Scene(count=3)
    assert scene.go_on(100.0) == []
    assert all(slot.ready for slot in scene.slots)
    times = len(scene.runtime.pinged) / 3
    assert times <= 100 / TIMEOUTS.heartbeat_every_s + 1
    assert times > 100 / (TIMEOUTS.heartbeat_every_s + 2 * TICK_S)


def test_a_part_that_died_is_found_with_its_reason():
    scene = Scene(count=2)
    scene.go_on(2.0)
    first, second = scene.slots
    scene.runtime.dead[second.handle] = error = RemoteDiedError("actor-1-3", "it was killed")
    assert scene.go_on(0.8)[0] == (second, error)
    assert second.name == "actor-1-3"
    assert first.ready


def test_a_part_that_could_not_be_made_is_found_before_it_was_up():
    scene = Scene()
    (slot,) = scene.slots
    scene.runtime.dead[slot.handle] = error = ValueError("no")
    assert scene.go_on(0.2) == [(slot, error)]
    assert not slot.ready


def test_a_part_without_a_heartbeat_for_too_long_is_unresponsive():
    scene = Scene(count=2, hung_after_s=10.0)
    scene.go_on(2.0)
    first, _ = scene.slots
    scene.runtime.silent.add(first.handle)
    assert scene.go_on(9.0) == []
    ((slot, error), *_) = scene.go_on(3.0)
    assert slot is first
    assert isinstance(error, UnresponsiveError)
    assert str(error) == "actor-0 sent no heartbeat for 10 s"


def test_a_part_that_is_slow_but_alive_is_not_replaced():
    scene = Scene(hung_after_s=10.0, core=False)
    scene.go_on(1.0)
    scene.work(scene.slots[0])  # never answered, but heartbeats come
    assert scene.go_on(3_600.0, tick_s=1.0) == []


def test_a_heartbeat_that_comes_late_but_in_time_counts():
    scene = Scene(hung_after_s=10.0)
    scene.go_on(1.0)
    (slot,) = scene.slots
    scene.runtime.silent.add(slot.handle)
    for _ in range(5):
        assert scene.go_on(8.0) == []
        assert slot.ping is not None
        slot.ping.came = True
    scene.runtime.silent.clear()
    assert scene.go_on(30.0) == []


def test_actors_are_asked_only_if_their_report_is_long_in_coming():
    scene = Scene(count=200, hung_after_s=10.0, core=False)
    scene.go_on(1.0)
    assert len(scene.runtime.pinged) == 200, "once, to see that they are up"
    for slot in scene.slots:
        scene.work(slot)
    scene.go_on(4.0)
    assert len(scene.runtime.pinged) == 200
    scene.go_on(3.0)
    assert len(scene.runtime.pinged) > 200


def test_a_call_that_takes_too_long_is_given_up_however_alive_the_part_is():
    scene = Scene(hung_after_s=10.0, call_timeout_s=60.0)
    scene.go_on(1.0)
    (slot,) = scene.slots
    assert scene.go_on(100.0) == [], "it has nothing to do"
    scene.work(slot)
    assert scene.go_on(59.0) == []
    ((found, error), *_) = scene.go_on(2.0)
    assert found is slot
    assert str(error) == "actor-0 did not finish its call within 60 s"


def test_parts_that_still_start_do_not_hang_where_starting_has_no_limit():
    scene = Scene(count=2, hung_after_s=10.0, call_timeout_s=20.0, start_timeout_s=None)
    for slot in scene.slots:
        scene.runtime.silent.add(slot.handle)
        scene.work(slot)
    assert scene.go_on(300.0) == []
    assert not any(slot.ready for slot in scene.slots)


def test_after_a_long_pause_of_the_driver_no_part_is_blamed():
    scene = Scene(count=3, hung_after_s=10.0, call_timeout_s=20.0)
    scene.go_on(2.0)
    for slot in scene.slots:
        scene.runtime.silent.add(slot.handle)
        scene.work(slot)
    scene.go_on(5.0)
    scene.now += 8 * 3_600  # a laptop slept
    assert scene.monitor.look(scene.slots, scene.now) == []
    assert scene.go_on(3.0) == [], "they have the rest of their time"
    assert len({slot.part for slot, _ in scene.go_on(5.0)}) == 3


def test_short_absences_count_as_time():
    scene = Scene(hung_after_s=10.0)
    scene.go_on(2.0)
    scene.runtime.silent.add(scene.slots[0].handle)
    assert scene.go_on(8.0, tick_s=TIMEOUTS.away_s - 1) == []
    assert scene.go_on(8.0, tick_s=TIMEOUTS.away_s - 1)


def test_without_limits_no_part_is_unresponsive():
    scene = Scene(hung_after_s=None, call_timeout_s=None)
    scene.go_on(1.0)
    scene.runtime.silent.add(scene.slots[0].handle)
    scene.work(scene.slots[0])
    assert scene.go_on(10_000.0, tick_s=4.0) == []


def test_a_suspect_is_pinged_at_once_and_cleared_by_a_heartbeat():
    scene = Scene(core=False)
    scene.go_on(2.0)
    (slot,) = scene.slots
    before = len(scene.runtime.pinged)
    slot.suspect = True
    assert scene.go_on(TICK_S) == []
    assert len(scene.runtime.pinged) == before + 1
    assert not slot.suspect


def test_a_new_incarnation_begins_with_a_clean_slate():
    scene = Scene(hung_after_s=10.0)
    scene.go_on(1.0)
    (slot,) = scene.slots
    scene.runtime.silent.add(slot.handle)
    scene.work(slot)
    scene.go_on(9.0)
    slot.suspect = True
    slot.renew(4)
    assert (slot.name, slot.call, slot.ping, slot.ready, slot.suspect) == (
        "actor-0-4", None, None, False, False,
    )  # fmt: skip
    assert scene.go_on(5.0) == []
    assert slot.ready


def test_the_time_of_a_call_is_noted_before_it_is_made():
    seen = []

    class Working:
        def work(self):
            seen.append(slot.called_s)

    class Client:
        def __init__(self, handle):
            self.handle = handle

        def work(self):
            return self.handle.call("work")

    slot = Slot(LEARNER, Client, lambda _: InlineHandle(Working()), InlineHandle(Working()), 0)
    before = time.monotonic()
    slot.begin(Client.work)
    assert before <= seen[0] <= time.monotonic()
    assert slot.call is not None
    assert slot.call.done()
    assert math.isclose(slot.called_s, seen[0])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RemoteDiedError("shard-0-1", "it was killed"), "shard-0-1 died (it was killed)"),
        (UnresponsiveError("shard-0 sent no heartbeat for 60 s"), None),
        (ValueError("first\nsecond\n"), "second"),
        (ValueError(), "ValueError"),
    ],
    ids=str,
)
def test_a_cause_is_one_line(error, line):
    assert one_line(error) == (line or str(error))


# --- a part that never comes up -----------------------------------------------------------------


class Waiting(Heartbeats):
    """Some parts have no machine yet."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = set()
        self.asked = 0

    def pending_placement(self, handles):
        self.asked += 1
        self.given_up = 0
        return Ready([handle in self.waiting for handle in handles])

    def cancel(self, future):
        self.given_up += 1


def starting(**limits):
    scene = Scene(**limits, runtime=Waiting())
    for slot in scene.slots:
        slot.made_s = scene.now
        scene.runtime.silent.add(slot.handle)
        scene.work(slot)
    return scene


def test_a_part_that_does_not_come_up_in_its_time_is_given_up():
    scene = starting(count=2, hung_after_s=10.0, call_timeout_s=20.0, start_timeout_s=60.0)
    first, second = scene.slots
    assert scene.go_on(30.0) == []
    scene.runtime.silent.discard(second.handle)
    second.ping.came = True  # this one came up
    assert scene.go_on(0.4) == [], "its work has been waiting, but not for it"
    second.call = None
    assert scene.go_on(28.0) == []
    assert scene.runtime.asked == 0, "to ask costs something"
    ((slot, error), *_) = scene.go_on(3.0)
    assert slot is first
    assert str(error) == "actor-0 was not ready within 60 s"


def test_a_part_that_waits_for_a_machine_has_all_the_time_there_is():
    scene = starting(start_timeout_s=60.0)
    (slot,) = scene.slots
    scene.runtime.waiting.add(slot.handle)
    assert scene.go_on(600.0) == []
    assert scene.runtime.asked <= 1 + 540 / TIMEOUTS.placement_every_s, "not at every look"
    scene.runtime.waiting.clear()
    assert scene.go_on(59.0 - TIMEOUTS.placement_every_s) == [], "counted from the last answer"
    assert scene.go_on(TIMEOUTS.placement_every_s + 2.0)


def test_one_question_is_asked_for_all_and_never_waited_for():
    scene = starting(count=100, start_timeout_s=60.0)
    asked, answers, given_up = [], [], []

    def ask(handles):
        answer = Answer()
        answer.value = [False] * len(handles)
        asked.append(handles)
        answers.append(answer)
        return answer

    scene.runtime.pending_placement, scene.runtime.cancel = ask, given_up.append
    assert scene.go_on(61.0) == [], "the answer is not there yet"
    assert scene.go_on(TIMEOUTS.placement_answer_s + 1.0) == [], "no answer, no blame"
    assert given_up == answers
    assert all(slot.pending_placement for slot in scene.slots)
    assert scene.go_on(TIMEOUTS.placement_every_s) == []
    assert [len(handles) for handles in asked] == [100, 100]
    # A new incarnation fills a slot while the question is open: the answer is not about it.
    newest, *others = scene.slots
    newest.renew(4)
    newest.made_s = scene.now
    scene.runtime.silent.add(newest.handle)
    answers[1].came = True
    assert {slot for slot, _ in scene.go_on(59.0)} == set(others)
    assert len(asked) == 2
    scene.go_on(2.0)
    assert asked[2:] == [[newest.handle]]


def test_a_pause_of_the_driver_does_not_count_as_time_to_start():
    scene = starting(start_timeout_s=60.0)
    scene.go_on(10.0)
    scene.now += 8 * 3_600
    assert scene.monitor.look(scene.slots, scene.now) == []
    assert scene.go_on(48.0) == []
    assert scene.go_on(5.0)


def test_a_new_incarnation_has_the_whole_time_to_start():
    scene = starting(start_timeout_s=60.0)
    (slot,) = scene.slots
    slot.made_s -= 1e6
    slot.renew(4)
    assert scene.monitor.look(scene.slots, time.monotonic()) == []


def test_a_slot_is_unchanged_if_its_part_cannot_be_started_and_is_not_pinged_while_it_is_empty():
    scene = Scene()
    scene.go_on(1.0)
    (slot,) = scene.slots

    def cannot(incarnation):
        raise OSError("away")

    before, slot.spawn = (slot.handle, slot.incarnation), cannot
    with pytest.raises(OSError, match="away"):
        slot.renew(4)
    assert (slot.handle, slot.incarnation) == before
    slot.clear()
    slot.awaiting_restore = True
    asked = len(scene.runtime.pinged)
    assert scene.go_on(100.0) == []
    assert len(scene.runtime.pinged) == asked


def test_a_part_that_its_report_made_ready_is_not_judged_by_a_ping_of_before():
    # Where an environment has the main thread, the first ping waits behind the first call.
    scene = starting(count=1, hung_after_s=10.0, call_timeout_s=None, start_timeout_s=600.0)
    (slot,) = scene.slots
    assert scene.go_on(60.0) == []
    assert slot.ping is not None
    slot.ready, slot.ready_s = True, scene.now  # as `Dispatch` does
    assert scene.go_on(5.0) == []
    ((_, error), *_) = scene.go_on(20.0)
    assert str(error).startswith("actor-0 sent no heartbeat for 10")
