"""The protocol of a view of a run's progress."""

from __future__ import annotations

from typing import Any, Protocol


class ProgressView(Protocol):
    """Shows a run's reports and events."""

    def update(self, report: dict[str, Any]) -> None:
        """Show a new report."""
        ...

    def notify(self, text: str) -> None:
        """Show an event, in a line of its own."""
        ...

    def close(self) -> None:
        """End the view, after the run."""
        ...
