"""The far end of a control service: statuses and requests from another node of the cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from common.errors import RemoteDiedError, UserError
from common.handles import Future, Handle
from common.polling import poll_until
from deploy.control.control_file import Reply
from deploy.control.service import MAX_REQUESTS
from deploy.runtime.connect import connected
from deploy.runtime.names import service_handles

T = TypeVar("T")
POLL_S = 0.1
CALL_TIMEOUT_S = 10.0
"""Longest wait for one call of a control service; the service does no other work."""


@contextmanager
def services_at(address: str) -> Iterator[dict[str, Handle]]:
    """The control services of all runs on a cluster, by run.

    Args:
        address: of the cluster.

    Raises:
        UserError: there is no cluster at the address, or a run ended during a call.
    """
    with connected(address):
        try:
            yield service_handles()
        except RemoteDiedError as error:
            raise UserError(f"{error.part}: did not respond: the run has ended") from None


def service_of(services: Mapping[str, Handle], run: str, address: str) -> Handle:
    """The control service of one run.

    Raises:
        UserError: the cluster has no run of that name.
    """
    if run not in services:
        known = f"the runs there: {', '.join(services)}" if services else "no run is active there"
        raise UserError(f"{run}: no run of that name is active at {address}; {known}")
    return services[run]


def send_request(
    service: Handle, run: str, changes: dict[str, Any], timeout_s: float
) -> Reply | None:
    """Send a request to a run through its control service.

    Args:
        service: the run's.
        run: its name.
        changes: the new values, nested by section.
        timeout_s: longest wait for the reply.

    Returns:
        The reply; None if the run sent none in time. The request stays in the queue then.

    Raises:
        UserError: the service timed out, or its queue is full.
        RemoteDiedError: the run ended.
    """
    number = _result(service.call("request", changes), run)
    if number is None:
        raise UserError(
            f"{run}: {MAX_REQUESTS} requests are waiting already; this one was refused, try again "
            "later"
        )

    def reply() -> Reply | None:
        call: Future[Reply | None] = service.call("reply", number)
        return _result(call, run)

    return poll_until(reply, timeout_s, POLL_S)


def statuses_at(address: str, run: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The newest status of the runs on a cluster.

    Args:
        address: of the cluster.
        run: its name; None for all runs.

    Returns:
        The status of each run that has published one, and a line for each other run that lives.

    Raises:
        UserError: there is no such run, it has no status yet, or its service timed out.
    """
    found, others = [], []
    with services_at(address) as services:
        wanted = services if run is None else {run: service_of(services, run, address)}
        calls = {name: service.call("status") for name, service in wanted.items()}
        deadline = time.monotonic() + CALL_TIMEOUT_S  # for all of them together
        for name, call in calls.items():
            try:
                status = _result(call, name, deadline)
            except UserError as error:
                if run is not None:
                    raise
                others.append(str(error))
            except RemoteDiedError:
                if run is not None:
                    raise
            else:
                if status is not None:
                    found.append(status)
                    continue
                line = f"{name}: has no status yet; it comes with the first report"
                if run is not None:
                    raise UserError(line)
                others.append(line)
    return found, others


def _result(call: Future[T], run: str, deadline: float = math.inf) -> T:
    """The result of a call of a run's control service.

    Args:
        call: in flight.
        run: its name.
        deadline: on the clock of `time.monotonic()`; at most `CALL_TIMEOUT_S` from now.

    Raises:
        UserError: the call timed out.
        RemoteDiedError: the run ended.
    """
    if not poll_until(call.done, min(CALL_TIMEOUT_S, deadline - time.monotonic()), POLL_S):
        raise UserError(
            f"{run}: its control service timed out after {CALL_TIMEOUT_S:g} s; check that the "
            "node of its learner still works"
        )
    return call.result()
