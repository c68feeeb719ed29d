"""The contract of every storage, as tests: a folder keeps it, and so does what fsspec reaches."""

from __future__ import annotations

import numpy as np
import pytest

from common.storage import is_name, open_storage

BAD_NAMES = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "../a",
    "a/../../b",
    "a/..",
    "a//b",
    "a/",
    "/a",
    ".hidden",
    "a/.hidden",
    "a\\b",
    "a b",
    "a\n",
    "a\0b",
    "ä",
    "s3://bucket/a",
    "~/a",
]


def content(storage, name):
    data = storage.read(name)
    assert data.dtype == np.uint8
    assert data.ndim == 1
    return data.tobytes()


class StorageContract:
    """Tests for a subclass; a fixture `url` of its file gives a place that is empty."""

    @pytest.fixture
    def storage(self, url):
        return open_storage(url)

    def test_what_was_written_is_read_by_any_storage_of_the_same_place(self, storage, url):
        data = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8)
        storage.write("000001-step-00000012/shard-0.rdqn", data)
        storage.write("top.json", b"{}")
        storage.write("empty", b"")
        other = open_storage(url)
        assert content(other, "000001-step-00000012/shard-0.rdqn") == data.tobytes()
        assert content(other, "top.json") == b"{}"
        assert content(other, "empty") == b""
        assert open_storage(storage.url).sizes() == other.sizes()

    def test_a_file_is_replaced_also_by_a_shorter_one(self, storage):
        storage.write("a/b", b"long content")
        storage.write("a/b", b"short")
        assert content(storage, "a/b") == b"short"
        assert storage.sizes() == {"a/b": 5}

    def test_sizes_are_those_of_every_file_in_order_of_names_and_never_remembered(
        self, storage, url
    ):
        assert storage.sizes() == {}
        names = ["b", "a/c", "a-b/c", "a.b", "deep/er/still", "a/b"]
        for size, name in enumerate(names):
            open_storage(url).write(name, bytes(size))
            assert storage.sizes()[name] == size
        assert list(storage.sizes()) == sorted(names)
        open_storage(url).remove("b")
        assert "b" not in storage.sizes()

    def test_what_is_removed_is_gone_and_may_be_removed_again(self, storage):
        storage.write("a/b", b"1")
        storage.write("a/c", b"2")
        storage.remove("a/b")
        assert storage.sizes() == {"a/c": 1}
        storage.remove("a/b")
        storage.remove("never/there")
        storage.remove("a/c")
        assert storage.sizes() == {}
        with pytest.raises(FileNotFoundError):
            storage.read("a/b")
        storage.remove_partial()
        storage.write("a/b", b"3")
        assert content(storage, "a/b") == b"3"

    def test_a_file_that_is_not_there_is_a_file_not_found(self, storage):
        with pytest.raises(FileNotFoundError):
            storage.read("nothing")
        storage.write("a/b", b"1")
        with pytest.raises(FileNotFoundError):
            storage.read("a/nothing")

    def test_a_name_that_leads_out_is_refused(self, storage):
        acts = (storage.read, storage.remove, lambda name: storage.write(name, b""))
        for name in BAD_NAMES:
            assert not is_name(name)
            for act in acts:
                with pytest.raises(ValueError, match="must be a relative path"):
                    act(name)
        assert storage.sizes() == {}
