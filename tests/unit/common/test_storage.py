"""Named files, whole or not there: one contract for a folder and for what fsspec reaches."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from common.errors import StorageError, UserError
from common.storage import FsspecStorage, LocalStorage, is_name, open_storage, write_atomically
from support.forks import forks_of
from support.program import wait_for

needs_s3 = pytest.mark.skipif(
    find_spec("moto") is None or find_spec("s3fs") is None,
    reason="moto and s3fs are not installed (make setup)",
)
third_party_warnings = [
    # botocore and moto still ask for the time in a way that Python no longer likes.
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
    # aiohttp's sessions of s3fs are closed when they are collected, not before.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
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


@pytest.fixture(scope="session")
def s3_endpoint():
    """A server that speaks S3, on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_s3(monkeypatch, endpoint):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()  # an earlier one keeps its endpoint


@pytest.fixture
def s3(monkeypatch, s3_endpoint):
    """A URL below a bucket of its own."""
    import s3fs

    use_s3(monkeypatch, s3_endpoint)
    bucket = f"bucket-{uuid.uuid4()}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/runs/one"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(
    params=[
        "local",
        "file-url",
        "memory",
        pytest.param("s3", marks=[needs_s3, *third_party_warnings]),
    ]
)
def url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return {
        "local": str(tmp_path / "store"),
        "file-url": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4()}/store",
    }[request.param]


@pytest.fixture
def storage(url):
    return open_storage(url)


def content(storage, name):
    data = storage.read(name)
    assert data.dtype == np.uint8
    assert data.ndim == 1
    return data.tobytes()


def test_what_was_written_is_read_by_any_storage_of_the_same_place(storage, url):
    data = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8)
    storage.write("000001-step-00000012/shard-0.rdqn", data)
    storage.write("top.json", b"{}")
    storage.write("empty", b"")
    other = open_storage(url)
    assert content(other, "000001-step-00000012/shard-0.rdqn") == data.tobytes()
    assert content(other, "top.json") == b"{}"
    assert content(other, "empty") == b""
    assert open_storage(storage.url).sizes() == other.sizes()


def test_a_file_is_replaced_also_by_a_shorter_one(storage):
    storage.write("a/b", b"long content")
    storage.write("a/b", b"short")
    assert content(storage, "a/b") == b"short"
    assert storage.sizes() == {"a/b": 5}


def test_sizes_are_those_of_every_file_in_order_of_names_and_never_remembered(storage, url):
    assert storage.sizes() == {}
    names = ["b", "a/c", "a-b/c", "a.b", "deep/er/still", "a/b"]
    for size, name in enumerate(names):
        open_storage(url).write(name, bytes(size))
        assert storage.sizes()[name] == size
    assert list(storage.sizes()) == sorted(names)
    open_storage(url).remove("b")
    assert "b" not in storage.sizes()


def test_what_is_removed_is_gone_and_may_be_removed_again(storage):
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


def test_a_file_that_is_not_there_is_a_file_not_found(storage):
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    storage.write("a/b", b"1")
    with pytest.raises(FileNotFoundError):
        storage.read("a/nothing")


def test_a_name_that_leads_out_is_refused(storage):
    acts = (storage.read, storage.remove, lambda name: storage.write(name, b""))
    for name in BAD_NAMES:
        assert not is_name(name)
        for act in acts:
            with pytest.raises(ValueError, match="must be a relative path"):
                act(name)
    assert storage.sizes() == {}


def test_nothing_is_created_before_the_first_write(tmp_path):
    storage = open_storage(str(tmp_path / "a" / "b"))
    assert storage.sizes() == {}
    storage.remove("x/y")
    storage.remove_partial()
    with pytest.raises(FileNotFoundError):
        storage.read("x")
    assert list(tmp_path.iterdir()) == []


def test_the_kind_of_url_says_which_storage_it_is(tmp_path):
    assert isinstance(open_storage(str(tmp_path)), LocalStorage)
    assert isinstance(open_storage("relative/folder"), LocalStorage)
    assert open_storage(f"file://{tmp_path}").url == str(tmp_path)
    assert isinstance(open_storage("memory://x/"), FsspecStorage)
    assert open_storage("memory://x/").url == "memory://x"


# --- a folder ---------------------------------------------------------------------------------


def litter(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_failing_disk_leaves_the_old_content_and_no_rubbish(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    storage.write("a/b", b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for name in ("a/b", "a/new"):
            with pytest.raises(OSError, match="No space left"):
                storage.write(name, b"new content")
    assert storage.sizes() == {"a/b": 3}
    assert content(storage, "a/b") == b"old"
    assert litter(tmp_path) == []
    storage.write("a/b", b"new content")
    assert content(storage, "a/b") == b"new content"


def test_a_rename_that_fails_leaves_the_old_content_and_no_rubbish(tmp_path, monkeypatch):
    write_atomically(tmp_path / "sub" / "file", b"one")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "sub" / "file", b"two")
    assert (tmp_path / "sub" / "file").read_bytes() == b"one"
    assert litter(tmp_path) == []


def test_it_waits_for_the_disk_before_it_renames_and_for_the_folder_after(tmp_path, monkeypatch):
    happened = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor):
        happened.append(Path(f"/proc/self/fd/{descriptor}").resolve().name.partition("-")[0])
        fsync(descriptor)

    def noted_replace(path, target):
        happened.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_atomically(tmp_path / "sub" / "file", b"one")
    assert happened == [tmp_path.name, ".writing", "rename", "sub"]
    happened.clear()
    write_atomically(tmp_path / "a" / "b" / "file", b"one")  # each folder that was made, too
    assert happened == ["a", tmp_path.name, ".writing", "rename", "b"]
    happened.clear()
    write_atomically(tmp_path / "a" / "b" / "file", b"two")
    assert happened == [".writing", "rename", "b"]


def test_only_regular_files_are_files(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    storage.write("a/file", b"1")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "store" / "a" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "store" / "a" / "pipe")
    assert storage.sizes() == {"a/file": 1}
    with pytest.raises(StorageError, match=r"is no regular file.*a/pipe"):
        storage.read("a/pipe")
    with pytest.raises(OSError, match="symbolic link"):
        storage.read("a/link")
    storage.write("a/link", b"mine")  # takes its place
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert content(storage, "a/link") == b"mine"


def test_a_folder_that_is_a_link_leads_nowhere_unless_it_is_the_storage_itself(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"another's")
    (tmp_path / "store" / "a").mkdir(parents=True)
    (tmp_path / "store" / "frames").symlink_to(outside)
    (tmp_path / "store" / "a" / "b").symlink_to(outside)
    storage = LocalStorage(tmp_path / "store")
    assert storage.sizes() == {}
    for name in ("frames/file", "a/b/file"):
        acts = [storage.read, storage.remove, lambda name: storage.write(name, b"mine")]
        for act in acts:
            with pytest.raises(StorageError, match="is a link; must be a real folder"):
                act(name)
    assert (outside / "file").read_bytes() == b"another's"
    (tmp_path / "place").symlink_to(tmp_path / "store")
    linked = LocalStorage(tmp_path / "place")
    linked.write("c/d", b"1")
    assert storage.sizes() == linked.sizes() == {"c/d": 1}


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_bytes(b"a file, no folder")
    storage = LocalStorage(tmp_path / "file" / "checkpoints")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        storage.write("a/b", b"1")
    with pytest.raises(OSError, match="Not a directory"):
        storage.read("a/b")
    assert (tmp_path / "file").read_bytes() == b"a file, no folder"


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    storage.write("a/b", b"1")

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError):
        storage.sizes()


def test_a_folder_that_goes_while_it_is_listed_is_not_there(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    storage.write("a/b", b"1")
    storage.write("c/d", b"1")
    scandir = os.scandir

    def gone(path):
        if Path(path).name == "a":
            storage.remove("a/b")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    assert storage.sizes() == {"c/d": 1}


def test_folders_go_with_their_last_file_but_for_the_storage_itself(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    for name in ("a/b", "a/c", "d"):
        storage.write(name, b"1")
    storage.remove("a/b")
    assert (tmp_path / "store" / "a").exists()
    storage.remove("a/c")
    storage.remove("d")
    assert list((tmp_path / "store").iterdir()) == []


def test_unfinished_files_are_no_files_and_are_swept_away(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.write("kept/file", b"1")
    (tmp_path / "left").mkdir()
    for left in ("left/.writing-7-shard-0.rdqn", "kept/.writing-7-x", ".writing-7-y"):
        (tmp_path / left).write_bytes(b"half")
    assert storage.sizes() == {"kept/file": 1}
    storage.remove("kept/other")
    assert len(litter(tmp_path)) == 3, "another may be writing still"
    storage.remove_partial()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["kept", "file"]


def assert_whole(storage, last):
    """Each file has the content of that number, or of the next."""
    assert set(storage.sizes()) == {"a", "b/c"}
    for name in ("a", "b/c"):
        data = content(storage, name)
        assert data == data[:10] * 20_000
        assert last <= int(data[:10]) <= last + 1


WRITE_ON_AND_ON = """
import sys
from pathlib import Path
from common.storage import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    for name in ("a", "b/c"):
        storage.write(name, f"{number:010d}".encode() * 20_000)
    print(number, flush=True)
"""


def test_killed_at_any_moment_a_file_has_the_old_content_or_the_new(tmp_path):
    storage, rng = LocalStorage(tmp_path / "store"), random.Random(0)
    with forks_of(tmp_path, "common.storage") as forks:
        for _ in range(8):
            pid = forks.begin(WRITE_ON_AND_ON, str(tmp_path / "store"))
            wait_for(forks.out.read_text, poll_s=0.001)
            time.sleep(rng.random() * 0.03)
            os.kill(pid, signal.SIGKILL)
            assert forks.wait() == -signal.SIGKILL
            assert_whole(storage, int(forks.out.read_text().split()[-1]))


# --- what fsspec reaches ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["unknown://place", "github://place", "s3s://bucket/x", "local file://x"]
)
def test_an_unknown_kind_of_url_is_the_users_mistake(url):
    with pytest.raises(UserError, match=r"checkpoint\.storage=.*fsspec knows") as caught:
        open_storage(url)
    assert len(str(caught.value).splitlines()) == 1


def test_a_package_that_is_not_installed_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # importing it fails
    with pytest.raises(UserError, match="gcsfs") as caught:
        open_storage("gs://bucket/x")
    assert len(str(caught.value).splitlines()) == 1
    assert "gs://bucket/x" in str(caught.value)


def test_an_error_of_a_store_is_an_os_error_in_one_line_with_the_place(monkeypatch):
    storage = FsspecStorage(f"memory://{uuid.uuid4()}")

    class OddError(Exception):
        pass

    def fail(*_, **__):
        raise OddError("quota exceeded\nrequest 17\n")

    for method in ("pipe_file", "cat_file", "find", "rm_file"):
        monkeypatch.setattr(storage._fs, method, fail, raising=True)
    for act in (
        lambda: storage.write("a", b""),
        lambda: storage.read("a"),
        storage.sizes,
        lambda: storage.remove("a"),
    ):
        with pytest.raises(StorageError, match=r"memory://\S+: quota exceeded$") as caught:
            act()
        assert isinstance(caught.value, OSError)


@needs_s3
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # botocore
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")  # aiohttp's sessions
def test_a_bucket_that_is_not_there_is_not_made(monkeypatch, s3_endpoint):
    import s3fs

    use_s3(monkeypatch, s3_endpoint)
    bucket = f"misspelt-{uuid.uuid4()}"
    storage = open_storage(f"s3://{bucket}/run")
    assert storage.sizes() == {}
    with pytest.raises(StorageError, match=r"s3://misspelt\S+/run/a/b: .*bucket does not exist"):
        storage.write("a/b", b"1")
    with pytest.raises(FileNotFoundError):
        storage.read("a/b")
    assert bucket not in s3fs.S3FileSystem().ls("/")


@needs_s3
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # botocore
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")  # aiohttp's sessions
def test_what_another_process_puts_and_deletes_is_seen_at_once(s3):
    import boto3

    bucket = s3.split("/")[2]
    client = boto3.client("s3")
    storage = open_storage(s3)
    storage.write("a/b", b"1")
    assert storage.sizes() == {"a/b": 1}
    client.put_object(Bucket=bucket, Key="runs/one/a/c", Body=b"22")
    assert storage.sizes() == {"a/b": 1, "a/c": 2}
    client.put_object(Bucket=bucket, Key="runs/one/a/b", Body=b"333")
    assert content(storage, "a/b") == b"333"
    client.delete_object(Bucket=bucket, Key="runs/one/a/c")
    assert storage.sizes() == {"a/b": 3}
    client.close()


@needs_s3
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # botocore
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")  # aiohttp's sessions
def test_an_endpoint_that_does_not_answer_is_a_storage_error_soon(monkeypatch):
    use_s3(monkeypatch, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # by default five, with pauses
    storage = open_storage("s3://bucket/run")
    begin = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://bucket/run/a: Could not connect"):
        storage.write("a", b"1")
    assert time.monotonic() - begin < 60
