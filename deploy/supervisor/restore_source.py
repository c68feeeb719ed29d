"""The restore source: the checkpoint that a restarted part starts from."""

from __future__ import annotations

from collections.abc import Callable

from common.checkpoint import LISTINGS, Checkpoint, CheckpointStore
from common.errors import CheckpointError, UnreadableError
from common.parts import PartId


class RestoreSource:
    """The checkpoints of a run, without those that are corrupt.

    Attributes:
        expected: the run has, or had, a checkpoint: a storage without any is not to be believed.
        restored_from: name of the checkpoint that each part was last restored from.
        corrupt: (part, checkpoint) for a corrupt file of one part; part None: of all parts.
    """

    def __init__(
        self, store: CheckpointStore, warn: Callable[[str], None], hangs: Callable[[], bool]
    ) -> None:
        """A source that knows of no corrupt checkpoint.

        Args:
            store: of the run's checkpoints.
            warn: called with a line about each corrupt checkpoint.
            hangs: whether the storage is known not to respond: it is not read then, since nothing
                else would be supervised meanwhile.
        """
        self._store = store
        self._warn = warn
        self._hangs = hangs
        self.expected = False
        self.restored_from: dict[PartId, str] = {}
        self.corrupt: set[tuple[PartId | None, str]] = set()

    def newest(self, part: PartId) -> Checkpoint | None:
        """The newest checkpoint that the part can be restored from; `restored_from` names it.

        None: the run has no checkpoint, or all of them are corrupt.

        Raises:
            UnreadableError: the storage is unreadable, or lists no checkpoint where there was one.
        """
        self.restored_from.pop(part, None)
        names = self._names()
        for _ in range(LISTINGS):
            listed = names
            for name in reversed(listed):
                if {(None, name), (part, name)} & self.corrupt:
                    continue
                try:
                    checkpoint = self._store.load(name)
                except UnreadableError:
                    raise
                except CheckpointError as error:
                    names = self._names()
                    if name not in names:
                        break  # removed meanwhile, after a newer one was written
                    self._skip(error)
                    self.corrupt.add((None, name))
                else:
                    self.restored_from[part] = name
                    return checkpoint
            else:
                return None
        raise UnreadableError(
            f"{self._store.storage.url}: each checkpoint is removed before it is read"
        )

    def mark_corrupt(self, part: PartId, error: CheckpointError) -> None:
        """Never restore the part again from the checkpoint that it was last restored from."""
        self._skip(error)
        self.corrupt.add((part, self.restored_from.get(part, "")))

    def _skip(self, error: CheckpointError) -> None:
        self._warn(f"{error}; the run continues without it")

    def _names(self) -> list[str]:
        url = self._store.storage.url
        if self._hangs():
            raise UnreadableError(f"{url}: does not respond")
        try:
            names = self._store.names()
        except OSError as error:
            raise UnreadableError(f"{url}: cannot be read ({error})") from None
        if self.expected and not names:  # as on a disk that is not mounted
            raise UnreadableError(f"{url}: holds no checkpoint any more")
        self.expected |= bool(names)
        return names
