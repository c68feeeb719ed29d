"""The benchmark of the replay memory, with sizes that take seconds; without a look at speeds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.errors import UserError
from common.types import FrameSpec
from deploy.bench import peers as bench_peers
from deploy.bench import replay as bench_replay
from deploy.bench.replay_inputs import ReplaySizes, Stream
from deploy.cli import main as cli
from support.replay import Reader


@pytest.fixture
def small(monkeypatch):
    sizes = ReplaySizes(
        pictures=600,
        vectors=2_500,
        pong_steps=1_600,
        feed_s=0.05,
        slice_s=0.01,
        warm_up_s=0.05,
        large_chunk=200,
        store_bytes=256 << 20,
    )
    monkeypatch.setattr(bench_replay, "SIZES", sizes)


def test_every_figure_is_measured_and_printed_as_json(small, capsys):
    assert cli.main(["bench", "replay", "--repeat", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # A process with free memory claims no more for a replay memory as small as here.
    assert all(line["value"] > 0 for line in lines if line["figure"] != "pictures: memory")
    assert all(line["min"] <= line["value"] <= line["max"] for line in lines)
    told = {(line["figure"], line["subject"]) for line in lines}
    for figure in ("pictures: sample 512", "pictures: insert 50", "vectors: sample 512"):
        assert (figure, "raydqn ÷ numpy (limit)") in told
    assert ("pong: memory", "lz4") in told
    assert ("ray, pong, lz4: insert 50", "raydqn") in told
    assert ("ray, vectors: insert 200", "raydqn") in told
    packed, plain = (
        next(x["value"] for x in lines if (x["figure"], x["subject"]) == ("pong: memory", kind))
        for kind in ("lz4", "none")
    )
    assert packed < plain / 10


def test_a_stream_is_that_of_an_actor_whose_episode_never_ends():
    pool = np.arange(500, dtype=np.float32)[:, None]
    stream, reader = Stream(pool, stack=3, count=10, n_step=2), Reader()
    expected = 0.0
    for number in range(30):
        chunk = stream.next()
        assert len(chunk.frames) == (10 if number else 14)
        whole = reader.whole(chunk)
        stacks = whole.frames[whole["observation"], 0]
        following = whole.frames[whole["next_observation"], 0]
        assert stacks[0].tolist() == [expected, expected + 1, expected + 2]
        assert np.array_equal(following, stacks + 2)
        expected += 10


def test_peers_without_the_extra_are_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr(bench_peers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"none is installed; pip install -e '.\[bench\]'"):
        bench_peers.make_peers(FrameSpec((4,), "float32", 1.0), 1, 10, np.zeros((9, 4)), 2, 2)
    assert cli.main(["bench", "start", "--peers"]) == 2
    assert "--peers: unknown option (see raydqn bench start" in capsys.readouterr().err
