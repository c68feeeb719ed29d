"""Heartbeats of a remote whose calls run in the main thread of its process.

Ray runs calls in the main thread one after another, so such a remote replies to a ping only after
its current call. During a long call a separate thread publishes heartbeats in Ray's key-value
store, which the driver reads while a ping waits (`deploy.runtime.ping`).
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from contextlib import suppress

from common.config_operation import MIN_HUNG_AFTER_S, SupervisionConfig
from common.errors import UserError
from deploy.runtime import ray_private

HEARTBEAT_EVERY_S = SupervisionConfig().heartbeat_every_s
"""Interval of heartbeats during a call; a shorter call sends none."""


class Heartbeats:
    """Publishes a changing value during long calls; lives in the remote's process.

    Attributes:
        call_from_s: begin of the current call, `time.monotonic()`; infinite between calls.
    """

    def __init__(self, key: str, every_s: float = HEARTBEAT_EVERY_S) -> None:
        """Start the thread.

        Args:
            key: of the remote, as in `Ping`.
            every_s: see `HEARTBEAT_EVERY_S`.
        """
        self.call_from_s = math.inf
        self._key = key
        self._every_s = every_s
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        count, last_s = 0, -math.inf
        place = [socket.gethostname(), os.getpid()]
        while True:
            wait_s = max(self.call_from_s, last_s) + self._every_s - time.monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, self._every_s))
                continue
            count, last_s = count + 1, time.monotonic()
            with suppress(Exception):  # Ray's store may be away for a while
                ray_private.publish(self._key, json.dumps([count, *place]))


def check_hung_after(config: SupervisionConfig) -> None:
    """Refuse a limit that a busy part would exceed.

    Raises:
        UserError: `hung_after_s` is shorter than the way of a heartbeat to the driver.
    """
    limit_s = config.hung_after_s
    if limit_s is not None and limit_s < MIN_HUNG_AFTER_S:
        raise UserError(
            f"supervision.hung_after_s={limit_s:g}: the heartbeat of a busy part may take more "
            f"than a second to arrive; set at least {MIN_HUNG_AFTER_S:g}, or none"
        )
