"""A run on a cluster that is there already: joining it, what it can hold, what goes where."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.config import Config
from common.errors import RemoteDiedError, UserError
from common.handles import Future, Mapped, Ready
from common.parts import shard as shard_part
from common.storage import open_storage
from common.types import EnvironmentSpec
from deploy.resources.memory import check_memory
from deploy.resources.requests import (
    ACTOR_NODES,
    LEARNER_NODES,
    SHARE,
    ResourceRequest,
    resource_requests,
)
from deploy.runtime.names import NAMESPACE, service_names
from deploy.runtime.packaging import code_for
from deploy.runtime.ray_runtime import RayRuntime, RemoteFuture, Runtime

T = TypeVar("T")
CONNECT_S = 10.0
"""How long an address may take to answer at all."""
LOOK_EVERY_S = 1.0
TELL_EVERY_S = 30.0
"""How often a run that waits for nodes says so."""
BOOTSTRAP = "ray_bootstrap_config.yaml"
"""In the head's home folder: the cluster file, as `ray up` left it there."""
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
NOT_SERVED = ("Starting Ray client server failed", "Proxy failed to Connect to backend")
"""Ray's words when the head's process for one client of `ray://` did not come up. It is forked
while threads of gRPC's run, and some never start (ray-project/ray#63202): worth a second try."""
PING = b"\x08\x06"  # a ClusterInfoRequest of that type, which no process for a client must answer
TOKEN_HINT = (
    "if the cluster wants a token, put its own into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set "
    "RAY_AUTH_MODE=token"
)
PROBE = "probe"
"""A file that shows whether two machines see the same storage."""
HEAD = "node:__internal_head__"
PLACED_BY = ("CPU", "GPU", LEARNER_NODES, ACTOR_NODES, HEAD)
"""What our remotes ask of nodes."""
HEAD_S = 120.0
"""How long the head has to say what it knows: its first task may have to unpack our code."""


class EventSink(Protocol):
    """Whoever is told what is waited for."""

    def notify(self, text: str) -> None:
        """Something worth a line."""
        ...


@dataclass(frozen=True, slots=True)
class NodeType:
    """Nodes that are alike: what each offers, and how many there can be."""

    resources: Mapping[str, float]
    count: int


@dataclass(frozen=True, slots=True)
class ClusterCapacity:
    """What the head knows of nodes that are not there yet.

    Attributes:
        kinds: of nodes that the cluster may have at most, the head's first; None: only those there
            now are known.
        nodes: how many there can be at the same time, of all kinds together; None: there is no
            telling.
        offers: names of what nodes to come offer, where that is all there is to know of them.
        remark: what whoever starts a run should hear; empty: nothing.
    """

    kinds: tuple[NodeType, ...] | None
    nodes: int | None
    offers: frozenset[str] = frozenset()
    remark: str = ""


@contextmanager
def joined_cluster(
    address: str, config: Config, events: EventSink, run: str
) -> Iterator[RayRuntime]:
    """Connected to a cluster, with room for learner and shards, for as long as it takes.

    Args:
        address: `auto`, `HOST:PORT` of the cluster's control store, or `ray://HOST:PORT`.
        config: of the run.
        events: told what is waited for.
        run: its name.

    Raises:
        UserError: no cluster answers, it refuses the token, it has another version of Ray or
            Python, it lacks what our code needs, a run of that name goes on there, or it can never
            hold the run.
    """
    import ray

    try:
        connect(address, code_for(config.env.id))
        with as_user_errors(f"--address={address}"):
            _check_nobody_is(run)
            placement = Cluster(config, events)
        try:
            yield RayRuntime(placement)
        finally:
            placement.free()
    finally:  # what was started must not stay; the cluster does
        ray.shutdown()


@contextmanager
def as_user_errors(where: str) -> Iterator[None]:
    """Whatever Ray finds wrong before a run goes on is an error of one line.

    Args:
        where: named in it.

    Raises:
        UserError: in place of Ray's errors.
    """
    from ray.exceptions import GetTimeoutError, RayError

    try:
        yield
    except RemoteDiedError as error:
        raise UserError(f"{where}: {error}, before the run began; try again") from None
    except GetTimeoutError:
        raise UserError(
            f"{where}: its head did not answer within {HEAD_S:g} s; is it overloaded?"
        ) from None
    except RayError as error:
        missing = re.search(r"No module named '([\w.]+)'", str(error))
        if missing is None:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(f"{where}: {_line(lines[-1] if lines else error)}") from None
        raise UserError(
            f"{where}: a node there has no module {missing[1]}; install raydqn's dependencies on "
            "all nodes, in the versions of constraints.txt"
        ) from None


def _check_nobody_is(run: str) -> None:
    """Refuse a name that a run on the cluster has: others find runs by their names.

    Raises:
        UserError: one has.
    """
    if run in service_names():
        raise UserError(
            f"{run}: a run of that name goes on there, or has just ended; name another --run-dir, "
            "or wait for its end"
        )


def connect(address: str, code: Sequence[Path] = ()) -> None:
    """Become a driver of the cluster at `address`; `ray.shutdown` ends it.

    Args:
        address: see `joined_cluster`.
        code: packages and modules that nodes are to run; whoever only asks has no remotes.

    Raises:
        UserError: see `joined_cluster`.
    """
    from ray.exceptions import AuthenticationError, RayError

    import ray

    _check_answers(address)
    try:
        _check_lets_in(address)
        try:
            _join(address, code)
        except ConnectionError as error:
            if not _is_not_served(error):
                raise
            _join(address, code)
    except AuthenticationError:
        raise _refused(address) from None
    except ConnectionError as error:
        if _is_not_served(error):  # with the head's traceback; its last line tells
            raise UserError(
                f"--address={address}: its head answers, but could not begin to serve us "
                f"({_line(str(error).strip().splitlines()[-1])}); if it is busy, try again"
            ) from None
        if "auth" in str(error).lower() or "token" in str(error).lower():
            raise _refused(address) from None
        if "Could not find" in str(error):
            raise UserError(
                f"--address={address}: no Ray runs on this machine; name the HOST:PORT of a "
                "cluster, start one (`ray up FILE`, or `ray start --head`), or leave --address out "
                "to run on this machine alone"
            ) from None
        raise UserError(
            f"--address={address}: something answers there, but lets nobody in ({_line(error)}); "
            f"is it the right port (10001 with ray://, else 6379)? {TOKEN_HINT}"
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
            raise _refused(address) from None
        raise UserError(f"--address={address}: cannot be joined ({_line(error)})") from None
    except (ValueError, RayError) as error:
        raise UserError(f"--address={address}: {_line(error)}") from None


def _is_not_served(error: ConnectionError) -> bool:
    return any(words in str(error) for words in NOT_SERVED)


def _join(address: str, code: Sequence[Path]) -> None:
    """Let Ray connect this process."""
    import ray

    with _quiet():
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="error",
            runtime_env=_runtime_env(code),
        )


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


def _refused(address: str) -> UserError:
    return UserError(f"--address={address}: refused: {TOKEN_HINT}")


def _line(error: Exception | str) -> str:
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
    except UnicodeError:
        raise UserError(f"--address={address}: {host} cannot be a machine's name") from None
    except OSError as error:
        raise UserError(
            f"--address={address}: does not answer ({error.strerror or error}); is the cluster up, "
            "and the port reachable from here? (ray:// needs port 10001)"
        ) from None


def _check_lets_in(address: str) -> None:
    """Ask what anybody may who has the token: Ray itself would ask for half a minute.

    Raises:
        UserError: it is another port of the cluster's, or another token.
        AuthenticationError: there is no token here.
    """
    if address == "auto":
        return
    import grpc

    try:  # what Ray's own clients use: its token, its TLS, no proxy
        from ray._private.grpc_utils import init_grpc_channel
        from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS
    except ImportError:  # another Ray has it elsewhere, and will tell by itself
        return
    place = address.removeprefix("ray://")
    channel = init_grpc_channel(place, options=GLOBAL_GRPC_OPTIONS)

    def answer(method: str, request: bytes) -> grpc.StatusCode:
        ask = channel.unary_unary(f"/ray.rpc.{method}")
        try:
            ask(request, timeout=CONNECT_S, metadata=[("client_id", "raydqn")])
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    right, other = ("RayletDriver/ClusterInfo", PING), ("NodeInfoGcsService/CheckAlive", b"")
    wish = f"without ray://, as {place}"
    if place == address:
        right, other = other, right
        wish = f"with ray://, as ray://{place}"
    codes = grpc.StatusCode
    try:
        with _quiet():
            said = answer(*right)
            wrong = said is codes.UNIMPLEMENTED and answer(*other) in (
                codes.OK,
                codes.UNAUTHENTICATED,
            )
    finally:
        channel.close()
    if said is codes.UNAUTHENTICATED:
        raise _refused(address)
    if wrong:
        raise UserError(f"--address={address}: that port is for addresses {wish}")


def _runtime_env(code: Sequence[Path]) -> dict[str, Any] | None:
    """Have every node run that code; whoever submitted this as a job has seen to it."""
    if not code or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    return {"py_modules": [str(path) for path in code]}


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """The nodes of a cluster, all at the same moment.

    Attributes:
        total: what each offers, by its id.
        left: what of that nobody holds.
        places: nodes of the remotes that were asked for and are up, by their ids.
    """

    total: Mapping[str, Mapping[str, float]]
    left: Mapping[str, Mapping[str, float]]
    places: Mapping[str, str]

    def of_others(self, node: str, ours: Sequence[ResourceRequest]) -> dict[str, float]:
        """What others hold there, if that is what we hold."""
        held = {}
        for name, total in self.total[node].items():
            own = sum(demand.bundle().get(name, 0.0) for demand in ours)
            taken = total - self.left[node].get(name, 0.0) - own
            held[name] = taken if taken > SHARE / 2 else 0.0
        return held


def _look_around(remotes: Sequence[str]) -> ClusterSnapshot:
    """A task: the driver may be a client from outside, which is not told as much."""
    from ray._private import state

    import ray

    wanted = set(remotes)
    living = state.actors(actor_state_name="ALIVE") if wanted else {}
    places = {
        actor_id: living[actor_id]["Address"]["NodeID"] for actor_id in wanted & living.keys()
    }
    left = state.available_resources_per_node()
    total = {
        node["NodeID"]: {name: node["Resources"].get(name, 0.0) for name in PLACED_BY}
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] in left
    }
    return ClusterSnapshot(total, left, places)


class Cluster:
    """Where remotes go on a cluster: learner and shards in a group of their own, actors around."""

    autoscaling = True

    def __init__(self, config: Config, events: EventSink) -> None:
        """Claim room for learner and shards; waits for nodes that are still to come.

        Args:
            config: of the run.
            events: told what is waited for.

        Raises:
            UserError: the cluster can never hold the run.
        """
        self._config = config
        self._known = _ask_head()
        if self._known.remark:
            events.notify(self._known.remark)
        self._plan()
        if self._learns_on_cpu_unknowingly:
            events.notify(
                "learning is on the CPU: no node has a GPU; should one come, start the run after it"
            )
        self._check()
        self._claim(events)

    def _plan(self) -> None:
        """What each part will ask for."""
        self._group: Any = None
        self._goals: dict[str, str] = {}  # nodes for those who move, by the titles of their slots
        offers = [kind.resources for kind in self._kinds()]
        offered = {name for offer in offers for name, amount in offer.items() if amount > 0}
        if self._may_grow() and self._known.offers:
            offered |= self._known.offers
        elif self._may_grow() and offered & {LEARNER_NODES, ACTOR_NODES}:
            # Nodes have roles here; those of the other role may be still to come.
            offered |= {LEARNER_NODES, ACTOR_NODES}
        wanted = resource_requests(self._config, offered, "GPU" in offered)
        learner, shard, _, self._evaluator, self._actor = wanted
        # A bundle for each; whatever asks for nothing lives with the learner.
        self._fixed = [learner] + [
            replace(shard, title=str(shard_part(index)), count=1) for index in range(shard.count)
        ]

    @property
    def _learns_on_cpu_unknowingly(self) -> bool:
        """Whether a GPU may join later, of which the learner will make no use."""
        unknown = self._known.kinds is None and not self._known.offers
        return unknown and self._config.learner.device == "auto" and not self._fixed[0].gpus

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
        """Ray's options for the remote on the slot of that title."""
        from ray.util.scheduling_strategies import (
            NodeAffinitySchedulingStrategy,
            PlacementGroupSchedulingStrategy,
        )

        for index, demand in enumerate(self._fixed):
            if demand.title == title:
                strategy = PlacementGroupSchedulingStrategy(self._group, index)
                return {**_options(demand), "scheduling_strategy": strategy}
        if title.startswith(self._actor.title):
            goal = self._goals.pop(title, None)
            where: Any = "SPREAD"
            if goal is not None:  # unless somebody else was faster
                where = NodeAffinitySchedulingStrategy(goal, True, _spill_on_unavailable=True)
            return {**_options(self._actor), "scheduling_strategy": where}
        if title == self._evaluator.title:
            return _options(self._evaluator)
        # Whatever asks for nothing lives with the learner: its node is no spot node.
        strategy = PlacementGroupSchedulingStrategy(self._group, 0)
        return {"num_cpus": 0, "scheduling_strategy": strategy}

    def capacity(self, players: Mapping[str, str], starting: int) -> Future[int]:
        """How many actors there is room for, beside our other parts and what others run.

        Where it is known which nodes can be started, those count as if they were there.

        Args:
            players: names of actors and evaluator, by the ids of their remotes.
            starting: see `Runtime.capacity`.
        """
        return Mapped(self._look(players), partial(self._capacity_in, players, starting))

    def consolidate(self, players: Mapping[str, str]) -> Future[str | None]:
        """See `Runtime.consolidate`; the id of the remote."""
        if self._known.kinds is None:  # no node ever goes
            return Ready(None)
        return Mapped(self._look(players), partial(self._consolidate_in, players))

    def _look(self, players: Mapping[str, str]) -> Future[ClusterSnapshot]:
        import ray

        task = ray.remote(max_retries=0)(_look_around).options(**self.options(""))
        return RemoteFuture(task.remote(list(players)), "a question to Ray")

    def _ours(
        self, players: Mapping[str, str], seen: ClusterSnapshot
    ) -> dict[str, list[ResourceRequest]]:
        """What we hold, by the ids of nodes."""
        from ray.util import placement_group_table

        ours: dict[str, list[ResourceRequest]] = {node: [] for node in seen.total}
        fixed = placement_group_table(self._group).get("bundles_to_node_id", {})
        for index, node in fixed.items():
            ours.get(node, []).append(self._fixed[int(index)])
        for part, node in seen.places.items():
            evaluates = players[part].startswith(self._evaluator.title)
            ours.get(node, []).append(self._evaluator if evaluates else self._actor)
        return ours

    def _capacity_in(self, players: Mapping[str, str], starting: int, seen: ClusterSnapshot) -> int:
        ours = self._ours(players, seen)
        nodes = {node: dict(total) for node, total in seen.total.items()}
        for node, held in ours.items():
            for demand in held:
                if demand is not self._actor:
                    demand.reserve(nodes[node])
        if not any(self._evaluator in held for held in ours.values()):
            for room in nodes.values():  # it is still to come
                if self._evaluator.count_fitting(room):
                    self._evaluator.reserve(room)
                    break
        most, fewer = 0, 0
        for node, room in nodes.items():
            before = max(0, self._actor.count_fitting(room))
            for name, amount in seen.of_others(node, ours[node]).items():
                room[name] -= amount
            most += before
            fewer += before - max(0, self._actor.count_fitting(room))
        if self._known.kinds is not None:
            most = self.max_actors() or 0
        # Of those that start, some hold what seems to be held by others.
        return max(1, most - max(0, fewer - starting))

    def _consolidate_in(self, players: Mapping[str, str], seen: ClusterSnapshot) -> str | None:
        ours, actors = self._ours(players, seen), {}
        for node in seen.total:
            others = seen.of_others(node, ours[node]).values()
            parts = [part for part, place in seen.places.items() if place == node]
            # Only such a node can become empty, and go.
            lone = all(demand is self._actor for demand in ours[node]) and not any(others)
            if parts and lone and not seen.total[node].get(HEAD):
                actors[node] = parts
        if not actors:
            return None
        emptied = min(actors, key=lambda node: len(actors[node]))
        room = {
            node: self._actor.count_fitting(left)
            for node, left in seen.left.items()
            if node != emptied and (ours.get(node) or any(seen.of_others(node, []).values()))
        }
        if sum(room.values()) < len(actors[emptied]):
            return None
        part = actors[emptied][0]
        goal = min((node for node in room if room[node]), key=lambda node: room[node])
        self._goals[players[part].rpartition("-")[0]] = goal
        return part

    def max_actors(self) -> int | None:
        """How many actors there can ever be room for; None: there is no telling."""
        if self._may_grow():
            return None
        nodes = [dict(kind.resources) for kind in self._kinds() for _ in range(kind.count)]
        most = len(nodes) if self._known.kinds is None else self._known.nodes or len(nodes)
        # Where not all can be there at once, nodes count only once they are needed.
        used, rest = (nodes, []) if most >= len(nodes) else (nodes[:1], nodes[1:])
        for demand in [*self._fixed, self._evaluator]:
            able = [node for node in used if demand.count_fitting(node)] or [
                node for node in rest if demand.count_fitting(node)
            ]
            if able:  # where it takes the least room from actors
                node = min(able, key=self._actor.count_fitting)
                demand.reserve(node)
                if not any(node is other for other in used):
                    used.append(node)
                    rest = [other for other in rest if other is not node]
        more = sorted((self._actor.count_fitting(node) for node in rest), reverse=True)
        there = sum(self._actor.count_fitting(node) for node in used)
        return there + sum(more[: max(0, most - len(used))])

    def free(self) -> None:
        """Give the room back."""
        from ray.util import remove_placement_group

        group, self._group = self._group, None
        if group is not None:
            # With the connection the group is gone as well; why the run ends is what counts.
            with suppress(Exception):
                remove_placement_group(group)

    def _kinds(self) -> Sequence[NodeType]:
        """All kinds of nodes that are there, or may come."""
        import ray

        if self._known.kinds is not None:
            return self._known.kinds
        return [NodeType(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]

    def _may_grow(self) -> bool:
        """Whether nodes may join that nobody knows of."""
        if self._known.kinds is not None:
            return False
        return self._known.nodes is None or len(self._kinds()) < self._known.nodes

    def _check_fits(self, demand: ResourceRequest, offers: Sequence[Mapping[str, float]]) -> None:
        if self._may_grow() or any(demand.count_fitting(offer) for offer in offers):
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
        limit = self.max_actors()
        if limit is not None and count > limit:
            raise UserError(
                f"actors.count={count}: the cluster can never hold more than {limit} beside "
                f"learner, shards and evaluator (each takes placement.actor_cpus="
                f"{self._config.placement.actor_cpus:g})"
            )

    def _claim(self, events: EventSink) -> None:
        from ray.util import placement_group

        strategy = "PACK" if self._config.placement.shards == "near" else "SPREAD"
        # The holder of the weights lives in the learner's bundle, and asks for nothing.
        bundles = [demand.bundle() or {"CPU": 0.001} for demand in self._fixed]
        # Without a name: two runs may share a cluster, and no two groups may share one.
        self._group = placement_group(bundles, strategy=strategy)
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
                    events.notify(f"waiting for nodes with room for {self._fixed_in_words()} …")
                    told = now
        except BaseException:
            self.free()
            raise

    def _fixed_in_words(self) -> str:
        return "; ".join(
            f"{d.title} ({', '.join(f'{amount:g} {name}' for name, amount in d.bundle().items())})"
            for d in self._fixed
        )


def _options(demand: ResourceRequest) -> dict[str, Any]:
    resources = {k: v for k, v in demand.bundle().items() if k not in ("CPU", "GPU")}
    return {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "resources": resources}


def _ask_head() -> ClusterCapacity:
    """What the head knows of nodes to come; asked there, the driver may live elsewhere."""
    import ray

    task = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=0)(known_nodes)
    known: ClusterCapacity = ray.get(task.remote(), timeout=HEAD_S)
    return known


def known_nodes(home: Path | None = None) -> ClusterCapacity:
    """What this machine, the head, is told of its nodes: by a cluster file, or by Kubernetes.

    Args:
        home: where `ray up` left the file.
    """
    import yaml

    path = (home or Path.home()) / BOOTSTRAP
    if not path.is_file():
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            return _kubernetes_nodes()
        return ClusterCapacity(None, 0)  # started by hand: who is there is all there is
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["provider"]["type"] == "local":
            return ClusterCapacity(
                None, 1 + len(document["provider"]["worker_ips"]), _own_offers(document)
            )
        return _kinds_of(document)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return ClusterCapacity(None, None)  # not ours to judge


def _kinds_of(document: Mapping[str, Any]) -> ClusterCapacity:
    """Kinds of nodes in a file of `ray up`, as Ray completed it."""
    head, most = document["head_node_type"], document["max_workers"] + 1
    kinds: list[NodeType] = []
    for name, node_type in document["available_node_types"].items():
        resources = {k: float(v) for k, v in (node_type.get("resources") or {}).items()}
        count = node_type.get("max_workers", 0) + (name == head)
        kinds.insert(0 if name == head else len(kinds), NodeType(resources, min(count, most)))
    return ClusterCapacity(tuple(kinds), most)


def _own_offers(document: Mapping[str, Any]) -> frozenset[str]:
    """What machines of one's own will offer, as far as the commands that start Ray there say."""
    from deploy.resources.ray_start import start_options

    offers = set()
    for role in ("head", "worker"):
        options = start_options(document.get(f"{role}_start_ray_commands") or ())
        offered = json.loads(options.get("--resources", "{}"))
        offered["GPU"] = float(options.get("--num-gpus", 0))
        offers |= {name for name, amount in offered.items() if amount > 0}
    return frozenset(offers)


def _kubernetes_nodes() -> ClusterCapacity:
    """Groups of pods, as Kubernetes has them; the head may ask, as Ray's autoscaler does there."""
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        namespace = os.environ.get("RAY_CLUSTER_NAMESPACE") or POD_NAMESPACE.read_text().strip()
        client = node_provider.KubernetesHttpApiClient(namespace)
        resource = client.get(f"rayclusters/{os.environ['RAY_CLUSTER_NAME']}")
        if resource["spec"].get("enableInTreeAutoscaling") is not True:
            for group in resource["spec"]["workerGroupSpecs"]:  # nobody starts more
                group["minReplicas"] = group["maxReplicas"] = group.get("replicas", 1)
        return _kinds_of(autoscaling_config._derive_autoscaling_config_from_ray_cr(resource))
    except Exception as error:  # of the network, of Kubernetes, of Ray, which stumbles anywhere
        return ClusterCapacity(
            None,
            None,
            remark=f"Kubernetes does not say which nodes may come ({type(error).__name__}: "
            f"{_line(error)}): only those that are there count",
        )


def check_memories(config: Config, spec: EnvironmentSpec, runtime: Runtime) -> None:
    """Have every machine that is to hold shards see whether it has memory for them.

    Raises:
        UserError: one has not (see `check_memory`).
    """
    titles = [str(shard_part(index)) for index in range(config.replay.shards)]
    hosts = [runtime.run_on(title, _host) for title in titles]
    for host in dict.fromkeys(hosts):
        share = hosts.count(host) / len(hosts)
        runtime.run_on(titles[hosts.index(host)], check_memory, config, spec, True, share)


def _host() -> str:
    return socket.gethostname()


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
            host, seen = runtime.run_on(str(shard_part(index)), _read_probe, url)
            if seen != token:
                raise UserError(
                    f"checkpoint.storage: {host}, where {shard_part(index)} is to live, does not "
                    f"see {url} of {socket.gethostname()}; name a folder that all nodes share or a "
                    'URL ("s3://your-bucket/runs"), or leave the memory out '
                    "(--checkpoint.replay false)"
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
