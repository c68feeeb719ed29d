"""`raydqn chaos RUN`: parts of a live run die at random, as they do on machines that vanish.

The run itself ends them, the hard way (SIGKILL): it may be spread over many machines, and all that
a command needs to know of it is its folder.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from common.errors import UserError
from deploy.control.file import post
from deploy.runs.folder import RunFolder

CRASH = "crash"
KINDS = ("actor", "shard", "learner", "variables", "evaluator")
"""Kinds of parts; each can be replaced."""
POLL_S = 0.1


def chaos(folder: RunFolder, every_s: float, kinds: Sequence[str], seed: int) -> Iterator[str]:
    """Have a random part die every so often, for as long as the run goes on.

    Args:
        folder: of the run.
        every_s: seconds between deaths.
        kinds: of parts that may die; each time one kind is drawn, then one of its parts.
        seed: for drawing them.

    Yields:
        What was asked for, one line each.

    Raises:
        UserError: an unknown kind, or no run is going on.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--kinds={kind}: must be of {', '.join(KINDS)}")
    if not folder.is_running():
        raise UserError(f"{folder.path}: no run is going on there")
    rng = random.Random(seed)
    while _wait(folder, every_s):
        kind, number = rng.choice(list(kinds)), rng.randrange(1 << 16)
        document = {CRASH: {"kind": kind, "number": number}}
        if post(folder.path, document) is None:  # somebody else's wish is not taken yet
            continue
        yield f"{kind} number {number} (modulo how many there are) is to die"


def parse_wish(wish: Any) -> tuple[str, int]:
    """Kind and number of the part that is to die, as they stand in the control file.

    Raises:
        UserError: no such kind, or no number.
    """
    kind, number = (wish.get(key) if isinstance(wish, dict) else None for key in ("kind", "number"))
    if kind not in KINDS or type(number) is not int or number < 0:
        raise UserError(f"{CRASH}: {kind!r:.40} {number!r:.40}: no kind of part, or no number")
    return kind, number


def _wait(folder: RunFolder, seconds: float) -> bool:
    """Let time go by; whether the run goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not folder.is_running():
            return False
        time.sleep(POLL_S)
    return folder.is_running()
