"""Rules for a file of `ray up` on Azure: parameters of Ray's template, location, machine types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.suggestion import suggest
from deploy.provisioning.cluster_file import ClusterFile
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.machine_rules import NodeFacts, find_machine_mistakes, processor_in
from deploy.provisioning.machine_table import ARM, TABLE_OF, X86, Machine, machines
from deploy.provisioning.node_fields import find_unknown_provider_keys
from deploy.provisioning.regions import find_region

PROVIDER_KEYS = (
    "location", "resource_group", "availability_zone", "subscription_id", "tags", "unique_id",
    "subnet_mask", "msi_name", "msi_resource_group", "msi", "nsg", "subnet",
)  # fmt: skip
"""Read by Ray 2.60 (ray/autoscaler/_private/_azure), beside those of every cloud."""
PARAMETERS: Mapping[str, type | tuple[type, ...]] = {
    "vmSize": str, "imagePublisher": str, "imageOffer": str, "imageSku": (str, int, float),
    "imageVersion": (str, int, float), "imageId": str, "osDiskSize": int, "priority": str,
    "evictionPolicy": str, "billingProfile": dict, "enableAcceleratedNetworking": bool,
    "zones": list, "availability_zone": str,
}  # fmt: skip
"""Of `azure_arm_parameters`: those of azure-vm-template.json of Ray 2.60, and one of Ray's own."""
SET_BY_RAY = (
    "vmName", "adminUsername", "publicKey", "vmTags", "vmCount", "provisionPublicIp", "msi", "nsg",
    "subnet",
)  # fmt: skip
"""Further parameters of the template, which Ray replaces."""
NODE_KEYS = ("azure_arm_parameters", "tags")
ZONES = ("1", "2", "3", "auto", "none", "null")
_KIND: Mapping[Any, str] = {str: "a text", int: "a whole number", dict: "keys", list: "a list",
                            bool: "true or false"}  # fmt: skip
VALUES = {
    "priority": ("Regular", "Spot", "Low"),
    "evictionPolicy": ("Deallocate", "Delete"),
}


def find_on_azure(cluster: ClusterFile) -> Iterator[Finding]:
    """Every fault that Azure would report only when machines start."""
    provider, types = cluster.values["provider"], cluster.values["available_node_types"]
    yield from find_unknown_provider_keys(provider, PROVIDER_KEYS)
    yield from find_region("azure", "provider.location", provider.get("location"))
    if not provider.get("resource_group"):
        advice = "is missing: must be the name of a group, which Ray creates"
        yield error("provider.resource_group", None, advice)
    yield from _zones("provider.availability_zone", provider.get("availability_zone"))
    for name, node_type in types.items():
        place, config = f"available_node_types.{name}.node_config", node_type["node_config"]
        for key in config:
            if key not in NODE_KEYS:
                do = f"; did you mean azure_arm_parameters.{key}?" if key in PARAMETERS else (
                    suggest(key, NODE_KEYS) or ": remove it")  # fmt: skip
                yield error(f"{place}.{key}", None, f"unknown key, which Ray ignores{do}")
        parameters = config.get("azure_arm_parameters")
        if not isinstance(parameters, Mapping):
            advice = "must have keys, such as vmSize"
            yield error(f"{place}.azure_arm_parameters", parameters, advice)
            continue
        yield from _parameters(f"{place}.azure_arm_parameters", parameters)
        yield from _machine(cluster, name, node_type, parameters)


def _parameters(place: str, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in parameters.items():
        if name in SET_BY_RAY:
            continue
        if name not in PARAMETERS:
            do = suggest(name, PARAMETERS) or ": remove it"
            yield error(
                f"{place}.{name}", None, f"unknown key (azure-vm-template.json of Ray 2.60){do}"
            )
            continue
        kind = PARAMETERS[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            yield error(f"{place}.{name}", value, f"must be {_KIND[kinds[0]]}")
        elif name in VALUES and value not in VALUES[name]:
            those = ", ".join(VALUES[name])
            yield error(f"{place}.{name}", value, f"must be one of {those}")
    if not isinstance(parameters.get("availability_zone", ""), str):
        return
    yield from _zones(f"{place}.availability_zone", parameters.get("availability_zone"))


def _zones(key: str, zones: object) -> Iterator[Finding]:
    """Zones, which Azure numbers in each location."""
    if zones is None:
        return
    for zone in str(zones).split(","):
        if zone.strip() and zone.strip().lower() not in ZONES:
            yield error(key, zones, 'must be "auto", "none", or numbers from 1 to 3, such as "1,2"')
            return


def _machine(
    cluster: ClusterFile, name: str, node_type: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Iterator[Finding]:
    place, size = f"available_node_types.{name}", parameters.get("vmSize")
    where = "node_config.azure_arm_parameters"
    if not isinstance(size, str):
        if size is None:
            advice = "is missing: must be a machine type, such as Standard_D8s_v5"
            yield error(f"{place}.{where}.vmSize", None, advice)
        return
    known = {one.lower(): machine for one, machine in machines("azure").items()}
    machine = known.get(size.lower())
    if machine is None:
        yield from _unknown_size(f"{place}.{where}.vmSize", size)
        machine = Machine(size, processor=_processor_of_size(size))
    key, image, processor = _image(parameters)
    yield from find_machine_mistakes(
        NodeFacts(
            place, "azure", f"{where}.vmSize", machine, node_type["resources"],
            f"{where}.{key}", image, processor, f"{where}.osDiskSize",
            parameters.get("osDiskSize"), cluster.container_image(name),
        )
    )  # fmt: skip


def _unknown_size(key: str, size: str) -> Iterator[Finding]:
    """A size that no series has; a series that is unknown may be newer or older than the table."""
    known = machines("azure")
    series = {_series(one) for one in known}
    if re.fullmatch(r"(Standard|Basic)_[A-Z]+\d+[\w-]*", size) and _series(size) not in series:
        return
    near = suggest(size, known) or ": put one that `az vm list-sizes` lists"
    yield warning(key, size, f"unknown, unless it is newer than the {TABLE_OF['azure']}{near}")


def _series(size: str) -> str:
    """`Standard_D8s_v5` → `Standard_D#s_v5`."""
    return re.sub(r"(_[A-Z]+)\d+(-\d+)?", r"\1#", size, count=1)


def _processor_of_size(size: str) -> str | None:
    """A `p` after the number of CPUs stands for an Arm processor."""
    match = re.fullmatch(r"Standard_[A-Z]+\d+(?:-\d+)?([a-z]*)(?:_\w+)?", size)
    return ARM if match and "p" in match[1] else None


def _image(parameters: Mapping[str, Any]) -> tuple[str, object, str | None]:
    """The key of the image, its name and its processor, as far as the name tells."""
    if parameters.get("imageId"):
        return "imageId", parameters["imageId"], processor_in(parameters["imageId"])
    names = [str(parameters.get(f"image{part}", "")) for part in ("Publisher", "Offer", "Sku")]
    named = processor_in(" ".join(names).replace("_", "-"))
    publisher = names[0].lower()
    if named is None and publisher in ("canonical", "debian", "microsoft-dsvm"):
        named = None if re.search(r"gb\d|arm", names[2].lower()) else X86
    return "imageSku", parameters.get("imageSku"), named
