"""Typed calls of the control service, for the run that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.handles import Future, Handle
from deploy.control.control_file import Reply


@dataclass(frozen=True, slots=True)
class ControlServiceClient:
    """Calls the methods of a run's control service and returns futures of their results."""

    handle: Handle

    def publish(self, report: Mapping[str, Any], status: dict[str, Any]) -> Future[None]:
        """Replace the report and the status that the service shows."""
        return self.handle.call("publish", report, status)

    def poll(self, replies: Mapping[int, Reply]) -> Future[list[tuple[int, dict[str, Any]]]]:
        """Send replies, by number of the request; the requests since the last poll."""
        return self.handle.call("poll", replies)
