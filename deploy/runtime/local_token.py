"""Ray on this machine for its user alone: a random token, and no port for other machines.

A process that may talk to Ray may run code as the user who started it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import UserError
from deploy.runtime import ray_private
from deploy.runtime.environment import environment

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
DISABLED = "disabled"
OPEN_WARNING = (
    f"{MODE}={DISABLED}: Ray asks for no token, as security.allow_no_token permits: every user of "
    "this machine can run code as you until the run ends"
)


def _is_open(allow_no_token: bool) -> bool:
    """Whether Ray would start without a token, since the user asks for it and the key permits it.

    Args:
        allow_no_token: `security.allow_no_token`.

    Raises:
        UserError: `RAY_AUTH_MODE=disabled` is set, and the key does not permit it.
    """
    if os.environ.get(MODE, "").lower() != DISABLED:
        return False
    if not allow_no_token:
        raise UserError(
            f"{MODE}={os.environ[MODE]}: without a token every user of this machine could run code "
            f"as you; unset {MODE}, or pass --security.allow-no-token true"
        )
    return True


@contextmanager
def own_token(
    allow_no_token: bool, warn: Callable[[str], object] = lambda line: None
) -> Iterator[None]:
    """A random token for the Ray that starts within the block, in the environment alone.

    Ray itself would write a token to `~/.ray/auth_token`, readable by all users. The user's token
    for clusters is not used, and holds again after the block.

    Args:
        allow_no_token: `security.allow_no_token`.
        warn: receives a line if Ray starts without a token.

    Raises:
        UserError: `RAY_AUTH_MODE=disabled` is set, and the key does not permit it.
    """
    if _is_open(allow_no_token):
        warn(OPEN_WARNING)
        yield
        return
    try:
        with environment({MODE: "token", TOKEN: secrets.token_hex(32)}):
            ray_private.reload_token()
            yield
    finally:
        ray_private.reload_token()
