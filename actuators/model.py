"""Faults of model artefacts: a damaged checkpoint, together with the restart that makes somebody read it.

Damage alone is latent: the next save replaces it before anybody looks. The fault therefore kills the writer first (so
that nothing overwrites the damage) and cuts the file in the same instant. Its control is the same kill alone.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from .catalogue import kind_of
from .errors import RevertFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo
from .pod import Pods, victims


class Models(Protocol):
    """What a platform must offer for faults of model artefacts. An artefact is named by an opaque string."""

    def newest_checkpoint(self, target: Target) -> str:
        """Returns the name of the checkpoint that a restarted target would read.

        Raises:
            TargetNotFound: there is none.
        """
        ...

    def read(self, artefact: str) -> bytes | None:
        """Returns the bytes of an artefact that nobody is writing to just now, None when it no longer exists."""
        ...

    def overwrite(self, artefact: str, content: bytes) -> None:
        """Replaces the bytes of an existing artefact in one step, its age kept; one that is gone stays gone."""
        ...


class ModelActuator:
    """Plans checkpoint damage with its trigger, and asks a driver's `Models` and `Pods` to carry it out.

    Args:
        models: the platform's artefacts.
        pods: the platform's instances, for the trigger.
        keep: our own folder for the originals; they are durable there before any harm.
    """

    def __init__(self, models: Models, pods: Pods, keep: Path) -> None:
        self._models = models
        self._pods = pods
        self._keep = keep

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Keeps a copy of the newest checkpoint, and names the writer that will be killed."""
        artefact = self._models.newest_checkpoint(fault.target)
        original = self._models.read(artefact)
        writers = self._pods.instances(fault.target)
        if original is None or not writers:
            raise TargetNotFound(f"{fault.target} has no checkpoint with a living writer to break with {fault.kind}")
        kept_bytes = int(len(original) * (1.0 - kind_of(fault.kind).amount(fault.intensity)))
        kept = self._keep / injection_id
        _write_durably(kept, original)
        return {
            "instances": [asdict(writers[0])],
            "artefact": artefact,
            "original": str(kept),
            "kept_bytes": kept_bytes,
            "damaged_sha256": _sha256(original[:kept_bytes]),
        }

    def inject(self, injection: Injection) -> None:
        """Kills the writer, then cuts the checkpoint that it leaves behind."""
        for writer in victims(injection):
            self._pods.kill(writer)
        damaged = Path(injection.undo["original"]).read_bytes()[: injection.undo["kept_bytes"]]
        self._models.overwrite(injection.undo["artefact"], damaged)

    def revert(self, injection: Injection) -> None:
        """Restores the original where our damage still stands; a file that the platform replaced is left alone."""
        if self._is_damaged(injection):
            try:
                original = Path(injection.undo["original"]).read_bytes()
            except OSError as error:
                raise RevertFailed(f"the kept original of {injection.undo['artefact']} is gone: {error}") from error
            self._models.overwrite(injection.undo["artefact"], original)
        Path(injection.undo["original"]).unlink(missing_ok=True)

    def took(self, injection: Injection) -> bool:
        """Tells whether the bytes are the damaged ones and their writer is gone."""
        return self._is_damaged(injection) and not any(self._pods.exists(writer) for writer in victims(injection))

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether our damage is gone: restored, or superseded by the platform."""
        return not self._is_damaged(injection)

    def _is_damaged(self, injection: Injection) -> bool:
        content = self._models.read(injection.undo["artefact"])
        return content is not None and _sha256(content) == injection.undo["damaged_sha256"]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    """Writes a file so that it survives a power cut, its name included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
