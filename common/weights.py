"""Versioned weights: published once per version, fetched only when newer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common import wire
from common.errors import RemoteDiedError
from common.handles import Future, Handle
from common.types import Array

if TYPE_CHECKING:  # torch must stay out of the processes that only pass weights on
    import torch


class WeightStore:
    """Holds the newest published weights.

    The payload is a shared reference that the store passes on unopened, so that a fetch costs the
    same for a network of a kilobyte and one of a gigabyte.
    """

    def __init__(self, floor: int = -1) -> None:
        """An empty store, which accepts versions above `floor`."""
        self._version = floor
        self._payload: Future[Array] | None = None
        self.fetches = 0

    def publish(self, version: int, payload: Future[Array]) -> None:
        """Replace the weights.

        Args:
            version: greater than any before.
            payload: result of `Handle.share`.

        Raises:
            ValueError: a version that is not newer.
        """
        if version <= self._version:
            raise ValueError(f"version={version}: must be newer than {self._version}")
        self._version, self._payload = version, payload

    def newest_version(self) -> int:
        """The newest version; −1: none yet."""
        return self._version

    def fetch(self, have: int) -> tuple[int, Future[Array]] | None:
        """(version, reference) if newer than version `have`, else None."""
        if self._payload is None or self._version <= have:
            return None
        self.fetches += 1
        return self._version, self._payload


@dataclass(frozen=True, slots=True)
class WeightStoreClient:
    """Calls the methods of a `WeightStore` and returns futures of their results."""

    handle: Handle

    def publish(self, version: int, payload: Future[Array]) -> Future[None]:
        """See `WeightStore.publish`."""
        return self.handle.call("publish", version, payload)

    def newest_version(self) -> Future[int]:
        """See `WeightStore.newest_version`."""
        return self.handle.call("newest_version")

    def fetch(self, have: int) -> Future[tuple[int, Future[Array]] | None]:
        """See `WeightStore.fetch`."""
        return self.handle.call("fetch", have)


class WeightClient:
    """Fetches weights from a store if they are newer than the version it has."""

    def __init__(self, weight_store: Handle) -> None:
        self._weight_store = weight_store
        self.version = -1
        self.fetches = 0
        self.unreachable = False  # until the store dies, and again after `reconnect`

    def reconnect(self, weight_store: Handle) -> None:
        """Fetch from this store from now on."""
        self._weight_store, self.unreachable = weight_store, False

    def fetch(self) -> Array | None:
        """The newest weights (wire format) if newer than those fetched before, else None."""
        try:
            fetched = self._weight_store.call("fetch", self.version).result()
            if fetched is None:
                return None
            version, reference = fetched
            weights: Array = reference.result()
        except RemoteDiedError:  # the store, or the learner: keep the weights of before
            self.unreachable = True
            return None
        if version <= self.version:  # a replaced store may start with older weights
            return None
        self.version = version
        self.fetches += 1
        return weights


def pack_weights(state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> Array:
    """A state dict in wire format (`[bytes]` uint8)."""
    return wire.encode({name: t.detach().cpu().numpy() for name, t in state.items()}, meta)


def unpack_weights(buffer: Array) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and meta of `pack_weights`, copied: the buffer may be shared and read-only."""
    import torch

    arrays, meta = wire.decode(buffer)
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}, meta
