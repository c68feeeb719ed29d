"""`raydqn bench actors`: its stages, in one process and for an instant."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from common.errors import UserError
from deploy.bench import actors as bench_actors
from deploy.cli import main as cli
from deploy.launch.presets import preset_names
from deploy.runtime.inline import InlineRuntime
from support.acting import needs_atari, needs_minatar


@pytest.fixture
def short(monkeypatch):
    """No time to measure, and no Ray."""

    @contextmanager
    def no_ray(store_bytes):
        yield InlineRuntime()

    monkeypatch.setattr(bench_actors, "SLICE_S", 0.005)
    monkeypatch.setattr(bench_actors, "local_ray", no_ray)


def test_each_stage_is_measured_with_each_number_of_actors(short):
    found = list(bench_actors.bench_actors(3, ["cartpole"]))
    stages = [(m.figure, m.subject) for m in found]
    for actors in ("1 actor", "2 actors"):
        subject = f"cartpole, 16 envs, {actors}"
        for stage in bench_actors.STAGES:
            assert (stage, subject) in stages
        (share,) = [m for m in found if m.unit == "% of its time" and m.subject == subject]
        assert share.figure == "environment stepping takes"
        assert 0 < share.min <= share.value <= share.max < 100
    assert all(m.n == 3 and m.value > 0 for m in found)


def test_a_reset_is_no_env_step(short):
    config = bench_actors.config_of("cartpole")
    runtime = InlineRuntime()
    program = bench_actors.Program(
        config, bench_actors.environment_spec(config.env), runtime, 0, None
    )
    store, shard = program.spawn_weight_store(-1, 0), program.spawn_shard(0, None, 0)
    bench = bench_actors.BenchActor(config, 0, [shard], store)
    stepped = sum(bench._step(with_network=False)[0] for _ in range(100))
    assert 100 * 16 * 0.8 < stepped < 100 * 16, "CartPole falls within 25 random actions or so"
    bench.close()


@needs_atari
@needs_minatar
def test_an_id_gets_the_keys_of_the_preset_that_is_nearest():
    assert bench_actors.config_of("pong").network.kind == "small-cnn"
    assert bench_actors.config_of("ALE/Breakout-v5").network.kind == "nature-cnn"
    assert bench_actors.config_of("Acrobot-v1").env.id == "Acrobot-v1"
    for name in bench_actors.DEFAULT:
        config = bench_actors.config_of(name)
        assert config.replay.capacity == bench_actors.CAPACITY
        assert name in preset_names()


def test_what_there_is_not_is_refused(short, capsys):
    with pytest.raises(UserError, match="Cartpole-v7"):
        list(bench_actors.bench_actors(1, ["Cartpole-v7"], counts=(1,)))
    assert cli.main(["bench", "start", "--env", "CartPole-v1"]) == 2
    assert "--env: unknown option (see raydqn bench start --help)" in capsys.readouterr().err


def test_the_command_takes_several_environments(short, capsys):
    arguments = ["bench", "actors", "--repeat", "1", "--json", "--env", "cartpole", "Acrobot-v1"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 4
    assert sum("Acrobot-v1" in line for line in lines) == 8


def test_an_unknown_environment_is_refused_before_ray_starts(monkeypatch):
    monkeypatch.setattr(bench_actors, "local_ray", None)
    with pytest.raises(UserError, match=r"^env\.id=cartpol: .*; did you mean preset cartpole\?$"):
        list(bench_actors.bench_actors(1, ["CartPole-v1", "cartpol"]))
