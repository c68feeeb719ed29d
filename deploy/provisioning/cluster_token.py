"""The token of a cluster: its own, in a file that its owner alone can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError
from deploy.provisioning.cluster_file import KUBERAY, load_cluster, local_path
from deploy.runtime.environment import environment

ON_NODES = "/.ray/auth_token"
"""Where Ray looks for the token, in the home folder of its user."""
PERSONAL = "~/.ray/auth_token"
PATH = "RAY_AUTH_TOKEN_PATH"
OWNER_ONLY = 0o600


def token_mount(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The entry of `file_mounts` with the token: the path on the nodes, and the one here."""
    mounts = values["file_mounts"]
    target = next((target for target in mounts if target.endswith(ON_NODES)), None)
    return None if target is None else (target, str(mounts[target]))


def suggested_path(cluster_name: str) -> str:
    """A path here for the token of a cluster."""
    return f"~/.ray/{cluster_name}.token"


def create_token(file: Path) -> tuple[Path, bool]:
    """Create the token of a cluster, unless there is one.

    Args:
        file: of `ray up`.

    Returns:
        The path of the token here, and whether it was created.

    Raises:
        UserError: the file mounts no token, or the user's own one, or it cannot be written.
    """
    cluster = load_cluster(file)
    if cluster.provider == KUBERAY:
        raise UserError(f"{file}: KubeRay creates the token of the cluster itself")
    mount = token_mount(cluster.values)
    if mount is None or local_path(mount[1]) == local_path(PERSONAL):
        wanted = f"~{ON_NODES}: {suggested_path(cluster.name)}"
        raise UserError(f"{file}: file_mounts: must have a token of the cluster's own: {wanted}")
    path = local_path(mount[1])
    if path.exists():
        return path, False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(descriptor, "w", encoding="ascii") as token:
            token.write(secrets.token_hex(32))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return path, True


@contextmanager
def token_of(file: Path) -> Iterator[None]:
    """Have Ray's commands in the block use the token of a cluster, not the user's own."""
    mount = None
    with suppress(UserError):  # a file that cannot be read: the command itself tells
        mount = token_mount(load_cluster(file).values)
    if mount is None:
        yield
        return
    personal = os.environ.pop("RAY_AUTH_TOKEN", None)
    try:
        with environment({PATH: str(local_path(mount[1]))}):
            yield
    finally:
        if personal is not None:
            os.environ["RAY_AUTH_TOKEN"] = personal
