"""Handles of replay shards that die."""

from common.errors import RemoteDiedError
from common.handles import Ready


class MortalHandle:
    """A far end that may die: calls under way die with it, as those of a process do."""

    def __init__(self, target):
        self.target = target

    def call(self, method, *args):
        value = getattr(self.target, method)(*args) if self.target is not None else None
        return MortalFuture(self, value)

    def share(self, value):
        return Ready(value)

    def die(self):
        self.target = None


class MortalFuture:
    def __init__(self, handle, value):
        self.handle, self.value = handle, value

    def done(self):
        return True

    def result(self):
        if self.handle.target is None:
            raise RemoteDiedError("shard", "it was killed")
        return self.value
