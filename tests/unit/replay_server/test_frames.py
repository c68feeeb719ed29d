"""The frame store."""

import numpy as np
import pytest

from common.types import FrameSpec
from replay_server.frames import make_frame_store


@pytest.mark.parametrize("count", [1, 2, 37, 38, 150, 151])  # 28,224 bytes each: 38 are 1 MiB
def test_frames_are_gathered_right_however_many(count):
    frame = FrameSpec((4, 84, 84), "uint8", 1.0)
    store = make_frame_store(frame, 200, None)
    frames = np.random.default_rng(0).integers(0, 256, (200, 4, 84, 84), dtype=np.uint8)
    store.write(frames)
    rows = np.sort(np.random.default_rng(1).choice(200, count, replace=False))
    out = np.empty((count, 4, 84, 84), np.uint8)
    store.gather(rows, out)
    np.testing.assert_array_equal(out, frames[rows])
