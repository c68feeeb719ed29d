"""Files that are no cluster files, and strange values in those that are."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from deploy.cli.main import main
from deploy.launch.presets import make_config
from deploy.provisioning.check import check_cluster
from deploy.provisioning.cluster_file import MAX_NODES
from deploy.provisioning.field_table import field_table
from support.clusters import EXAMPLES, put, read
from support.hypothesis_profiles import examples

pytestmark = pytest.mark.usefixtures("home")


BAD = [
    ("", "is empty: must be a cluster file of `ray up` or KubeRay"),
    ("- a\n- b\n", "is a list: must have keys, such as cluster_name"),
    ("hello", "is a single value: must have keys, such as cluster_name"),
    ("a: [1", "not a YAML file (line 1: expected ',' or ']', but got '<stream end>')"),
    ("\tb: 1", "not a YAML file (line 1: found character '\\t' that cannot start any token)"),
    ("a: &a [*a]", "not a cluster file (Circular reference detected)"),
    ("a: 2020-01-01", "not a cluster file (Object of type date is not JSON serializable)"),
    ("a: 1", "missing key cluster_name"),
    ("cluster_name: a", "missing key provider"),
    ("cluster_name: a\nprovider: {}", "missing key provider.type"),
    ("cluster_name: a\nprovider: {type: awz}",
     "provider.type=awz: must be one of aws, azure, gcp, local; did you mean aws?"),
    ("cluster_name: a\nprovider: {type: aws}",
     "missing key available_node_types: Ray would use node types of its own"),
    ("cluster_name: 3\nprovider: {type: aws}", "cluster_name=3: must be of type string"),
    ("cluster_name: a\nprovider: {type: aws}\nmax_worker: 3",
     "unknown key max_worker; did you mean max_workers?"),
    ("cluster_name: a\nprovider: {type: aws}\navailable_node_types: {}\nfile_mounts: {~/a: 3}",
     "file_mounts.~/a=3: must be a path on this machine"),
    ("cluster_name: a\nprovider: {type: aws}\nmax_workers: -1",
     "max_workers=-1: must be at least 0"),
    ("cluster_name: a\nprovider: {type: aws}\nsetup_commands: pip install raydqn",
     "setup_commands=pip install raydqn: must be of type array"),
    ("cluster_name: a\nprovider: {type: aws}\navailable_node_types: {x: {node_config: {}}}",
     "missing key available_node_types.x.resources"),
    ("cluster_name: a\nprovider: {type: aws}\navailable_node_types:\n"
     "  x: {node_config: {}, resources: {}, min_worker: 3}",
     "unknown key available_node_types.x.min_worker; did you mean min_workers?"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: y\navailable_node_types:\n"
     "  x: {node_config: {}, resources: {}}",
     "`head_node_type` must be one of `available_node_types`."),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: x\navailable_node_types:\n"
     "  x: {node_config: {}, resources: {}, min_workers: -3}",
     "available_node_types.x.min_workers=-3: must be at least 0"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: x\nmax_workers: 4\n"
     "available_node_types:\n  x: {node_config: {}, resources: {}}\n"
     "  y: {node_config: {}, resources: {}, min_workers: 3, max_workers: 2}",
     "maximum of y=2: must be at least the minimum, 3"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node_type: x\nmax_workers: 1000000000000\n"
     "available_node_types:\n  x: {node_config: {}, resources: {}}\n"
     "  y: {node_config: {}, resources: {}}",
     f"maximum of y=1000000000000: must be at most {MAX_NODES:,}"),
    ("cluster_name: a\nprovider: {type: local}",
     "Please supply a `head_ip` and list of `worker_ips`. Alternatively, supply a "
     "`coordinator_address`."),
    ("cluster_name: a\nprovider: {type: local, head_ip: h, worker_ips: []}\n"
     "head_start_ray_commands: ['ray start --num-cpus=$(nproc)']",
     "head_start_ray_commands: --num-cpus=$(nproc): must be a whole number, not a command"),
    ("cluster_name: a\nprovider: {type: local, head_ip: h, worker_ips: []}\n"
     "worker_start_ray_commands: ['ray start --resources=a']",
     "worker_start_ray_commands: --resources=a: must be JSON, such as '{\"a\": 1}'"),
    ("a: 1\n---\nb: 1", "has 2 documents: `ray up` takes one"),
    ("apiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: Pod",
     "has no RayCluster: must have one, or a RayJob with a rayClusterSpec"),
    ("cluster_name: a\nprovider: {type: aws}\nmin_workers: 2\nhead_node: {}\nworker_nodes: {}",
     "is in an old layout of Ray's, without node types (head_node, worker_nodes, min_workers): "
     "must have available_node_types and head_node_type, as in deploy/clusters/aws.yaml"),
    ("cluster_name: a\nprovider: {type: gcp}\nautoscaling_mode: default",
     "is in an old layout of Ray's, without node types (autoscaling_mode): must have "
     "available_node_types and head_node_type, as in deploy/clusters/gcp.yaml"),
    ("cluster_name: a\nprovider: {type: aws}\nhead_node: {}\nworker_nodes: {}\n"
     "available_node_types: {}",
     "head_node, worker_nodes: of an old layout of Ray's, which Ray no longer reads: remove them"),
    ("cluster_name: a\nprovider: {type: aws}\nmin_workers: 1\navailable_node_types: {}",
     "min_workers: of an old layout of Ray's, which Ray no longer reads: put it into the types of "
     "available_node_types"),
    ("cluster_name: a\nprovider: {type: local, head_ip: h, worker_ips: []}\nmin_workers: 0\n"
     "initial_workers: 0",
     "initial_workers: of an old layout of Ray's, which Ray no longer reads: remove it"),
    ("apiVersion: ray.io/v1\nkind: RayCluster", "spec=None: must have keys"),
    ("apiVersion: ray.io/v1\nkind: RayJob\nspec: {entrypoint: a}",
     "has no RayCluster: must have one, or a RayJob with a rayClusterSpec"),
    ("apiVersion: ray.io/v1\nkind: RayCluster\nspec: {rayVersoin: a}",
     "unknown key spec.rayVersoin; did you mean rayVersion?"),
    ("apiVersion: ray.io/v1\nkind: RayCluster\nspec: {rayVersion: a, headGroupSpec: {template: "
     "{spec: {containers: [{name: a, resources: {limit: {cpu: 1}}}]}}}}",
     "spec.headGroupSpec.template.spec.containers.0.resources.limit: unknown key "
     f"({field_table('kuberay').source}); did you mean limits?"),
    ("apiVersion: ray.io/v1\nkind: RayJob\nspec: {rayClusterSpec: {rayVersion: a}}",
     "missing key spec.rayClusterSpec.headGroupSpec"),
    ("apiVersion: cluster.ray.io/v1\nkind: RayCluster\nspec: {podTypes: []}",
     "apiVersion=cluster.ray.io/v1: of Ray's old operator: must be ray.io/v1, as in "
     "deploy/clusters/kuberay.yaml"),
    ("apiVersion: ray.io/v1\nkind: RayCluster\nspec: {rayVersion: a, headGroupSpec: {}}",
     "spec.headGroupSpec.template: is missing: must be set"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_file_that_is_no_cluster_file_gets_one_line(tmp_path, capfd, text, says):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert main(["cluster", "check", str(path)]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"raydqn: error: {path}: {says}\n")


def test_a_file_that_is_not_there_gets_one_line(tmp_path, capfd):
    assert main(["cluster", "check", str(tmp_path / "no.yaml")]) == 2
    assert capfd.readouterr().err == (
        f"raydqn: error: {tmp_path}/no.yaml: cannot be read (No such file or directory)\n"
    )
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["cluster", "check", str(tmp_path / "binary.yaml")]) == 2
    assert main(["cluster", "check", str(tmp_path)]) == 2
    assert main(["cluster", "check", "/dev/zero"]) == 2
    assert capfd.readouterr().err.count("\n") == 3


def spots(value: object, path: tuple = ()) -> list[tuple]:
    """Every path in nested values."""
    children = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())  # fmt: skip
    return [path] * bool(path) + [s for key, child in children for s in spots(child, (*path, key))]


STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.just(10**30), st.floats(),
    st.text(max_size=6), st.lists(st.integers(), max_size=2), st.just("~no-such-user/x"),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
@settings(examples(30), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_place_gives_one_line_or_a_report(tmp_path, name, data):
    values = read(name)
    where = data.draw(st.sampled_from(spots(values)))
    put(*where, data.draw(STRANGE.filter(lambda value: value is not None)))(values)
    path = tmp_path / "strange.yaml"
    path.write_text(yaml.safe_dump(values))
    try:
        lines = list(check_cluster(path, make_config("cartpole")).lines())
    except UserError as error:
        lines = [str(error)]
    assert all("\n" not in line for line in lines)
