"""Who is dead, who hangs, and who is only slow; with a clock and signs of life on command."""

from __future__ import annotations

import math
import time

import pytest

from common.errors import RemoteDiedError, UnresponsiveError
from common.handles import Failed, InlineHandle, Ready
from deploy.runtime.inline import InlineRuntime
from deploy.supervisor.slots import (
    ANSWER_S,
    ASK_AGAIN_S,
    MAX_AWAY_S,
    PING_EVERY_S,
    HealthMonitor,
    Slot,
    cause_of,
)

TICK_S = 0.2


class Answer:
    """An answer that comes when the test says so."""

    def __init__(self) -> None:
        self.error = None
        self.came = False
        self.value = None

    def done(self):
        return self.came

    def result(self):
        assert self.came, "nobody may wait for it"
        if self.error is not None:
            raise self.error
        return self.value


class Signs(InlineRuntime):
    """Signs of life come if the part lives and shows them."""

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
    """Slots under watch, and the time."""

    def __init__(
        self, count=1, hung_after_s=10.0, call_timeout_s=None, always=True, start_timeout_s=None
    ):
        self.runtime = Signs()
        self.now = time.monotonic()
        self.watch = HealthMonitor(self.runtime, hung_after_s, call_timeout_s, start_timeout_s)
        self.slots = [
            Slot(f"part-{i}", lambda _: InlineHandle(None), InlineHandle(None), 3, always)
            for i in range(count)
        ]

    def work(self, slot):
        slot.call, slot.called_s = Answer(), self.now

    def go_on(self, seconds, tick_s=TICK_S):
        """Time goes by under the loop's eyes; what was found in it."""
        found = []
        for _ in range(max(1, round(seconds / tick_s))):
            self.now += tick_s
            found += self.watch.look(self.slots, self.now)
        return found


def test_parts_that_live_are_left_alone_and_asked_now_and_then():
    scene = Scene(count=3)
    assert scene.go_on(100.0) == []
    assert all(slot.up for slot in scene.slots)
    times = len(scene.runtime.pinged) / 3
    assert times <= 100 / PING_EVERY_S + 1
    assert times > 100 / (PING_EVERY_S + 2 * TICK_S)


def test_a_part_that_died_is_found_with_its_reason():
    scene = Scene(count=2)
    scene.go_on(2.0)
    first, second = scene.slots
    scene.runtime.dead[second.handle] = error = RemoteDiedError("part-1-3", "it was killed")
    assert scene.go_on(0.8)[0] == (second, error)
    assert second.name == "part-1-3"
    assert first.up


def test_a_part_that_could_not_be_made_is_found_before_it_was_up():
    scene = Scene()
    (slot,) = scene.slots
    scene.runtime.dead[slot.handle] = error = ValueError("no")
    assert scene.go_on(0.2) == [(slot, error)]
    assert not slot.up


def test_a_part_without_a_sign_of_life_for_too_long_hangs():
    scene = Scene(count=2, hung_after_s=10.0)
    scene.go_on(2.0)
    first, _ = scene.slots
    scene.runtime.silent.add(first.handle)
    assert scene.go_on(9.0) == []
    ((slot, error), *_) = scene.go_on(3.0)
    assert slot is first
    assert isinstance(error, UnresponsiveError)
    assert str(error) == "part-0 showed no sign of life for 10 s"


def test_a_part_that_is_slow_but_alive_is_not_replaced():
    scene = Scene(hung_after_s=10.0, always=False)
    scene.go_on(1.0)
    scene.work(scene.slots[0])  # never answered, but signs of life come
    assert scene.go_on(3_600.0, tick_s=1.0) == []


def test_a_sign_of_life_that_comes_late_but_in_time_is_one():
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
    scene = Scene(count=200, hung_after_s=10.0, always=False)
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
    assert str(error) == "part-0 did not answer for 60 s"


def test_parts_that_still_start_do_not_hang_where_starting_has_no_limit():
    scene = Scene(count=2, hung_after_s=10.0, call_timeout_s=20.0, start_timeout_s=None)
    for slot in scene.slots:
        scene.runtime.silent.add(slot.handle)
        scene.work(slot)
    assert scene.go_on(300.0) == []
    assert not any(slot.up for slot in scene.slots)


def test_a_driver_that_was_away_for_long_blames_nobody():
    scene = Scene(count=3, hung_after_s=10.0, call_timeout_s=20.0)
    scene.go_on(2.0)
    for slot in scene.slots:
        scene.runtime.silent.add(slot.handle)
        scene.work(slot)
    scene.go_on(5.0)
    scene.now += 8 * 3_600  # a laptop slept
    assert scene.watch.look(scene.slots, scene.now) == []
    assert scene.go_on(3.0) == [], "they have the rest of their time"
    assert len({slot.title for slot, _ in scene.go_on(5.0)}) == 3


def test_short_absences_count_as_time():
    scene = Scene(hung_after_s=10.0)
    scene.go_on(2.0)
    scene.runtime.silent.add(scene.slots[0].handle)
    assert scene.go_on(8.0, tick_s=MAX_AWAY_S - 1) == []
    assert scene.go_on(8.0, tick_s=MAX_AWAY_S - 1)


def test_with_no_limits_nobody_ever_hangs():
    scene = Scene(hung_after_s=None, call_timeout_s=None)
    scene.go_on(1.0)
    scene.runtime.silent.add(scene.slots[0].handle)
    scene.work(scene.slots[0])
    assert scene.go_on(10_000.0, tick_s=4.0) == []


def test_a_suspect_is_asked_at_once_and_cleared_by_a_sign_of_life():
    scene = Scene(always=False)
    scene.go_on(2.0)
    (slot,) = scene.slots
    before = len(scene.runtime.pinged)
    slot.suspect = True
    assert scene.go_on(TICK_S) == []
    assert len(scene.runtime.pinged) == before + 1
    assert not slot.suspect


def test_whoever_takes_a_seat_begins_with_a_clean_slate():
    scene = Scene(hung_after_s=10.0)
    scene.go_on(1.0)
    (slot,) = scene.slots
    scene.runtime.silent.add(slot.handle)
    scene.work(slot)
    scene.go_on(9.0)
    slot.suspect = True
    slot.renew(4)
    assert (slot.name, slot.call, slot.ping, slot.up, slot.suspect) == (
        "part-0-4", None, None, False, False,
    )  # fmt: skip
    assert scene.go_on(5.0) == []
    assert slot.up


def test_the_time_of_a_call_is_noted_before_it_is_made():
    seen = []

    class Part:
        def work(self):
            seen.append(slot.called_s)

    slot = Slot("part", lambda _: InlineHandle(Part()), InlineHandle(Part()), 0)
    before = time.monotonic()
    slot.begin("work")
    assert before <= seen[0] <= time.monotonic()
    assert slot.call is not None
    assert slot.call.done()
    assert math.isclose(slot.called_s, seen[0])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RemoteDiedError("shard-0-1", "it was killed"), "shard-0-1 died (it was killed)"),
        (UnresponsiveError("shard-0 showed no sign of life for 60 s"), None),
        (ValueError("first\nsecond\n"), "second"),
        (ValueError(), "ValueError"),
    ],
    ids=str,
)
def test_a_cause_is_one_line(error, line):
    assert cause_of(error) == (line or str(error))


# --- a part that never comes up -----------------------------------------------------------------


class Waiting(Signs):
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
    scene = Scene(**limits)
    scene.runtime = scene.watch._runtime = Waiting()
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
    assert str(error) == "part-0 did not come up within 60 s"


def test_a_part_that_waits_for_a_machine_has_all_the_time_there_is():
    scene = starting(start_timeout_s=60.0)
    (slot,) = scene.slots
    scene.runtime.waiting.add(slot.handle)
    assert scene.go_on(600.0) == []
    assert scene.runtime.asked <= 1 + 540 / ASK_AGAIN_S, "not at every look"
    scene.runtime.waiting.clear()
    assert scene.go_on(59.0 - ASK_AGAIN_S) == [], "from the last such answer on it counts"
    assert scene.go_on(ASK_AGAIN_S + 2.0)


def test_one_question_is_asked_for_all_and_nobody_is_held_up_by_it():
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
    assert scene.go_on(ANSWER_S + 1.0) == [], "nobody answers: nobody is to blame"
    assert given_up == answers
    assert all(slot.pending_placement for slot in scene.slots)
    assert scene.go_on(ASK_AGAIN_S) == []
    assert [len(handles) for handles in asked] == [100, 100]
    # Somebody takes a slot while a question is under way: the answer is not about that one.
    newest, *others = scene.slots
    newest.renew(4)
    newest.made_s = scene.now
    scene.runtime.silent.add(newest.handle)
    answers[1].came = True
    assert {slot for slot, _ in scene.go_on(59.0)} == set(others)
    assert len(asked) == 2
    scene.go_on(2.0)
    assert asked[2:] == [[newest.handle]]


def test_time_in_which_nobody_looked_is_no_time_to_start():
    scene = starting(start_timeout_s=60.0)
    scene.go_on(10.0)
    scene.now += 8 * 3_600
    assert scene.watch.look(scene.slots, scene.now) == []
    assert scene.go_on(48.0) == []
    assert scene.go_on(5.0)


def test_who_takes_a_seat_has_the_whole_time_to_start():
    scene = starting(start_timeout_s=60.0)
    (slot,) = scene.slots
    slot.made_s -= 1e6
    slot.renew(4)
    assert scene.watch.look(scene.slots, time.monotonic()) == []


def test_a_seat_where_nobody_could_be_made_is_as_it_was_and_nobody_asks_there():
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
