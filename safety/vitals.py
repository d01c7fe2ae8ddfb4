"""What guards may know of a cluster: enough to refuse, nothing to be clever with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actuators.fault import Fault


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster this is.

    Attributes:
        cluster_id: pinned identity, such as a namespace uid; never a display name alone.
        environment: what the cluster says it is for, such as `staging`.
    """

    cluster_id: str
    environment: str


@dataclass(frozen=True, slots=True)
class ComponentVitals:
    """One component, as far as guards care.

    Attributes:
        ready: instances that serve; None when nobody can tell.
        total: instances that should.
        labels: what its owners wrote on it.
    """

    ready: int | None
    total: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Vitals:
    """The present state of a cluster, for guards.

    Attributes:
        identity: which cluster was measured.
        components: by name.
        service_levels: newest value per level; None where the measurement failed. Unknown is never fine.
        age_s: seconds since the newest measurement.
        unsteady: what breaks the steady state now, empty when nothing does, None when nobody can tell.
        open_faults: what is being broken at this moment.
        quarantined: components that are out of the game until a person looks.
        firing_alerts: alerts that the cluster itself raises, empty when none does, None when nobody can tell.
    """

    identity: Identity
    components: Mapping[str, ComponentVitals]
    service_levels: Mapping[str, float | None]
    age_s: float
    unsteady: tuple[str, ...] | None = None
    open_faults: tuple[Fault, ...] = ()
    quarantined: frozenset[str] = frozenset()
    firing_alerts: tuple[str, ...] | None = None
