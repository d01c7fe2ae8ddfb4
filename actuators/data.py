"""Faults of data, on every feed that leads into a target: rows that are corrupt, renamed, shifted, or late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .catalogue import kind_of
from .clock import Instant
from .errors import BadInput, InjectionFailed, TargetNotFound
from .fault import Fault, Injection, Target, Undo
from .rows import RowEffect


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One effect on the rows of one feed. Absolute: it says how rows are, never how much worse they get.

    Attributes:
        effect: what is done.
        amount: how much of it, in the unit of the fault kind: share of rows corrupted, share of fields renamed,
            standard deviations by which values are shifted, seconds by which one partition is late.

    Raises:
        BadInput: the amount is out of range.
    """

    effect: RowEffect
    amount: float

    def __post_init__(self) -> None:
        if not (self.amount > 0.0 and math.isfinite(self.amount)):
            raise BadInput(f"amount of {self.effect} is {self.amount}; allowed are finite values above 0")

    @classmethod
    def of(cls, fault: Fault) -> Disturbance:
        """Returns what a fault of this family does to every feed into its target."""
        kind = kind_of(fault.kind)
        return cls(RowEffect(kind.verb), kind.amount(fault.intensity))


class Datasets(Protocol):
    """What a platform must offer for faults of data. Verbs are absolute and idempotent."""

    def feeds_into(self, target: Target) -> Sequence[str]:
        """Returns the names of the feeds that lead into the target.

        Raises:
            TargetNotFound: no such target.
        """
        ...

    def disturb(self, feed: str, disturbance: Disturbance, injection_id: str, until: Instant) -> None:
        """Disturbs a feed; the carrier lets go by itself at `until`.

        Raises:
            InjectionFailed: the carrier did not accept it.
        """
        ...

    def settle(self, injection_id: str) -> None:
        """Takes out everything that carries this injection's id. Rows that have passed stay what they became.

        Raises:
            RevertFailed: the carrier could not be asked.
        """
        ...

    def disturbed(self, injection_id: str) -> dict[str, int]:
        """Returns, per feed that carries this injection, how many rows were changed or held so far.

        Raises:
            RevertFailed: the carrier could not be asked.
        """
        ...


class DataActuator:
    """Plans disturbances of feeds and asks a driver's `Datasets` to carry them out."""

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets

    def prepare(self, injection_id: str, fault: Fault) -> Undo:
        """Names the feeds; everything on them will carry the injection's id."""
        feeds = list(self._datasets.feeds_into(fault.target))
        if not feeds:
            raise TargetNotFound(f"no feed leads into {fault.target}; {fault.kind} has nothing to act on")
        return {"feeds": feeds}

    def inject(self, injection: Injection) -> None:
        """Disturbs every feed by the amount that the intensity stands for."""
        disturbance = Disturbance.of(injection.fault)
        feeds = injection.undo["feeds"]
        for feed in feeds:
            self._datasets.disturb(feed, disturbance, injection.id, injection.expires_at)
        missing = set(feeds) - set(self._datasets.disturbed(injection.id))
        if missing:
            raise InjectionFailed(f"{', '.join(sorted(missing))} did not take up {injection.fault}")

    def revert(self, injection: Injection) -> None:
        """Takes out everything that carries the injection's id."""
        self._datasets.settle(injection.id)

    def took(self, injection: Injection) -> bool:
        """Tells whether any row was changed or held: where none comes in, nobody meets the fault."""
        return any(self._datasets.disturbed(injection.id).values())

    def probe_clean(self, injection: Injection) -> bool:
        """Tells whether no feed carries the injection's id."""
        return not self._datasets.disturbed(injection.id)
