"""Named files, whole or not there: one contract for a folder and for what fsspec reaches."""

from __future__ import annotations

import errno
import os
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from common.errors import StorageError, UserError
from common.storage import FsspecStorage, LocalStorage, open_storage, write_atomically
from support.storage_contract import StorageContract, content


@pytest.fixture(params=["local", "file-url", "memory"])
def url(request, tmp_path):
    return {
        "local": str(tmp_path / "store"),
        "file-url": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4()}/store",
    }[request.param]


class TestStorage(StorageContract):
    """In a folder, and in what fsspec reaches; tests/e2e/test_object_store.py has S3."""


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


class Remembering(MemoryFileSystem):
    """Keeps listings where fsspec lets it, as those of S3, Google and Azure do."""

    protocol = "remembering"
    find = AbstractFileSystem.find  # by listings; the one in memory looks at its contents

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("remembering://"))

    def ls(self, path, detail=True, **options):
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
            if path not in self.dircache:  # fsspec was told to keep none
                return super().ls(path, detail=detail, **options)
        found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]


def test_a_listing_is_never_remembered_though_the_file_system_would():
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    url = f"remembering://{uuid.uuid4()}/store"
    # The file system would show an old listing, and this test could fail.
    remembers, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    remembers.pipe_file(f"{root}/a", b"1")
    assert len(remembers.ls(root)) == 1
    here, there = open_storage(url), open_storage(url)
    assert here.sizes() == {"a": 1}
    there.write("b", b"22")
    assert len(remembers.ls(root)) == 1
    assert here.sizes() == {"a": 1, "b": 2}
    there.remove("a")
    assert here.sizes() == {"b": 2}
