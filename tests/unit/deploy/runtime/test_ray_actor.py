"""Ray's words about a death, in brief."""

from __future__ import annotations

import pytest

from deploy.runtime.ray_actor import reason_in

HEAD = "The actor died unexpectedly before finishing this task.\n\tclass_name: actor-0-0\n"
# As Ray 2.60 tells it of a process that got SIGKILL.
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some "
    "common causes include: (1) the process was killed by the OOM killer due to high memory usage."
)


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        (
            HEAD + KILLED,
            "its process ended (SYSTEM_ERROR: Worker unexpectedly exits with a connection error "
            "code 2. End of file)",
        ),
        (
            "Worker exit type: INTENDED_USER_EXIT Worker exit detail: exit code 1\nmore",
            "its process ended (INTENDED_USER_EXIT: exit code 1)",
        ),
        (
            HEAD + "The actor is dead because it was killed by `ray.kill`.",
            "it was killed by `ray.kill`",
        ),
        (HEAD, ""),
        ("Task was killed due to the node running low on memory.", ""),
        ("", ""),
    ],
)
def test_the_exit_detail_of_ray_in_brief(detail, reason):
    assert reason_in(detail) == reason


def test_however_long_it_is_the_reason_stays_short():
    assert len(reason_in(f"Worker exit type: X Worker exit detail: {'long ' * 1_000}")) < 250
