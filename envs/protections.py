"""What keeps an ML cluster alive when something breaks, and how its absence shows: what is worth finding.

Each protection answers some kinds of fault on some roles. Where it is absent, those faults break a promise, in its way.
That a kind may need several protections is intended: losing a feature store takes a fallback, and an alarm beside it.

`commonness` is how often a protection is absent, as log-odds where nothing else is known. It follows the order, and
not the counts, of published incidents (Llama 3's interruptions, Philly, Acme, Unicron): hardware and network losses of
training jobs and what waits for slow dependencies are common, storage and silent corruption rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from .encoding import ROLES
from .hypothesis import Mechanism

OTHER: Final = "other"
ALL_ROLES: Final = (*ROLES, OTHER)
_ANSWERING = ("gateway", "model-server", "feature-store", OTHER)
_NETWORK = ("network.delay", "network.loss", "network.partition", "network.bandwidth")


@dataclass(frozen=True, slots=True)
class Protection:
    """One resilience mechanism.

    Attributes:
        name: what it is called.
        mechanism: how promises break without it.
        kinds: fault kinds that it answers.
        roles: roles of the components that need it.
        commonness: log-odds of its absence.
        shielded: whether others on the way to the users can make up for its absence.
    """

    name: str
    mechanism: Mechanism
    kinds: tuple[str, ...]
    roles: tuple[str, ...]
    commonness: float
    shielded: bool = False


PROTECTIONS: Final[Sequence[Protection]] = (
    Protection("redundancy", Mechanism.UNAVAILABLE, ("pod.kill", "pod.pause"), _ANSWERING, -0.3, shielded=True),
    Protection("spread_over_nodes", Mechanism.UNAVAILABLE, ("pod.node_kill",), ("model-server",), 0.2, shielded=True),
    Protection("timeout_with_fallback", Mechanism.SLOW, _NETWORK, _ANSWERING[1:], -0.4, shielded=True),
    Protection("retry_budget", Mechanism.AMPLIFIED, ("network.loss",), ("model-server", "feature-store"), -0.8),
    Protection("bounded_queue", Mechanism.QUEUE_GROWTH, ("pod.cpu_stress",), _ANSWERING, -0.6, shielded=True),
    Protection("memory_headroom", Mechanism.UNAVAILABLE, ("pod.memory_stress",), ALL_ROLES, -1.6),
    Protection("restart", Mechanism.STUCK, ("pod.kill", "pod.node_kill", "gpu.memory_pressure"), ("trainer",), -0.5),
    Protection("hang_timeout", Mechanism.STUCK, ("pod.pause", "pod.cpu_stress"), ("trainer",), -0.2),
    Protection("gpu_isolation", Mechanism.SLOW, ("gpu.compute_contention",), ("trainer",), -0.9),
    Protection(
        "safe_checkpoints",
        Mechanism.LOST_PROGRESS,
        ("model.checkpoint_corrupt", "model.checkpoint_delete"),
        ("trainer",),
        -0.3,
    ),
    Protection("verified_models", Mechanism.WRONG_ANSWERS, ("model.registry_corrupt",), ("model-server",), -0.7),
    Protection("honest_health", Mechanism.UNAVAILABLE, ("model.registry_unavailable",), ("model-server",), -0.6),
    Protection("canary_gate", Mechanism.WRONG_ANSWERS, ("model.bad_canary",), ("model-server",), -0.3),
    Protection("schema_gate", Mechanism.WRONG_ANSWERS, ("data.corrupt_rows", "data.schema_change"), ("stream",), -0.4),
    Protection("drift_alarm", Mechanism.WRONG_ANSWERS, ("data.drift",), ("stream",), -0.3),
    Protection(
        "freshness",
        Mechanism.STALE,
        ("data.stream_delay", "pod.kill", "pod.pause", *_NETWORK),
        ("stream", "feature-pipeline", "feature-store"),
        -0.7,
    ),
    Protection("absent_alert", Mechanism.SILENT, ("pod.pause", "pod.kill"), ALL_ROLES, -1.4),
)

SHIELD: Final = [protection.name for protection in PROTECTIONS].index("timeout_with_fallback")
"""Who has it passes less of its dependencies' trouble on."""


def need(kinds: Sequence[str]) -> torch.Tensor:
    """Returns which protection answers which kind on which role, shape (protections, roles, kinds), bool."""
    return torch.tensor(
        [
            [[kind in protection.kinds and role in protection.roles for kind in kinds] for role in ALL_ROLES]
            for protection in PROTECTIONS
        ]
    )


class Gap(NamedTuple):
    """Something that is missing: what a team will build, however many kinds of fault show that it is not there.

    Attributes:
        role: where.
        lacks: name of the protection; where none is known, of the kind of fault and how it breaks a promise.
    """

    role: str
    lacks: str

    def __str__(self) -> str:
        kind, _, mechanism = self.lacks.partition("|")
        return f"{self.role}: {f'what bears {kind}' if mechanism else kind.replace('_', ' ')}"


def gap_of(kind: str, role: str, mechanism: Mechanism) -> Gap:
    """Returns what is missing where a kind of fault on a role breaks a promise.

    >>> gap_of("network.delay", "model-server", Mechanism.UNAVAILABLE)
    Gap(role='model-server', lacks='timeout_with_fallback')
    >>> gap_of("network.loss", "model-server", Mechanism.AMPLIFIED)
    Gap(role='model-server', lacks='retry_budget')
    >>> gap_of("pod.kill", "feature-store", Mechanism.AMPLIFIED)
    Gap(role='feature-store', lacks='retry_budget')
    """
    known = role if role in ROLES else OTHER
    here = [one for one in PROTECTIONS if known in one.roles]
    answering = [one for one in here if kind in one.kinds]
    in_its_way = [one for one in answering if one.mechanism is mechanism]
    # Some ways of breaking a promise come from one thing alone, whichever kind of fault brought it about.
    telling = [one for one in here if [each.mechanism for each in PROTECTIONS].count(one.mechanism) == 1]
    in_its_way += [one for one in telling if one.mechanism is mechanism]
    # Users who give up after seconds see as unavailable what is slow to all others.
    best = next(iter([*in_its_way, *answering]), None)
    return Gap(role, f"{kind}|{mechanism}" if best is None else best.name)
