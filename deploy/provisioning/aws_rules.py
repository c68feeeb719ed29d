"""Rules for a file of `ray up` on AWS: parameters of EC2, region and zones, machine types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.suggestion import suggest
from deploy.provisioning.cluster_file import ClusterFile, get_nested
from deploy.provisioning.field_table import field_table
from deploy.provisioning.findings import Finding, error, to_do, warning
from deploy.provisioning.machine_rules import NodeFacts, find_machine_mistakes, processor_in
from deploy.provisioning.machine_table import X86, aws_machine, looks_like_an_aws_type, machines
from deploy.provisioning.node_fields import (
    EXAMPLE_ID,
    find_unknown_fields,
    find_unknown_provider_keys,
    texts,
)
from deploy.provisioning.regions import find_region, find_zone

PROVIDER_KEYS = (
    "region", "availability_zone", "aws_credentials", "cloudwatch", "key_pair", "security_group",
)  # fmt: skip
"""Read by Ray 2.60 (ray/autoscaler/_private/aws), beside those of every cloud."""
OF_RAY = ("SubnetIds",)
"""Keys of node_config that Ray reads, and EC2 does not."""
OVERWRITTEN = {
    "MinCount": "remove it; min_workers and max_workers of the node type say how many",
    "MaxCount": "remove it; min_workers and max_workers of the node type say how many",
    "SubnetId": "put SubnetIds, a list",
}
RAYS_IMAGES = {
    "us-east-1": "ami-0271ce88f6c03e149", "us-east-2": "ami-0ce21b0ce8e0f5a37",
    "us-west-1": "ami-030896954b2b72361", "us-west-2": "ami-0a2b85e15b7c0ac34",
    "ca-central-1": "ami-044b98bea12677052", "eu-central-1": "ami-004d285ecf53fb335",
    "eu-west-1": "ami-0e17ed40febe794a6", "eu-west-2": "ami-0ad9e6b9d4e22df1a",
    "eu-west-3": "ami-05698775025146698", "sa-east-1": "ami-004b19c7ed8d790bc",
    "ap-northeast-1": "ami-03e45b1f18378ea97", "ap-northeast-2": "ami-095bae3e623e2ff99",
    "ap-northeast-3": "ami-02fd0ba69c1ef37ad", "ap-southeast-1": "ami-03ef1223872072e95",
    "ap-southeast-2": "ami-0bcf4f75e44e0a866",
}  # fmt: skip
"""Images that Ray 2.60 takes where the file names none (aws/config.py), all for x86."""
_ROOTS = ("/dev/sda1", "/dev/xvda")
_ID = {
    "ImageId": ("ami", r"ami-[0-9a-f]{8,17}|resolve:ssm:[\w./:-]+|latest_dlami"),
    "SubnetIds": ("subnet", r"subnet-[0-9a-f]{8,17}"),
    "SecurityGroupIds": ("sg", r"sg-[0-9a-f]{8,17}"),
}


def find_on_aws(cluster: ClusterFile) -> Iterator[Finding]:
    """Every fault that AWS would report only when machines start."""
    provider, types = cluster.values["provider"], cluster.values["available_node_types"]
    region = provider.get("region")
    yield from find_unknown_provider_keys(provider, PROVIDER_KEYS)
    wrong = list(find_region("aws", "provider.region", region))
    yield from wrong
    ports = get_nested(provider, "security_group", "IpPermissions")
    if ports is not None:
        where = "provider.security_group.IpPermissions"
        yield from find_unknown_fields("aws", "ports", where, ports)
    zones = provider.get("availability_zone")
    for zone in str(zones).split(",") if zones is not None and not wrong else ():
        yield from find_zone("aws", "provider.availability_zone", zone.strip(), region)
    for name, node_type in types.items():
        place, config = f"available_node_types.{name}", node_type["node_config"]
        yield from find_unknown_fields("aws", "node", f"{place}.node_config", config, OF_RAY)
        for key in OVERWRITTEN.keys() & config.keys():
            yield warning(
                f"{place}.node_config.{key}", config[key], f"Ray replaces it: {OVERWRITTEN[key]}"
            )
        yield from () if wrong else _places(f"{place}.node_config", config, region)
        yield from _ids(f"{place}.node_config", config)
        yield from _machine(cluster, name, node_type, region)


def _places(place: str, config: Mapping[str, Any], region: object) -> Iterator[Finding]:
    """Zones and resources of another region."""
    zone = get_nested(config, "Placement", "AvailabilityZone")
    if zone is not None:
        yield from find_zone("aws", f"{place}.Placement.AvailabilityZone", zone, region)
    for key, text in texts(config):
        # arn:aws:ec2:REGION:ACCOUNT:…; IAM's have no region.
        match = re.match(r"arn:aws[\w-]*:(?:ec2|kms|elastic-inference):([\w-]+):", text)
        if match and match[1] != region:
            yield error(f"{place}.{key}", text, f"is in {match[1]}: must be in {region}")


def _ids(place: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Ids that are examples, or no ids."""
    for key, text in texts(config):
        if EXAMPLE_ID.fullmatch(text):
            yield to_do(f"{place}.{key}", text, "is an example: put yours")
    for key, (kind, pattern) in _ID.items():
        given = config.get(key)
        for one in given if isinstance(given, list) else [given] if given else []:
            if not (re.fullmatch(pattern, str(one)) or EXAMPLE_ID.fullmatch(str(one))):
                yield error(
                    f"{place}.{key}", one, f"must be an id such as {kind}-0a2b85e15b7c0ac34"
                )
    given = config.get("SubnetIds")
    if given is not None and not isinstance(given, list):
        yield error(f"{place}.SubnetIds", given, "must be a list: begin each entry with a dash")


def _machine(
    cluster: ClusterFile, name: str, node_type: Mapping[str, Any], region: object
) -> Iterator[Finding]:
    config, place = node_type["node_config"], f"available_node_types.{name}"
    type_name, image = config.get("InstanceType"), config.get("ImageId")
    if "LaunchTemplate" in config and not isinstance(type_name, str):
        return
    if not isinstance(type_name, str):
        yield error(f"{place}.node_config.InstanceType", None, "is missing: must be a machine type")
        return
    known = machines("aws")
    if type_name not in known and not looks_like_an_aws_type(type_name, known):
        near = suggest(type_name, known) or ": put one that `aws ec2 describe-instance-types` lists"
        yield warning(
            f"{place}.node_config.InstanceType",
            type_name,
            f"unknown, unless it is newer than the list in {field_table('aws').source}{near}",
        )
    processor = processor_in(image) if str(image).startswith("resolve:") else None
    if "LaunchTemplate" not in config and str(image or "latest_dlami").lower() == "latest_dlami":
        processor = X86
        if isinstance(region, str) and region not in RAYS_IMAGES:
            yield error(
                f"{place}.node_config.ImageId",
                image,
                f"must name an image: Ray has none of its own for {region}",
            )
    elif image in RAYS_IMAGES.values():
        processor = X86
        home = next(one for one, ami in RAYS_IMAGES.items() if ami == image)
        if home != region:
            yield error(f"{place}.node_config.ImageId", image, f"is in {home}: must be in {region}")
    disk_key, disk_gb = _disk(config)
    yield from find_machine_mistakes(
        NodeFacts(
            place, "aws", "node_config.InstanceType", aws_machine(type_name),
            node_type["resources"], "node_config.ImageId", image, processor, disk_key, disk_gb,
            cluster.container_image(name),
        )
    )  # fmt: skip


def _disk(config: Mapping[str, Any]) -> tuple[str, object]:
    """The key and the size of the disk that holds the system."""
    devices = config.get("BlockDeviceMappings")
    for index, device in enumerate(devices if isinstance(devices, list) else ()):
        if get_nested(device, "DeviceName") in _ROOTS:
            key = f"node_config.BlockDeviceMappings.{index}.Ebs.VolumeSize"
            return key, get_nested(device, "Ebs", "VolumeSize")
    return "", None
