"""`raydqn cluster check`: commands that start Ray or set up nodes, and placeholders."""

from __future__ import annotations

import pytest

from deploy.provisioning.command_rules import find_start_mistakes
from deploy.provisioning.placeholders import find_placeholders
from deploy.provisioning.setup_rules import find_setup_mistakes
from support.clusters import HEAD, planted, put, swap

WORKER = "worker_start_ray_commands"
OPEN = "or any client that reaches a port can run code"
START = "ulimit -n 65536"


def auth(key: str, value: str, must: str) -> str:
    return f"error: {key}: RAY_AUTH_MODE{value}: must {must}"


def each(value: str, must: str) -> list[str]:
    return [auth(HEAD, value, must), auth(WORKER, value, must)]


def unset(text: str, *keys: str) -> list[str]:
    must = f"stay token, {OPEN}: remove what unsets it"
    return [auth(key, f"={text}", must) for key in keys or (HEAD, WORKER)]


def own_command(key: str, command: str):
    """A command before the others, which Ray runs in a shell of its own."""

    def change(values: dict) -> None:
        values[key] = [command, *values[key]]

    return change


def without_profile(values: dict) -> None:
    """No setup command writes the variable for all shells."""
    for key in ("head_setup_commands", "worker_setup_commands"):
        values[key] = [one for one in values[key] if "RAY_AUTH_MODE" not in one]


def exported_elsewhere(values: dict) -> None:
    without_profile(values)
    swap("RAY_AUTH_MODE=token ", "")(values)
    own_command(HEAD, "export RAY_AUTH_MODE=token")(values)
    own_command(WORKER, "export RAY_AUTH_MODE=token")(values)


def container_option(values: dict) -> None:
    without_profile(values)
    swap("RAY_AUTH_MODE=token ", "")(values)
    values["docker"] = {"run_options": ["-e RAY_AUTH_MODE=disabled"]}


def address(value: str, why: str, port: str = "6379") -> list[str]:
    return [f"error: {WORKER}: --address{value}: {why}must be $RAY_HEAD_IP:{port}"]


AT = "--address=$RAY_HEAD_IP:6379"
LISTENS = "the head listens on {} (head_start_ray_commands): "
FAULTS = [
    # The token.
    (swap(START, "unset RAY_AUTH_MODE"), unset("unset RAY_AUTH_MODE")),
    (swap(START, "unset A; unset -v B RAY_AUTH_MODE"), unset("unset -v B RAY_AUTH_MODE")),
    (swap(START, "export -n RAY_AUTH_MODE"), unset("export -n RAY_AUTH_MODE")),
    (swap(START, "declare +x RAY_AUTH_MODE"), unset("declare +x RAY_AUTH_MODE")),
    (swap("ray start --head", "env -u RAY_AUTH_MODE ray start --head"),
     unset("env -u RAY_AUTH_MODE", HEAD)),
    (swap("ray start --head", "env --unset=RAY_AUTH_MODE ray start --head"),
     unset("env --unset=RAY_AUTH_MODE", HEAD)),
    (swap("ray start --head", "env -i ray start --head"), unset("env -i", HEAD)),
    (own_command(HEAD, "unset RAY_AUTH_MODE"), unset("unset RAY_AUTH_MODE", HEAD)),
    (own_command("worker_setup_commands", "echo unset RAY_AUTH_MODE >> ~/.bashrc"),
     unset("unset RAY_AUTH_MODE", WORKER)),
    (swap(START, "export RAY_AUTH_MODE=disabled"), each("=disabled", f"be token, {OPEN}")),
    (swap("RAY_AUTH_MODE=token", "RAY_AUTH_MODE='disabled'"),
     each("=disabled", f"be token, {OPEN}")),
    (swap(START, "RAY_AUTH_MODE="), each("=", f"be token, {OPEN}")),
    (container_option, each("=disabled", f"be token, {OPEN}")),
    (exported_elsewhere,
     [f"error: {key}: RAY_AUTH_MODE: is set in a shell of its own: set it in the command with "
      f"`ray start`, {OPEN}" for key in (HEAD, WORKER)]),
    # The head's port and address.
    (swap("$RAY_HEAD_IP:6379", "$RAY_HEAD_IP:6380"),
     address("=$RAY_HEAD_IP:6380", LISTENS.format(6379))),
    (swap("--port=6379", "--port 7000"),
     address("=$RAY_HEAD_IP:6379", LISTENS.format(7000), "7000")),
    (swap("--port=6379 ", "--num-cpus=0 "), []),  # Ray's default
    (swap(AT, "--address=$RAY_HEAD_IP"), address("=$RAY_HEAD_IP", "has no port: ")),
    (swap(AT, "--address=localhost:6379"),
     address("=localhost:6379", "is the worker itself: ")),
    (swap(AT, "--address auto"), address("=auto", "is the worker itself: ")),
    (swap(AT, ""),
     [f"error: {WORKER}: --address: is missing: must be $RAY_HEAD_IP:6379, or no worker joins"]),
    (swap(AT, "--head"),
     [f"error: {WORKER}: --head: starts one more cluster: put --address, which must be "
      "$RAY_HEAD_IP:6379"]),
    (swap("start --head", "start"),
     [f"error: {HEAD}: --head: is missing: must be there, or no cluster starts"]),
    (swap(AT, "--redis-address=$RAY_HEAD_IP:6379"),
     [f"error: {WORKER}: --redis-address: `ray start` has none: must be --address"]),
    (swap("--object-manager-port", "--object-manger-port"),
     [f"error: {key}: --object-manger-port: unknown option of `ray start` (Ray 2.60); did you mean "
      "--object-manager-port?" for key in (HEAD, WORKER)]),
    # As good as before.
    (swap(START, "unset RAY_AUTH_MODE; export RAY_AUTH_MODE=token"), []),
    (swap(START, "export RAY_AUTH_MODE=token # never RAY_AUTH_MODE=disabled\n"), []),
    (swap("RAY_AUTH_MODE=token ", 'RAY_AUTH_MODE="token" '), []),
    (swap("ray start --head", "env RAY_AUTH_MODE=token ray start --head"), []),
    (swap("&& exit", "|| ray stop --force && exit"), []),  # options of another command
    (swap(AT, "--address=${RAY_HEAD_IP}:6379"), []),
    (swap(AT, "--address=$HEAD"), []),
    (swap("&& exit", "\nexit --now; echo && exit"), []),  # the end of a line ends a command
    (swap("--head --port", "--head \\\n--prot"),
     [f"error: {HEAD}: --prot: unknown option of `ray start` (Ray 2.60); did you mean --port?"]),
    (swap("--port=6379", "--port=6379 --num-cpus=$(nproc --all)"), []),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "lines"), FAULTS)
def test_commands_that_start_ray_are_read(plant, lines):
    assert planted(find_start_mistakes, "aws", plant) == lines


def setup(*commands: str, **more: object):
    def change(values: dict) -> None:
        for key in ("head_setup_commands", "worker_setup_commands"):
            values[key] = list(commands)
        values.update(more)

    return change


def own_images(values: dict) -> None:
    setup()(values)
    for node_type in values["available_node_types"].values():
        node_type["node_config"]["ImageId"] = "ami-0a1b2c3d4e5f60718"


def nothing(types: str, level: str = "error", unless: str = "") -> list[str]:
    return [
        f"{level}: setup_commands: no command installs raydqn on {types}: {unless}must install it, "
        "as with `sh ~/raydqn/source/deploy/clusters/install.sh`, or docker.image must hold it"
    ]


UNLESS = "unless its image holds raydqn, "
ALL = "head, learner, actors"
SETUPS = [
    ("aws", setup(), nothing(ALL)),
    ("gcp", setup(), nothing(ALL)),
    ("azure", setup(), nothing(ALL)),
    ("on-prem", setup(), nothing("head, workers", "warning", UNLESS)),
    ("aws", own_images, nothing(ALL, "warning", UNLESS)),
    ("aws", setup("pip install -U ray torch gym"), nothing(ALL)),
    ("aws", setup("cloud-init status --wait"), nothing(ALL)),
    ("aws", put("worker_setup_commands", []), nothing("learner, actors")),
    ("aws", setup(docker={"image": "rayproject/ray:2.60.0-py312"}), nothing(ALL)),
    ("aws", setup(docker={"image": "python:3.12"}), nothing(ALL)),
    ("aws", setup(docker={"image": "registry.mine.org/rl:3"}), []),
    ("aws", setup("pip install 'raydqn[atari]==0.1.0'"), []),
    ("aws", setup("cd ~/code && pip install -e '.[aws]'"), []),
    ("aws", setup("python -m pip install --upgrade -r ~/requirements.txt"), []),
    ("aws", setup("bash ~/prepare.sh --fast"), []),
    ("aws", setup("uv sync --frozen"), []),
    ("aws", setup("conda env update -f environment.yaml"), []),
    ("aws", setup("pip install git+https://github.com/me/raydqn"), []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plant", "lines"), SETUPS)
def test_nodes_on_which_nothing_installs_raydqn_are_found(name, plant, lines):
    assert planted(find_setup_mistakes, name, plant) == lines


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        (("auth", "ssh_user"), "<your user>", "<your user>"),
        (("auth", "ssh_user"), "YOUR_USERNAME", "YOUR_USERNAME"),
        (("provider", "region"), "CHANGE_ME", "CHANGE_ME"),
        (("setup_commands",), ["pip install <your package>"], "<your package>"),
        (("auth", "ssh_user"), "todo", "todo"),
        (("auth", "ssh_user"), "your-user", "your-user"),
    ],
)
def test_a_placeholder_is_to_be_filled_in(path, value, shown):
    key = ".".join(path) + (".0" if isinstance(value, list) else "")
    line = f"to do: {key}={shown}: is a placeholder: put yours"
    assert planted(find_placeholders, "aws", put(*path, value)) == [line]


@pytest.mark.parametrize("value", ["mytodo", "a < b > c", "x", "your", "me", "replacement"])
def test_an_ordinary_value_is_no_placeholder(value):
    assert planted(find_placeholders, "aws", put("auth", "ssh_user", value)) == []
