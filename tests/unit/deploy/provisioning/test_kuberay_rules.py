"""`raydqn cluster check`: fields that KubeRay lacks, and pods that contradict themselves."""

from __future__ import annotations

import time

import pytest
import yaml

from deploy.provisioning.field_table import field_table
from deploy.provisioning.kuberay_rules import (
    find_bare_images,
    find_field_mistakes,
    find_pod_resources,
)
from deploy.provisioning.rules import find_mistakes
from support.clusters import EXAMPLES, IMAGE, check, check_values, planted, put, read

pytestmark = pytest.mark.usefixtures("home")

SPEC = ("spec", "rayClusterSpec")
HEAD = (*SPEC, "headGroupSpec")
LEARNER = (*SPEC, "workerGroupSpecs", 0)
POD = (*LEARNER, "template", "spec")
CONTAINER = (*POD, "containers", 0)
TABLE = field_table("kuberay").source
FIELDS = [
    (put(*HEAD, "serviceTyp", "a"), "rayClusterSpec.headGroupSpec.serviceTyp", "serviceType"),
    (put(*LEARNER, "replica", 1), "rayClusterSpec.workerGroupSpecs.0.replica", "replicas"),
    (put(*CONTAINER, "imagePulPolicy", "Always"),
     "rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.imagePulPolicy",
     "imagePullPolicy"),
    (put(*POD, "toleration", []),
     "rayClusterSpec.workerGroupSpecs.0.template.spec.toleration", "tolerations"),
    (put(*POD, "tolerations", [{"key": "a", "operater": "Exists"}]),
     "rayClusterSpec.workerGroupSpecs.0.template.spec.tolerations.0.operater", "operator"),
    (put(*LEARNER, "template", "metadata", {"label": {}}),
     "rayClusterSpec.workerGroupSpecs.0.template.metadata.label", "labels"),
    (put(*SPEC, "autoscalerOptions", "idleTimeoutSecond", 60),
     "rayClusterSpec.autoscalerOptions.idleTimeoutSecond", "idleTimeoutSeconds"),
    (put("spec", "backofLimit", 3), "backofLimit", "backoffLimit"),
    (put("spec", "submitterPodTemplate", "spec", "restartPolicies", "Never"),
     "submitterPodTemplate.spec.restartPolicies", "restartPolicy"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "place", "near"), FIELDS)
def test_a_misspelt_field_is_found_in_every_depth(plant, place, near):
    line = f"error: RayJob spec.{place}: unknown key ({TABLE}); did you mean {near}?"
    assert planted(find_field_mistakes, "kuberay", plant) == [line]


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (put(*HEAD, "rayStartParams", "num-cpus", 0),
         "RayJob spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus=0: must be a text: put "
         "it in quotes"),
        *(
            (put(*CONTAINER, "resources", "requests", {name: amount}),
             "RayJob spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0."
             f"resources.requests.{name}={amount}: must be a quantity of Kubernetes, such as "
             "500m, 16 or 32Gi")
            for name, amount in (("memory", "32GiB"), ("cpu", "16c"))
        ),
        (put(*CONTAINER, "env", [{"name": "A", "value": True}]),
         "RayJob spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.env.0.value="
         "True: must be a text: put it in quotes"),
        (put(*LEARNER, "maxReplicas", "1"),
         "RayJob spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas=1: must be a whole number, "
         "without quotes"),
        (put(*CONTAINER, "name", None),
         "RayJob spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.name: is "
         "missing: must be set"),
        (put(*CONTAINER, "command", "sleep"),
         "RayJob spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.command=sleep: "
         "must be a list: begin each entry with a dash"),
        (put("metadata", "lables", {}),
         "RayJob metadata.lables: unknown key; did you mean labels?"),
        (put("metadata", "labels", {"a": 1}),
         "RayJob metadata.labels.a=1: must be a text: put it in quotes"),
        (put("Spec", {}), "RayJob.Spec: unknown key; did you mean spec?"),
        (put("kind", "RayJobs"),
         f"kind=RayJobs: unknown to KubeRay ({TABLE}); did you mean RayJob?"),
    ],
)  # fmt: skip
def test_a_field_that_kubernetes_would_refuse_is_found(plant, line):
    assert f"error: {line}" in planted(find_field_mistakes, "kuberay", plant)


def test_an_old_version_of_the_interface_is_a_warning():
    line = "warning: RayJob apiVersion=ray.io/v1alpha1: is an old version: must be ray.io/v1"
    plant = put("apiVersion", "ray.io/v1alpha1")
    assert planted(find_field_mistakes, "kuberay", plant) == [line]


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (put(*LEARNER, "rayStartParams", {"num-cpus": "160"}),
         "group learner.rayStartParams.num-cpus=160: the pod has 8 CPUs (resources.limits): must "
         "be at most that"),
        (put(*SPEC, "workerGroupSpecs", 1, "rayStartParams", {"num-gpus": "1"}),
         "group actors.rayStartParams.num-gpus=1: the pod has 0 GPUs (resources.limits): must be "
         "at most that"),
        (put(*LEARNER, "rayStartParams", {"num-cpu": "1"}),
         "group learner.rayStartParams.num-cpu: unknown option of `ray start` (Ray 2.60); did you "
         "mean num-cpus?"),
        (put(*LEARNER, "rayStartParams", {"address": "$FQ_RAY_IP:7000"}),
         "group learner.rayStartParams.address=$FQ_RAY_IP:7000: the head listens on 6379: must end "
         "in :6379"),
        (put(*HEAD, "rayStartParams", {"port": "6380"}),
         "headGroupSpec.containers.0.ports.0.containerPort=6379: Ray's head listens on 6380 "
         "(rayStartParams): must be 6380"),
        (put(*CONTAINER, "env", [{"name": "RAY_AUTH_MODE", "value": "disabled"}]),
         "group learner.env: RAY_AUTH_MODE=disabled: must stay token, or any pod that reaches a "
         "port can run code: remove it"),
        (put(*CONTAINER, "args", ["ulimit -n 65536; unset RAY_AUTH_MODE; $KUBERAY_GEN"]),
         "group learner.args: RAY_AUTH_MODE=unset RAY_AUTH_MODE: must stay token, or any pod that "
         "reaches a port can run code: remove it"),
        (put(*POD, "nodeSelector", {"kubernetes.io/arch": "arm64"}), None),
    ],
)  # fmt: skip
def test_pods_that_contradict_themselves_are_found(plant, line):
    assert planted(find_pod_resources, "kuberay", plant) == ([f"error: {line}"] if line else [])


def test_an_image_for_another_processor_than_the_nodes_is_found():
    def plant(values):
        put(*POD, "nodeSelector", {"kubernetes.io/arch": "arm64"})(values)
        put(*CONTAINER, "image", f"{IMAGE}-amd64")(values)

    assert planted(find_pod_resources, "kuberay", plant) == [
        f"error: group learner.image={IMAGE}-amd64: is for x86_64: the pod's nodeSelector asks for "
        "arm64: put one for that"
    ]


def test_a_public_image_does_not_hold_raydqn():
    line = (
        "error: group learner.image=rayproject/ray:2.60.0: does not hold raydqn: put an image that "
        "deploy/clusters/Dockerfile makes"
    )
    plant = put(*CONTAINER, "image", "rayproject/ray:2.60.0")
    assert planted(find_bare_images, "kuberay", plant) == [line]
    assert planted(find_bare_images, "kuberay", lambda values: None) == []


def test_thousands_of_faults_are_told_in_few_lines_and_soon():
    plant = put(*HEAD, "rayStartParams", {f"option-{number}": "1" for number in range(5000)})
    start = time.monotonic()
    found = planted(find_mistakes, "kuberay", plant)
    assert time.monotonic() - start < 5  # of all of them it was 9 s
    assert len(found) < 250
    assert any("is not the last of its kind: correct these, check again" in line for line in found)


def test_a_group_without_bounds_has_those_of_kuberay(tmp_path):
    values = read("kuberay")
    actors = values["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]
    del actors["minReplicas"], actors["maxReplicas"]
    assert (
        "warning: actors.maxReplicas: is missing: must be the most pods of the group, or nothing "
        "bounds its costs"
    ) in check_values(tmp_path, values)


def test_a_cluster_without_workers_or_version_is_reported_like_any_other(tmp_path):
    values = read("kuberay")
    cluster = values["spec"]["rayClusterSpec"]
    del cluster["workerGroupSpecs"], cluster["rayVersion"]
    found = check_values(tmp_path, values)
    assert "error: rayVersion: is missing: must be 2.60.0, as here" in found


def test_the_cluster_in_a_scheduled_job_is_checked(tmp_path):
    job = read("kuberay")
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceTyp"] = "ClusterIP"
    cron = {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": "a"},
            "spec": {"schedule": "0 5 * * *", "jobTemplate": job["spec"]}}  # fmt: skip
    line = (
        "error: RayCronJob spec.jobTemplate.rayClusterSpec.headGroupSpec.serviceTyp: unknown key "
        f"({TABLE}); did you mean serviceType?"
    )
    assert line in check_values(tmp_path, cron)


def test_other_objects_may_come_first_in_the_file(tmp_path):
    path = tmp_path / "cluster.yaml"
    first = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": "c"}}
    path.write_text(yaml.safe_dump_all([first, read("kuberay")]))
    assert check(path) == EXAMPLES["kuberay"]


GOOD = [
    put("metadata", "annotations", {"a.b/c": "1"}),
    put("metadata", "generateName", "raydqn-"),
    put(*LEARNER, "template", "metadata", {"labels": {"a": "b"}, "annotations": {"c": "d"}}),
    put(*POD, "nodeSelector", {"cloud.google.com/gke-spot": "true"}),
    put(*POD, "volumes", [{"name": "a", "persistentVolumeClaim": {"claimName": "b"}},
                          {"name": "c", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]),
    put(*CONTAINER, "volumeMounts", [{"name": "a", "mountPath": "/a", "readOnly": True}]),
    put(*POD, "initContainers", [{"name": "a", "image": "b", "command": ["true"]}]),
    put(*POD, "affinity", {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "a", "operator": "In", "values": ["b"]}]}]}}}),
    put(*CONTAINER, "env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
                            {"name": "B", "value": None}]),
    put(*CONTAINER, "resources", {"limits": {"cpu": 8, "memory": "1Gi", "nvidia.com/gpu": "1"}}),
    put(*CONTAINER, "livenessProbe", {"httpGet": {"path": "/", "port": "http"}}),
    put(*HEAD, "headService", {"metadata": {"annotations": {"a": "b"}}}),
    put(*HEAD, "rayStartParams", {"dashboard-host": "0.0.0.0", "num-cpus": "0", "block": "true"}),
    put(*LEARNER, "rayStartParams", {"num-gpus": "1", "num-cpus": "8"}),
    put("spec", "deletionStrategy", {"onSuccess": {"policy": "DeleteCluster"}}),
]  # fmt: skip


@pytest.mark.parametrize("plant", GOOD)
def test_what_kuberay_accepts_is_no_finding(plant):
    assert planted(find_field_mistakes, "kuberay", plant) == []
    assert planted(find_pod_resources, "kuberay", plant) == []
