"""A run on a cluster that is there already: joining it, what it can hold, what goes where."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from common.config import Config
from common.storage import open_storage
from common.types import UserError
from deploy import PACKAGES
from deploy.demands import ACTOR_NODES, LEARNER_NODES, Demand, demands
from deploy.remote import RayRuntime, Runtime
from replay_server.client import shard_title

NAMESPACE = "raydqn"
"""Of Ray's names: whoever asks for the status of a run looks there."""
CONNECT_S = 10.0
"""How long an address may take to answer at all."""
LOOK_EVERY_S = 1.0
TELL_EVERY_S = 30.0
"""How often a run that waits for nodes says so."""
BOOTSTRAP = "ray_bootstrap_config.yaml"
"""In the head's home folder: the cluster file, as `ray up` left it there."""
TOKEN_HINT = (
    "if the cluster wants a token, put its own into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set "
    "RAY_AUTH_MODE=token"
)
PROBE = "probe"
"""A file that shows whether two machines see the same storage."""
HEAD = "node:__internal_head__"


class Listener(Protocol):
    """Whoever is told what is waited for."""

    def message(self, text: str) -> None:
        """Something worth a line."""
        ...


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Nodes that are alike: what each offers, and how many there can be."""

    resources: Mapping[str, float]
    count: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the head knows of nodes that are not there yet.

    Attributes:
        kinds: of nodes that the cluster may have at most; None: only those there now are known.
        nodes: how many there can be, where their kinds are not known; None: there is no telling.
    """

    kinds: tuple[NodeKind, ...] | None
    nodes: int | None


@contextmanager
def joined_cluster(address: str, config: Config, listener: Listener) -> Iterator[RayRuntime]:
    """Connected to a cluster, with room for learner and shards, for as long as it takes.

    Args:
        address: `auto`, `HOST:PORT` of the cluster's control store, or `ray://HOST:PORT`.
        config: of the run.
        listener: told what is waited for.

    Raises:
        UserError: no cluster answers, it refuses the token, it has another version of Ray or
            Python, or it can never hold the run.
    """
    import ray

    try:
        connect(address)
        placement = Cluster(config, listener)
        try:
            yield RayRuntime(placement)
        finally:
            placement.free()
    finally:  # what was started must not stay; the cluster does
        ray.shutdown()


def connect(address: str, ship: bool = True) -> None:
    """Become a driver of the cluster at `address`; `ray.shutdown` ends it.

    Args:
        address: see `joined_cluster`.
        ship: have the nodes run our code; whoever only asks needs no remotes of its own.

    Raises:
        UserError: see `joined_cluster`.
    """
    import ray
    from ray.exceptions import AuthenticationError

    _check_answers(address)
    try:
        with _quiet():
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="error",
                runtime_env=_own_code() if ship else None,
            )
    except AuthenticationError as error:
        raise _refused(address, error) from None
    except ConnectionError as error:
        if "auth" in str(error).lower() or "token" in str(error).lower():
            raise _refused(address, error) from None
        if "Could not find" in str(error):
            raise UserError(
                f"--address={address}: no Ray runs on this machine; name the HOST:PORT of a "
                "cluster, start one (`ray up FILE`, or `ray start --head`), or leave --address out "
                "to run on this machine alone"
            ) from None
        raise UserError(
            f"--address={address}: something answers there, but lets nobody in ({_line(error)}); "
            f"{TOKEN_HINT}"
        ) from None
    except RuntimeError as error:
        text = str(error)
        if "ersion" in text:
            raise UserError(
                f"--address={address}: the cluster has other versions ({_line(error)}); install "
                f"ray {ray.__version__} and Python {sys.version_info[0]}.{sys.version_info[1]} on "
                "all its nodes, or theirs here"
            ) from None
        if "nauthenticated" in text or "token" in text:
            raise _refused(address, error) from None
        raise UserError(f"--address={address}: cannot be joined ({_line(error)})") from None
    except ValueError as error:
        raise UserError(f"--address={address}: {_line(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on standard error: Ray says there, once a second, what our error says once."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _refused(address: str, error: Exception) -> UserError:
    return UserError(f"--address={address}: refused: {TOKEN_HINT}")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "…"


def _check_answers(address: str) -> None:
    """See whether anything listens at all: Ray itself would try for minutes.

    Raises:
        UserError: nothing does, or it is no address.
    """
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(
            f"--address={address}: must be auto, HOST:PORT or ray://HOST:PORT, such as "
            "ray://10.0.0.1:10001"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise UserError(
            f"--address={address}: does not answer ({error.strerror or error}); is the cluster up, "
            "and the port reachable from here? (ray:// needs port 10001)"
        ) from None


def _own_code() -> dict[str, Any] | None:
    """Have every node run the code that the driver runs; a submitted job has seen to it."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    root = Path(__file__).parent.parent
    return {"py_modules": [str(root / name) for name in PACKAGES]}


class Cluster:
    """Where remotes go on a cluster: learner and shards in a group of their own, actors around."""

    elastic = True

    def __init__(self, config: Config, listener: Listener) -> None:
        """Claim room for learner and shards; waits for nodes that are still to come.

        Args:
            config: of the run.
            listener: told what is waited for.

        Raises:
            UserError: the cluster can never hold the run.
        """
        self._config = config
        self._known = _ask_head()
        self._plan()
        self._check()
        self._claim(listener)

    def _plan(self) -> None:
        """What each part will ask for."""
        self._group: Any = None
        offers = [kind.resources for kind in self._kinds()]
        offered = {name for offer in offers for name, amount in offer.items() if amount > 0}
        if self._may_grow() and offered & {LEARNER_NODES, ACTOR_NODES}:
            # Nodes have roles here; those of the other role may be still to come.
            offered |= {LEARNER_NODES, ACTOR_NODES}
        wanted = demands(self._config, offered, "GPU" in offered)
        learner, shard, _, self._evaluator, self._actor = wanted
        # A bundle for each; whatever asks for nothing lives with the learner.
        self._fixed = [learner] + [
            replace(shard, title=shard_title(index), count=1) for index in range(shard.count)
        ]

    def _check(self) -> None:
        """Refuse what can never be.

        Raises:
            UserError: the cluster can never hold the run.
        """
        offers = [kind.resources for kind in self._kinds()]
        for demand in [*self._fixed, self._evaluator, self._actor]:
            self._check_fits(demand, offers)
        if self._config.actors.count:
            self._check_count(self._config.actors.count)

    def options(self, title: str) -> Mapping[str, Any]:
        """Ray's options for the remote on the seat of that title."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        for index, demand in enumerate(self._fixed):
            if demand.title == title:
                strategy = PlacementGroupSchedulingStrategy(self._group, index)
                return {**_options(demand), "scheduling_strategy": strategy}
        if title.startswith(self._actor.title):
            return {**_options(self._actor), "scheduling_strategy": "SPREAD"}
        if title == self._evaluator.title:
            return _options(self._evaluator)
        # Whatever asks for nothing lives with the learner: its node is no spot node.
        strategy = PlacementGroupSchedulingStrategy(self._group, 0)
        return {"num_cpus": 0, "scheduling_strategy": strategy}

    def room(self) -> int:
        """How many actors the nodes that are there have room for, beside everything else."""
        import ray
        from ray.util import placement_group_table

        left = {n["NodeID"]: dict(n["Resources"]) for n in ray.nodes() if n["Alive"]}
        table = placement_group_table(self._group)
        for index, node_id in table.get("bundles_to_node_id", {}).items():
            if node_id in left:
                self._fixed[int(index)].take(left[node_id])
        for node in left.values():
            if self._evaluator.fits(node):
                self._evaluator.take(node)
                break
        return max(1, sum(self._actor.fits(node) for node in left.values()))

    def limit(self) -> int | None:
        """How many actors there can ever be room for; None: there is no telling."""
        if self._may_grow():
            return None
        nodes = [dict(kind.resources) for kind in self._kinds() for _ in range(kind.count)]
        for demand in [*self._fixed, self._evaluator]:
            # Where it takes the least room from actors.
            able = [node for node in nodes if demand.fits(node)]
            if able:
                demand.take(min(able, key=self._actor.fits))
        return sum(self._actor.fits(node) for node in nodes)

    def free(self) -> None:
        """Give the room back."""
        from ray.util import remove_placement_group

        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _kinds(self) -> Sequence[NodeKind]:
        """All kinds of nodes that are there, or may come."""
        import ray

        if self._known.kinds is not None:
            return self._known.kinds
        return [NodeKind(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]

    def _may_grow(self) -> bool:
        """Whether nodes may join that nobody knows of."""
        if self._known.kinds is not None:
            return False
        return self._known.nodes is None or len(self._kinds()) < self._known.nodes

    def _check_fits(self, demand: Demand, offers: Sequence[Mapping[str, float]]) -> None:
        if self._may_grow() or any(demand.fits(offer) for offer in offers):
            return
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in demand.bundle().items())
        missing = [
            name
            for name, amount in demand.bundle().items()
            if not any(offer.get(name, 0.0) >= amount for offer in offers)
        ]
        lacking = f"; no node has enough {', '.join(missing)}" if missing else ""
        raise UserError(
            f"{demand.title} wants {wanted}: the cluster has no node, and starts none, that could "
            f"hold it{lacking}"
        )

    def _check_count(self, count: int) -> None:
        limit = self.limit()
        if limit is not None and count > limit:
            raise UserError(
                f"actors.count={count}: the cluster can never hold more than {limit} beside "
                f"learner, shards and evaluator (each takes placement.actor_cpus="
                f"{self._config.placement.actor_cpus:g})"
            )

    def _claim(self, listener: Listener) -> None:
        from ray.util import placement_group

        strategy = "PACK" if self._config.placement.shards == "near" else "SPREAD"
        # The holder of the weights lives in the learner's bundle, and asks for nothing.
        bundles = [demand.bundle() or {"CPU": 0.001} for demand in self._fixed]
        self._group = placement_group(bundles, strategy=strategy, name="raydqn")
        begin = told = time.monotonic()
        limit_s = self._config.placement.wait_s
        try:
            while not self._group.wait(LOOK_EVERY_S):
                now = time.monotonic()
                if now - begin > limit_s:
                    raise UserError(
                        f"no room for {self._fixed_in_words()} within placement.wait_s="
                        f"{limit_s:g}: are the nodes coming up, or does another run hold them?"
                    )
                if now - told > TELL_EVERY_S or told == begin:
                    listener.message(f"waiting for nodes with room for {self._fixed_in_words()} …")
                    told = now
        except BaseException:
            self.free()
            raise

    def _fixed_in_words(self) -> str:
        return "; ".join(
            f"{d.title} ({', '.join(f'{amount:g} {name}' for name, amount in d.bundle().items())})"
            for d in self._fixed
        )


def _options(demand: Demand) -> dict[str, Any]:
    resources = {k: v for k, v in demand.bundle().items() if k not in ("CPU", "GPU")}
    return {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "resources": resources}


def _ask_head() -> Known:
    """What the head knows of nodes to come; asked there, the driver may live elsewhere."""
    import ray

    task = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=0)(known_nodes)
    known: Known = ray.get(task.remote(), timeout=120)
    return known


def known_nodes(home: Path | None = None) -> Known:
    """What the cluster file on this machine, the head, says of its nodes.

    Args:
        home: where `ray up` left it.
    """
    import yaml

    path = (home or Path.home()) / BOOTSTRAP
    if not path.is_file():
        # Kubernetes' operator keeps its groups to itself. Anything else was started by hand: who
        # is there is all there is.
        return Known(None, None if "KUBERNETES_SERVICE_HOST" in os.environ else 0)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["provider"]["type"] == "local":
            return Known(None, 1 + len(document["provider"]["worker_ips"]))
        head, kinds = document["head_node_type"], []
        for name, node_type in document["available_node_types"].items():
            resources = {k: float(v) for k, v in (node_type.get("resources") or {}).items()}
            count = node_type.get("max_workers", 0) + (name == head)
            kinds.append(NodeKind(resources, min(count, document["max_workers"] + 1)))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return Known(None, None)  # not ours to judge
    return Known(tuple(kinds), None)


def check_storage(url: str, runtime: Runtime, shards: int) -> None:
    """See whether the node of every shard reaches the place that checkpoints go to.

    Args:
        url: of the place.
        runtime: where the shards will live.
        shards: how many.

    Raises:
        UserError: one does not.
    """
    storage, token = open_storage(url), os.urandom(16).hex()
    try:
        storage.write(PROBE, token.encode())
        for index in range(shards):
            host, seen = runtime.ask(shard_title(index), _read_probe, url)
            if seen != token:
                raise UserError(
                    f"checkpoint.storage: {host}, where {shard_title(index)} is to live, does not "
                    f"see {url} of {socket.gethostname()}; name a folder that all nodes share or a "
                    'URL ("s3://bucket/path"), or leave the memory out (--checkpoint.replay false)'
                )
    except OSError as error:
        raise UserError(f"checkpoint.storage: {url}: cannot be written ({error})") from None
    finally:
        with suppress(OSError):
            storage.remove(PROBE)


def _read_probe(url: str) -> tuple[str, str]:
    """This machine's name, and what it reads there."""
    try:
        seen = open_storage(url).read(PROBE).tobytes().decode("ascii", "replace")
    except OSError:
        seen = ""
    return socket.gethostname(), seen
