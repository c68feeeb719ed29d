"""The tables of `raydqn cluster check` agree with what is installed, and name their sources."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import ray
from deploy.provisioning.aws_rules import RAYS_IMAGES
from deploy.provisioning.azure_rules import PARAMETERS, SET_BY_RAY
from deploy.provisioning.field_table import TABLES, field_table
from deploy.provisioning.machine_table import gcp_machine, machines
from deploy.resources.ray_start_options import RAY_START_OPTIONS
from support.clusters import PINS

PRIVATE = Path(ray.__file__).parent / "autoscaler" / "_private"


def test_each_table_names_its_source_and_the_version():
    assert field_table("aws").source == f"botocore {PINS['botocore']}"
    client = "google-api-python-client"
    assert field_table("gcp").source == f"{client} {PINS[client]}"
    assert re.fullmatch(r"kuberay [0-9a-f]+ of \d{4}-\d\d-\d\d", field_table("kuberay").source)
    assert "kubernetes/autoscaler" in (TABLES / "machines.csv").read_text().partition("\n")[0]
    assert json.loads((TABLES / "regions.json").read_text())["source"] == "list of 2026-11"


def test_the_options_of_ray_start_are_those_of_the_installed_ray():
    from ray.scripts.scripts import start  # here: other processes that collect tests do without

    names = {name for one in start.params for name in one.opts if name.startswith("--")}
    assert {*RAY_START_OPTIONS} == {*names, "--help"}


def test_the_parameters_on_azure_are_those_of_rays_template():
    template = json.loads((PRIVATE / "_azure" / "azure-vm-template.json").read_text())
    of_ray = {*template["parameters"], "availability_zone"}
    assert {*PARAMETERS, *SET_BY_RAY} == of_ray


def test_the_images_on_aws_are_those_of_the_installed_ray():
    text = (PRIVATE / "aws" / "config.py").read_text()
    assert dict(re.findall(r'"([a-z0-9-]+)": "(ami-\w+)"', text)) == RAYS_IMAGES


@pytest.mark.parametrize(
    ("cloud", "name", "cpus", "gpus", "gib", "processor"),
    [
        ("aws", "g5.2xlarge", 8, 1, 32, "x86_64"),
        ("aws", "p3.16xlarge", 64, 8, 488, "x86_64"),
        ("aws", "t4g.large", 2, 0, 8, "arm64"),
        ("aws", "c4.8xlarge", 36, 0, 60, "x86_64"),  # breaks the rule of sizes
        ("aws", "dl1.24xlarge", 96, None, 768, "x86_64"),  # no GPUs of Ray's
        ("aws", "p2.8xlarge", 32, 8, None, "x86_64"),
        ("azure", "Standard_NC12", 12, 2, None, "x86_64"),
        ("azure", "Standard_D16s_v5", 16, 0, 64, "x86_64"),
        ("azure", "Standard_NC24ads_A100_v4", 24, 1, 220, "x86_64"),
        ("azure", "Standard_NV6ads_A10_v5", 6, None, 55, "x86_64"),  # a sixth of one
        ("azure", "Standard_D16pls_v6", 16, 0, 32, "arm64"),
        ("gcp", "n2-standard-16", 16, 0, 64, "x86_64"),
        ("gcp", "n1-highmem-8", 8, 0, 52, "x86_64"),
        ("gcp", "e2-medium", 2, 0, 4, "x86_64"),
        ("gcp", "n2-custom-6-20480", 6, 0, 20, "x86_64"),
        ("gcp", "custom-4-8192", 4, 0, 8, "x86_64"),
        ("gcp", "g2-standard-24", 24, 2, 96, "x86_64"),
        ("gcp", "a2-highgpu-8g", 96, 8, None, "x86_64"),
        ("gcp", "a2-megagpu-16g", 96, 16, None, "x86_64"),
        ("gcp", "a3-highgpu-4g", 104, 4, None, "x86_64"),
        ("gcp", "a3-ultragpu-8g", None, 8, None, "x86_64"),
        ("gcp", "g4-standard-48", 48, None, None, "x86_64"),
        ("gcp", "c4a-standard-8", 8, 0, 32, "arm64"),
        ("gcp", "z9-standard-8", None, None, None, None),
        ("gcp", "nonsense", None, None, None, None),
    ],
)  # fmt: skip
def test_what_a_machine_has_is_known(cloud, name, cpus, gpus, gib, processor):
    machine = gcp_machine(name, 0) if cloud == "gcp" else machines(cloud)[name]
    assert (machine.cpus, machine.gpus, machine.processor) == (cpus, gpus, processor)
    assert machine.memory_gib == gib
