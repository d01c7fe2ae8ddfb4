"""Faults of checkpoints: a damaged or a deleted one, together with the restart that makes somebody read it.

Damage alone is latent: the next save replaces it before anybody looks. The fault therefore kills the writer first (so
that nothing overwrites the damage) and cuts or deletes the file in the same instant. Its control is the kill alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from .catalogue import kind_of
from .errors import InjectionFailed, RevertFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo
from .files import sha256, write_durably
from .pod import Pods, chosen, victims


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

    def set_aside(self, artefact: str, injection_id: str) -> None:
        """Takes an artefact away in one step, kept out of sight under an injection's id; one that is gone is fine."""
        ...

    def is_set_aside(self, artefact: str, injection_id: str) -> bool:
        """Tells whether an artefact is kept out of sight under an injection's id."""
        ...

    def is_missing(self, artefact: str) -> bool:
        """Tells whether an artefact is gone from a place that is there; a platform that is gone lacks nothing."""
        ...

    def put_back(self, artefact: str, injection_id: str, content: bytes | None) -> None:
        """Puts an artefact where there is none; one that the platform has written since stays.

        Args:
            artefact: its name.
            injection_id: under which it may be kept out of sight; afterwards nothing is.
            content: its bytes, for where it is not.
        """
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
        kept = self._keep / injection_id
        write_durably(kept, original)
        return {
            **chosen(writers, 1),
            "artefact": artefact,
            "original": str(kept),
            **_damage(fault, original),
        }

    def inject(self, injection: Injection) -> None:
        """Kills the writer, then cuts or deletes the checkpoint that it leaves behind.

        Where it has saved another one meanwhile, that one would be read: nothing is damaged, and it did not take.
        """
        undo = injection.undo
        try:
            original = Path(undo["original"]).read_bytes()
        except OSError as error:
            # Reverted before it was injected, by somebody who thought this process dead: nothing could be restored.
            raise InjectionFailed(f"the kept original of {undo['artefact']} is gone: {error}") from error
        for writer in victims(injection):
            self._pods.kill(writer)
        if not self._is_damaged(injection) and self._newest(injection) != undo["artefact"]:
            return
        if _deletes(injection.fault):
            # Once deleted, it may have been written anew: that one is not ours to delete.
            if self._has(injection, undo["original_sha256"]):
                self._checkpoints.set_aside(undo["artefact"], injection.id)
        else:
            self._checkpoints.overwrite(undo["artefact"], original[: undo["kept_bytes"]])

    def revert(self, injection: Injection) -> None:
        """Restores the original where our damage still stands; a file that the platform replaced is left alone."""
        undo = injection.undo
        kept = Path(undo["original"])
        if _deletes(injection.fault):
            content = kept.read_bytes() if kept.exists() and self._is_damaged(injection) else None
            self._checkpoints.put_back(undo["artefact"], injection.id, content)
        elif self._is_damaged(injection):
            try:
                original = kept.read_bytes()
            except OSError as error:
                raise RevertFailed(f"the kept original of {undo['artefact']} is gone: {error}") from error
            self._checkpoints.overwrite(undo["artefact"], original)
        kept.unlink(missing_ok=True)

    def took(self, injection: Injection) -> bool:
        """Tells whether the damage is there and the writer is gone."""
        return self._is_damaged(injection) and not any(self._pods.exists(writer) for writer in victims(injection))

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether our damage is gone: restored, or superseded by the platform."""
        return not self._is_damaged(injection)

    def _newest(self, injection: Injection) -> str:
        return self._checkpoints.newest_checkpoint(injection.fault.target)

    def _is_damaged(self, injection: Injection) -> bool:
        undo = injection.undo
        if _deletes(injection.fault):
            # Platforms drop old checkpoints: after the undo, one that is missing is our doing only if it was set aside.
            ours = Path(undo["original"]).exists() or self._checkpoints.is_set_aside(undo["artefact"], injection.id)
            return ours and self._checkpoints.is_missing(undo["artefact"])
        return self._has(injection, injection.undo["damaged_sha256"])

    def _has(self, injection: Injection, content_sha256: str) -> bool:
        """Tells whether the artefact's bytes are these now."""
        content = self._checkpoints.read(injection.undo["artefact"])
        return content is not None and sha256(content) == content_sha256


def _damage(fault: Fault, original: bytes) -> dict[str, str | int]:
    """Returns what has to be known to do the damage, and to recognise it."""
    if _deletes(fault):
        return {"original_sha256": sha256(original)}
    kept_bytes = int(len(original) * (1.0 - kind_of(fault.kind).amount(fault.intensity)))
    return {"kept_bytes": kept_bytes, "damaged_sha256": sha256(original[:kept_bytes])}


def _deletes(fault: Fault) -> bool:
    return fault.kind == "model.checkpoint_delete"
