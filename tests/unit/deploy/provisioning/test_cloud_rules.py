"""`raydqn cluster check`: what a cloud would refuse when machines start, one fault at a time."""

from __future__ import annotations

import re

import pytest

from deploy.provisioning.aws_rules import find_on_aws
from deploy.provisioning.azure_rules import find_on_azure
from deploy.provisioning.gcp_rules import find_on_gcp
from support.clusters import NODE, planted, put

RULES = {"aws": find_on_aws, "azure": find_on_azure, "gcp": find_on_gcp}
LEARNER, ACTORS = (NODE, "learner"), (NODE, "actors")
CONFIG, OF_ACTORS = (*LEARNER, "node_config"), (*ACTORS, "node_config")
ARM = (*CONFIG, "azure_arm_parameters")
ARM_OF_ACTORS = (*OF_ACTORS, "azure_arm_parameters")
EBS = (*CONFIG, "BlockDeviceMappings")
BOOT = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts"
SSM = "resolve:ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current"
GPU_SUM = (
    "is too small: must be at least 25 GB (10 GB for the system with NVIDIA's driver + 6 GB for "
    "raydqn with torch for CUDA + 9 GB for downloads and Ray's files)"
)
CPU_SUM = (
    "is too small: must be at least 10 GB (5 GB for the system + 2 GB for raydqn with torch for "
    "CPUs + 3 GB for downloads and Ray's files)"
)


def disk(device: str = "/dev/sda1", **ebs: object) -> list[dict[str, object]]:
    return [{"DeviceName": device, "Ebs": {"VolumeSize": 120, **ebs}}]


B, G = "(botocore 1.43.117)", "(google-api-python-client 2.202.0)"
T = "(azure-vm-template.json of Ray 2.60)"
UNLESS = "unknown, unless it is newer than the list in botocore 1.43.117"
FAULTS = [
    # Keys of node_config.
    ("aws", put(*CONFIG, "InstanceTyp", "x"),
     f"error: learner.node_config.InstanceTyp: unknown key {B}; did you mean InstanceType?"),
    ("aws", put(*CONFIG, "machineType", "x"),
     f"error: learner.node_config.machineType: unknown key {B}: remove it"),
    ("aws", put(*EBS, disk(VolumSize=3)),
     "error: learner.node_config.BlockDeviceMappings.0.Ebs.VolumSize: unknown key "
     f"{B}; did you mean VolumeSize?"),
    ("aws", put(*OF_ACTORS, "InstanceMarketOptions", {"MarketType": "Spot"}),
     "warning: actors.node_config.InstanceMarketOptions.MarketType=Spot: must be one of "
     "capacity-block, interruptible-capacity-reservation, on-demand, spot "
     f"{B}; did you mean spot?"),
    ("aws", put(*EBS, disk(VolumeSize="120")),
     "error: learner.node_config.BlockDeviceMappings.0.Ebs.VolumeSize=120: must be a whole number, "
     "without quotes"),
    ("aws", put(*EBS, disk(DeleteOnTermination="yes")),
     "error: learner.node_config.BlockDeviceMappings.0.Ebs.DeleteOnTermination=yes: must be true "
     "or false, without quotes"),
    ("aws", put(*CONFIG, "SubnetIds", "subnet-0123abcd"),
     "error: learner.node_config.SubnetIds=subnet-0123abcd: must be a list: begin each entry with "
     "a dash"),
    ("aws", put(*CONFIG, "SubnetId", "subnet-0123abcd"),
     "warning: learner.node_config.SubnetId=subnet-0123abcd: Ray replaces it: put SubnetIds, a "
     "list"),
    ("aws", put(*CONFIG, "InstanceType", None),
     "error: learner.node_config.InstanceType: is missing: must be a machine type"),
    ("gcp", put(*CONFIG, "machine_type", "x"),
     f"error: learner.node_config.machine_type: unknown key {G}; did you mean machineType?"),
    ("gcp", put(*CONFIG, "disks", 0, "initializeParams", "diskSizeGB", 3),
     "error: learner.node_config.disks.0.initializeParams.diskSizeGB: unknown key "
     f"{G}; did you mean diskSizeGb?"),
    ("gcp", put(*CONFIG, "scheduling", [{"onHostMaintenance": "TERMINATE"}, {"preemptable": True}]),
     "error: learner.node_config.scheduling.1.preemptable: unknown key "
     f"{G}; did you mean preemptible?"),
    ("azure", put(*ARM, "vmsize", "x"),
     f"error: learner.node_config.azure_arm_parameters.vmsize: unknown key {T}; did you mean "
     "vmSize?"),
    ("azure", put(*ARM, "osDiskSize", "128"),
     "error: learner.node_config.azure_arm_parameters.osDiskSize=128: must be a whole number"),
    ("azure", put(*CONFIG, "osDiskSize", 128),
     "error: learner.node_config.osDiskSize: unknown key, which Ray ignores; did you mean "
     "azure_arm_parameters.osDiskSize?"),
    ("azure", put(*ARM, "priority", "spot"),
     "error: learner.node_config.azure_arm_parameters.priority=spot: must be one of Regular, Spot, "
     "Low"),
    ("aws", put("provider", "cache_stoped_nodes", True),
     "warning: provider.cache_stoped_nodes: unknown key, which Ray ignores; did you mean "
     "cache_stopped_nodes?"),
    ("aws", put("provider", "security_group", "IpPermissions", [{"FromPortt": 22}]),
     "error: provider.security_group.IpPermissions.0.FromPortt: unknown key "
     f"{B}; did you mean FromPort?"),
    # Regions and zones.
    ("aws", put("provider", "region", "us-wset-2"),
     f"warning: provider.region=us-wset-2: {UNLESS}; did you mean us-west-2?"),
    ("aws", put("provider", "region", "mars-north-1"),
     f"warning: provider.region=mars-north-1: {UNLESS}: must be a region of AWS, such as "
     "us-west-2"),
    ("aws", put("provider", "region", "us-west-2a"),
     "error: provider.region=us-west-2a: is a zone: must be its region, us-west-2"),
    ("aws", put("provider", "region", "us-central1"),
     "error: provider.region=us-central1: is a region of Google Cloud: must be a region of AWS, "
     "such as us-west-2"),
    ("aws", put("provider", "region", None),
     "error: provider.region: is missing: must be a region of AWS, such as us-west-2"),
    ("aws", put("provider", "availability_zone", "us-west-2a, us-east-1b"),
     "error: provider.availability_zone=us-east-1b: is in us-east-1: must be in the region, "
     "us-west-2, such as us-west-2a"),
    ("aws", put("provider", "availability_zone", "usw2-az1"),
     "error: provider.availability_zone=usw2-az1: is no name of a zone: must be one of us-west-2, "
     "such as us-west-2a"),
    ("aws", put(*CONFIG, "Placement", {"AvailabilityZone": "eu-west-1a"}),
     "error: learner.node_config.Placement.AvailabilityZone=eu-west-1a: is in eu-west-1: must be "
     "in the region, us-west-2, such as us-west-2a"),
    ("aws", put(*EBS, disk(KmsKeyId="arn:aws:kms:us-east-1:1:key/a")),
     "error: learner.node_config.BlockDeviceMappings.0.Ebs.KmsKeyId=arn:aws:kms:us-east-1:1:key/a: "
     "is in us-east-1: must be in us-west-2"),
    ("gcp", put("provider", "region", "us-west9"),
     "warning: provider.region=us-west9: unknown, unless it is newer than the list of 2026-11; did "
     "you mean us-west4?"),
    ("gcp", put("provider", "availability_zone", "us-east1-b"),
     "error: provider.availability_zone=us-east1-b: is in us-east1: must be in the region, "
     "us-west1, such as us-west1-a"),
    ("gcp", put("provider", "availability_zone", "us-west1-z"),
     "warning: provider.availability_zone=us-west1-z: unknown, unless it is newer than the list of "
     "2026-11: us-west1-a, us-west1-b, us-west1-c"),
    ("gcp", put("provider", "availability_zone", None),
     "error: provider.availability_zone: is missing: must be a zone of the region"),
    ("gcp", put(*CONFIG, "networkInterfaces", [{"subnetwork": "regions/us-east1/subnetworks/a"}]),
     "error: learner.node_config.networkInterfaces.0.subnetwork=regions/us-east1/subnetworks/a: is "
     "in us-east1: must be in the region, us-west1"),
    ("gcp", put(*CONFIG, "machineType", "zones/us-east1-b/machineTypes/g2-standard-8"),
     "error: learner.node_config.machineType=zones/us-east1-b/machineTypes/g2-standard-8: is in "
     "us-east1-b: must be in the zone, us-west1-b"),
    ("azure", put("provider", "location", "westsu2"),
     "warning: provider.location=westsu2: unknown, unless it is newer than the list of 2026-11; "
     "did you mean westus2?"),
    ("azure", put("provider", "availability_zone", "westus2-1"),
     "error: provider.availability_zone=westus2-1: must be \"auto\", \"none\", or numbers from 1 "
     "to 3, such as \"1,2\""),
    # What a machine has.
    ("aws", put(*ACTORS, "resources", {"CPU": 160}),
     "error: actors.resources.CPU=160: c7i.4xlarge has 16 CPUs (table of 2026-01): must be at most "
     "16"),
    ("aws", put(*ACTORS, "resources", {"CPU": 16, "GPU": 1}),
     "error: actors.resources.GPU=1: c7i.4xlarge has no GPU (table of 2026-01): must be 0, or "
     "node_config.InstanceType a machine that has one"),
    ("aws", put(*LEARNER, "resources", {"CPU": 8, "GPU": 2}),
     "error: learner.resources.GPU=2: g5.2xlarge has 1 GPU (table of 2026-01): must be at most 1"),
    ("aws", put(*CONFIG, "InstanceType", "g5.12xlarge"),
     "warning: learner.resources.GPU=1: g5.12xlarge has 4 GPUs (table of 2026-01), all of which "
     "are paid for: must be 4, or node_config.InstanceType a machine with fewer"),
    ("aws", put(*LEARNER, "resources", {"CPU": 8, "GPU": 1, "memory": 2**36}),
     "error: learner.resources.memory=68719476736: g5.2xlarge has 32 GiB (table of 2026-01): must "
     "be at most 34,359,738,368 bytes, less what the system needs"),
    ("aws", put(*CONFIG, "InstanceType", "g5.2xlagre"),
     f"warning: learner.node_config.InstanceType=g5.2xlagre: {UNLESS}; did you mean g5.2xlarge?"),
    ("gcp", put(*ACTORS, "resources", {"CPU": 160}),
     "error: actors.resources.CPU=160: n2-standard-16 has 16 CPUs (list of 2026-11): must be at "
     "most 16"),
    ("gcp", put(*ACTORS, "resources", {"CPU": 16, "GPU": 1}),
     "error: actors.resources.GPU=1: n2-standard-16 has no GPU (list of 2026-11): must be 0, or "
     "node_config.machineType a machine that has one"),
    ("gcp", put(*OF_ACTORS, "machineType", "n2-standard-15"),
     "error: actors.node_config.machineType=n2-standard-15: does not exist: must be one of "
     "n2-standard-2, n2-standard-4, n2-standard-8, n2-standard-16, n2-standard-32, n2-standard-48, "
     "n2-standard-64, n2-standard-80, n2-standard-96, n2-standard-128"),
    ("gcp", put(*OF_ACTORS, "machineType", "n22-standard-16"),
     "warning: actors.node_config.machineType=n22-standard-16: unknown, unless newer than the list "
     "of 2026-11; did you mean n2-standard-16?"),
    ("gcp", put(*OF_ACTORS, "machineType", "n2-standart-16"),
     "warning: actors.node_config.machineType=n2-standart-16: unknown, unless newer than the list "
     "of 2026-11; did you mean n2-standard-16?"),
    ("gcp", put(*OF_ACTORS, "guestAccelerators", [{"acceleratorType": "a", "acceleratorCount": 1}]),
     "error: actors.node_config.guestAccelerators=1: n2-standard-16 takes none: put a machine type "
     "of n1, or one that has GPUs, such as g2-standard-8"),
    ("azure", put(*ACTORS, "resources", {"CPU": 160}),
     "error: actors.resources.CPU=160: Standard_D16s_v5 has 16 CPUs (table of 2026-03): must be at "
     "most 16"),
    ("azure", put(*LEARNER, "resources", {"CPU": 4, "GPU": 2}),
     "error: learner.resources.GPU=2: Standard_NC4as_T4_v3 has 1 GPU (table of 2026-03): must be "
     "at most 1"),
    ("gcp", put(*LEARNER, "resources", {"CPU": 8}),
     "warning: learner.resources.GPU=0: g2-standard-8 has 1 GPU (list of 2026-11), all of which "
     "are paid for: must be 1, or node_config.machineType a machine with fewer"),
    ("azure", put(*ARM_OF_ACTORS, "vmSize", "Standard_D15s_v5"),
     "warning: actors.node_config.azure_arm_parameters.vmSize=Standard_D15s_v5: unknown, unless it "
     "is newer than the table of 2026-03; did you mean Standard_D16s_v5?"),
    # Processors.
    ("aws", put(*OF_ACTORS, "InstanceType", "c7g.4xlarge"),
     "error: actors.node_config.ImageId=resolve:ssm:/aws/service/deeplearning/ami/x86_64/"
     "base-oss-n…: is for x86_64: c7g.4xlarge has an arm64 processor: put an image for arm64, or "
     "another InstanceType"),
    ("aws", put(*OF_ACTORS, {"InstanceType": "t4g.4xlarge"}),
     "error: actors.node_config.ImageId=Ray's default: is for x86_64: t4g.4xlarge has an arm64 "
     "processor: put an image for arm64, or another InstanceType"),
    ("aws", put(*OF_ACTORS, "ImageId", f"{SSM}/arm64/ami-id"),
     "error: actors.node_config.ImageId=resolve:ssm:/aws/service/canonical/ubuntu/server/24.04/"
     "stab…: is for arm64: c7i.4xlarge has an x86_64 processor: put an image for x86_64, or "
     "another InstanceType"),
    ("aws", put("docker", {"image": "rayproject/ray:2.60.0-py312-aarch64"}),
     "error: docker.image of available_node_types.actors=rayproject/ray:2.60.0-py312-aarch64: is "
     "for arm64: c7i.4xlarge has an x86_64 processor: put an image for x86_64, or another "
     "InstanceType"),
    ("gcp", put(*OF_ACTORS, "machineType", "c4a-standard-16"),
     "error: actors.node_config.disks.0.initializeParams.sourceImage=projects/ubuntu-os-cloud/"
     "global/images/family/ubuntu-2404-l…: is for x86_64: c4a-standard-16 has an arm64 processor: "
     "put an image for arm64, or another machineType"),
    ("azure", put(*ARM_OF_ACTORS, "vmSize", "Standard_D16pls_v6"),
     "error: actors.node_config.azure_arm_parameters.imageSku=server: is for x86_64: "
     "Standard_D16pls_v6 has an arm64 processor: put an image for arm64, or another vmSize"),
    ("azure", put(*ARM_OF_ACTORS, "imageSku", "server-arm64"),
     "error: actors.node_config.azure_arm_parameters.imageSku=server-arm64: is for arm64: "
     "Standard_D16s_v5 has an x86_64 processor: put an image for x86_64, or another vmSize"),
    # Images and disks.
    ("aws", put(*OF_ACTORS, "ImageId", "ami-0271ce88f6c03e149"),
     "error: actors.node_config.ImageId=ami-0271ce88f6c03e149: is in us-east-1: must be in "
     "us-west-2"),
    ("aws", put(*OF_ACTORS, "ImageId", "ubuntu"),
     "error: actors.node_config.ImageId=ubuntu: must be an id such as ami-0a2b85e15b7c0ac34"),
    ("aws", put(*OF_ACTORS, "ImageId", "ami-00000000000000001"),
     "to do: actors.node_config.ImageId=ami-00000000000000001: is an example: put yours"),
    ("aws", put(*EBS, disk(VolumeSize=20)),
     f"error: learner.node_config.BlockDeviceMappings.0.Ebs.VolumeSize=20: {GPU_SUM}"),
    ("aws", put(*OF_ACTORS, "BlockDeviceMappings", disk(VolumeSize=8)),
     f"error: actors.node_config.BlockDeviceMappings.0.Ebs.VolumeSize=8: {CPU_SUM}"),
    ("gcp", put(*CONFIG, "disks", 0, "initializeParams", "diskSizeGb", "12"),
     f"error: learner.node_config.disks.0.initializeParams.diskSizeGb=12: {GPU_SUM}"),
    ("azure", put(*ARM_OF_ACTORS, "osDiskSize", 8),
     f"error: actors.node_config.azure_arm_parameters.osDiskSize=8: {CPU_SUM}"),
]  # fmt: skip


@pytest.mark.parametrize(("cloud", "plant", "line"), FAULTS)
def test_what_a_cloud_would_refuse_is_found(cloud, plant, line):
    full = re.sub(r"^([a-z ]+: )(head|learner|actors)\.", r"\1available_node_types.\2.", line)
    assert full in planted(RULES[cloud], cloud, plant)


def many(*plants):
    def change(values):
        for plant in plants:
            plant(values)

    return change


GOOD = [
    ("aws", put(*LEARNER, "resources", {"CPU": 8})),  # Ray asks EC2 for the GPUs of the type
    ("aws", put("provider", "availability_zone", "us-west-2a, us-west-2b")),
    ("aws", put("provider", "availability_zone", "us-west-2-lax-1a")),  # near Los Angeles
    ("aws", put(*EBS, [*disk(), *disk("/dev/sdf", VolumeSize=1, Encrypted=True, Iops=3000)])),
    ("aws", put(*CONFIG, "InstanceType", "g9x.2xlarge")),  # newer than the table
    ("aws", put(*OF_ACTORS, "InstanceType", "c7i.metal-24xl")),
    ("aws", many(put(*OF_ACTORS, "InstanceType", "c7g.4xlarge"),
                 put(*OF_ACTORS, "ImageId", f"{SSM}/arm64/hvm/ebs-gp3/ami-id"))),
    ("aws", many(put(*OF_ACTORS, "InstanceType", "c7g.4xlarge"),
                 put(*OF_ACTORS, "ImageId", "ami-0a1b2c3d4e5f60718"))),  # its processor is unknown
    ("aws", put(*CONFIG, {"LaunchTemplate": {"LaunchTemplateName": "mine", "Version": "1"}})),
    ("aws", put(*CONFIG, "SubnetIds", ["subnet-0a1b2c3d4e5f60718"])),
    ("aws", put(*CONFIG, "IamInstanceProfile", {"Arn": "arn:aws:iam::1:instance-profile/a"})),
    ("aws", put(*CONFIG, "TagSpecifications", [
        {"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "rl"}]}])),
    ("aws", put(*CONFIG, "MetadataOptions", {"HttpTokens": "required"})),
    ("aws", put(*CONFIG, "NetworkInterfaces", [
        {"DeviceIndex": 0, "NetworkCardIndex": 0, "SubnetId": "subnet-0a1b2c3d", "InterfaceType":
         "efa", "Groups": ["sg-0a1b2c3d"], "AssociatePublicIpAddress": False}])),
    ("aws", put(*LEARNER, "resources", {"CPU": 4, "GPU": 1, "memory": 2**34, "mine": 3})),
    ("aws", put("provider", "use_internal_ips", True)),
    ("aws", put("provider", "key_pair", {"key_name": "mine"})),
    ("gcp", put("provider", "availability_zone", "us-west1-ai1a")),
    ("gcp", many(put("provider", "region", "us-central1"),
                 put("provider", "availability_zone", "us-central1-f"),
                 *(put(NODE, name, "node_config", "networkInterfaces", [{"subnetwork": "a"}])
                   for name in ("head", "learner", "actors")))),
    ("gcp", put(*CONFIG, "scheduling",
                [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}])),
    ("gcp", put(*CONFIG, "disks", 0, "initializeParams", "diskSizeGb", "100")),
    ("gcp", many(put(*OF_ACTORS, "machineType", "custom-16-61440"), put(*OF_ACTORS, "labels",
                                                                       {"a": "b"}))),
    ("gcp", put(*OF_ACTORS, "machineType", "n2-custom-16-65536-ext")),
    ("gcp", put(*OF_ACTORS, "machineType", "c3-standard-22-lssd")),
    ("gcp", put(*OF_ACTORS, "machineType", "m1-ultramem-40")),
    ("gcp", put(*OF_ACTORS, "machineType", "x4-megamem-960-metal")),
    ("gcp", put(*CONFIG, "machineType", "a2-highgpu-1g")),
    ("gcp", many(put(*CONFIG, "machineType", "n1-standard-8"), put(
        *CONFIG, "guestAccelerators",
        [{"acceleratorType": "zones/us-west1-b/acceleratorTypes/nvidia-tesla-t4",
          "acceleratorCount": 1}]))),
    ("gcp", put(*CONFIG, {"sourceInstanceTemplate": "global/instanceTemplates/a"})),
    ("gcp", put(*OF_ACTORS, {"acceleratorType": "v2-8", "runtimeVersion": "v2-alpha",
                             "schedulingConfig": {"preemptible": True}})),
    ("azure", put("provider", "location", "West US 2")),
    ("azure", put("provider", "availability_zone", "1,2, 3")),
    ("azure", put(*ARM, "availability_zone", "none")),
    ("azure", put(*ARM, "imageVersion", "24.04.2026")),
    ("azure", put(*ARM, "vmSize", "standard_nc4as_t4_v3")),
    ("azure", put(*ARM, "vmSize", "Standard_NC6")),  # retired
    ("azure", put(*ARM_OF_ACTORS, "vmSize", "Standard_D16s_v9")),  # newer than the table
    ("azure", many(put(*ARM_OF_ACTORS, "vmSize", "Standard_D16ps_v5"),
                   put(*ARM_OF_ACTORS, "imageSku", "server-arm64"))),
    ("azure", put(*CONFIG, "tags", {"team": "rl"})),
]  # fmt: skip


@pytest.mark.parametrize(("cloud", "plant"), GOOD)
def test_what_a_cloud_accepts_is_no_finding(cloud, plant):
    assert planted(RULES[cloud], cloud, plant) == []
