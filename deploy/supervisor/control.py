"""Control: applies requests from the control file and the control service, and replies to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
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


class Control:
    """Reads requests at intervals. No request ends the run."""

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
        self._file = ControlFile(context.folder.path)
        self._looked_s = self._polled_s = context.started_s
        self._publication: Future[None] | None = None
        self._poll: Future[list[tuple[int, dict[str, Any]]]] | None = None
        self._replies: dict[int, Reply] = {}

    # --- the file ---------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Apply the request in the control file, if there is one."""
        if now - self._looked_s < self._context.timeouts.control_every_s:
            return
        self._looked_s = now
        try:
            changes = self._file.read()
            if changes is None:
                return
            if CRASH in changes:
                self._file.remove()
                self.crash(changes[CRASH])
                return
            self._file.reply(self.apply(changes))
        except (UserError, OSError) as error:
            self._refuse(error)
        self._file.remove()

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

    def apply(self, changes: Mapping[str, Any]) -> Reply:
        """Continue with other values of the configuration; the reply to the request.

        Args:
            changes: values, nested by section.
        """
        try:
            new = changed(self._context.folder.config, changes, CONTROL)
            reply = Reply(True, self._continue_with(new, keys_of(changes)))
        except (UserError, OSError) as error:
            return self._refuse(error)
        self._context.notify(str(reply))
        return reply

    def _refuse(self, error: Exception) -> Reply:
        reply = Reply(False, f"{error}; nothing was changed")
        self._context.notify(str(reply), logging.WARNING, detail_of(error))
        return reply

    def _continue_with(self, new: Config, keys: list[str]) -> str:
        """Continue with another configuration; the difference, in one line."""
        folder, runtime = self._context.folder, self._context.runtime
        old = folder.config
        check_count(new.actors.count, runtime)
        folder.config = new
        try:
            folder.save_config()  # first: a later resume must use the new values
        except OSError:
            folder.config = old
            raise
        count = new.actors.count
        if not count:  # "auto": on a cluster the autoscaler asks for the capacity from now on
            count = (
                len(self._fleet.actors) if runtime.autoscaling else runtime.capacity([], 0).result()
            )
        self._take_over(with_actors(new, count))
        return describe(old, new, keys)

    # --- the service ------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """On a cluster: apply requests from the control service, and send the replies."""
        service = self._fleet.control_service
        if service is None:
            return
        if self._poll is not None and self._poll.done():
            poll, self._poll = self._poll, None
            try:
                for number, changes in poll.result():
                    self._replies[number] = self.apply(changes)
            except RemoteDiedError:
                service.suspect = True
        due = self._replies or now - self._polled_s >= self._context.timeouts.control_every_s
        if due and service.ready and self._poll is None:
            self._polled_s = now
            replies, self._replies = self._replies, {}
            self._poll = service.client.poll(replies)

    def publish(self, line: Mapping[str, Any], status: dict[str, Any]) -> None:
        """On a cluster: publish a report and a status, unless an earlier one is still in flight."""
        service = self._fleet.control_service
        free = self._publication is None or self._publication.done()
        if service is not None and service.ready and free:
            log = self._context.folder.read_log()
            self._publication = service.client.publish(line, {**status, **log})

    def service_restarted(self) -> None:
        """The calls of the earlier incarnation will not return."""
        self._publication = self._poll = None
