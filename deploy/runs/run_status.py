"""Status of a run, from its folder: of one in progress, and of one that has ended, however it did.

A run that ends by itself leaves `summary.json` with its stop reason, or with the error that ended
it. A run without one whose lock is free was ended from outside: its driver was killed, or its
machine is gone.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from common.errors import UserError
from deploy.runs.folder import LOG, STATUS, SUMMARY, RunFolder
from deploy.runs.metrics_file import last_report

COUNTERS = ("wall_s", "env_steps", "learner_steps", "score", "restarts")
RATES = ("env_steps_per_s", "learner_steps_per_s")


def read_status(folder: RunFolder) -> dict[str, Any]:
    """The newest status that the run wrote, with the newest counters and the end of its log.

    The status is written every few seconds. Where `metrics.jsonl` is newer, counters and rates are
    those of its last report, and `counters_at` is the time of that one.

    Raises:
        UserError: there is no status yet, or the file is damaged.
    """
    status = _status_in(folder)
    if status is None:
        log = folder.path / LOG
        hint = f"; its log is {log}" if log.is_file() else ""
        raise UserError(
            f"{folder.path}: has no status yet; it comes with the first report{hint}"
        ) from None
    return status | folder.read_log()


def read_ended(folder: RunFolder) -> dict[str, Any]:
    """The status of a run that has ended, without rates.

    `stop_reason` says why it ended; it is missing if the driver ended without a summary. `error`
    is the line of the error that ended a run of `stop_reason` "failed". A run that ended before its
    first report has no counters.

    Raises:
        UserError: the run has not begun yet, or a file is damaged.
    """
    status = _status_in(folder)
    if status is None:
        if not (folder.path / LOG).is_file():
            raise UserError(f"{folder.path}: has no status: no run has begun there")
        status = {"run": folder.path.name, "parts": []}
    with suppress(OSError, ValueError):
        summary = json.loads((folder.path / SUMMARY).read_text(encoding="utf-8"))
        if isinstance(summary, dict):
            kept = ("stop_reason", "error", *COUNTERS)
            status |= {key: summary[key] for key in kept if key in summary}
    return {key: value for key, value in status.items() if key not in RATES} | folder.read_log()


def _status_in(folder: RunFolder) -> dict[str, Any] | None:
    """The status file with the newest counters; None: there is none."""
    path = folder.path / STATUS
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not isinstance(status, dict):
        raise UserError(f"{path}: is not the status of a run")
    newest = last_report(folder.path)
    with suppress(KeyError, TypeError):  # not the status of a run: shown as such
        status["counters_at"] = status["at"]
        if newest is not None and newest["wall_s"] > status["wall_s"]:
            # The two are of one attempt, and count on its clock.
            status["counters_at"] += newest["wall_s"] - status["wall_s"]
            kept = (*COUNTERS, *RATES, "limiter")
            status |= {key: newest[key] for key in kept if key in newest}
    return status
