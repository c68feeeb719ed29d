"""Coverage-guided fuzzing of everything that decodes bytes of others (needs atheris).

    python tests/support/fuzz_wire.py -max_total_time=60

Whatever the bytes, decoding ends in what was asked for or in WireError, and claims no more memory
than the bytes justify. Run by `test_fuzz.py` for a few seconds.
"""

from __future__ import annotations

import sys
import tracemalloc
from contextlib import suppress

import atheris
import numpy as np

from common.types import Chunk, FrameSpec

with atheris.instrument_imports(include=["common", "replay_server"]):
    from common import wire
    from common.errors import WireError
    from common.item import transition_item
    from replay_server import codec, messages, sum_tree
    from replay_server.table import Table

sum_tree.COMPILED_AFTER_CALLS = -1  # what numba imports is not what is measured here
FRAME = FrameSpec((1, 4, 4), "uint8", 1.0)
TABLES = [
    Table(16, FRAME, transition_item(2), 0.6, 40, np.random.default_rng(0), codec=one)
    for one in (None, *(codec.Codec(kind, FRAME) for kind in codec.COMPRESSIONS if kind != "none"))
]
CODECS = [codec.Codec(kind, FRAME) for kind in codec.COMPRESSIONS if kind != "none"]
# Headers hold at most a mebibyte; parsed they may take some sixty times as much, never more.
SPARE_BYTES, FACTOR = 1 << 20, 64


def valid_messages() -> list[bytes]:
    """Where the fuzzer begins: messages of each kind."""
    rng = np.random.default_rng(0)
    stacks = rng.integers(-1, 5, (3, 2), np.int32)
    zeros = np.zeros(3, np.float32)
    frames = rng.integers(0, 9, (5, *FRAME.shape), np.uint8)
    columns = {
        "observation": stacks,
        "next_observation": stacks,
        "action": stacks[:, 0],
        "reward": zeros,
        "discount": zeros,
        "version": np.zeros(3, np.int64),
    }
    chunk = Chunk(frames, columns, zeros)
    found = [messages.encode_chunk(chunk).tobytes()]
    for one in CODECS:
        packed = one.pack(frames)
        found.append(packed.data.tobytes())
        chunk.frames = packed
        found.append(messages.encode_chunk(chunk).tobytes())
    return found


def test_one(data: bytes) -> None:
    """One input; atheris calls it."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for decode in (wire.decode, messages.decode_chunk, messages.decode_sample):
        with suppress(WireError):
            decode(data)
    for one in CODECS:
        with suppress(WireError):
            one.unpack(data, 5)
    with suppress(WireError):
        chunk = messages.decode_chunk(data)
        for table in TABLES:
            with suppress(ValueError):  # refused: nothing of it is there
                table.insert(chunk)
            table.check()
    claimed = tracemalloc.get_traced_memory()[1] - before
    if claimed > SPARE_BYTES + FACTOR * len(data):
        raise MemoryError(f"{len(data)} bytes made {claimed}")


if __name__ == "__main__":
    if "--seeds" in sys.argv:  # write them into the folder named next
        from pathlib import Path

        folder = Path(sys.argv[sys.argv.index("--seeds") + 1])
        for number, message in enumerate(valid_messages()):
            (folder / f"seed-{number}").write_bytes(message)
        sys.exit()
    tracemalloc.start()
    for message in valid_messages():  # what is imported and cached at first does not count
        with suppress(MemoryError):
            test_one(message)
    atheris.Setup(sys.argv, test_one)
    atheris.Fuzz()
