"""What a run on a cluster shows to the rest of it, and what others ask of the run.

The run's folder is on one machine, wherever the driver lives; the board is a remote with a name,
which every driver of the same cluster can find. What is posted there also becomes metrics of Ray's,
for its dashboard and Prometheus.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from common.errors import RemoteDiedError, UserError
from common.handles import Future, Handle
from deploy.runtime import ray_metrics
from deploy.runtime.connect import connected
from deploy.runtime.names import service_handles

T = TypeVar("T")

COUNTERS = (
    *("env_steps", "frames", "transitions", "learner_steps", "episodes_total", "restarts"),
    *("dropped", "checkpoints"),
)
"""Numbers of a report that only grow."""
PREFIX = "raydqn_"
ANSWERS_KEPT = 100
WISHES_KEPT = 100
"""How many may wait until the run looks; it looks every second."""
POLL_S = 0.1
ANSWER_S = 10.0
"""How long a board may take to answer; it has nothing else to do."""


def metric_name(key: str) -> str:
    """What a number of a report is called in Ray's metrics; Prometheus puts `ray_` before it."""
    return PREFIX + (f"{key.removesuffix('_total')}_total" if key in COUNTERS else key)


class Board:
    """Holds the newest report and status; passes wishes on to the run, and its answers back."""

    def __init__(self, run: str, anew: bool = False) -> None:
        """Nothing posted yet.

        Args:
            run: its name.
            anew: another counted before it: what is posted first was counted there.
        """
        self._run = run
        self._anew = anew
        self._status: dict[str, Any] | None = None
        self._wishes: deque[tuple[int, dict[str, Any]]] = deque()
        self._answers: dict[int, str] = {}
        self._asked = 0
        self._metrics: dict[str, Any] = {}
        self._before: dict[str, float] = {}

    def post(self, line: Mapping[str, Any], status: dict[str, Any]) -> None:
        """The run's newest report and status."""
        self._status = status
        for key, value in line.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
                self._measure(key, float(value))

    def hear(self, answers: Mapping[int, str]) -> list[tuple[int, dict[str, Any]]]:
        """What became of wishes.

        Returns:
            Wishes that the run has not seen yet, with their numbers.
        """
        self._answers |= answers
        for number in sorted(self._answers)[:-ANSWERS_KEPT]:
            del self._answers[number]
        wishes = list(self._wishes)
        self._wishes.clear()
        return wishes

    def status(self) -> dict[str, Any] | None:
        """What was posted last; None: nothing yet."""
        return self._status

    def ask(self, wish: dict[str, Any]) -> int | None:
        """Ask the run for a change (see `deploy.control.file`).

        Returns:
            The number of the wish; None: too many wait, this one was not taken.
        """
        if len(self._wishes) >= WISHES_KEPT:
            return None
        self._asked += 1
        self._wishes.append((self._asked, wish))
        return self._asked

    def answer(self, number: int) -> str | None:
        """What became of a wish; None: the run has not seen it yet."""
        return self._answers.get(number)

    def _measure(self, key: str, value: float) -> None:
        metric = self._metrics.get(key)
        if metric is None:
            kind = ray_metrics.counter if key in COUNTERS else ray_metrics.gauge
            metric = kind(metric_name(key).removesuffix("_total"), f"raydqn: {key}", ("run",))
            self._metrics[key] = metric
        if key not in COUNTERS:
            metric.set(value, {"run": self._run})
            return
        before = self._before.setdefault(key, value if self._anew else 0.0)
        if value > before:
            metric.inc(value - before, {"run": self._run})
            self._before[key] = value


@contextmanager
def boards_at(address: str) -> Iterator[dict[str, Handle]]:
    """Boards of all runs on a cluster, by the names of their runs.

    Args:
        address: of the cluster.

    Raises:
        UserError: no cluster there (see `deploy.runtime.connect.connect`).
    """
    with connected(address):
        try:
            yield service_handles()
        except RemoteDiedError as error:
            raise UserError(f"{error.part}: does not answer: the run has ended") from None


def board_of(boards: Mapping[str, Handle], run: str, address: str) -> Handle:
    """The board of one run.

    Raises:
        UserError: there is no such run.
    """
    if run not in boards:
        known = f"there are: {', '.join(boards)}" if boards else "there is none"
        raise UserError(f"{run}: no run of that name goes on at {address}; {known}")
    return boards[run]


def heard(answer: Future[T], run: str, deadline: float = math.inf) -> T:
    """What a board answers, if it does so in time.

    Args:
        answer: to come.
        run: whose board it is.
        deadline: of `time.monotonic()`; by default `ANSWER_S` from now.

    Raises:
        UserError: it does not.
        RemoteDiedError: the run ended.
    """
    deadline = min(deadline, time.monotonic() + ANSWER_S)
    while not answer.done():
        if time.monotonic() > deadline:
            raise UserError(
                f"{run}: its board does not answer within {ANSWER_S:g} s; does the node where its "
                "learner lives still work?"
            )
        time.sleep(POLL_S)
    return answer.result()


def ask_board(board: Handle, run: str, wish: dict[str, Any], wait_s: float) -> str | None:
    """Ask a run for a change; what became of it, or None: nothing yet.

    Raises:
        UserError: its board does not answer, or takes no more wishes.
        RemoteDiedError: the run ended.
    """
    number = heard(board.call("ask", wish), run)
    if number is None:
        raise UserError(f"{run}: {WISHES_KEPT} wishes wait there still; try again later")
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        answer: str | None = heard(board.call("answer", number), run)
        if answer is not None:
            return answer
        time.sleep(POLL_S)
    return None


def statuses_at(address: str, run: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """What runs on a cluster posted last.

    Args:
        address: of the cluster.
        run: which one; None: all there are.

    Returns:
        The status of each run that has posted one, and a line for each whose board is silent.

    Raises:
        UserError: there is no such run, or its board is silent.
    """
    found, silent = [], []
    with boards_at(address) as boards:
        wanted = boards if run is None else {run: board_of(boards, run, address)}
        asked = {name: board.call("status") for name, board in wanted.items()}
        deadline = time.monotonic() + ANSWER_S  # for all of them together
        for name, answer in asked.items():
            try:
                status = heard(answer, name, deadline)
            except UserError as error:
                if run is not None:
                    raise
                silent.append(str(error))
            except RemoteDiedError:
                if run is not None:
                    raise
            else:
                found += [status] if status is not None else []
    return found, silent
