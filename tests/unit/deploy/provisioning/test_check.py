"""`raydqn cluster check`: the report, where remotes go, and a run that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.config_toml import build
from common.parts import Role
from deploy.cli.main import main
from deploy.launch.presets import make_config
from deploy.provisioning.check import check_cluster, place
from deploy.provisioning.cluster_file import ClusterFile, NodeType, load_cluster
from deploy.resources.requests import ACTOR_NODES, LEARNER_NODES, ResourceRequest, resource_requests
from support.clusters import (
    AN_IMAGE,
    CLUSTERS,
    EXAMPLES,
    NODE,
    RAY_UP,
    check,
    check_values,
    far,
    put,
    read,
)

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_shipped_file_has_no_fault_except_the_values_to_fill_in(name):
    assert check(CLUSTERS / f"{name}.yaml") == EXAMPLES[name]


def test_each_shipped_file_is_checked():
    assert {path.stem for path in CLUSTERS.glob("*.yaml")} == set(EXAMPLES)


@pytest.mark.parametrize("name", RAY_UP)
def test_the_image_variant_is_four_lines_away(tmp_path, name):
    text = (CLUSTERS / f"{name}.yaml").read_text()
    lines, start = text.splitlines(), text[: text.index("# docker:")].count("\n")
    lines[start : start + 4] = [line.removeprefix("# ") for line in lines[start : start + 4]]
    path = tmp_path / "docker.yaml"
    path.write_text("\n".join(lines))
    assert sorted(check(path)) == sorted([*EXAMPLES[name], f"to do: docker.image{AN_IMAGE}"])
    assert load_cluster(path).values["docker"] == {
        "image": "registry.example.com/raydqn:0.1.0-ray2.60.0-py312",
        "container_name": "raydqn",
        "pull_before_run": True,
    }


def test_the_command_prints_what_runs_where_and_its_hourly_shape(capfd):
    given = ["cluster", "check", "deploy/clusters/aws.yaml", "pong", "--actors.count", "32",
             "--replay.shards", "2", "--checkpoint.replay", "false"]  # fmt: skip
    assert main(given) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert (
        out
        == """\
deploy/clusters/aws.yaml: cluster raydqn on aws, us-west-2
  head     1     m7i.large (0 CPUs)           driver
  learner  0–1   g5.2xlarge (8 CPUs, 1 GPU)   learner, 2 shards, weight-store
  actors   0–16  c7i.4xlarge (16 CPUs, spot)  evaluator, 32 actors on 3 nodes
each hour, idle:     1 × m7i.large
each hour, this run: 1 × m7i.large + 1 × g5.2xlarge + 3 × c7i.4xlarge (spot)
each hour, at most:  1 × m7i.large + 1 × g5.2xlarge + 16 × c7i.4xlarge (spot)
0 errors, 0 warnings
"""
    )


def test_an_error_makes_the_command_fail_and_a_warning_does_not(home, capfd):
    assert main(["cluster", "check", "deploy/clusters/gcp.yaml"]) == 0
    (home / ".ray" / "raydqn-gcp.token").unlink()
    assert main(["cluster", "check", "deploy/clusters/gcp.yaml"]) == 2
    assert capfd.readouterr().out.endswith("1 error, 2 to do, 0 warnings\n")


def test_a_value_to_fill_in_makes_the_strict_command_fail(tmp_path, capfd):
    assert main(["cluster", "check", "deploy/clusters/gcp.yaml"]) == 0
    assert main(["cluster", "check", "--strict", "deploy/clusters/gcp.yaml"]) == 1
    complete = ["deploy/clusters/aws.yaml", "--checkpoint.replay", "false"]
    assert main(["cluster", "check", "--strict", *complete]) == 0
    assert (
        main(["cluster", "check", "--strict", *complete, "--replay.shards", "9"]) == 2
    )  # an error


def test_keys_that_are_there_twice_are_errors(tmp_path):
    path = tmp_path / "cluster.yaml"
    text = (CLUSTERS / "aws.yaml").read_text()
    lines = text.splitlines()
    first, again = (
        lines.index("max_workers: 17 # of all types together, without the head"),
        len(lines),
    )
    path.write_text(f"{text}\nmax_workers: 17\n")
    assert (
        f"error: max_workers: is there twice, in lines {first + 1} and {again + 2}; Ray takes the "
        "last: remove one"
    ) in check(path)


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        ("aws", {"actors": {"count": 300}},
         "error: actors.count=300: no room on nodes that offer raydqn_actor for more than 255 "
         "actors, even with all nodes started"),
        ("on-prem", {"actors": {"count": 16}},
         "error: actors.count=16: no room on nodes that offer raydqn_actor for more than 15 "
         "actors, even with all nodes started"),
        ("kuberay", {"actors": {"count": 256}},
         "error: actors.count=256: no room on nodes that offer raydqn_actor for more than 255 "
         "actors, even with all nodes started"),
        ("aws", {"learner": {"device": "cuda:1"}},
         "error: available_node_types: learner needs 2 GPUs: no node type that offers "
         "raydqn_learner has as many"),
        ("aws", {"learner": {"threads": 9}},
         "error: available_node_types: learner needs 9 CPUs: no node type that offers "
         "raydqn_learner has as many beside 1 GPU"),
        ("aws", {"replay": {"shards": 9}},
         "error: replay.shards=9: no room on nodes that offer raydqn_learner for more than 7 "
         "shards, even with all nodes started"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_fit_is_found(name, keys, line):
    found = check(CLUSTERS / f"{name}.yaml", **keys)
    assert sorted(set(found) - set(EXAMPLES[name])) == [line]


def test_a_name_of_any_characters_is_shown_in_one_line(tmp_path, capfd):
    values = read("aws")
    learner = values[NODE]["learner"]
    learner["resources"] = {**learner["resources"], "\n": 1, "\x1b[31m": 1}
    values[NODE]["a\n\x1b[31mb"] = {**learner, "min_workers": 0, "max_workers": 1}
    values["cluster_name"] = "ray\ndqn"
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(values))
    main(["cluster", "check", str(file)])
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    lines = (out + err).splitlines()
    assert any(r"ray\ndqn" in line for line in lines)
    starts = ("error: ", "warning: ", "to do: ", "  ", "each hour", str(file), "run: ", "raydqn: ")
    assert [line for line in lines[:-1] if not line.startswith(starts)] == []


def test_a_gpu_that_no_node_has_is_found(tmp_path):
    values = read("aws")
    values[NODE]["learner"]["resources"].pop("GPU")
    assert check_values(tmp_path, values, learner={"device": "cuda"})[:1] == [
        "error: available_node_types: learner needs 1 GPU: no node type that offers "
        "raydqn_learner has one"
    ]


def test_shards_that_do_not_fit_on_the_learners_node_are_a_warning(tmp_path):
    values = read("aws")
    values[NODE]["learner"]["max_workers"] = 2
    found = check_values(tmp_path, values, replay={"shards": 9})
    assert sorted(set(found) - set(EXAMPLES["aws"])) == [
        "warning: replay.shards=9: 2 do not fit on the learner's node: batches cross the network"
    ]


@pytest.mark.parametrize(
    ("name", "storage", "line"),
    [
        ("aws", "s3://mine/runs",
         "to do: available_node_types.learner.node_config.IamInstanceProfile: is missing: "
         "without a role the node cannot write to s3://mine/runs"),
        ("gcp", "gs://mine/runs", None),
        ("aws", "s3://your-bucket/runs", "to do: checkpoint.storage=s3://your-bucket/runs: is an "
                                         "example: put yours"),
        ("aws", "runs/x", "error: checkpoint.storage=runs/x: is in the job's folder, which Ray "
                          "deletes: must be a URL, or begin with / or ~"),
        ("on-prem", "~/shared", None),
        ("aws", "s3://", "error: checkpoint.storage=s3://: must name a bucket, or a folder"),
        ("on-prem", None, None),
    ],
)  # fmt: skip
def test_the_storage_of_checkpoints_must_be_reachable_by_the_shards(name, storage, line):
    found = check(CLUSTERS / f"{name}.yaml", checkpoint={"storage": storage})
    assert far("learner") not in found
    assert line in found if line else not any("storage" in one or "Iam" in one for one in found)


def test_a_cluster_that_cannot_save_is_not_started(tmp_path):
    """A role that is missing shows only after the machines were paid for."""
    storage = {"storage": "s3://mine/runs"}
    config = make_config("cartpole", overrides={"checkpoint": storage})
    assert not check_cluster(CLUSTERS / "aws.yaml", config).ready
    for change in (
        put(NODE, "learner", "node_config", "IamInstanceProfile", {"Name": "raydqn"}),
        put("file_mounts", "~/.aws/credentials", "~/.aws/credentials"),
    ):
        values = read("aws")
        change(values)
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(values))
        report = check_cluster(path, config)
        assert report.ready, list(report.lines())


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"id": "CartPole-v9"},
            "error: env.id=CartPole-v9: no such environment is registered; did you mean "
            "CartPole-v1?",
        ),
        ({"id": "ALE/Pongg-v5"}, "error: env.id=ALE/Pongg-v5: no such environment is registered; "),
        ({"id": "Pendulum-v1"}, "error: env.id=Pendulum-v1: actions are Box, but DQN needs Discr"),
        ({"sticky_actions": 0.3}, "error: env.sticky_actions=0.3: has no effect on CartPole-v1, "),
        # Things missing here may exist on the nodes.
        (
            {"id": "Lab/Env-v0"},
            "warning: env.id=Lab/Env-v0: no such environment is registered; true of this",
        ),
        (
            {"id": "elsewhere_lacking:Env-v0"},
            "warning: env.id=elsewhere_lacking:Env-v0: module elsewhere_lacking cannot be imported",
        ),
    ],
)
def test_an_environment_that_does_not_exist_is_found_before_machines_are_paid_for(
    tmp_path, monkeypatch, env, said
):
    (tmp_path / "elsewhere_lacking.py").write_text("import simulator_of_the_nodes")
    monkeypatch.syspath_prepend(tmp_path)
    found = check(CLUSTERS / "aws.yaml", env=env)
    (line,) = [one for one in found if one.partition(": ")[2].startswith("env.")]
    assert line.startswith(said)


def test_a_module_that_is_not_shipped_must_be_installed(tmp_path, monkeypatch):
    def line(module: str, why: str) -> str:
        return (
            f"warning: env.id={module}:Env-v0: {module} {why}, and not shipped: setup_commands "
            "must install it"
        )

    def found(module: str, *commands: str) -> list[str]:
        values = read("aws")
        values["setup_commands"] += commands
        return check_values(tmp_path, values, env={"id": f"{module}:Env-v0"})

    assert line("lab", "is not found here") in found("lab")  # though "available" has it
    assert line("pytest", "is installed here") in found("pytest")
    for module, command in (("lab", "lab"), ("my_lab", "my-lab>=2")):
        setup = f"~/raydqn/venv/bin/pip install '{command}'"
        assert not any("shipped" in one for one in found(module, setup))
    (tmp_path / "untravelled.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not any("shipped" in one for one in found("untravelled"))
    assert not any("shipped" in one for one in found("ale_py"))  # raydqn brings it
    assert (
        "warning: env.id=untravelled:Env-v0: pods get no code from here: untravelled must be in "
        "their "
        "image" in check(CLUSTERS / "kuberay.yaml", env={"id": "untravelled:Env-v0"})
    )


def test_the_job_in_a_file_of_kuberay_is_the_run_that_is_checked(tmp_path, capsys):
    text = (CLUSTERS / "kuberay.yaml").read_text()
    path = tmp_path / "cluster.yaml"

    def checked(old: str = "", new: str = "", *options: str) -> str:
        path.write_text(text.replace(old, new))
        main(["cluster", "check", str(path), *options])
        return "\n".join(capsys.readouterr())

    assert "100 actors on 7 nodes" in checked()
    assert "200 actors on" in checked("--actors.count 100", "--actors.count 200")
    assert "300 actors on" not in checked("", "", "--actors.count", "300")
    assert "no room on nodes that offer raydqn_actor" in checked("", "", "--actors.count", "300")
    assert "evaluator, 2 actors" in checked("", "", "cartpole")  # another run that is meant
    assert (
        f"raydqn: error: {path}: RayJob entrypoint: --actors.cuont: unknown key; did you mean"
        in checked("--actors.count", "--actors.cuont")
    )
    assert "run: exec raydqn train pong --address auto" in checked()
    for job in ("sleep 'a", "raydqn resume /tmp/runs/mine", "raydqn train --config /in/image.toml"):
        other = checked("raydqn train pong", job)
        assert "run: preset cartpole (the file's job cannot be read from here)" in other
        assert "evaluator, 2 actors" in other


@pytest.mark.parametrize("shards", ["near", "spread"])
def test_shards_on_spot_nodes_are_a_warning(shards):
    found = check(CLUSTERS / "aws.yaml", placement={"shards": shards})
    told = "shards may be on spot nodes" in "".join(found)
    assert told == (shards == "spread")


def cluster_of(*nodes: NodeType, max_workers: int = 10**6) -> ClusterFile:
    return ClusterFile(Path("x"), "aws", "x", {}, nodes, max_workers)


def node(name: str, cpus: int, gpus: int = 0, most: int = 1, offers=(), head=False) -> NodeType:
    return NodeType(name, name, False, head, int(head), most, cpus, gpus, frozenset(offers))


def test_resource_requests_follow_the_configuration():
    config = build({"actors": {"count": 5}, "replay": {"shards": 3}, "learner": {"threads": 2}})
    assert resource_requests(config, (), gpus_offered=False) == [
        ResourceRequest(Role.LEARNER, 2, 0, None, 1), ResourceRequest(Role.SHARD, 1, 0, None, 3),
        ResourceRequest(Role.WEIGHT_STORE, 0, 0, None, 1),
        ResourceRequest(Role.EVALUATOR, 1, 0, None, 1),
        ResourceRequest(Role.ACTOR, 1, 0, None, 5),
    ]  # fmt: skip
    asked = resource_requests(config, (LEARNER_NODES, ACTOR_NODES, "x"), True)
    assert [d.resource for d in asked] == [
        LEARNER_NODES, LEARNER_NODES, LEARNER_NODES, ACTOR_NODES, ACTOR_NODES,
    ]  # fmt: skip


def test_no_node_holds_more_than_its_resources_and_no_node_starts_in_vain():
    cluster = cluster_of(
        node("head", 0, head=True), node("gpu", 4, 1, 2), node("small", 2, most=3),
        node("large", 8, most=2),
    )  # fmt: skip
    nodes, found = place(cluster, [
        ResourceRequest(Role.LEARNER, 1, 1, None, 1), ResourceRequest(Role.SHARD, 1, 0, None, 2),
        ResourceRequest(Role.ACTOR, 1, 0, None, 12),
    ])  # fmt: skip
    assert found == []
    assert [(n.type.name, dict(n.held)) for n in nodes] == [
        ("head", {}), ("gpu", {"learner": 1, "shard": 2, "actor": 1}), ("large", {"actor": 8}),
        ("large", {"actor": 3}),
    ]  # fmt: skip


def test_shards_go_to_the_learner_though_another_node_has_room():
    there = NodeType("there", "there", False, True, 1, 1, 8, 0, frozenset())
    cluster = cluster_of(there, node("gpu", 4, 1))
    nodes, _ = place(
        cluster,
        [ResourceRequest(Role.LEARNER, 1, 1, None, 1), ResourceRequest(Role.SHARD, 1, 0, None, 2)],
    )
    assert [(n.type.name, dict(n.held)) for n in nodes] == [
        ("there", {}), ("gpu", {"learner": 1, "shard": 2}),
    ]  # fmt: skip


def test_all_types_together_stay_within_max_workers():
    cluster = cluster_of(node("head", 0, head=True), node("a", 2, most=9), max_workers=3)
    nodes, found = place(cluster, [ResourceRequest(Role.ACTOR, 1, 0, None, 100)])
    assert sum(n.held["actor"] for n in nodes) == 6
    assert [str(f) for f in found] == [
        "error: actors.count=100: no room for more than 6 actors, even with all nodes started"
    ]


def test_without_a_number_of_actors_as_many_as_fit_are_placed():
    cluster = cluster_of(node("head", 0, head=True), node("a", 3, most=5))
    nodes, found = place(
        cluster,
        [ResourceRequest(Role.EVALUATOR, 1), ResourceRequest(Role.ACTOR, 1, count=0)],
    )
    assert found == []
    assert sum(n.held["actor"] for n in nodes) == 14


def test_ten_thousand_actors_are_placed_at_once():
    cluster = cluster_of(node("head", 0, head=True), node("a", 1, most=20_000))
    nodes, found = place(cluster, [ResourceRequest(Role.ACTOR, 1, 0, None, 10_000)])
    assert len(nodes) == 10_001
    assert found == []
