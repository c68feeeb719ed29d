"""Checkpoints: complete or not there, verified on reading, readable without pickle.

checkpoints/step-00012000/
    learner.safetensors   networks and optimiser
    state.json            counters
    manifest.json         size and SHA-256 of each file; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from common.types import Array, UserError

MANIFEST = "manifest.json"
STATE = "state.json"
_ASIDE = ".replaced-"
_NAME = re.compile(rf"({re.escape(_ASIDE)})?step-(\d{{8,}})")


class CheckpointError(UserError):
    """A checkpoint that is missing, cut off or damaged."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one holds: named groups of tensors, and counters."""

    path: Path
    tensors: dict[str, dict[str, Array]]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, newest last; keeps the last k."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Nothing is created before the first `save`."""
        self.folder = folder
        self._keep = keep

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Array]], state: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint under a temporary name, then rename it into place.

        Killed at any moment, it leaves either the whole checkpoint or none of it.

        Args:
            step: learner steps; names the folder.
            tensors: file name without ending → tensors.
            state: anything JSON can hold.

        Returns:
            The checkpoint's folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tidy()
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".writing-{final.name}"
        temporary.mkdir()
        try:
            files = {f"{name}.safetensors": _tensor_bytes(t) for name, t in tensors.items()}
            files[STATE] = json.dumps(dict(state), indent=1).encode()
            manifest = {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            }
            files[MANIFEST] = json.dumps(manifest, indent=1).encode()
            for name, data in files.items():
                write_synced(temporary / name, data)
            _sync_folder(temporary)
            # A folder cannot be replaced in one step: the old one steps aside, and comes back if
            # the new one does not make it.
            old = final.with_name(f"{_ASIDE}{final.name}")
            if final.exists():
                final.rename(old)
            try:
                temporary.rename(final)
            except OSError:
                if old.exists():
                    old.rename(final)
                raise
            shutil.rmtree(old, ignore_errors=True)
            _sync_folder(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for superfluous in self.paths()[: -self._keep]:
            # Out of sight first: a kill halfway leaves no half checkpoint.
            gone = superfluous.rename(superfluous.with_name(f".writing-old-{superfluous.name}"))
            shutil.rmtree(gone)
        return final

    def paths(self) -> list[Path]:
        """Folders of complete checkpoints, oldest first.

        One that was set aside counts until its successor is in its place: a writer may have been
        killed in between.
        """
        if not self.folder.is_dir():
            return []
        found: dict[int, Path] = {}
        for path in sorted(self.folder.iterdir()):  # ".replaced-step-…" before "step-…"
            match = _NAME.fullmatch(path.name)
            if match and (path / MANIFEST).is_file():
                found[int(match[2])] = path
        return [found[step] for step in sorted(found)]

    def _tidy(self) -> None:
        """Remove what a process that was killed left, and put back what it had set aside.

        For the writer only: to everybody else, one that is at work looks like one that was killed.
        """
        for stale in self.folder.glob(".writing-*"):
            shutil.rmtree(stale, ignore_errors=True)
        for aside in self.folder.glob(f"{_ASIDE}*"):
            place = aside.with_name(aside.name.removeprefix(_ASIDE))
            if place.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.rename(place)

    def newest(self) -> Checkpoint:
        """The newest checkpoint. Changes nothing: the run may be going on.

        Raises:
            CheckpointError: none, or it is damaged; the one before it is named.
        """
        while True:
            paths = self.paths()
            if not paths:
                raise CheckpointError(f"{self.folder}: holds no checkpoint")
            before = _identity(paths[-1])
            try:
                return load_checkpoint(paths[-1])
            except CheckpointError as error:
                if before is None or _identity(paths[-1]) != before:
                    continue  # its writer replaced or removed it meanwhile
                older = f"; the one before it is {paths[-2]}" if len(paths) > 1 else ""
                raise CheckpointError(f"{error}{older}") from None


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a folder from another that takes its place; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _tensor_bytes(tensors: Mapping[str, Array]) -> bytes:
    # safetensors writes memory as it lies: another order (channels last) would be saved wrong.
    data: bytes = save_tensors({n: np.asarray(array, order="C") for n, array in tensors.items()})
    return data


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: not a checkpoint, or its bytes are not those that were written.
    """
    if not (path / MANIFEST).is_file():
        raise CheckpointError(f"{path}: not a checkpoint (it has no {MANIFEST})")
    tensors: dict[str, dict[str, Array]] = {}
    state: dict[str, Any] = {}
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        for name, entry in manifest.items():
            if Path(name).name != name:
                raise CheckpointError(f"{path}: {MANIFEST} names {name!r}, outside the checkpoint")
            data = (path / name).read_bytes()
            if len(data) != entry["bytes"]:
                raise CheckpointError(
                    f"{path / name}: cut off, {len(data)} bytes of {entry['bytes']}"
                )
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise CheckpointError(f"{path / name}: damaged, its checksum is another")
            if name == STATE:
                state = json.loads(data)
            elif name.endswith(".safetensors"):
                tensors[name.removesuffix(".safetensors")] = load_tensors(data)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except (
        *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
        SafetensorError,
    ) as error:
        raise CheckpointError(f"{path}: cannot be understood ({error})") from None
    return Checkpoint(path, tensors, state)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content by `data`, or leave it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")  # two may write at once
    write_synced(temporary, data)
    temporary.replace(path)
    _sync_folder(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
