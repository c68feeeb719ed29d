"""Control: applies requests from the control file and the control service, and replies to them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future as Outcome
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from common.config import Config
from common.config_toml import with_actors
from common.errors import RemoteDiedError, UserError
from common.handles import Future
from deploy.control.chaos import CRASH, parse_crash
from deploy.control.control_file import ControlFile, Reply, changed, describe, keys_of
from deploy.runs.folder import CONTROL
from deploy.runs.log import detail_of
from deploy.runtime.interface import check_count
from deploy.supervisor.context import Context
from deploy.supervisor.fleet import Fleet


@dataclass(slots=True)
class _Request:
    """A request for other values of the configuration.

    Attributes:
        changes: the values, nested by section.
        reply: sends the reply.
        new: the configuration with the changes.
        recorded: outcome of recording it; None: that has not begun.
    """

    changes: Mapping[str, Any]
    reply: Callable[[Reply], None]
    new: Config = field(init=False)
    recorded: Outcome[None] | None = None


class Control:
    """Reads requests at intervals. No request ends the run, and the run waits for no disk."""

    def __init__(self, context: Context, fleet: Fleet, take_over: Callable[[Config], None]) -> None:
        """A control without requests.

        Args:
            context: of the run.
            fleet: of the run.
            take_over: continues with another configuration, whose number of actors is settled.
        """
        self._context = context
        self._fleet = fleet
        self._take_over = take_over
        self._disk = context.folder.disk
        self._file = ControlFile(context.folder.path)
        self._read: Outcome[dict[str, Any] | None] | None = None
        self._requests: deque[_Request] = deque()  # the first one is being recorded
        self._looked_s = self._polled_s = context.started_s
        self._poll: Future[list[tuple[int, dict[str, Any]]]] | None = None
        self._replies: dict[int, Reply] = {}
        self._publication: Future[None] | None = None
        self._unpublished: tuple[Mapping[str, Any], dict[str, Any]] | None = None
        self._log: dict[str, Any] = {"log": None, "events": []}
        self._log_read: Outcome[dict[str, Any]] | None = None

    # --- the file ---------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Read the control file at intervals, and apply requests."""
        due = now - self._looked_s >= self._context.timeouts.control_every_s
        if due and self._read is None and not self._requests:
            self._looked_s = now
            self._read = self._disk.submit(self._file.read, name="control file")
        if self._read is not None and self._read.done():
            read, self._read = self._read, None
            self._take(read)
        self._apply_requests()

    def _take(self, read: Outcome[dict[str, Any] | None]) -> None:
        try:
            changes = read.result()
            if changes is None:
                return
            if CRASH not in changes:
                self.apply(changes, self._reply_in_file)
                return
            self._disk.submit(self._file.remove, name="request")
            self.crash(changes[CRASH])
        except (UserError, OSError) as error:
            self._refuse(error)
            self._disk.submit(self._file.remove, name="request")

    def _reply_in_file(self, reply: Reply) -> None:
        self._disk.submit(partial(self._file.reply, reply), name="reply")
        self._disk.submit(self._file.remove, name="request")

    def crash(self, request: Any) -> None:
        """Kill a part; see `raydqn chaos`.

        Raises:
            UserError: there is no such part.
        """
        role, number = parse_crash(request)
        slots = [*self._fleet.core_parts, *self._fleet.env_workers]
        found = [slot for slot in slots if slot.part.role == role]
        if not found:
            return
        slot = found[number % len(found)]
        if slot.consecutive_failures or not slot.ready:
            # A part that dies faster than it starts would never make progress.
            self._context.notify(
                f"chaos: {slot.part} has made no progress since its start: skipped"
            )
            return
        self._context.notify(f"chaos: {slot.part} is killed", logging.WARNING)
        self._context.runtime.crash(slot.handle)

    # --- requests ---------------------------------------------------------------------------

    def apply(self, changes: Mapping[str, Any], reply: Callable[[Reply], None]) -> None:
        """Continue with other values of the configuration, as soon as they are recorded.

        Args:
            changes: the values, nested by section.
            reply: called with the reply to the request.
        """
        self._requests.append(_Request(changes, reply))
        self._apply_requests()

    def _apply_requests(self) -> None:
        while self._requests and self._apply_one(self._requests[0]):
            self._requests.popleft()

    def _apply_one(self, request: _Request) -> bool:
        """Record the configuration, then continue with it; False: it is not recorded yet."""
        folder = self._context.folder
        try:
            if request.recorded is None:
                request.new = changed(folder.config, request.changes, CONTROL)
                check_count(request.new.actors.count, self._context.runtime)
                # First: a later resume must use the new values.
                record = partial(folder.save_config, request.new)
                request.recorded = self._disk.submit(record, name="configuration")
            if not request.recorded.done():
                return False
            request.recorded.result()
            reply = Reply(True, self._continue_with(request.new, keys_of(request.changes)))
            self._context.notify(str(reply))
        except (UserError, OSError) as error:
            reply = self._refuse(error)
        request.reply(reply)
        return True

    def close(self) -> None:
        """Refuse the requests that the run did not live to apply, and record what it used."""
        folder = self._context.folder
        for request in self._requests:
            if request.recorded is not None:
                record = partial(folder.save_config, folder.config)
                self._disk.submit(record, name="configuration")
            request.reply(Reply(False, "the run has ended; nothing was changed"))
        self._requests.clear()

    def _refuse(self, error: Exception) -> Reply:
        reply = Reply(False, f"{error}; nothing was changed")
        self._context.notify(str(reply), logging.WARNING, detail_of(error))
        return reply

    def _continue_with(self, new: Config, keys: list[str]) -> str:
        """Continue with another configuration; the difference, in one line."""
        folder, runtime = self._context.folder, self._context.runtime
        old, folder.config = folder.config, new
        count = new.actors.count
        if not count:  # "auto": on a cluster the autoscaler asks for the capacity from now on
            count = (
                len(self._fleet.actors) if runtime.autoscaling else runtime.capacity([], 0).result()
            )
        self._take_over(with_actors(new, count))
        return describe(old, new, keys)

    # --- the service ------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """On a cluster: apply requests from the control service, and send replies and status."""
        service = self._fleet.control_service
        if service is None:
            return
        self._publish()
        if self._poll is not None and self._poll.done():
            poll, self._poll = self._poll, None
            try:
                for number, changes in poll.result():
                    self.apply(changes, partial(self._replies.__setitem__, number))
            except RemoteDiedError:
                service.suspect = True
        due = self._replies or now - self._polled_s >= self._context.timeouts.control_every_s
        if due and service.ready and self._poll is None:
            self._polled_s = now
            replies, self._replies = self._replies, {}
            self._poll = service.client.poll(replies)

    def publish(self, line: Mapping[str, Any], status: dict[str, Any]) -> None:
        """On a cluster: publish a report and a status, unless an earlier one is still in flight."""
        if self._fleet.control_service is not None:
            self._unpublished = line, status
            if self._log_read is None:
                read = self._context.folder.read_log
                self._log_read = self._disk.submit(read, name="newest events")
            self._publish()

    def _publish(self) -> None:
        """Publish with the end of the log, or with an earlier one while the disk hangs."""
        if self._log_read is not None and self._log_read.done():
            self._log, self._log_read = self._log_read.result(), None
        if self._unpublished is None or (self._log_read is not None and not self._disk.hangs):
            return
        (line, status), self._unpublished = self._unpublished, None
        service = self._fleet.control_service
        free = self._publication is None or self._publication.done()
        if service is not None and service.ready and free:
            self._publication = service.client.publish(line, {**status, **self._log})

    def service_restarted(self) -> None:
        """The calls of the earlier incarnation will not return."""
        self._publication = self._poll = None
