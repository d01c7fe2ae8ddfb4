"""Checkpoints of the training job, kept in one of two ways.

*In place* is what a first version does: one file, overwritten, read back without a question. *Verified* is what it
becomes after the first lost week: every checkpoint is whole or not there, carries its checksum, and the last three are
kept so that a damaged one costs two seconds and not the job.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.numpy

from .errors import DamagedFile
from .files import sha256, write_atomically
from .model import Tensors

_KEPT = 3
_PATTERN = "*.safetensors"
_STEP = "step"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment of training.

    Attributes:
        step: how many steps had been made.
        tensors: weights and optimizer state.
    """

    step: int
    tensors: Tensors

    def to_bytes(self) -> bytes:
        """Returns the checkpoint as one safetensors file."""
        return safetensors.numpy.save({**self.tensors, _STEP: np.asarray(self.step)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Reads what `to_bytes` wrote.

        Raises:
            safetensors.SafetensorError: the file is incomplete.
        """
        tensors = safetensors.numpy.load(data)
        return cls(int(tensors.pop(_STEP)), tensors)


class Checkpoints(Protocol):
    """Where a training job keeps its progress."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint."""
        ...

    def load(self) -> Checkpoint | None:
        """Returns where to go on; None at the very start."""
        ...


class InPlaceCheckpoints:
    """One file, overwritten in place and loaded as it is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "checkpoint.safetensors"

    def save(self, checkpoint: Checkpoint) -> None:
        """Overwrites the file."""
        self._file.write_bytes(checkpoint.to_bytes())

    def load(self) -> Checkpoint | None:
        """Reads the file.

        Raises:
            safetensors.SafetensorError: the file is incomplete.
        """
        return Checkpoint.from_bytes(self._file.read_bytes()) if self._file.exists() else None


class VerifiedCheckpoints:
    """The last three checkpoints, each written atomically with its checksum beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Adds a checkpoint and drops the oldest."""
        data = checkpoint.to_bytes()
        # A running number, not the step: after a fall back the steps begin again below those of the damaged file.
        number = max((_number(path) for path in self._oldest_first()), default=0) + 1
        path = self._folder / f"checkpoint-{number:06}.safetensors"
        # The checksum goes first, for a checkpoint without one cannot be trusted.
        write_atomically(_checksum_of(path), sha256(data).encode())
        write_atomically(path, data)
        for old in self._oldest_first()[:-_KEPT]:
            old.unlink(missing_ok=True)
            _checksum_of(old).unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole.

        Raises:
            DamagedFile: there are checkpoints and none of them is whole. Starting over would hide that.
        """
        candidates = self._oldest_first()[::-1]
        for path in candidates:
            data = path.read_bytes()
            if _is_whole(path, data):
                return Checkpoint.from_bytes(data)
            _log.warning("checkpoint %s is damaged; falling back to the one before", path.name)
        if candidates:
            raise DamagedFile(f"none of the {len(candidates)} checkpoints in {self._folder} is whole")
        return None

    def _oldest_first(self) -> list[Path]:
        return sorted(self._folder.glob(_PATTERN), key=_number)


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint that was written last, None when there is none."""
    return max(folder.glob(_PATTERN), key=lambda path: path.stat().st_mtime_ns, default=None)


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _checksum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path, data: bytes) -> bool:
    try:
        return _checksum_of(path).read_text() == sha256(data)
    except OSError:
        return False
