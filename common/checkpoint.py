"""Checkpoints: complete or absent, verified on reading, readable without pickle.

checkpoints/
    000007-step-00012000/      the seventh, after 12,000 learner steps
        learner.safetensors    networks and optimiser
        state.json             counters
        shard-0.rdqn           the items of a replay shard, and its newest frames (wire format)
        manifest.json          size and SHA-256 of each file; written last
    frames/
        0-3-000012-….rdqn      older frames of shard 0, written once for all checkpoints; the
                               name holds a part of their SHA-256 and so identifies them
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from common.errors import CheckpointError, StorageError, UnreadableError
from common.storage import Storage, is_name
from common.tensor_file import tensor_bytes
from common.text import counted
from common.types import Array

MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = ".safetensors"
REPLAY = ".rdqn"
"""Ending of the replay memory's files."""
_FOLDER = re.compile(r"(\d{6,})-step-(\d{8,})", re.ASCII)
_MAX_MANIFEST_BYTES = 1 << 26
LISTINGS = 5
"""Attempts to list a checkpoint before the storage counts as empty."""

Files = dict[str, dict[str, Any]]
"""Files of a checkpoint by their names in its storage: `{"bytes": …, "sha256": …}` of each."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of one checkpoint.

    Attributes:
        url: of its storage.
        name: its folder there.
        tensors: groups of tensors by name.
        state: the object in its JSON file.
        files: all files that belong to it, replay memory included.
        replay: whether to restore its replay memory, if it holds one.
    """

    url: str
    name: str
    tensors: dict[str, dict[str, Array]]
    state: dict[str, Any]
    files: Files
    replay: bool = True

    def __str__(self) -> str:
        return f"{self.url}/{self.name}"


def entry_of(data: bytes | Array) -> dict[str, Any]:
    """The entry of a file with these bytes in a manifest."""
    digest = hashlib.sha256(data)  # type: ignore[arg-type] # an array is a buffer
    return {"bytes": len(data), "sha256": digest.hexdigest()}


def read_verified(storage: Storage, name: str, files: Files) -> Array:
    """The bytes of a file that belongs to a checkpoint, `[bytes]` uint8.

    Raises:
        CheckpointError: the file is missing, or its bytes changed after the write.
        UnreadableError: the storage cannot be read.
    """
    where = f"{storage.url}/{name}"
    try:
        entry = files[name]
        data = storage.read(name)
    except KeyError:
        raise CheckpointError(f"{where}: is not in its checkpoint's {MANIFEST}", name) from None
    except FileNotFoundError:
        reason = "No such file or directory"
        raise CheckpointError(f"{where}: cannot be read ({reason})", name) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableError(f"{where}: cannot be read ({reason})", name) from None
    if len(data) != entry["bytes"]:
        raise CheckpointError(
            f"{where}: cut off, {len(data):,} of {counted(entry['bytes'], 'byte')}", name
        )
    if entry_of(data)["sha256"] != entry["sha256"]:
        raise CheckpointError(f"{where}: damaged, its checksum is another", name)
    return data


class CheckpointStore:
    """The checkpoints of one run, newest last; keeps the last k.

    Attributes:
        storage: of the files.
        prune_error: why the files that no checkpoint needs were not removed after the newest
            checkpoint; None if they were. The store tries again after the next.
    """

    def __init__(
        self,
        storage: Storage,
        keep: int,
        check: Callable[[Checkpoint], None] | None = None,
        replay: bool = True,
    ) -> None:
        """Creates no file before the first checkpoint.

        Args:
            storage: of the files.
            keep: how many checkpoints to keep.
            check: called with every checkpoint that is read; raises CheckpointError for one that
                is whole but of another program.
            replay: whether the replay memory of a checkpoint must be whole, too.
        """
        self.storage = storage
        self.prune_error: OSError | None = None
        self._keep = keep
        self._check = check
        self._replay = replay
        self._number = 0  # the greatest in use so far

    def names(self) -> list[str]:
        """Folders of complete checkpoints, oldest first.

        Raises:
            OSError: the storage cannot be read.
        """
        return _complete(self.storage.sizes())

    def new_name(self, step: int) -> str:
        """A folder for the next checkpoint, with a number that no other one has ever had.

        Args:
            step: learner steps, for human readers.
        """
        folders = {name.partition("/")[0] for name in self.storage.sizes()}
        numbers = [_number(folder) for folder in folders if _FOLDER.fullmatch(folder)]
        self._number = max([self._number, *numbers]) + 1
        return f"{self._number:06d}-step-{step:08d}"

    def commit(
        self,
        name: str,
        tensors: Mapping[str, Mapping[str, Array]],
        state: Mapping[str, Any],
        files: Files | None = None,
    ) -> None:
        """Write the remaining files, the manifest last: with it the checkpoint exists.

        Then remove all files that no checkpoint to keep needs, and leftovers of killed writers. If
        that fails the checkpoint exists nevertheless: see `prune_error`.

        Args:
            name: a `new_name`.
            tensors: file name without ending → tensors.
            state: anything JSON can hold.
            files: entries of the files that other parts have written already.

        Raises:
            OSError: a write failed, or a file of another part is missing. Earlier checkpoints are
                intact, and the files of this one are removed.
        """
        own = {f"{name}/{group}{TENSORS}": tensor_bytes(t) for group, t in tensors.items()}
        own[f"{name}/{STATE}"] = json.dumps(dict(state), indent=1).encode()
        manifest = {**(files or {}), **{path: entry_of(data) for path, data in own.items()}}
        own[f"{name}/{MANIFEST}"] = json.dumps(manifest, indent=1).encode()
        try:
            self._check_visible(files or {})
            for path, data in own.items():
                self.storage.write(path, data)
        except OSError:
            self.discard(name, files or {})  # a full disk needs the space
            raise
        self.prune_error = None
        try:
            self._prune()
            self.storage.remove_partial()
        except OSError as error:
            self.prune_error = error

    def _check_visible(self, files: Files) -> None:
        """Raise StorageError unless the files of other parts are visible from here."""
        sizes = self.storage.sizes() if files else {}
        for path, entry in files.items():
            if sizes.get(path) != entry["bytes"]:
                raise StorageError(
                    f"{self.storage.url}/{path}: not visible from here as it was written: "
                    "all nodes must reach checkpoint.storage"
                )

    def discard(self, name: str, written: Collection[str] | None = None) -> None:
        """Remove the files of a checkpoint that failed.

        Args:
            name: of the checkpoint.
            written: given when no process writes any more: names of files whose frames stay, so
                that their shards need not write them again. All other files that no checkpoint
                needs are removed, too.
        """
        with suppress(OSError):  # the next checkpoint removes them
            for path in sorted(self.storage.sizes(), key=_manifests_first):
                if path.startswith(f"{name}/"):
                    self.storage.remove(path)
            if written is not None:
                self._prune(written)

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Array]], state: Mapping[str, Any]
    ) -> str:
        """Write a checkpoint without files of other parts; returns its name."""
        name = self.new_name(step)
        self.commit(name, tensors, state)
        return name

    def newest(self) -> Checkpoint:
        """The newest checkpoint. Reading changes nothing, so that the run may be live.

        Raises:
            CheckpointError: there is none, or it is damaged; the message names the way out.
        """
        while True:
            try:
                # During a slow listing a checkpoint may appear and its predecessor go.
                names = next((found for _ in range(LISTINGS) if (found := self.names())), [])
                if not names:
                    raise CheckpointError(f"{self.storage.url}: holds no checkpoint")
                try:
                    return self.load(names[-1])
                except CheckpointError as error:
                    if names[-1] not in self.names():
                        continue  # its writer removed it in the meantime
                    raise self.with_way_out(error, names[-1]) from None
            except OSError as error:
                raise CheckpointError(f"{self.storage.url}: cannot be read ({error})") from None

    def load(self, name: str) -> Checkpoint:
        """Read a checkpoint; verifies its state and tensors, and the sizes of its other files.

        The readers of the other files verify their bytes (`read_verified`). Files of a replay
        memory that is not needed are not checked.

        Raises:
            CheckpointError: not a checkpoint, or its bytes changed after the write.
        """
        where = f"{self.storage.url}/{name}"
        try:
            sizes = self.storage.sizes()
        except OSError as error:
            raise UnreadableError(f"{where}: cannot be read ({error})") from None
        if not _FOLDER.fullmatch(name) or f"{name}/{MANIFEST}" not in sizes:
            raise CheckpointError(f"{where}: not a checkpoint (it has no {MANIFEST})")
        if sizes[f"{name}/{MANIFEST}"] > _MAX_MANIFEST_BYTES:
            raise CheckpointError(f"{where}: cannot be understood ({MANIFEST} is too large)")
        files = self._manifest(name)
        for path, entry in files.items():
            needed = self._replay or not path.endswith(REPLAY)
            if needed and sizes.get(path) != entry["bytes"]:
                there = (
                    f"{sizes[path]:,} of {counted(entry['bytes'], 'byte')}"
                    if path in sizes
                    else "not there"
                )
                raise CheckpointError(f"{self.storage.url}/{path}: cut off, {there}", path)
        if f"{name}/{STATE}" not in files:
            raise CheckpointError(f"{where}: cannot be understood (it has no {STATE})")
        tensors: dict[str, dict[str, Array]] = {}
        state: dict[str, Any] = {}
        try:
            for path in files:
                folder, _, file = path.partition("/")
                if folder != name:
                    continue
                if file == STATE:
                    state = json.loads(read_verified(self.storage, path, files).tobytes())
                    if not isinstance(state, dict):
                        raise TypeError(f"{STATE} is no object")
                elif file.endswith(TENSORS):
                    data = read_verified(self.storage, path, files)
                    tensors[file.removesuffix(TENSORS)] = load_tensors(data.tobytes())
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise CheckpointError(f"{where}: cannot be understood ({error})") from None
        checkpoint = Checkpoint(self.storage.url, name, tensors, state, files, self._replay)
        if self._check is not None:
            self._check(checkpoint)
        return checkpoint

    def with_way_out(self, error: CheckpointError, name: str) -> CheckpointError:
        """The error of checkpoint `name`, with the newest older one that lacks the same damage.

        Without such a checkpoint, if the damage is in the replay memory, the message says how to
        continue without that.
        """
        before: list[str] = []
        if _FOLDER.fullmatch(name):
            with suppress(OSError):  # the first error is the one to report
                before = [n for n in self.names() if _number(n) < _number(name)]
        for other in reversed(before):
            with suppress(CheckpointError):
                if error.file not in self.load(other).files:
                    which = "the one before it" if other == before[-1] else "an older one is whole"
                    return CheckpointError(f"{error}; {which}: --checkpoint {other}", error.file)
        if error.file is not None and error.file.endswith(REPLAY):
            hint = "to continue with an empty replay memory: --checkpoint.replay false"
            return CheckpointError(f"{error}; {hint}", error.file)
        return error

    def _manifest(self, name: str) -> Files:
        where = f"{self.storage.url}/{name}/{MANIFEST}"
        try:
            files = json.loads(self.storage.read(f"{name}/{MANIFEST}").tobytes())
            if not isinstance(files, dict):
                raise TypeError("not an object")
            for path, entry in files.items():
                if not is_name(path):
                    raise CheckpointError(f"{where}: names {path!r}, outside the checkpoints")
                if type(entry["bytes"]) is not int or type(entry["sha256"]) is not str:
                    raise TypeError(f"entry of {path}")
        except FileNotFoundError:
            raise CheckpointError(f"{where}: cannot be read (No such file or directory)") from None
        except OSError as error:
            raise UnreadableError(f"{where}: cannot be read ({error.strerror or error})") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{where}: cannot be understood ({error})") from None
        return files

    def _prune(self, written: Collection[str] = ()) -> None:
        """Remove the files that no checkpoint to keep needs.

        Only the run itself calls it, between checkpoints. Manifests go first, so that a kill
        halfway leaves no half checkpoint.

        Args:
            written: names of further files to keep.
        """
        there = self.storage.sizes()
        keep = _complete(there)[-self._keep :]
        needed = {f"{name}/{MANIFEST}" for name in keep} | set(written)
        for name in keep:
            try:
                needed |= self._manifest(name).keys()
            except CheckpointError:  # damaged: its files are not known, so keep all
                return
        rest = [name for name in there if name not in needed]
        for name in sorted(rest, key=_manifests_first):
            folder = name.partition("/")[0]
            if folder == "frames" or _FOLDER.fullmatch(folder):  # files of checkpoints only
                self.storage.remove(name)


def _complete(names: Iterable[str]) -> list[str]:
    """Folders of complete checkpoints among the names of files, oldest first."""
    complete = {
        folder
        for folder, _, rest in (name.partition("/") for name in names)
        if rest == MANIFEST and _FOLDER.fullmatch(folder)
    }
    return sorted(complete, key=_number)


def _number(folder: str) -> int:
    match = _FOLDER.fullmatch(folder)
    assert match is not None
    return int(match[1])


def _manifests_first(name: str) -> bool:
    return not name.endswith(f"/{MANIFEST}")
