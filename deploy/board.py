"""What a run on a cluster shows to the rest of it, and what others ask of the run.

The run's folder is on one machine, wherever the driver lives; the board is a remote with a name,
which every driver of the same cluster can find. What is posted there also becomes metrics of Ray's,
for its dashboard and Prometheus.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.handles import Handle, RemoteDiedError
from common.types import UserError
from deploy.remote import RemoteHandle

COUNTERS = (
    *("env_steps", "frames", "transitions", "learner_steps", "episodes_total", "restarts"),
    *("dropped", "checkpoints"),
)
"""Numbers of a report that only grow."""
PREFIX = "raydqn_"
ANSWERS_KEPT = 100
TITLE = "board"
POLL_S = 0.2


def metric_name(key: str) -> str:
    """What a number of a report is called in Ray's metrics; Prometheus puts `ray_` before it."""
    return PREFIX + (f"{key.removesuffix('_total')}_total" if key in COUNTERS else key)


class Board:
    """Holds the newest report and status; passes wishes on to the run, and its answers back."""

    def __init__(self, run: str) -> None:
        """Of the run of that name; nothing posted yet."""
        self._run = run
        self._status: dict[str, Any] | None = None
        self._wishes: deque[tuple[int, dict[str, Any]]] = deque()
        self._answers: dict[int, str] = {}
        self._asked = 0
        self._metrics: dict[str, Any] = {}
        self._before: dict[str, float] = {}

    def post(
        self, line: Mapping[str, Any], status: dict[str, Any], answers: Mapping[int, str]
    ) -> list[tuple[int, dict[str, Any]]]:
        """The run's newest report and status, and what became of wishes.

        Returns:
            Wishes that the run has not seen yet, with their numbers.
        """
        self._status = status
        self._answers |= answers
        for number in sorted(self._answers)[:-ANSWERS_KEPT]:
            del self._answers[number]
        for key, value in line.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
                self._measure(key, float(value))
        wishes = list(self._wishes)
        self._wishes.clear()
        return wishes

    def status(self) -> dict[str, Any] | None:
        """What was posted last; None: nothing yet."""
        return self._status

    def ask(self, wish: dict[str, Any]) -> int:
        """Ask the run for a change (see `deploy.control`); the number of the wish."""
        self._asked += 1
        self._wishes.append((self._asked, wish))
        return self._asked

    def answer(self, number: int) -> str | None:
        """What became of a wish; None: the run has not seen it yet."""
        return self._answers.get(number)

    def _measure(self, key: str, value: float) -> None:
        from ray.util import metrics

        metric = self._metrics.get(key)
        if metric is None:
            kind = metrics.Counter if key in COUNTERS else metrics.Gauge
            metric = kind(metric_name(key).removesuffix("_total"), f"raydqn: {key}", ("run",))
            self._metrics[key] = metric
        if key not in COUNTERS:
            metric.set(value, {"run": self._run})
        elif value > (before := self._before.get(key, 0.0)):
            metric.inc(value - before, {"run": self._run})
            self._before[key] = value


@contextmanager
def boards_at(address: str) -> Iterator[dict[str, Handle]]:
    """Boards of all runs on a cluster, by the names of their runs.

    Args:
        address: of the cluster.

    Raises:
        UserError: no cluster there (see `cluster_runtime.connect`).
    """
    import ray
    from ray.util import list_named_actors

    from deploy.cluster_runtime import NAMESPACE, connect

    try:
        connect(address, ship=False)
        newest: dict[str, tuple[int, str]] = {}
        for named in list_named_actors(all_namespaces=True):
            run, _, board = named["name"].rpartition(":")
            number = board.rpartition("-")[2]
            if named["namespace"] == NAMESPACE and run and number.isdecimal():
                newest[run] = max(newest.get(run, (-1, "")), (int(number), named["name"]))
        yield {
            run: RemoteHandle(ray.get_actor(name, NAMESPACE), f"the board of {run}")
            for run, (_, name) in sorted(newest.items())
        }
    except RemoteDiedError as error:
        raise UserError(f"{error.part}: does not answer: the run has ended") from None
    finally:
        ray.shutdown()


def board_of(boards: Mapping[str, Handle], run: str, address: str) -> Handle:
    """The board of one run.

    Raises:
        UserError: there is no such run.
    """
    if run not in boards:
        known = f"there are: {', '.join(boards)}" if boards else "there is none"
        raise UserError(f"{run}: no run of that name goes on at {address}; {known}")
    return boards[run]


def ask_board(board: Handle, wish: dict[str, Any], wait_s: float) -> str | None:
    """Ask a run for a change; what became of it, or None: nothing yet.

    Raises:
        RemoteDiedError: the run ended.
    """
    number = board.call("ask", wish).result()
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        answer: str | None = board.call("answer", number).result()
        if answer is not None:
            return answer
        time.sleep(POLL_S)
    return None
