"""Faults of checkpoints: a damaged one, together with the restart that makes somebody read it.

Damage alone is latent: the next save replaces it before anybody looks. The fault therefore kills the writer first (so
that nothing overwrites the damage) and cuts the file in the same instant. Its control is the same kill alone.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from .catalogue import kind_of
from .errors import RevertFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo
from .files import sha256, write_durably
from .pod import Pods, victims


class Checkpoints(Protocol):
    """What a platform must offer for faults of checkpoints. An artefact is named by an opaque string."""

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


class CheckpointActuator:
    """Plans checkpoint damage with its trigger, and asks a driver's `Checkpoints` and `Pods` to carry it out.

    Args:
        checkpoints: the platform's checkpoints.
        pods: the platform's instances, for the trigger.
        keep: our own folder for the originals; they are durable there before any harm.
    """

    def __init__(self, checkpoints: Checkpoints, pods: Pods, keep: Path) -> None:
        self._checkpoints = checkpoints
        self._pods = pods
        self._keep = keep

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Keeps a copy of the newest checkpoint, and names the writer that will be killed."""
        artefact = self._checkpoints.newest_checkpoint(fault.target)
        original = self._checkpoints.read(artefact)
        writers = self._pods.instances(fault.target)
        if original is None or not writers:
            raise TargetNotFound(f"{fault.target} has no checkpoint with a living writer to break with {fault.kind}")
        kept_bytes = int(len(original) * (1.0 - kind_of(fault.kind).amount(fault.intensity)))
        kept = self._keep / injection_id
        write_durably(kept, original)
        return {
            "instances": [asdict(writers[0])],
            "artefact": artefact,
            "original": str(kept),
            "kept_bytes": kept_bytes,
            "damaged_sha256": sha256(original[:kept_bytes]),
        }

    def inject(self, injection: Injection) -> None:
        """Kills the writer, then cuts the checkpoint that it leaves behind."""
        for writer in victims(injection):
            self._pods.kill(writer)
        damaged = Path(injection.undo["original"]).read_bytes()[: injection.undo["kept_bytes"]]
        self._checkpoints.overwrite(injection.undo["artefact"], damaged)

    def revert(self, injection: Injection) -> None:
        """Restores the original where our damage still stands; a file that the platform replaced is left alone."""
        if self._is_damaged(injection):
            try:
                original = Path(injection.undo["original"]).read_bytes()
            except OSError as error:
                raise RevertFailed(f"the kept original of {injection.undo['artefact']} is gone: {error}") from error
            self._checkpoints.overwrite(injection.undo["artefact"], original)
        Path(injection.undo["original"]).unlink(missing_ok=True)

    def took(self, injection: Injection) -> bool:
        """Tells whether the bytes are the damaged ones and their writer is gone."""
        return self._is_damaged(injection) and not any(self._pods.exists(writer) for writer in victims(injection))

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether our damage is gone: restored, or superseded by the platform."""
        return not self._is_damaged(injection)

    def _is_damaged(self, injection: Injection) -> bool:
        content = self._checkpoints.read(injection.undo["artefact"])
        return content is not None and sha256(content) == injection.undo["damaged_sha256"]
