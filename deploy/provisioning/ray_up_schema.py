"""A file of `ray up` against the schema that comes with Ray, and layouts that Ray has given up."""

from __future__ import annotations

from typing import Any

import jsonschema

from common.errors import UserError, first_line, shorten
from common.suggestion import suggest
from deploy.provisioning.findings import short
from deploy.runtime.ray_private import cluster_file_schema

LOCAL = "local"
OLD_MACHINES = ("head_node", "worker_nodes")
"""Keys that described the machines before Ray had node types."""
OLD_KEYS = (
    *OLD_MACHINES, "initial_workers", "autoscaling_mode", "target_utilization_fraction",
    "worker_default_node_type", "available_instance_types", "head_instance_type",
    "worker_default_instance_type",
)  # fmt: skip


def check_schema(values: dict[str, Any]) -> None:
    """Compare with the schema that comes with Ray.

    Raises:
        UserError: a key does not match; the error names the outermost one.
    """
    provider = values.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    _check_layout(values, str(kind))
    schema = cluster_file_schema()
    if kind == LOCAL:  # Ray accepts one more key there
        schema["properties"]["min_workers"] = {"type": "integer", "minimum": 0}
    errors = jsonschema.Draft7Validator(schema).iter_errors(values)
    error = min(errors, key=lambda error: len(error.absolute_path), default=None)
    if error is None:
        return
    place = [str(part) for part in error.absolute_path]
    value, expected = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        strange = next(name for name in value if name not in known)
        key = ".".join([*place, shorten(strange)])
        raise UserError(f"unknown key {key}{suggest(strange, known)}")
    if error.validator == "required":
        missing = next(name for name in expected if name not in value)
        raise UserError(f"missing key {'.'.join([*place, missing])}")
    advice = {"type": f"must be of type {expected}", "minimum": f"must be at least {expected}"}
    raise UserError(
        f"{'.'.join(place)}={short(value)}: {advice.get(error.validator) or first_line(error)}"
    )


def _check_layout(values: dict[str, Any], provider: str) -> None:
    """Recognise the layouts of Ray before 2.0.

    Raises:
        UserError: the file is in one of them.
    """
    old = [key for key in (*OLD_KEYS, "min_workers") if key in values]
    if provider == LOCAL and "min_workers" in old:
        old.remove("min_workers")
    if not old:
        return
    keys = ", ".join(old)
    if "available_node_types" in values or provider == LOCAL:
        only = old == ["min_workers"]
        do = "put it into the types of available_node_types" if only else "remove them"
        if len(old) == 1 and not only:
            do = "remove it"
        raise UserError(f"{keys}: of an old layout of Ray's, which Ray no longer reads: {do}")
    file = provider if provider in ("aws", "azure", "gcp") else "aws"
    raise UserError(
        f"is in an old layout of Ray's, without node types ({keys}): must have "
        f"available_node_types and head_node_type, as in deploy/clusters/{file}.yaml"
    )
