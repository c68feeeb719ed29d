import numpy as np
import pytest
from replay_helpers import PICTURE, VECTOR, random_chunk

from common import wire
from common.types import Chunk


@pytest.mark.parametrize("priority", ["random", None])
def test_a_chunk_survives_the_wire_bit_for_bit(priority):
    chunk = random_chunk(np.random.default_rng(0), 5, 7, stack=3, priority=priority)
    arrays, _ = wire.decode(wire.encode(chunk.to_arrays()))
    again = Chunk.from_arrays(arrays)
    assert len(again) == 5
    assert (again.priority is None) == (chunk.priority is None)
    for name, column in chunk.to_arrays().items():
        received = getattr(again, name)
        assert received.dtype == column.dtype
        assert np.array_equal(received, column)


@pytest.mark.parametrize(
    "name",
    ["frames", "observation", "next_observation", "action", "reward", "discount", "version"],
)
def test_a_chunk_without_a_column_is_refused_by_name(name):
    columns = random_chunk(np.random.default_rng(0), 2, 3).to_arrays()
    del columns[name]
    with pytest.raises(ValueError, match=f"without column '{name}'"):
        Chunk.from_arrays(columns)


@pytest.mark.parametrize(
    "name", ["observation", "next_observation", "reward", "discount", "version", "priority"]
)
def test_a_chunk_with_a_short_column_is_refused_by_name(name):
    columns = random_chunk(np.random.default_rng(0), 4, 3).to_arrays()
    columns[name] = columns[name][:3]
    with pytest.raises(ValueError, match=f"'{name}' has 3 rows, not 4"):
        Chunk.from_arrays(columns)


@pytest.mark.parametrize("name", ["action", "reward"])
def test_a_column_without_rows_is_refused_as_a_value(name):
    columns = random_chunk(np.random.default_rng(0), 1, 1).to_arrays()
    columns[name] = np.zeros((), columns[name].dtype)
    with pytest.raises(ValueError, match=name):
        Chunk.from_arrays(columns)


def test_the_number_of_frames_need_not_be_that_of_transitions():
    columns = random_chunk(np.random.default_rng(0), 2, 9).to_arrays()
    assert len(Chunk.from_arrays(columns).frames) == 9


def test_frame_specs_know_pictures_and_their_bytes():
    assert PICTURE.is_picture
    assert PICTURE.nbytes == 4
    assert not VECTOR.is_picture
    assert VECTOR.nbytes == 12
