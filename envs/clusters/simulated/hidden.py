"""What nobody outside may know of a simulated cluster, and the cluster as it is before anything has happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from safety.limits import OPT_IN_LABEL

from ..base import Component, Topology
from . import cards, data
from .data import DATA_MECHANISMS, FEATURE_PIPELINE, STREAM
from .document import REQUEST_ROUTES, Document
from .instances import USED_BYTES
from .models import first_registry
from .training import SOUND

MECHANISMS: Final = (
    "feature_timeout",
    "retries",
    "health",
    "restart",
    "checkpoint",
    "hang_timeout",
    "verify",
    "canary_gate",
    "absent_alert",
    *DATA_MECHANISMS,
    "queue",
    "autoscale",
)
"""What may be absent on a simulated cluster, each the namesake of a switch of the embedded one."""

_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "gateway": ("model-server",),
    "model-server": ("feature-store",),
    "feature-store": (FEATURE_PIPELINE,),
    FEATURE_PIPELINE: (STREAM,),
}


@dataclass(frozen=True, slots=True)
class Hidden:
    """What nobody outside may know of a simulated cluster.

    Attributes:
        replicas: instances per component.
        weak: which resilience mechanisms are absent: any of `MECHANISMS`.
        has_gpu: whether the trainer works on a GPU.

    The data plane has one instance of each component, wherever nothing else is said.
    """

    replicas: Mapping[str, int] = field(
        default_factory=lambda: {"gateway": 1, "model-server": 2, "feature-store": 1, "trainer": 2}
    )
    weak: frozenset[str] = frozenset()
    has_gpu: bool = True

    def __post_init__(self) -> None:
        data_plane = {name: self.replicas.get(name, 1) for name in (STREAM, FEATURE_PIPELINE)}
        object.__setattr__(self, "replicas", {**self.replicas, **data_plane})

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Hidden:
        """Returns a cluster with randomly absent mechanisms; all drawn ones are measured alike, so they have a GPU."""
        weak = {name for name in MECHANISMS if random.random() < 0.5}
        servers = int(random.integers(1, 4))
        return cls({"gateway": 1, "model-server": servers, "feature-store": 1, "trainer": 2}, frozenset(weak))


def empty_world(hidden: Hidden) -> Document:
    """Returns the document of a cluster in which nothing has happened yet."""
    return {
        "instances": {name: [f"{name}-{n}" for n in range(count)] for name, count in hidden.replicas.items()},
        "killed": {},
        "paused": {},
        "squeezed": {},
        "used_bytes": USED_BYTES,
        "nodes": {
            name: {"holds": [component], "up": True, "born": 0}
            for name, component in {"serving": "model-server", "training": "trainer"}.items()
        },
        "routes": [*REQUEST_ROUTES, *data.ROUTES],
        "impairments": {},
        "feeds": [data.ROWS],
        "disturbances": {},
        "checkpoints": {"trainer/latest": SOUND},
        "aside": {},
        "registry": first_registry(),
        "cards": cards.first_cards(hidden.has_gpu),
        "repairs": [],
    }


def topology_of(hidden: Hidden) -> Topology:
    """Returns what is seen of a cluster's form."""
    return Topology(
        [
            Component(
                name=name,
                role=name,
                replicas=replicas,
                depends_on=_NEEDS.get(name, ()),
                labels={OPT_IN_LABEL: "true"},
                capabilities=_capabilities(name, hidden),
            )
            for name, replicas in hidden.replicas.items()
        ],
        observers={"client": ("gateway",), "producer": ()},
    )


def _capabilities(name: str, hidden: Hidden) -> frozenset[str]:
    found = {"Pods", "Memory"}
    if name in {"model-server", "trainer"}:
        found.add("Nodes")
    if any(route.endswith(f"->{name}") for route in (*REQUEST_ROUTES, *data.ROUTES)):
        found.add("Network")
    if name == STREAM:
        found.add("Datasets")
    if name == "trainer":
        found |= {"Checkpoints", "Gpus"} if hidden.has_gpu else {"Checkpoints"}
    if name == "model-server":
        found.add("Registry")
    return frozenset(found)
