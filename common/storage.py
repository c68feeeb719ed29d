"""Where checkpoints lie: a folder of this machine, or whatever fsspec reaches (`s3://`, `gs://` …).

In a folder and in an object store a file is there whole or not at all, whenever its writer is
killed; `FsspecStorage` says what holds elsewhere. Its name cannot lead out of the place. Nothing is
ever renamed but a file into its place: object stores cannot do more.
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
        url: where; for messages, and for another process to open the same.
    """

    url: str

    def write(self, name: str, data: bytes | Array) -> None:
        """Put a file there, whole and to stay; replaces one of that name.

        Raises:
            OSError: it could not be written; what was there before is intact.
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
        """Every file that is there, and its size in bytes; in order of their names."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        ...

    def sweep(self) -> None:
        """Take away what writers that were killed left; nobody may be writing now."""
        ...


def open_storage(url: str) -> Storage:
    """The storage at a local path or fsspec URL. Nothing is created before the first `write`.

    Raises:
        UserError: an unknown kind of URL, or one whose package is not installed.
    """
    protocol, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if protocol == "file":
        return LocalStorage(Path(rest))
    return FsspecStorage(url)


def is_name(name: str) -> bool:
    """Whether a file may have this name: one that stays inside its storage."""
    return _NAME.fullmatch(name) is not None


def _checked(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"name={name!r}: must be a relative path of letters, digits, . - _ =")
    return name


class LocalStorage:
    """A folder of this machine: regular files in real folders. It may be a link itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def write(self, name: str, data: bytes | Array) -> None:
        """Write beside it, wait for the disk, and rename into place."""
        write_atomically(self._path(name), data)

    def read(self, name: str) -> Array:
        """A file's bytes."""
        # A pipe would be waited for, a device read without an end; a link may lead anywhere.
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
        """Every file that is there, and its size."""
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
        """Take a file away, and its folder if that is empty then."""
        path = self._path(name)
        path.unlink(missing_ok=True)
        self._remove_empty(path.parent)

    def sweep(self) -> None:
        """Remove unfinished files, and their folders if those are empty then."""
        for path in list(self.folder.rglob(f"{_WRITING}*")):
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def _path(self, name: str) -> Path:
        """Of a file; no folder on the way may be a link, which could lead out of the storage."""
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

    An object store (S3, Google, Azure) puts an object whole or not at all. Elsewhere (SFTP, HDFS,
    SMB, WebDAV …) a file is written in its place: a writer that is killed may leave a part of one,
    which its manifest then tells, or a part of a manifest, which is a damaged checkpoint.
    """

    def __init__(self, url: str) -> None:
        """Credentials and endpoints are those of the environment (`AWS_…`, `GOOGLE_…`).

        Raises:
            UserError: an unknown kind of URL, or one whose package is not installed.
        """
        import fsspec

        self.url = url.rstrip("/")
        try:
            # Listings are never remembered: other processes write here too.
            self._fs, root = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=True
            )
        except ImportError as error:
            raise UserError(f"checkpoint.storage={url}: {error}") from None
        except (ValueError, TypeError) as error:  # TypeError: a kind that needs more than a URL
            raise UserError(
                f"checkpoint.storage={url}: must be a path or a URL that fsspec knows ({error})"
            ) from None
        self._root = str(root).rstrip("/")
        # Object stores have none; and their packages would make a bucket whose name is misspelt.
        self._has_folders = self.url.partition("://")[0] not in _WITHOUT_FOLDERS

    def write(self, name: str, data: bytes | Array) -> None:
        """Put the object."""
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
        """Every object below the URL, and its size."""
        with self._reporting(""):
            try:
                found: dict[str, Any] = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        begin = len(self._root) + 1
        named = {path[begin:]: int(info["size"]) for path, info in sorted(found.items())}
        return {name: size for name, size in named.items() if is_name(name)}

    def remove(self, name: str) -> None:
        """Delete the object, if it is there."""
        path = self._path(name)
        with self._reporting(name), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def sweep(self) -> None:
        """Nothing: no files of other names are ever written here."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)}"

    @contextmanager
    def _reporting(self, name: str, is_read: bool = True) -> Iterator[None]:
        """Each store's library has errors of its own; here they are all `OSError`."""
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
    """Replace a file's content by `data`, or leave it as it was."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in made:  # or a crash of the machine may take it, and all that comes into it
        _sync_folder(folder.parent)
    temporary = path.with_name(f"{_WRITING}{os.getpid()}-{path.name}")  # two may write at once
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
