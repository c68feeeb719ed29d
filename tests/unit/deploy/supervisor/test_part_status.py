"""The state of a part in the status, in the glossary's words."""

from __future__ import annotations

import pytest

from common.handles import InlineHandle, Ready
from common.parts import LEARNER
from deploy.supervisor.reports import part_status
from deploy.supervisor.slots import Slot
from learner.client import LearnerClient

NOW_S = 1_000.0


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "starting"),
        ({"pending_placement": True}, "pending placement"),
        ({"awaiting_restore": True}, "awaiting restore"),
        ({"ready": True}, "ready"),
        ({"ready": True, "ping": Ready(None), "pinged_s": NOW_S - 2.0}, "ready"),
        ({"ready": True, "ping": Ready(None), "pinged_s": NOW_S - 7.0}, "unresponsive 7 s"),
        ({"ready": True, "ping": None, "pinged_s": NOW_S - 7.0}, "ready"),
    ],
)
def test_the_state_of_a_part_is_a_word_of_the_glossary(fields, state):
    handle = InlineHandle(object())
    slot = Slot(LEARNER, LearnerClient, lambda _: handle, handle, 0, **fields)
    assert part_status(slot, NOW_S, overdue_after_s=3.0).state == state


def test_the_last_restart_of_a_part_is_told_with_cause_and_time():
    handle = InlineHandle(object())
    slot = Slot(LEARNER, LearnerClient, lambda _: handle, handle, 0)
    row = part_status(slot, NOW_S, overdue_after_s=3.0)
    assert (row.restarted_at, row.cause) == (None, None)
    slot.restarted_at, slot.cause = 5.0, "died: x"
    row = part_status(slot, NOW_S, overdue_after_s=3.0)
    assert (row.restarted_at, row.cause) == (5.0, "died: x")
