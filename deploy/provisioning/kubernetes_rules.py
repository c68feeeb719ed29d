"""Rules for KubeRay's file alone: Pod Security, the end of a pod, the job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.provisioning.cluster_file import get_nested, pod_specs
from deploy.provisioning.findings import Finding, error, warning

STOP_WAIT_S = 120
"""Shortest wait between SIGTERM and SIGKILL, the bound of all that a run does after a signal.

A test adds it up: `Timeouts.signal_s` to its last checkpoint, `Timeouts.close_s` to close the
environments, `RECORDS_S` to copy its records, and `RAY_END_S` until Ray has ended.
"""
RAY_END_S = 10
"""Of these, the time that Ray's own end takes at the most."""
DEFAULT_GRACE_S = 30
"""Kubernetes' own, between both signals."""


def pod_rules(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """What the restricted profile of Pod Security asks of each pod, and how a pod ends.

    Args:
        spec: of the RayCluster.
    """
    profile = "for the restricted profile of Pod Security"
    for key, pod in pod_specs(spec):
        rights = pod["containers"][0].get("securityContext") or {}
        seccomp = get_nested(rights, "seccompProfile", "type") or get_nested(
            pod, "securityContext", "seccompProfile", "type"
        )
        if seccomp not in ("RuntimeDefault", "Localhost"):
            where = f"{key}.securityContext.seccompProfile.type"
            yield warning(where, seccomp, f"{_missing(seccomp)}must be RuntimeDefault {profile}")
        escalates = get_nested(rights, "allowPrivilegeEscalation")
        if escalates is not False:
            where = f"{key}.securityContext.allowPrivilegeEscalation"
            yield warning(where, escalates, f"{_missing(escalates)}must be false {profile}")
        dropped = get_nested(rights, "capabilities", "drop")
        if not isinstance(dropped, list) or "ALL" not in dropped:
            where = f"{key}.securityContext.capabilities.drop"
            yield warning(where, dropped, f"{_missing(dropped)}must be [ALL] {profile}")
        yield from _grace(key, pod)


def _grace(key: str, pod: Mapping[str, Any]) -> Iterator[Finding]:
    """The driver on the head saves on SIGTERM, with the learner and the shards on other pods."""
    grace_s = pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
    resources = get_nested(pod["containers"][0], "resources", "limits") or {}
    saves = key == "headGroupSpec" or "nvidia.com/gpu" in resources
    if saves and (not isinstance(grace_s, int) or grace_s < STOP_WAIT_S):
        yield warning(
            f"{key}.terminationGracePeriodSeconds",
            grace_s,
            f"must be at least {STOP_WAIT_S}, or Kubernetes ends the pod while the run saves",
        )


def _missing(value: object) -> str:
    return "is missing: " if value is None else ""


def job_rules(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """The keys of a RayJob beside its cluster.

    Args:
        spec: of the RayJob; empty: the file has none.
    """
    retries, shuts_down = spec.get("backoffLimit") or 0, spec.get("shutdownAfterJobFinishes", False)
    if spec.get("clusterSelector"):
        if retries or shuts_down:
            yield error(
                "RayJob clusterSelector",
                None,
                "KubeRay refuses it with backoffLimit, and ignores shutdownAfterJobFinishes: must "
                "be left out, for a rayClusterSpec",
            )
    elif spec and not shuts_down:
        yield warning(
            "RayJob shutdownAfterJobFinishes",
            str(shuts_down).lower(),
            "keeps the machines after the job: must be true",
        )
    command = str(spec.get("entrypoint", ""))
    if retries and re.search(r"\btrain\b", command) and "--resume-if-exists" not in command:
        yield error(
            "RayJob backoffLimit",
            retries,
            "no retry could resume the run: the entrypoint must have --resume-if-exists",
        )
