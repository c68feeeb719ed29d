"""`raydqn chaos RUN`: kill random parts of an active run, as a failing machine does.

The run itself kills them (SIGKILL), because it may be spread over many machines. The command needs
nothing but the run folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from common.errors import UserError
from common.parts import NUMBERED, Role
from common.polling import poll_until
from deploy.control.control_file import place_request
from deploy.runs.folder import RunFolder

CRASH = "crash"
KINDS = (Role.ACTOR, Role.SHARD, Role.LEARNER, Role.WEIGHT_STORE, Role.EVALUATOR)
"""Kinds of parts; the run replaces each of them."""
EARLIER_NAMES = {"variables": Role.WEIGHT_STORE}
"""Kinds by the names that raydqn 0.1 gave them; `--kinds` takes both."""
POLL_S = 0.1


def chaos(folder: RunFolder, every_s: float, kinds: Sequence[str], seed: int) -> Iterator[str]:
    """Kill a random part at a fixed interval, until the run ends.

    Args:
        folder: of the run.
        every_s: seconds between kills.
        kinds: the kinds of parts to kill; each time one kind is drawn, then one of its parts.
        seed: of the draws; equal seeds draw equal sequences.

    Yields:
        A line with the seed, then a line for each request to the run.

    Raises:
        UserError: a kind is unknown, or the run is not active.
    """
    kinds = [EARLIER_NAMES.get(kind, kind) for kind in kinds]
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--kinds={kind}: must be of {', '.join(KINDS)}")
    if not folder.is_running():
        raise UserError(f"{folder.path}: the run is not active, so no part of it can be killed")
    yield f"draw seed {seed}; to draw the same sequence again: --draw-seed {seed}"
    rng = random.Random(seed)
    while _wait(folder, every_s):
        kind, number = rng.choice(kinds), rng.randrange(1 << 16)
        document = {CRASH: {"kind": str(kind), "number": number}}
        if place_request(folder.path, document) is None:  # the run has not read another one yet
            continue
        yield f"requested: kill {_target_of(kind)}; the run's log names it"


def _target_of(kind: str) -> str:
    """The part of a request in words; the run knows how many parts of the kind it has."""
    return f"one of its {kind}s" if kind in NUMBERED else f"its {kind}"


def parse_crash(request: Any) -> tuple[Role, int]:
    """Kind and number of the part to kill, from the request's table in the control file.

    Raises:
        UserError: the kind is unknown, or the number is not one.
    """
    values = request if isinstance(request, dict) else {}
    kind, number = values.get("kind"), values.get("number")
    kind = EARLIER_NAMES.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in KINDS or type(number) is not int or number < 0:
        raise UserError(
            f"{CRASH}: kind={kind!r:.40} number={number!r:.40}: must be one of {', '.join(KINDS)} "
            "and a whole number"
        )
    return Role(kind), number


def _wait(folder: RunFolder, seconds: float) -> bool:
    """Wait so many seconds, less if the run ends; whether the run is still active."""
    return not poll_until(lambda: not folder.is_running(), seconds, POLL_S)
