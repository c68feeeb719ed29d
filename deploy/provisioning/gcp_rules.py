"""Rules for a file of `ray up` on Google Cloud: fields of an instance, zones, machine types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.suggestion import suggest
from deploy.provisioning.cluster_file import ClusterFile, get_nested
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.machine_rules import NodeFacts, find_machine_mistakes, processor_in
from deploy.provisioning.machine_table import (
    GCP_CLASSES,
    TABLE_OF,
    TAKES_GPUS,
    WITH_GPUS,
    X86,
    Machine,
    gcp_class_is_known,
    gcp_family_is_known,
    gcp_machine,
    gcp_sizes,
)
from deploy.provisioning.node_fields import find_unknown_fields, find_unknown_provider_keys, texts
from deploy.provisioning.regions import find_region, find_zone, region_of_zone

PROVIDER_KEYS = ("region", "availability_zone", "project_id", "gcp_credentials")
"""Read by Ray 2.60 (ray/autoscaler/_private/gcp), beside those of every cloud."""
OF_RAY = ("sourceInstanceTemplate", "networkConfig")
"""Keys of node_config that Ray takes out of an instance's fields."""
OF_RAY_FOR_TPUS = ("networkInterfaces", "serviceAccounts")
PUBLIC_IMAGES = (
    "debian-cloud", "ubuntu-os-cloud", "deeplearning-platform-release", "rocky-linux-cloud",
    "rhel-cloud", "centos-cloud", "cos-cloud", "ubuntu-os-accelerator-images", "ml-images",
    "opensuse-cloud", "suse-cloud", "ubuntu-os-pro-cloud",
)  # fmt: skip
"""Projects of Google's own images: the names of those for arm64 say so."""


def find_on_gcp(cluster: ClusterFile) -> Iterator[Finding]:
    """Every fault that Google Cloud would report only when machines start."""
    provider, types = cluster.values["provider"], cluster.values["available_node_types"]
    region, zone = provider.get("region"), provider.get("availability_zone")
    yield from find_unknown_provider_keys(provider, PROVIDER_KEYS)
    wrong = list(find_region("gcp", "provider.region", region))
    yield from wrong
    if zone is None:
        yield error("provider.availability_zone", None, "is missing: must be a zone of the region")
    elif not wrong:
        yield from find_zone("gcp", "provider.availability_zone", zone, region)
    for name, node_type in types.items():
        place, config = f"available_node_types.{name}.node_config", node_type["node_config"]
        tpu = "machineType" not in config and "sourceInstanceTemplate" not in config and (
            "acceleratorType" in config or "acceleratorConfig" in config
        )  # fmt: skip
        of_ray = OF_RAY_FOR_TPUS if tpu else OF_RAY
        yield from find_unknown_fields("gcp", "tpu" if tpu else "node", place, config, of_ray)
        yield from () if wrong else _places(place, config, region, zone)
        if not tpu:
            yield from _machine(cluster, name, node_type)


def _places(place: str, config: Any, region: object, zone: object) -> Iterator[Finding]:
    """Names of resources that are in another zone or region."""
    for key, text in texts(config):
        if key.startswith(("metadata.", "labels.", "description")):
            continue
        for of in re.findall(r"(?:^|/)zones/([\w-]+)/", text):
            if of != zone:
                yield error(f"{place}.{key}", text, f"is in {of}: must be in the zone, {zone}")
        for of in re.findall(r"(?:^|/)regions/([\w-]+)/", text):
            if of != region:
                yield error(f"{place}.{key}", text, f"is in {of}: must be in the region, {region}")
    if config.get("zone") is not None and isinstance(config["zone"], str):
        of = config["zone"].rpartition("/")[2]
        if region_of_zone("gcp", of) and of != zone:
            yield error(f"{place}.zone", config["zone"], f"must be the file's zone, {zone}")


def _machine(cluster: ClusterFile, name: str, node_type: Mapping[str, Any]) -> Iterator[Finding]:
    config, place = node_type["node_config"], f"available_node_types.{name}"
    template = "sourceInstanceTemplate" in config
    given = config.get("machineType")
    if not isinstance(given, str):
        if not template:
            key = f"{place}.node_config.machineType"
            yield error(key, given, "is missing: must be a machine type, such as n2-standard-8")
        return
    type_name = given.rpartition("/")[2]
    added = _added_gpus(config)
    machine = gcp_machine(type_name, None if template and not added else added)
    if list(gcp_sizes(type_name)):
        machine = Machine(type_name)
    yield from _names(f"{place}.node_config", type_name, added)
    disk_key, disk_gb, image = _boot_disk(config)
    yield from find_machine_mistakes(
        NodeFacts(
            place, "gcp", "node_config.machineType", machine, node_type["resources"],
            disk_key.replace("diskSizeGb", "sourceImage"), image, _processor_of(image), disk_key,
            disk_gb, cluster.container_image(name),
        )
    )  # fmt: skip


def _names(place: str, type_name: str, added: int | None) -> Iterator[Finding]:
    """A machine type that does not exist, and GPUs that it does not take."""
    sizes = list(gcp_sizes(type_name))
    if sizes:
        those = ", ".join(sizes)
        yield error(f"{place}.machineType", type_name, f"does not exist: must be one of {those}")
    elif not gcp_family_is_known(type_name):
        family = type_name.partition("-")[0]
        families = (*TAKES_GPUS, *WITH_GPUS, "n2", "e2", "c3", "c4", "n4")
        example = suggest(family, families, lambda near: near + type_name[len(family) :])
        do = example if "-" in type_name and example else ": put one such as n2-standard-8"
        yield warning(
            f"{place}.machineType",
            type_name,
            f"unknown, unless newer than the {TABLE_OF['gcp']}{do}",
        )
    elif not gcp_class_is_known(type_name):
        kind = "-".join(type_name.split("-")[1:2])
        others = () if kind in GCP_CLASSES else GCP_CLASSES
        example = suggest(kind, others, lambda near: type_name.replace(kind, near, 1))
        yield warning(
            f"{place}.machineType",
            type_name,
            f"unknown, unless newer than the {TABLE_OF['gcp']}"
            f"{example or ': put one such as n2-standard-8'}",
        )
    family = type_name.partition("-")[0]
    if (
        added
        and family not in (*TAKES_GPUS, *WITH_GPUS, "custom")
        and gcp_family_is_known(type_name)
    ):
        yield error(
            f"{place}.guestAccelerators",
            added,
            f"{type_name} takes none: put a machine type of n1, or one that has GPUs, such as "
            "g2-standard-8",
        )


def _added_gpus(config: Mapping[str, Any]) -> int | None:
    """Sum of the `guestAccelerators`; None if a count is not readable."""
    given = config.get("guestAccelerators") or []
    try:
        counts = [int(get_nested(one, "acceleratorCount")) for one in given]
    except (TypeError, ValueError):
        return None
    return sum(counts)


def _boot_disk(config: Mapping[str, Any]) -> tuple[str, object, object]:
    """The key of its size, its size and its image."""
    disks = config.get("disks")
    for index, disk in enumerate(disks if isinstance(disks, list) else ()):
        if get_nested(disk, "boot") is True:
            parameters = get_nested(disk, "initializeParams")
            size = get_nested(parameters, "diskSizeGb") or get_nested(disk, "diskSizeGb")
            inner = ".initializeParams" if get_nested(parameters, "diskSizeGb") else ""
            key = f"node_config.disks.{index}{inner}.diskSizeGb"
            return key, size, get_nested(parameters, "sourceImage")
    return "", None, None


def _processor_of(image: object) -> str | None:
    named = processor_in(image)
    match = re.search(r"projects/([\w-]+)/", str(image))
    return named or (X86 if match and match[1] in PUBLIC_IMAGES else None)
