"""Beats of a remote whose calls run in the main thread of its process.

Ray hands out calls in the main thread, so such a remote replies to a ping after its current call
only. During a long call a thread of its own publishes beats in Ray's key-value store, which the
driver reads while a ping waits (`deploy.runtime.ping`).
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from contextlib import suppress

from deploy.runtime import ray_private

BEAT_EVERY_S = 1.0
"""A call that lasts longer is accompanied by beats, at this interval."""


class Beats:
    """Publishes a changing value for as long as a call lasts: in the remote's process.

    Attributes:
        call_from_s: begin of the current call, `time.monotonic()`; infinite between calls.
    """

    def __init__(self, key: str) -> None:
        """Start the thread.

        Args:
            key: of the remote, as in `Ping`.
        """
        self.call_from_s = math.inf
        self._key = key
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        count, published = 0, False
        place = [socket.gethostname(), os.getpid()]
        while True:
            time.sleep(BEAT_EVERY_S)
            is_long = time.monotonic() - self.call_from_s >= BEAT_EVERY_S
            with suppress(Exception):  # Ray's store may be away for a while
                if is_long:
                    count += 1
                    ray_private.publish(self._key, json.dumps([count, *place]))
                    published = True
                elif published:
                    ray_private.unpublish(self._key)
                    published = False
