"""Keys of `provider` and `node_config` beside those that Ray and the cloud know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.suggestion import suggest
from deploy.provisioning.field_table import field_table, misfits
from deploy.provisioning.findings import Finding, warning

OF_EVERY_CLOUD = (
    "type", "module", "cache_stopped_nodes", "use_internal_ips", "use_external_head_ip",
    "disable_node_updaters", "disable_launch_config_check", "foreground_node_launch",
    "worker_liveness_check", "worker_rpc_drain",
)  # fmt: skip
"""Keys of `provider` that Ray 2.60 reads for more than one cloud (ray/autoscaler/_private)."""
EXAMPLE_ID = re.compile(r"[a-z]{2,6}-(?:([0-9a-fx])\1{5,}\d{0,2}|0?1?23456789\w*)", re.IGNORECASE)
"""Ids of AWS as examples have them."""


def find_unknown_fields(
    table_name: str, root: str, place: str, value: Any, of_ray: Sequence[str] = ()
) -> Iterator[Finding]:
    """Everything below `node_config` that the cloud would refuse.

    Args:
        table_name: of the table of the cloud's fields.
        root: name of the shape in the table.
        place: of the value in the file.
        value: the node_config.
        of_ray: outermost keys that Ray takes out.
    """
    table = field_table(table_name)
    for misfit in misfits(table, root, value, of_ray, nulls=table_name != "aws"):
        yield misfit.finding(place)


def find_unknown_provider_keys(
    provider: Mapping[str, Any], known: Sequence[str]
) -> Iterator[Finding]:
    """Keys of `provider` that Ray would ignore."""
    known = (*known, *OF_EVERY_CLOUD)
    for name in provider:
        if name not in known and not name.startswith("_"):
            do = suggest(name, known) or ": remove it"
            yield warning(f"provider.{name}", None, f"unknown key, which Ray ignores{do}")


def texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, after its place."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, inner in pairs:
        where = f"{place}.{name}" if place else str(name)
        if isinstance(inner, str):
            yield where, inner
        elif isinstance(inner, (Mapping, list)):
            yield from texts(inner, where)
