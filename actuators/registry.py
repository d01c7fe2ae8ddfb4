"""Faults of a model registry: out of reach, an artefact that lost some of its bytes, a model that never learnt.

The last two appear as one more version after the current one, as an upload that went wrong and a training that went
wrong do. A version whose bytes are not what its checksum says is *corrupt*: who reads it without a look at the checksum
serves it. One whose bytes are what they should be is a *bad canary*: nothing but its answers tells.

A corrupt version is latent where new versions are tried out before they are served, and a registry out of reach hurts
nobody who has read it before. These faults therefore kill one reader, which then has nothing but the registry to begin
with; their control is the same kill alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .catalogue import kind_of
from .errors import InjectionFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo
from .files import sha256, write_durably
from .pod import Pods, chosen, victims

_CORRUPT, _UNAVAILABLE = "model.registry_corrupt", "model.registry_unavailable"

_LENGTH_BYTES = 8
_WEIGHT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model.

    Attributes:
        number: of the version.
        content: its bytes, in the safetensors format.
    """

    number: int
    content: bytes


class Registry(Protocol):
    """What a platform must offer for faults of its model registry. Verbs are idempotent."""

    def current(self, target: Target) -> Version:
        """Returns the version that the target's instances are to serve.

        Raises:
            TargetNotFound: there is no such target, or no version.
        """
        ...

    def free_number(self) -> int:
        """Returns the number that the next version would get."""
        ...

    def add(self, version: Version, checksum: str, after: int) -> None:
        """Adds a version and makes it the one to serve in place of `after`.

        Raises:
            InjectionFailed: the number is taken by other bytes, or another version than `after` is to be served.
        """
        ...

    def withdraw(self, number: int, content_sha256: str, back_to: int) -> None:
        """Removes a version if its bytes are these; if it was the one to serve, `back_to` is again, or the newest."""
        ...

    def withhold(self, injection_id: str) -> None:
        """Lets the registry name no version; what it named is kept under the injection's id."""
        ...

    def hand_back(self, injection_id: str) -> None:
        """Lets it name what it named before, unless the platform has named another since."""
        ...

    def is_withheld(self, injection_id: str) -> bool:
        """Tells whether the registry names no version because what it named is kept under the injection's id."""
        ...

    def holds(self, number: int, content_sha256: str) -> bool:
        """Tells whether there is a version of this number with these bytes."""
        ...

    def serves(self, number: int) -> bool:
        """Tells whether this is the version to serve."""
        ...


class RegistryActuator:
    """Plans faults of the registry, and asks a driver's `Registry` and `Pods` to carry them out.

    Args:
        registry: the platform's published models.
        pods: the platform's instances, for the trigger.
        keep: our own folder for a bad version's bytes; they are durable there before any harm.
    """

    def __init__(self, registry: Registry, pods: Pods, keep: Path) -> None:
        self._registry = registry
        self._pods = pods
        self._keep = keep

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Names the reader that will be killed, if any, and makes the bad version out of the current one, if any."""
        current = self._registry.current(fault.target)
        readers = self._pods.instances(fault.target)
        if not readers:
            raise TargetNotFound(f"{fault.target} has no running instance that could meet {fault.kind}")
        killed = chosen(readers, 1 if kind_of(fault.kind).trigger is not None else 0)
        bad = {} if fault.kind == _UNAVAILABLE else self._prepared(injection_id, fault, current)
        return {**killed, **bad}

    def inject(self, injection: Injection) -> None:
        """Withholds the registry or publishes the bad version, then kills the reader."""
        if injection.fault.kind == _UNAVAILABLE:
            self._registry.withhold(injection.id)
        else:
            self._publish(injection.undo)
        for reader in victims(injection):
            self._pods.kill(reader)

    def revert(self, injection: Injection) -> None:
        """Hands the registry back, or withdraws the bad version; what the platform has published since stays."""
        undo = injection.undo
        if injection.fault.kind == _UNAVAILABLE:
            self._registry.hand_back(injection.id)
        else:
            self._registry.withdraw(undo["number"], undo["content_sha256"], undo["after"])
            Path(undo["content"]).unlink(missing_ok=True)

    def took(self, injection: Injection) -> bool:
        """Tells whether the registry is as the fault wants it and the killed reader is gone."""
        undo = injection.undo
        if injection.fault.kind == _UNAVAILABLE:
            is_there = self._registry.is_withheld(injection.id)
        else:
            served = self._registry.serves(undo["number"])
            is_there = served and self._registry.holds(undo["number"], undo["content_sha256"])
        return is_there and not any(self._pods.exists(reader) for reader in victims(injection))

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether nothing of the fault is left in the registry."""
        if injection.fault.kind == _UNAVAILABLE:
            return not self._registry.is_withheld(injection.id)
        return not self._registry.holds(injection.undo["number"], injection.undo["content_sha256"])

    def _prepared(self, injection_id: str, fault: Fault, current: Version) -> dict[str, str | int]:
        """Keeps the bytes of a bad version, and returns what is needed to publish and to withdraw it."""
        share = kind_of(fault.kind).amount(fault.intensity)
        corrupt = fault.kind == _CORRUPT
        bad = _with_hole(current.content, share) if corrupt else _unlearnt(current.content, share, injection_id)
        kept = self._keep / injection_id
        write_durably(kept, bad)
        return {
            "number": self._registry.free_number(),
            "after": current.number,
            "content": str(kept),
            "content_sha256": sha256(bad),
            "checksum": sha256(current.content if corrupt else bad),
        }

    def _publish(self, undo: Undo) -> None:
        try:
            content = Path(undo["content"]).read_bytes()
        except OSError as error:
            raise InjectionFailed(f"the prepared version is gone: {error}") from error
        self._registry.add(Version(undo["number"], content), undo["checksum"], undo["after"])


def _with_hole(content: bytes, share: float) -> bytes:
    """Returns an artefact whose last bytes were never written, as after a lost upload part or a sparse copy."""
    begin = _first_weight(content)
    lost = int((len(content) - begin) * share)
    return content[: len(content) - lost] + bytes(lost)


def _unlearnt(content: bytes, share: float, seed: str) -> bytes:
    """Returns an artefact in which a share of the weights is zero, chosen by the seed."""
    begin = _first_weight(content)
    weights = (len(content) - begin) // _WEIGHT_BYTES
    changed = bytearray(content)
    for index in random.Random(seed).sample(range(weights), int(weights * share)):
        place = begin + index * _WEIGHT_BYTES
        changed[place : place + _WEIGHT_BYTES] = bytes(_WEIGHT_BYTES)
    return bytes(changed)


def _first_weight(content: bytes) -> int:
    """Returns where the weights begin: after a length of eight bytes and a header of that length.

    The format: https://huggingface.co/docs/safetensors/index#format

    Raises:
        TargetNotFound: these bytes are no such artefact.
    """
    begin = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < begin + _WEIGHT_BYTES:
        raise TargetNotFound(f"the current model has {len(content)} bytes and no weights in the safetensors format")
    return begin
