"""Files of tensors: equal content gives equal bytes, and other programs read them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load

from common.tensor_file import tensor_bytes

TENSORS = {
    "policy.b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "policy.a": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "empty": np.zeros((0, 3), np.float32),
}


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=6))
def test_tensors_and_metadata_come_back_from_the_library(tmp_path_factory, metadata):
    data = tensor_bytes(TENSORS, metadata)
    back = load(data)
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back[name].shape == tensor.shape
        assert np.array_equal(back[name], tensor)
    path = tmp_path_factory.getbasetemp() / "tensors.safetensors"
    path.write_bytes(data)
    with safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata


def test_equal_content_has_equal_bytes_in_whichever_order_it_comes():
    names = [f"key-{number}" for number in range(12)]
    forwards = dict.fromkeys(names, "x")
    backwards = dict.fromkeys(reversed(names), "x")
    turned = dict(reversed(TENSORS.items()))
    files = {tensor_bytes(TENSORS, forwards) for _ in range(20)}
    files |= {tensor_bytes(turned, backwards) for _ in range(20)}
    assert len(files) == 1
