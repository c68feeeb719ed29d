"""One trial as Ray Tune sees it; imported in Ray's workers."""

from __future__ import annotations

from typing import Any

from deploy.runtime.trial_process import TrialCommand, TrialProcess
from ray import tune

COMMAND = "command"
"""The entry of Tune's configuration that holds the `TrialCommand`."""


class StudyTrial(tune.Trainable):  # type: ignore[misc] # Ray ships no types
    """Runs the process of a trial, and hands its results to Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the trial; its process starts with the first step."""
        command = config[COMMAND]
        assert isinstance(command, TrialCommand)
        self._process = TrialProcess(command)

    def step(self) -> dict[str, Any]:
        """The next result; see `TrialProcess.next_result`."""
        return self._process.next_result()

    def cleanup(self) -> None:
        """End the process, after it has saved its run."""
        self._process.stop()
