"""Every time limit of the supervisor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. Tests pass their own; a run uses the defaults.

    Attributes:
        wait_s: longest sleep of the loop, which sees signals and wall-clock limits afterwards.
        poll_s: poll interval while a part is starting.
        evaluation_slice_s: longest call of an evaluator; the loop does other work between slices.
        status_every_s: shortest interval between two writes of the run's status.
        control_every_s: shortest interval between two reads of the control file, or two polls of
            the control service.
        heartbeat_every_s: interval between two pings of a part without calls of its own.
        overdue_after_s: a part whose heartbeat is overdue for so long is shown as unresponsive;
            actors and evaluator only after three intervals of heartbeats (`SupervisionConfig`).
        away_s: a longer pause between two looks (a suspended laptop, a stopped driver) is not
            counted as a part's silence.
        stable_after_s: a part that ran for so long has not failed at its start.
        placement_every_s: interval between two questions whether a part is pending placement.
        placement_answer_s: longest wait for the answer.
        autoscale_every_s: interval between two looks at the capacity of a cluster.
        actor_start_s: an actor that is not ready after this time is taken to wait for a node.
        restore_retry_s: interval between two tries to restore a part from an unreadable storage.
        unreadable_s: a storage that is unreadable for so long ends the run.
        drain_s: longest wait for the last report of an actor, at a clean stop or when it is
            removed.
        signal_drain_s: the same after a signal: the machine may be about to stop.
        close_s: longest wait until environments are closed.
        ping_s: longest wait for a ping when a stall is explained.
        save_s: longest wait for the last checkpoint.
        signal_s: longest time from a signal to the end of the run.
        state_s: longest wait for the state of a learner that is saved already.
        failed_save_s: longest wait for the checkpoint of a run that failed.
        disk_warning_s: an access to the run folder that lasts longer is reported.
        disk_s: longest wait for the run folder at the end of a run.
    """

    wait_s: float = 0.2
    poll_s: float = 0.05
    evaluation_slice_s: float = 0.5
    status_every_s: float = 2.0
    control_every_s: float = 1.0
    heartbeat_every_s: float = 0.5
    overdue_after_s: float = 3.0
    away_s: float = 5.0
    stable_after_s: float = 10.0
    placement_every_s: float = 30.0
    placement_answer_s: float = 5.0
    autoscale_every_s: float = 5.0
    actor_start_s: float = 60.0
    restore_retry_s: float = 2.0
    unreadable_s: float = 300.0
    drain_s: float = 30.0
    signal_drain_s: float = 5.0
    close_s: float = 5.0
    ping_s: float = 1.0
    save_s: float = 60.0
    signal_s: float = 75.0
    state_s: float = 5.0
    failed_save_s: float = 30.0
    disk_warning_s: float = 10.0
    disk_s: float = 10.0
