"""The fault of scarce memory: a target may go on with what it has, and gets little or nothing more.

How much a victim has is looked at when the fault is prepared; its new limit and its old one stand in the undo. The
limit is the victim's own: what it asks for beyond that is refused to it, and nobody else feels anything.

Memory comes in pages, so the last digits of a limit limit nothing. They bear the injection's mark: whoever restores a
limit restores it from this injection's, and from no other.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from .catalogue import kind_of
from .clock import Instant
from .errors import TargetNotFound
from .fault import Fault, Injection, Target, Undo
from .pod import Instance, for_each

_MIB = 2**20
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an instance has of its memory, and what it may have.

    Attributes:
        used_bytes: what it has.
        limit_bytes: the most that it may have; None when there is no limit.
    """

    used_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class Squeeze:
    """One victim, with the limit that it gets and the one that it had.

    Attributes:
        instance: the victim.
        limit_bytes: what it may have while the fault lasts.
        before_bytes: what it could have before; None for no limit.
    """

    instance: Instance
    limit_bytes: int
    before_bytes: int | None


class Memory(Protocol):
    """What a platform must offer for memory faults. Every verb is idempotent; a vanished instance is no error."""

    def instances(self, target: Target) -> Sequence[Instance]:
        """Returns the target's running instances in a stable order.

        Raises:
            TargetNotFound: no such target.
        """
        ...

    def footprint(self, instance: Instance) -> Footprint:
        """Returns what the instance has and may have now.

        Raises:
            TargetNotFound: it has vanished.
        """
        ...

    def squeeze(self, squeeze: Squeeze, injection_id: str, until: Instant) -> None:
        """Lowers the limit from the old one; whatever does so restores it by itself at `until`."""
        ...

    def relax(self, squeeze: Squeeze, injection_id: str) -> None:
        """Restores the old limit, unless the platform has set another one since."""
        ...

    def exists(self, instance: Instance) -> bool:
        """Tells whether this very instance is still there."""
        ...

    def is_squeezed(self, squeeze: Squeeze, injection_id: str) -> bool:
        """Tells whether the instance has the new limit, or anything that could set it under this injection lives."""
        ...


class MemoryActuator:
    """Plans how much memory is left, and asks a driver's `Memory` to see to it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Looks at what every instance has, and plans its limit from that."""
        instances = self._memory.instances(fault.target)
        if not instances:
            raise TargetNotFound(f"{fault.target} has no running instance to break with {fault.kind}")
        left_bytes = round(kind_of(fault.kind).amount(fault.intensity) * _MIB)
        mark = zlib.crc32(injection_id.encode()) % _PAGE_BYTES
        return {"squeezes": [asdict(self._planned(instance, left_bytes, mark)) for instance in instances]}

    def inject(self, injection: Injection) -> None:
        """Sets the limits."""
        for squeeze in _squeezes(injection):
            self._memory.squeeze(squeeze, injection.id, injection.expires_at)

    def revert(self, injection: Injection) -> None:
        """Restores the limits of before."""
        for_each(_squeezes(injection), lambda squeeze: self._memory.relax(squeeze, injection.id))

    def took(self, injection: Injection) -> bool:
        """Tells whether every victim has its new limit; one that has died of it meanwhile needs none."""
        squeezes = _squeezes(injection)
        squeezed = [self._memory.is_squeezed(squeeze, injection.id) for squeeze in squeezes]
        return any(squeezed) and all(
            has_limit or not self._memory.exists(squeeze.instance)
            for has_limit, squeeze in zip(squeezed, squeezes, strict=True)
        )

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether no victim has the new limit any more."""
        return not any(self._memory.is_squeezed(squeeze, injection.id) for squeeze in _squeezes(injection))

    def _planned(self, instance: Instance, left_bytes: int, mark: int) -> Squeeze:
        has = self._memory.footprint(instance)
        pages = (has.used_bytes + left_bytes) // _PAGE_BYTES
        limit_bytes = pages * _PAGE_BYTES + mark
        if has.limit_bytes is not None and has.limit_bytes <= limit_bytes:
            raise TargetNotFound(f"{instance.id} may have {has.limit_bytes} bytes; there is no room to take from it")
        return Squeeze(instance, limit_bytes, has.limit_bytes)


def _squeezes(injection: Injection) -> list[Squeeze]:
    return [
        Squeeze(Instance(**squeeze["instance"]), squeeze["limit_bytes"], squeeze["before_bytes"])
        for squeeze in injection.undo["squeezes"]
    ]
