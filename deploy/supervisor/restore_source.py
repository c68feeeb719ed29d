"""What a part that takes the place of another begins with: which checkpoint it is made from."""

from __future__ import annotations

from collections.abc import Callable

from common.checkpoint import LISTINGS, Checkpoint, CheckpointStore
from common.errors import CheckpointError, UnreadableError
from deploy.supervisor.slots import Slot


class RestoreSource:
    """The checkpoints of a run, as far as parts can be made from them.

    Attributes:
        any: there is, or was, a checkpoint of this run.
        damaged: (title, checkpoint): what it holds of that part is damaged. Title "": of everybody.
    """

    def __init__(self, store: CheckpointStore, say: Callable[[str], None]) -> None:
        """`say` is told of each one that is damaged."""
        self._store = store
        self._say = say
        self.any = False
        self.damaged: set[tuple[str, str]] = set()

    def newest(self, slot: Slot) -> Checkpoint | None:
        """The newest from which the slot's part can be made; the slot notes its name.

        None: there never was one, or none is sound.

        Raises:
            UnreadableError: the storage does not answer, or shows nothing of what is there.
        """
        slot.origin = ""
        names = self._names()
        for _ in range(LISTINGS):
            there = names
            for name in reversed(there):
                if {("", name), (slot.title, name)} & self.damaged:
                    continue
                try:
                    checkpoint = self._store.load(name)
                except UnreadableError:
                    raise
                except CheckpointError as error:
                    names = self._names()
                    if name not in names:
                        break  # removed meanwhile, as a newer one was written
                    self._say(f"{error}; going on without it")
                    self.damaged.add(("", name))
                else:
                    slot.origin = name
                    return checkpoint
            else:
                return None
        raise UnreadableError(f"{self._store.storage.url}: holds what goes at once")

    def distrust(self, slot: Slot, error: CheckpointError) -> None:
        """The slot's part of the checkpoint it came from is damaged: the one before it is next."""
        self._say(f"{error}; going on without it")
        self.damaged.add((slot.title, slot.origin))

    def _names(self) -> list[str]:
        url = self._store.storage.url
        try:
            names = self._store.names()
        except OSError as error:
            raise UnreadableError(f"{url}: cannot be read ({error})") from None
        if self.any and not names:  # a disk that is not mounted looks like that
            raise UnreadableError(f"{url}: holds no checkpoint any more")
        self.any |= bool(names)
        return names
