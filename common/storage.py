"""Storage of checkpoints: a local folder, or a place that fsspec reaches (`s3://`, `gs://` …).

In a folder and in an object store a file exists whole or not at all, whenever its writer is killed;
`FsspecStorage` tells the guarantees of other places. No name leads out of a storage. The only
rename is that of a file into its place, because object stores offer no others.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.errors import StorageError, UserError
from common.types import Array

_NAME = re.compile(r"(?!\.)[\w.=-]+(/(?!\.)[\w.=-]+)*", re.ASCII)
_WRITING = ".writing-"
_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci")


class Storage(Protocol):
    """Named files. Names are relative, their parts separated by `/`.

    Attributes:
        url: for messages, and for another process to open the same storage.
    """

    url: str

    def write(self, name: str, data: bytes | Array) -> None:
        """Write a whole file durably; replaces a file of the same name.

        Raises:
            OSError: the write failed; the earlier file is intact.
        """
        ...

    def read(self, name: str) -> Array:
        """A file's bytes, `[bytes]` uint8.

        Raises:
            FileNotFoundError: no such file.
            OSError: it could not be read.
        """
        ...

    def sizes(self) -> dict[str, int]:
        """The size of every file in bytes, in the order of names."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        ...

    def remove_partial(self) -> None:
        """Remove unfinished files of killed writers, while no process writes."""
        ...


def open_storage(url: str) -> Storage:
    """The storage at a local path or fsspec URL. Nothing is created before the first `write`.

    Raises:
        UserError: an unknown kind of URL, or its package is not installed.
    """
    protocol, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if protocol == "file":
        return LocalStorage(Path(rest))
    return FsspecStorage(url)


def is_name(name: str) -> bool:
    """Whether this is the name of a file inside a storage."""
    return _NAME.fullmatch(name) is not None


def _checked(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"name={name!r}: must be a relative path of letters, digits, . - _ =")
    return name


class LocalStorage:
    """A local folder: regular files in real folders. The folder itself may be a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def write(self, name: str, data: bytes | Array) -> None:
        """Write a temporary file, wait for the disk, and rename it into place."""
        write_atomically(self._path(name), data)

    def read(self, name: str) -> Array:
        """A file's bytes."""
        # A pipe may block, a device may be endless, a link may lead anywhere: refuse them.
        path = self._path(name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(errno.EINVAL, "is no regular file", str(path))
            with open(descriptor, "rb", closefd=False) as file:
                return np.fromfile(file, np.uint8)
        finally:
            os.close(descriptor)

    def sizes(self) -> dict[str, int]:
        """The size of every file."""
        found = {}
        for folder, _, files in os.walk(self.folder, onerror=_raise_unless_gone):
            for path in map(Path(folder).joinpath, files):
                name = path.relative_to(self.folder).as_posix()
                with suppress(FileNotFoundError):  # its writer removed it meanwhile
                    status = path.lstat()
                    if is_name(name) and stat.S_ISREG(status.st_mode):
                        found[name] = status.st_size
        return dict(sorted(found.items()))

    def remove(self, name: str) -> None:
        """Remove a file, and its folder if that is then empty."""
        path = self._path(name)
        path.unlink(missing_ok=True)
        self._remove_empty(path.parent)

    def remove_partial(self) -> None:
        """Remove unfinished files, and their folders if those are then empty."""
        for path in list(self.folder.rglob(f"{_WRITING}*")):
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def _path(self, name: str) -> Path:
        """Path of a file. No folder on the way may be a link: it could lead out of the storage."""
        path = self.folder / _checked(name)
        for folder in path.parents:
            if folder == self.folder:
                break
            if folder.is_symlink():
                raise StorageError(errno.ELOOP, "is a link; must be a real folder", str(folder))
        return path

    def _remove_empty(self, folder: Path) -> None:
        if folder != self.folder:
            with suppress(OSError):  # not empty
                folder.rmdir()


class FsspecStorage:
    """A place that fsspec reaches.

    An object store (S3, Google, Azure) writes an object whole or not at all. Elsewhere (SFTP, HDFS,
    SMB, WebDAV …) a killed writer may leave a part of a file. The manifest then reveals it; a part
    of a manifest is a damaged checkpoint.
    """

    def __init__(self, url: str) -> None:
        """Credentials and endpoints come from environment variables (`AWS_…`, `GOOGLE_…`).

        Raises:
            UserError: an unknown kind of URL, or its package is not installed.
        """
        import fsspec

        self.url = url.rstrip("/")
        try:
            # No cache of listings: other processes write here too.
            self._fs, root = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=True
            )
        except ImportError as error:
            raise UserError(f"checkpoint.storage={url}: {error}") from None
        except (ValueError, TypeError) as error:  # TypeError: a kind of URL with further parameters
            raise UserError(
                f"checkpoint.storage={url}: must be a path or a URL that fsspec knows ({error})"
            ) from None
        self._root = str(root).rstrip("/")
        # Object stores have no folders, and their packages would create a misspelt bucket.
        self._has_folders = self.url.partition("://")[0] not in _WITHOUT_FOLDERS

    def write(self, name: str, data: bytes | Array) -> None:
        """Write the object."""
        path = self._path(name)
        with self._reporting(name, is_read=False):
            if self._has_folders:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, bytes(data))

    def read(self, name: str) -> Array:
        """The object's bytes."""
        path = self._path(name)
        with self._reporting(name):
            return np.frombuffer(self._fs.cat_file(path), np.uint8)

    def sizes(self) -> dict[str, int]:
        """The size of every object below the URL."""
        with self._reporting(""):
            try:
                found: dict[str, Any] = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        begin = len(self._root) + 1
        named = {path[begin:]: int(info["size"]) for path, info in sorted(found.items())}
        return {name: size for name, size in named.items() if is_name(name)}

    def remove(self, name: str) -> None:
        """Delete the object if it exists."""
        path = self._path(name)
        with self._reporting(name), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def remove_partial(self) -> None:
        """Nothing to do: this storage writes no temporary files."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)}"

    @contextmanager
    def _reporting(self, name: str, is_read: bool = True) -> Iterator[None]:
        """Turn the errors of a store's library into `OSError`."""
        try:
            yield
        except Exception as error:
            if is_read and isinstance(error, FileNotFoundError):
                raise
            place = f"{self.url}/{name}".rstrip("/")
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise StorageError(f"{place}: {reason}") from error


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def write_atomically(path: Path, data: bytes | Array) -> None:
    """Replace a file's content by `data`, or leave it unchanged."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in made:  # a crash of the machine could lose it, with everything in it
        _sync_folder(folder.parent)
    temporary = path.with_name(
        f"{_WRITING}{os.getpid()}-{path.name}"
    )  # two processes may write at once
    try:
        with temporary.open("wb") as file:
            file.write(data)  # type: ignore[arg-type] # an array is a buffer
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
