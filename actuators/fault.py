"""The nouns of harm: what is broken, how, and the receipt that says how to undo it.

A fault is a frozen value and a receipt is JSON: both survive a journal, a process boundary and a reader. The undo
inside a receipt is data, never code, and is complete before any harm is done, so that a *fresh process* can revert.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from .clock import Instant
from .errors import BadInput

Undo: TypeAlias = Mapping[str, Any]
"""What an actuator needs to revert: a JSON object, meaningful to that actuator and its driver only."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A thing that can be broken.

    Attributes:
        name: the component's name on its cluster.
        kind: what sort of thing the name names; `component` for all that have replicas.
        namespace: where the name is looked up; empty on clusters without namespaces.
    """

    name: str
    kind: str = "component"
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to hurt one target, for a while.

    Attributes:
        kind: a name of the catalogue, such as `network.delay`.
        target: what is hurt.
        intensity: how hard, in (0, 1]; the catalogue turns it into physical units, alike on every backend.
        duration_s: how long the fault stays before it is reverted, in seconds.

    Raises:
        BadInput: the intensity or the duration is out of range.
    """

    kind: str
    target: Target
    intensity: float
    duration_s: float

    def __post_init__(self) -> None:
        if not 0.0 < self.intensity <= 1.0:
            raise BadInput(f"intensity of {self.kind} is {self.intensity}; allowed are values in (0, 1]")
        if not (self.duration_s > 0.0 and math.isfinite(self.duration_s)):
            raise BadInput(f"duration_s of {self.kind} is {self.duration_s}; allowed are finite values above 0")

    def __str__(self) -> str:
        return f"{self.kind} on {self.target} at {self.intensity:g} for {self.duration_s:g} s"

    def to_json(self) -> dict[str, Any]:
        """Returns the fault as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fault:
        """Reads what `to_json` wrote."""
        return cls(data["kind"], Target(**data["target"]), data["intensity"], data["duration_s"])


@dataclass(frozen=True, slots=True)
class Injection:
    """The receipt for one fault: everything a fresh process needs to take it out again.

    Attributes:
        id: names everything the fault creates.
        fault: what was asked for.
        undo: how to revert it, complete before any harm.
        started_at: when the permission was given.
        expires_at: when the fault has to be gone, whoever is still alive.
        token: fencing token of the lease under which it was permitted.
    """

    id: str
    fault: Fault
    undo: Undo
    started_at: Instant
    expires_at: Instant
    token: int

    def to_json(self) -> str:
        """Returns the receipt as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Injection:
        """Reads what `to_json` wrote."""
        data = json.loads(text)
        return cls(
            id=data["id"],
            fault=Fault.from_json(data["fault"]),
            undo=data["undo"],
            started_at=Instant(**data["started_at"]),
            expires_at=Instant(**data["expires_at"]),
            token=data["token"],
        )
