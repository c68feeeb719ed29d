"""`raydqn bench checkpoint`: saving and restoring one shard of 1 GiB."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from common import parts
from common.item import transition_item
from deploy.bench.measurement import Measurement
from deploy.bench.replay_inputs import PICTURE, STACK, Stream
from deploy.runtime.local_ray import local_ray
from replay_server.messages import encode_chunk
from replay_server.server import ReplayServer
from replay_server.shard_restore import ShardRestore

GIB = 1 << 30
BATCH = 512
CHUNK = 1_000
NEW_SHARE = 0.1
"""Share of the memory that is new at the second save."""


def bench_checkpoint(repeat: int) -> Iterator[Measurement]:
    """One shard of 1 GiB on Ray: saving in the background, saving new items, and restoring."""
    frames = GIB // PICTURE.nbytes
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (4 * CHUNK, *PICTURE.shape), dtype=np.uint8)
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    rows = int(frames * 1.02) + 2 * CHUNK
    arguments = (frames, PICTURE, transition_item(STACK), 0.6, rows, 0, 0)
    with local_ray(GIB) as runtime:
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as folder:
                shard = runtime.spawn(ReplayServer, *arguments, part=parts.shard(0), incarnation=0)
                stream = Stream(pool, STACK, CHUNK)

                def insert(transitions: int, into: Any = shard, source: Stream = stream) -> None:
                    for _ in range(transitions // CHUNK):
                        into.call("insert", encode_chunk(source.next())).result()

                insert(frames)
                names = ("1 GiB, all of it", f"1 GiB, {NEW_SHARE:.0%} of it new")
                gaps = [_draw(shard) for _ in range(50)]
                measured["between two samples", "not saving"].append(max(gaps))
                files: dict[str, Any] = {}
                for number, what in enumerate(names):
                    begin, gaps = time.perf_counter(), []
                    shard.call("begin_save", folder, f"c{number}/shard-0.rdqn", True).result()
                    while (saved := shard.call("saved").result()) is None:
                        gaps.append(_draw(shard))
                    files = saved
                    measured["saving beside sampling", what].append(time.perf_counter() - begin)
                    measured["between two samples", f"saving {what}"].append(max(gaps, default=0))
                    insert(int(frames * NEW_SHARE))
                runtime.kill(shard)
                restore = ShardRestore(folder, ("c1/shard-0.rdqn",), files, 0, 1)
                begin = time.perf_counter()
                again = runtime.spawn(
                    ReplayServer,
                    *(*arguments, 1, "none", None, restore),
                    part=parts.shard(0),
                    incarnation=1,
                )
                size = again.call("summary").result().size
                assert size > 0.9 * frames, size
                measured["restoring, process start included", "1 GiB"].append(
                    time.perf_counter() - begin
                )
                runtime.kill(again)
    for (figure, subject), values in measured.items():
        yield Measurement.of(figure, subject, values, "s")


def _draw(shard: Any) -> float:
    """Seconds until a sample has arrived."""
    begin = time.perf_counter()
    shard.call("sample", BATCH).result()
    return time.perf_counter() - begin
