"""Files that are no cluster files, or far too much of one: each ends in one line, and soon."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from common.errors import UserError
from deploy.provisioning.yaml_file import MAX_BYTES, DuplicateKey, read_yaml

LONG_S = 5.0
"""Longer than any of these files takes, much shorter than they took: they never ended."""


def bomb(item: str, wrap: str) -> bytes:
    """Ten anchors, each nine times the one before it."""
    lines = [f"k0: &k0 {item}"]
    lines += [f"k{i}: &k{i} {wrap % ', '.join([f'*k{i - 1}'] * 9)}" for i in range(1, 11)]
    return "\n".join(lines).encode()


TOO_MUCH = {
    "anchors": (bomb("[x, x]", "[%s]"), "line 7: with its aliases more than 200,000 values"),
    "merges": (bomb("{x: 1}", "{<<: [%s]}"), "line 7: with its aliases more than 200,000 values"),
    "long text": (
        b"a: &a " + b"x" * 100_000 + b"\nb: [" + b"*a, " * 5000 + b"]",
        "line 2: with its aliases more than 200,000 values",
    ),
    "documents": (
        b"---\n".join([bomb("[x, x]", "[%s]").partition(b"k5")[0]] * 40),
        "line 53: with its aliases more than 200,000 values",
    ),
    "deep": (b"a: " + b"[" * 5000, "line 1: nested more than 100 deep"),
    "deep keys": (
        b"".join(b" " * i + b"a:\n" for i in range(1000)), "line 100: nested more than 100 deep"
    ),
    "values": (b"- a\n" * 30_000, "line 20000: more than 20,000 values"),
    "circle": (b"a: &a [*a]", "Circular reference detected"),
    "digits": (b"a: " + b"9" * 10_000, "a number of thousands of digits: put it in quotes"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_file_that_would_become_too_much_is_refused_at_once(tmp_path, name):
    content, why = TOO_MUCH[name]
    path = tmp_path / "cluster.yaml"
    path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: not a cluster file ({why})"
    assert time.monotonic() - start < LONG_S


def test_a_file_of_many_mebibytes_is_not_read(tmp_path):
    path = tmp_path / "cluster.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"cluster.yaml: has more than 1 MiB: must be a cluster"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: 1\nb: \0", "line 2 holds a NUL byte: must be a text file"),
        (b"a: 1\n\nb: \xff", "line 3 holds byte 0xff, which is not UTF-8: save it as UTF-8"),
        (b"\xff\xfea\0", "line 1 holds a NUL byte: must be a text file"),  # UTF-16
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, why):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: {why}"


def test_what_is_no_file_is_named_without_waiting_for_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a short name for the socket, whose length is limited
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket")
    kinds = {"pipe": "a pipe", "socket": "a socket", ".": "a folder", "/dev/zero": "a device"}
    for name, kind in kinds.items():
        with pytest.raises(UserError) as caught:
            read_yaml(Path(name))
        assert (
            str(caught.value) == f"{name}: is {kind}: must be a file with a cluster's description"
        )


def test_a_link_is_followed_and_a_mark_of_the_encoding_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "cluster.yaml").write_bytes(b"\xef\xbb\xbfa: \xc3\xa9")
    (tmp_path / "link.yaml").symlink_to("cluster.yaml")
    assert read_yaml(tmp_path / "link.yaml") == ([{"a": "é"}], [])


def test_keys_that_are_there_twice_are_named_with_their_lines(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("a: 1\nb: {c: 1, d: 2,\n  c: 3}\na: &a {1: 1, '1': 2}\ne: *a\n---\na: 1\n")
    assert read_yaml(path)[1] == [
        DuplicateKey("a", (1, 4)), DuplicateKey("c", (2, 3)), DuplicateKey("1", (4, 4)),
    ]  # fmt: skip


def test_anchors_merges_and_several_documents_are_no_duplicates(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a, y: 3}\n---\na: 1\n")
    documents, duplicates = read_yaml(path)
    assert duplicates == []
    assert documents[0]["b"] == {"x": 3, "y": 2}
