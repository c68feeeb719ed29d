"""`raydqn cluster check`: faults of the cluster file itself, planted one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deploy.launch.run import RECORDS_S
from deploy.provisioning.kubernetes_rules import RAY_END_S, STOP_WAIT_S
from deploy.supervisor.timeouts import Timeouts
from support.clusters import (
    CLUSTERS,
    EXAMPLES,
    HEAD,
    IMAGE,
    NODE,
    check,
    check_values,
    new_findings,
    put,
    read,
    swap,
)

pytestmark = pytest.mark.usefixtures("home")


INSTALL = "sh ~/raydqn/source/deploy/clusters/install.sh"
LEARNER = (NODE, "learner", "resources")


def kuberay(*path_and_value):
    """Sets a value of the RayCluster in the RayJob."""
    return put("spec", "rayClusterSpec", *path_and_value)


def pod(index, *path_and_value):
    """Sets a value of the pods of a worker group in the RayJob."""
    return kuberay("workerGroupSpecs", index, "template", "spec", *path_and_value)


FAULTS = [
    # Safety.
    ("aws", swap("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"),
     ["error: head_start_ray_commands: RAY_AUTH_MODE=disabled: must be token, or any client that "
      "reaches a port can run code",
      "error: worker_start_ray_commands: RAY_AUTH_MODE=disabled: must be token, or any client "
      "that reaches a port can run code"]),
    ("gcp", swap("RAY_AUTH_MODE=token ", ""),
     ["error: head_start_ray_commands: RAY_AUTH_MODE=: must be token, or any client that reaches "
      "a port can run code",
      "error: worker_start_ray_commands: RAY_AUTH_MODE=: must be token, or any client that "
      "reaches a port can run code"]),
    ("azure", put("file_mounts", "~/.ray/auth_token", None),
     ["error: file_mounts.~/.ray/auth_token: is missing: every node needs the token, put "
      "~/.ray/auth_token: ~/.ray/raydqn.token"]),
    ("aws", swap("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
     ["error: head_start_ray_commands: --dashboard-host=0.0.0.0: accepts jobs from every address: "
      "must be 127.0.0.1; `ray dashboard` forwards it"]),
    ("on-prem", swap("--dashboard-host=127.0.0.1", "--dashboard-host 0.0.0.0"),
     ["error: head_start_ray_commands: --dashboard-host=0.0.0.0: accepts jobs from every address: "
      "must be 127.0.0.1; `ray dashboard` forwards it"]),
    ("aws", put(HEAD, None), # Ray's own commands take their place
     ["error: head_start_ray_commands: --dashboard-host=0.0.0.0: accepts jobs from every address: "
      "must be 127.0.0.1; `ray dashboard` forwards it",
      "warning: head_start_ray_commands: RAY_JOB_STOP_WAIT_TIME_S=: must be at least 120, or Ray "
      "kills a run while it saves"]),
    ("aws", put("provider", "security_group", "IpPermissions",
                [{"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp",
                  "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
                 {"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp",
                  "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "0.0.0.0/0"}]}]),
     ["error: provider.security_group.IpPermissions.1=port 8265 from 0.0.0.0/0: open to the "
      "world: only SSH (22) may be"]),
    ("aws", put("provider", "security_group", "IpPermissions",
                [{"FromPort": -1, "ToPort": -1, "IpProtocol": "-1",
                  "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]),
     ["error: provider.security_group.IpPermissions.0=all ports from ::/0: open to the world: "
      "only SSH (22) may be"]),
    ("gcp", put(NODE, "head", "node_config", "tags", {"items": ["http-server"]}),
     ["error: available_node_types.head.node_config.tags=http-server: open to the world: only SSH "
      "(22) may be"]),
    ("gcp", put(NODE, "actors", "node_config", "networkInterfaces", None),
     ["warning: available_node_types.actors.node_config.networkInterfaces: is missing: Ray's "
      "default network may let in more than SSH; docs/clusters.md makes one that does not"]),
    # What starts, and what does not.
    ("on-prem", swap("RAY_enable_autoscaler_v2=0 ", ""),
     ["error: head_start_ray_commands: RAY_enable_autoscaler_v2=: must be 0: that autoscaler "
      "never starts on-premises machines"]),
    ("on-prem", put("min_workers", 1),
     ["warning: min_workers=1: must be 2, one for each of worker_ips: Ray would start no more"]),
    ("on-prem", swap("--num-cpus=8", ""),
     ["error: head_start_ray_commands: --num-cpus: is missing: must state the amount that a node "
      "offers",
      "error: worker_start_ray_commands: --num-cpus: is missing: must state the amount that a "
      "node offers"]),
    ("aws", swap("--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
     ["error: head_start_ray_commands: --autoscaling-config: is missing: must be "
      "~/ray_bootstrap_config.yaml, or Ray starts no worker"]),
    ("aws", put("worker_start_ray_commands", ["export RAY_AUTH_MODE=token"]),
     ["error: worker_start_ray_commands: have no `ray start`: must start Ray"]),
    ("azure", swap("WAIT_TIME_S=120", "WAIT_TIME_S=3"),
     ["warning: head_start_ray_commands: RAY_JOB_STOP_WAIT_TIME_S=3: must be at least 120, or Ray "
      "kills a run while it saves"]),
    # Versions.
    ("aws", swap(f"{INSTALL} aws", "pip install 'ray[default]==2.44.1'"),
     ["error: setup_commands=ray 2.44.1: must be 2.60.0, as here"]),
    ("gcp", swap("python3.12", "python3.10"),
     ["error: setup_commands=python 3.10: must be <3.14,>=3.11"]),
    ("aws", put("docker", {"image": "rayproject/ray:2.40.0-py39", "container_name": "r"}),
     ["error: docker.image=ray 2.40.0: must be 2.60.0, as here",
      "error: docker.image=python 3.9: must be <3.14,>=3.11"]),
    ("aws", put("docker", {"image": "registry.example.com/raydqn:9.9.9-ray2.60.0-py312",
                           "container_name": "r"}),
     ["error: docker.image=raydqn 9.9.9: must be 0.1.0, as here",
      "to do: docker.image=registry.example.com/raydqn:9.9.9-ray2.60.0-py312: is an example: put "
      "the image that you pushed"]),
    # Roles and scaling.
    ("aws", put(*LEARNER, {"CPU": 8, "raydqn_learner": 1000}), []), # learns on the CPU: "auto"
    ("aws", put(*LEARNER, {"CPU": 0, "GPU": 1, "raydqn_learner": 1000}),
     [f"error: available_node_types: {title} needs 1 CPU: no node type that offers raydqn_learner "
      f"has as many{more}" for title, more in (("learner", " beside 1 GPU"), ("shard", ""))]),
    ("aws", put(*LEARNER, {"CPU": 8, "GPU": 1}),
     ["warning: resources: no node type offers raydqn_learner: its parts run on any node with "
      "room"]),
    ("aws", put(*LEARNER, {"CPU": 8, "GPU": 1, "raydqn_lerner": 1000}),
     ["warning: resources: no node type offers raydqn_learner: its parts run on any node with "
      "room; did you mean raydqn_learner by raydqn_lerner?"]),
    ("aws", put(*LEARNER, {"GPU": 1, "raydqn_learner": 1000}),
     ["error: available_node_types.learner.resources.CPU: is missing: must state the amount that "
      "a node offers"]),
    ("aws", put(NODE, "head", "resources", {"CPU": 2, "raydqn_actor": 1000}),
     ["warning: available_node_types.head.resources.raydqn_actor=1000: actors would run on the "
      "head, and slow down Ray's own processes"]),
    ("aws", put(NODE, "actors", "max_workers", 0),
     ["warning: resources: no node type offers raydqn_actor: its parts run on any node with room"]),
    ("aws", put(NODE, "actors", "min_workers", 16),
     ["warning: actors.min_workers=16: never scales down: must be below max_workers=16"]),
    ("aws", put("idle_timeout_minutes", 0),
     ["warning: idle_timeout_minutes=0: nodes stop before they are used: must be between 1 and "
      "60"]),
    ("aws", put("idle_timeout_minutes", 1e9),
     ["warning: idle_timeout_minutes=1000000000.0: idle nodes keep running: must be between "
      "1 and 60"]),
    # Kubernetes.
    ("kuberay", kuberay("authOptions", "mode", "disabled"),
     ["error: authOptions.mode=disabled: must be token, or any pod that reaches a port can run "
      "code"]),
    ("kuberay", kuberay("headGroupSpec", "serviceType", "LoadBalancer"),
     ["error: headGroupSpec.serviceType=LoadBalancer: opens the cluster to the world: must be "
      "ClusterIP"]),
    ("kuberay", kuberay("headGroupSpec", "enableIngress", True),
     ["error: headGroupSpec.enableIngress=True: opens the cluster to the world: must be false"]),
    ("kuberay", kuberay("rayVersion", "2.44.0"),
     ["error: rayVersion=2.44.0: must be 2.60.0, as here"]),
    ("kuberay", kuberay("enableInTreeAutoscaling", False),
     ["error: enableInTreeAutoscaling=False: must be true, or Ray starts and stops no node"]),
    ("kuberay", kuberay("autoscalerOptions", "idleTimeoutSeconds", 0),
     ["warning: autoscalerOptions.idleTimeoutSeconds=0: nodes stop before they are used: must be "
      "between 60 and 3600"]),
    ("kuberay", kuberay("workerGroupSpecs", 1, "minReplicas", 16),
     ["warning: actors.minReplicas=16: never scales down: must be below maxReplicas=16"]),
    ("kuberay", kuberay("workerGroupSpecs", 1, "template", "spec", "securityContext", None),
     ["warning: group actors.securityContext.runAsNonRoot: is missing: must be true",
      "warning: group actors.securityContext.seccompProfile.type: is missing: must be "
      "RuntimeDefault for the restricted profile of Pod Security"]),
    ("kuberay", kuberay("headGroupSpec", "template", "spec", "containers", 0, "env", None),
     ["warning: headGroupSpec: RAY_JOB_STOP_WAIT_TIME_S=: must be at least 120, or Ray kills a run "
      "while it saves"]),
    ("kuberay", kuberay("workerGroupSpecs", 0, "template", "spec", "containers", 0, "image",
                    "me/raydqn:latest"),
     ["warning: group learner.image=me/raydqn:latest: names no version of Ray: must contain "
      "ray2.60.0",
      "warning: group learner.image=me/raydqn:latest: must be the image of the head, "
      "registry.example.com/raydqn:0.1.0-ray2.60.0-py312"]),
    ("kuberay", kuberay("workerGroupSpecs", 1, "template", "spec", "containers", 0, "image",
                    f"{IMAGE}-cpu"),
     [f"to do: image={IMAGE}-cpu: is an example: put the image that you pushed"]),
    ("gcp", put("available_node_types", "learner", "node_config", "serviceAccounts", 0, "email",
                "ray-autoscaler-sa-v1@my-project.iam.gserviceaccount.com"),
     ["warning: available_node_types.learner.node_config.serviceAccounts=ray-autoscaler-sa-v1@"
      "my-project.iam.gserviceaccount.com: may start machines, which only the head must: put a "
      "role of its own (docs/clusters.md)"]),
    ("kuberay", pod(0, "containers", 0, "securityContext", None),
     ["warning: group learner.securityContext.allowPrivilegeEscalation: is missing: must be false "
      "for the restricted profile of Pod Security",
      "warning: group learner.securityContext.capabilities.drop: is missing: must be [ALL] for the "
      "restricted profile of Pod Security"]),
    ("kuberay", kuberay("headGroupSpec", "template", "spec", "securityContext",
                        {"runAsNonRoot": True}),
     ["warning: headGroupSpec.securityContext.seccompProfile.type: is missing: must be "
      "RuntimeDefault for the restricted profile of Pod Security"]),
    ("kuberay", pod(0, "terminationGracePeriodSeconds", 30),
     ["warning: group learner.terminationGracePeriodSeconds=30: must be at least 120, or "
      "Kubernetes ends the pod while the run saves"]),
    ("kuberay", put("spec", "shutdownAfterJobFinishes", False),
     ["warning: RayJob shutdownAfterJobFinishes=false: keeps the machines after the job: must be "
      "true"]),
    ("kuberay", put("spec", "clusterSelector", {"ray.io/cluster": "mine"}),
     ["error: RayJob clusterSelector: KubeRay refuses it with backoffLimit, and ignores "
      "shutdownAfterJobFinishes: must be left out, for a rayClusterSpec"]),
    ("kuberay", put("spec", "entrypoint", "raydqn train pong --address auto --run-dir runs/pong "
                    "--checkpoint.storage s3://your-bucket/runs"),
     ["error: RayJob backoffLimit=5: no retry could resume the run: the entrypoint must have "
      "--resume-if-exists"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plant", "lines"), FAULTS)
def test_a_fault_of_the_file_is_found(tmp_path, name, plant, lines):
    assert new_findings(tmp_path, name, plant) == sorted(lines)


def test_a_job_that_trains_beside_the_cluster_is_found(tmp_path):
    documents = list(yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text()))
    entrypoint = "raydqn train pong --run-dir /tmp/run"
    documents[0]["spec"]["entrypoint"] = entrypoint
    path = tmp_path / "kuberay.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    assert (
        f"error: RayJob entrypoint={entrypoint}: trains in the head's pod alone: must have "
        "--address auto"
    ) in check(path)


@pytest.mark.parametrize(
    ("target", "below", "command"),
    [
        ("source/constraints.txt", "", "pip install -c source/constraints.txt 'ray[default]'"),
        ("source/nodes.lock", "", "pip install --require-hashes -r source/nodes.lock"),
        ("source/deploy", "clusters/nodes.lock", f"{INSTALL} aws"),
    ],
)
def test_another_ray_in_a_file_that_pins_it_is_found(tmp_path, target, below, command):
    values = read("aws")
    swap(f"{INSTALL} aws", command)(values)
    mounted = tmp_path / Path(target).name
    file = mounted / below
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("ray==2.59.0 \\\n    --hash=sha256:00\n")
    values["file_mounts"][f"~/raydqn/{target}"] = str(mounted)
    assert check_values(tmp_path, values)[0] == f"error: {file}=ray 2.59.0: must be 2.60.0, as here"
    file.write_text("ray==2.60.0 \\\n    --hash=sha256:00\n")
    assert check_values(tmp_path, values) == EXAMPLES["aws"]
    file.write_text("")
    none = "warning: setup_commands: pin no version of Ray: must install ray==2.60.0, as here"
    assert none in check_values(tmp_path, values)


def test_a_lock_that_no_command_installs_does_not_count(tmp_path):
    def plant(values):
        swap(f"{INSTALL} aws", "pip install 'ray[default]==2.60.0'")(values)
        (tmp_path / "clusters").mkdir()
        (tmp_path / "clusters" / "nodes.lock").write_text("ray==2.59.0\n")
        values["file_mounts"]["~/raydqn/source/deploy"] = str(tmp_path)

    assert new_findings(tmp_path, "aws", plant) == []


def test_a_job_that_is_stopped_has_the_time_to_save():
    limits = Timeouts()
    ended_s = limits.signal_s + limits.close_s + limits.disk_s + RECORDS_S + RAY_END_S
    assert ended_s <= STOP_WAIT_S


def test_the_learner_on_aws_has_a_role_of_its_own(tmp_path):
    def found(of_learner):
        values = read("aws")
        for name, profile in (("head", {"Name": "raydqn-head"}), ("learner", of_learner)):
            values["available_node_types"][name]["node_config"]["IamInstanceProfile"] = profile
        return [line for line in check_values(tmp_path, values) if "may start machines" in line]

    assert len(found({"Name": "raydqn-head"})) == 1
    assert found({"Name": "raydqn-learner"}) == []
