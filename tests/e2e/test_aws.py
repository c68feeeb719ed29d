"""aws.yaml against a stand-in for EC2 and IAM: the configuration that Ray derives from it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import resource_cache
from ray.autoscaler.tags import (
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from support.paths import ROOT

WORLD = "0.0.0.0/0"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def bootstrapped(home):
    """The configuration as `ray up` has it when it starts the head."""
    values = yaml.safe_load((ROOT / "deploy" / "clusters" / "aws.yaml").read_text())
    caches = (resource_cache, aws_config._get_subnets_or_die)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")  # should a call ever leave moto, it is refused
        # Ray waits for IAM. Not the module's own `sleep`: other pollers would spin.
        patch.setattr(aws_config, "time", SimpleNamespace(sleep=lambda seconds: None))
        patch.chdir(ROOT)
        for cache in caches:
            cache.cache_clear()
        with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
            yield commands._bootstrap_config(values, no_config_cache=True)
        for cache in caches:
            cache.cache_clear()


def test_the_security_group_lets_in_ssh_only(bootstrapped):
    types = bootstrapped["available_node_types"]
    groups = {group for t in types.values() for group in t["node_config"]["SecurityGroupIds"]}
    assert len(groups) == 1
    group = boto3.resource("ec2", region_name="us-west-2").SecurityGroup(groups.pop())
    assert group.group_name == "raydqn-ssh-only"
    from_world = [rule for rule in group.ip_permissions if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(r["FromPort"], r["ToPort"], r["IpProtocol"]) for r in from_world] == [(22, 22, "tcp")]
    among = [rule for rule in group.ip_permissions if rule not in from_world]
    assert [pair["GroupId"] for rule in among for pair in rule["UserIdGroupPairs"]] == [group.id]
    assert not any(rule["PrefixListIds"] for rule in group.ip_permissions)


def test_the_file_states_the_resources_that_ray_finds_out_by_itself(bootstrapped):
    """Ray asks EC2 what a machine has; a value in the file that is wrong would win silently."""
    ec2 = boto3.client("ec2", region_name="us-west-2")
    for name, node_type in bootstrapped["available_node_types"].items():
        machine = node_type["node_config"]["InstanceType"]
        found = ec2.describe_instance_types(InstanceTypes=[machine])["InstanceTypes"][0]
        said = node_type["resources"]
        if name != "head":
            assert said["CPU"] == found["VCpuInfo"]["DefaultVCpus"]
        gpus = sum(gpu["Count"] for gpu in found.get("GpuInfo", {}).get("Gpus", []))
        assert said.get("GPU", 0) == gpus
    assert bootstrapped["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_only_the_head_may_start_machines(bootstrapped):
    assert "IamInstanceProfile" in bootstrapped["head_node"]
    for node_type in bootstrapped["available_node_types"].values():
        assert "IamInstanceProfile" not in node_type["node_config"]


def test_ray_makes_a_key_that_only_its_user_can_read(bootstrapped, home):
    key = Path(bootstrapped["auth"]["ssh_private_key"])
    assert key.parent == home / ".ssh"
    assert key.stat().st_mode & 0o777 == 0o600


def test_actors_run_on_spot_machines_and_no_other_part_does(bootstrapped):
    provider = AWSNodeProvider(bootstrapped["provider"], bootstrapped["cluster_name"])
    ec2 = boto3.client("ec2", region_name="us-west-2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    asked = {}
    for name, node_type in bootstrapped["available_node_types"].items():
        # EC2 resolves this, moto does not.
        assert node_type["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")
        provider.create_node(
            {**node_type["node_config"], "ImageId": image},
            {
                TAG_RAY_NODE_KIND: "worker",
                TAG_RAY_USER_NODE_TYPE: name,
                TAG_RAY_NODE_NAME: name,
                TAG_RAY_NODE_STATUS: "up-to-date",
            },
            1,
        )
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            asked[tags[TAG_RAY_USER_NODE_TYPE]] = (
                instance["InstanceType"],
                instance.get("InstanceLifecycle"),
            )
    assert asked == {
        "head": ("m7i.large", None),
        "learner": ("g5.2xlarge", None),
        "actors": ("c7i.4xlarge", "spot"),
    }


def test_the_head_gets_no_path_of_this_machine(bootstrapped, home):
    """The configuration on the head names places on the head."""
    provider = AWSNodeProvider(bootstrapped["provider"], bootstrapped["cluster_name"])
    _, file = commands._set_up_config_for_head_node(bootstrapped, provider, no_restart=False)
    text = Path(file.name).read_text()
    file.close()
    assert str(home) not in text
    sent = json.loads(text)
    assert sent["auth"]["ssh_private_key"] == "~/ray_bootstrap_key.pem"
    assert set(sent["file_mounts"].values()) == set(sent["file_mounts"])
    assert "~/.ray/auth_token" in sent["file_mounts"]


def test_the_commands_of_the_page_make_a_role_that_nodes_can_have(bootstrapped):
    page = (ROOT / "docs" / "clusters.md").read_text()
    commands = re.findall(r"^    aws iam (?:.|\n)*?(?=\n    aws iam|\n\n)", page, re.M)
    iam = boto3.client("iam", region_name="us-west-2")
    for command in commands:
        _, _, name, *words = shlex.split(command)
        options = zip(words[::2], words[1::2], strict=True)
        keys = {"".join(map(str.title, option[2:].split("-"))): value for option, value in options}
        getattr(iam, name.replace("-", "_"))(**keys)

    def allowed(role):
        policies = iam.list_role_policies(RoleName=role)["PolicyNames"]
        documents = [
            iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
            for name in policies
        ]
        actions = [action for one in documents for action in one["Statement"][0]["Action"]]
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        return {str(action).partition(":")[0] for action in actions}, attached

    for name in ("raydqn-learner", "raydqn-head"):
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        assert [role["RoleName"] for role in profile["Roles"]] == [name]
    assert allowed("raydqn-learner") == ({"s3"}, []), "it can start no machine"
    passes = iam.get_role_policy(RoleName="raydqn-head", PolicyName="pass")["PolicyDocument"]
    assert passes["Statement"][0]["Action"] == "iam:PassRole"
    assert passes["Statement"][0]["Resource"].endswith(":role/raydqn-learner")
    assert [one["PolicyName"] for one in allowed("raydqn-head")[1]] == ["AmazonEC2FullAccess"]
