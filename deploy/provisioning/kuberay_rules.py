"""Rules for KubeRay's objects: unknown fields, and pods that contradict themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.suggestion import suggest
from common.text import counted
from deploy.provisioning.cluster_file import ClusterFile, get_nested, groups_of, pod_specs
from deploy.provisioning.command_rules import unsets_token
from deploy.provisioning.field_table import field_table, misfits
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.machine_rules import (
    PUBLIC_CONTAINERS,
    container_processor,
    processor_in,
)
from deploy.resources.ray_start_options import DEFAULT_PORT, RAY_START_OPTIONS

METADATA = (
    "annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp",
    "finalizers", "generateName", "generation", "labels", "managedFields", "name", "namespace",
    "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip
"""Of any object of Kubernetes."""


def find_field_mistakes(cluster: ClusterFile) -> Iterator[Finding]:
    """Fields of KubeRay's objects that it does not have, or of another kind."""
    table = field_table("kuberay")
    for document in cluster.documents:
        version, kind = str(document.get("apiVersion")), str(document.get("kind"))
        if not version.startswith("ray.io/"):
            continue
        if version != "ray.io/v1":
            yield warning(f"{kind} apiVersion", version, "is an old version: must be ray.io/v1")
        if kind not in table.roots:
            near = suggest(kind, table.roots) or f": must be one of {', '.join(table.roots)}"
            yield error("kind", kind, f"unknown to KubeRay ({table.source}){near}")
            continue
        known = ("apiVersion", "kind", "metadata", "spec", "status")
        yield from _unknown(kind, document, known)
        metadata = document.get("metadata")
        yield from _unknown(f"{kind} metadata", metadata, METADATA)
        for name in ("labels", "annotations"):
            texts = get_nested(metadata, name)
            for key, value in texts.items() if isinstance(texts, Mapping) else ():
                if not isinstance(value, str):
                    where = f"{kind} metadata.{name}.{key}"
                    yield error(where, value, "must be a text: put it in quotes")
        for misfit in misfits(table, kind, document.get("spec")):
            yield misfit.finding(f"{kind} spec")


def _unknown(place: str, value: object, known: Sequence[str]) -> Iterator[Finding]:
    for key in value if isinstance(value, Mapping) else ():
        if key not in known:
            do = suggest(key, known) or ": remove it"
            yield error(f"{place}.{key}", None, f"unknown key{do}")


def find_pod_resources(cluster: ClusterFile) -> Iterator[Finding]:
    """Options of `ray start` that promise what a pod does not have, or that Ray lacks."""
    spec = cluster.values
    groups = [("headGroupSpec", spec["headGroupSpec"])]
    groups += [(f"group {one['groupName']}", one) for one in groups_of(spec)]
    port = str((spec["headGroupSpec"].get("rayStartParams") or {}).get("port", DEFAULT_PORT))
    for name, group in groups:
        place, options = f"{name}.rayStartParams", group.get("rayStartParams") or {}
        if not isinstance(options, Mapping):
            continue
        for option in options:
            if f"--{option}" not in RAY_START_OPTIONS:
                do = suggest(f"--{option}", RAY_START_OPTIONS, lambda near: near[2:])
                advice = f"unknown option of `ray start` (Ray 2.60){do or ': remove it'}"
                yield error(f"{place}.{option}", None, advice)
        container = group["template"]["spec"]["containers"][0]
        limits = get_nested(container, "resources", "limits")
        for option, resource, unit in (
            ("num-cpus", "cpu", "CPU"), ("num-gpus", "nvidia.com/gpu", "GPU"),
        ):  # fmt: skip
            given, has = _amount(options.get(option)), _amount(get_nested(limits, resource))
            if has is None and resource != "cpu" and isinstance(limits, Mapping):
                has = None if any("gpu" in one for one in limits) else 0
            if given is not None and has is not None and given > max(has, resource == "cpu"):
                yield error(
                    f"{place}.{option}",
                    options[option],
                    f"the pod has {counted(has, unit)} (resources.limits): must be at most that",
                )
        yield from _pod_token(name, container)
        yield from _pod_processor(name, group["template"]["spec"], container)
        yield from _ports(place, options, container, port, name == "headGroupSpec")


def find_bare_images(cluster: ClusterFile) -> Iterator[Finding]:
    """Public images, which do not hold raydqn, for pods that install nothing."""
    if cluster.job_spec.get("runtimeEnvYAML"):
        return
    for key, pod in pod_specs(cluster.values):
        image = str(get_nested(pod["containers"][0], "image"))
        if PUBLIC_CONTAINERS.match(image):
            advice = "does not hold raydqn: put an image that deploy/clusters/Dockerfile makes"
            yield error(f"{key}.image", image, advice)


def _pod_token(name: str, container: Mapping[str, Any]) -> Iterator[Finding]:
    """The variable with which Ray asks for the token, which KubeRay sets."""
    why = "must stay token, or any pod that reaches a port can run code: remove it"
    environment = container.get("env")
    for entry in environment if isinstance(environment, list) else ():
        mode = get_nested(entry, "value")
        if get_nested(entry, "name") == "RAY_AUTH_MODE" and mode != "token":
            yield error(f"{name}.env: RAY_AUTH_MODE", mode, why)
    for key in ("command", "args"):
        words = container.get(key)
        undone = unsets_token("\n".join(map(str, words if isinstance(words, list) else ())))
        if undone:
            yield error(f"{name}.{key}: RAY_AUTH_MODE", undone, why)


def _pod_processor(
    name: str, pod: Mapping[str, Any], container: Mapping[str, Any]
) -> Iterator[Finding]:
    """An image for another processor than that of the nodes which the pod selects."""
    selected = processor_in(get_nested(pod, "nodeSelector", "kubernetes.io/arch"))
    image = str(container.get("image"))
    of_image = container_processor(image)
    if None not in (selected, of_image) and selected != of_image:
        advice = f"is for {of_image}: the pod's nodeSelector asks for {selected}: put one for that"
        yield error(f"{name}.image", image, advice)


def _ports(
    place: str, options: Mapping[str, Any], container: Any, port: str, head: bool
) -> Iterator[Finding]:
    """Ports of the head that the pods disagree about."""
    address = str(options.get("address", ""))
    if not head and re.search(r":\d+$", address) and address.rpartition(":")[2] != port:
        yield error(f"{place}.address", address, f"the head listens on {port}: must end in :{port}")
    ports = container.get("ports") if head and isinstance(container, Mapping) else None
    for index, one in enumerate(ports if isinstance(ports, list) else ()):
        given = get_nested(one, "containerPort")
        if get_nested(one, "name") in ("gcs", "gcs-server") and str(given) != port:
            where = f"headGroupSpec.containers.0.ports.{index}.containerPort"
            yield error(
                where, given, f"Ray's head listens on {port} (rayStartParams): must be {port}"
            )


def _amount(value: object) -> float | None:
    """An amount as Kubernetes writes it: `2`, `500m`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", str(value))
    return float(match[1]) / (1000 if match[2] else 1) if match else None
