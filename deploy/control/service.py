"""The control service: a run's status and metrics on a cluster, and requests from other nodes.

The run folder is on one machine, the driver's. The control service is a remote with a public name,
so that every driver of the same cluster finds it. Its reports also become metrics of Ray's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from deploy.control.control_file import Reply
from deploy.runtime.run_metrics import RunMetrics

MAX_REPLIES = 100
"""Replies that are kept for the commands that sent the requests."""
MAX_REQUESTS = 100
"""Requests that may wait for the run's next poll; it polls every second."""


class ControlService:
    """Keeps a run's newest status; passes requests to the run, and its replies back."""

    def __init__(self, run: str, continued: bool = False) -> None:
        """Create a service without a status.

        Args:
            run: its name.
            continued: it replaces an earlier service of the run, which counted the totals of the
                first report.
        """
        self._metrics = RunMetrics(run, continued)
        self._status: dict[str, Any] | None = None
        self._requests: deque[tuple[int, dict[str, Any]]] = deque()
        self._replies: dict[int, Reply] = {}
        self._requested = 0

    def publish(self, report: Mapping[str, Any], status: dict[str, Any]) -> None:
        """Replace the status, and set the metrics to the report's numbers."""
        self._status = status
        self._metrics.record(report)

    def poll(self, replies: Mapping[int, Reply]) -> list[tuple[int, dict[str, Any]]]:
        """Store the run's replies, by the number of the request.

        Returns:
            The requests since the last poll, each with its number.
        """
        self._replies |= replies
        for number in sorted(self._replies)[:-MAX_REPLIES]:
            del self._replies[number]
        requests = list(self._requests)
        self._requests.clear()
        return requests

    def status(self) -> dict[str, Any] | None:
        """The newest status; None before the first one."""
        return self._status

    def request(self, changes: dict[str, Any]) -> int | None:
        """Queue a request for the run (see `deploy.control.control_file`).

        Returns:
            The request's number; None if the queue is full and the request was refused.
        """
        if len(self._requests) >= MAX_REQUESTS:
            return None
        self._requested += 1
        self._requests.append((self._requested, changes))
        return self._requested

    def reply(self, number: int) -> Reply | None:
        """The reply to a request; None until the run has sent one."""
        return self._replies.get(number)
