"""Every kind of fault Backburn knows, with its strength in physical units.

`amount` is the one place where an intensity becomes a quantity; drivers and the simulator call the same function, so
that "half" means the same on a simulated, an embedded and a Kubernetes cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .errors import BadInput

LEVELS = (0.25, 0.5, 1.0)
"""The intensities that an agent chooses from."""

_LONGEST_DELAY_MS = 2000.0
_NARROWEST_BYTES_PER_S = 512.0
_LEAST_CPU_SHARE = 0.03
_MOST_MIB_LEFT = 16.0
_LEAST_GPU_MEMORY_SHARE = 0.02
_LEAST_GPU_TIME_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What is true of every fault of one kind.

    Attributes:
        name: `family.verb`.
        amount: turns an intensity in (0, 1] into `unit`.
        unit: physical unit of the amount.
        duration_s: how long such a fault stays, seconds.
        reversible: whether reverting restores what was there. A fault that cannot be undone is refused unless the
            limits name it.
        scope: `instance` when the fault hurts single replicas, `component` when all of them at once.
        capability: the driver protocol it needs.
        symptom: what is looked at to be sure that the fault took.
        blinds: metrics of the target that may fall silent while the fault lasts; that is its effect, not a blackout.
        trigger: for a latent fault, the kind that makes the target meet it. The same trigger alone is its control.
        lapses: whether the platform's routine, and not its resilience, may end the fault; then it has shown nothing.
    """

    name: str
    amount: Callable[[float], float]
    unit: str
    duration_s: float
    reversible: bool
    scope: str
    capability: str
    symptom: str
    blinds: frozenset[str] = frozenset()
    trigger: str | None = None
    lapses: bool = False

    def described(self, intensity: float) -> str:
        """Returns the amount that an intensity stands for, in words.

        >>> CATALOGUE["network.delay"].described(0.5)
        '500 ms towards the target'
        >>> CATALOGUE["pod.kill"].described(0.25)
        '25% of instances'
        """
        amount = self.amount(intensity)
        share = self.unit.removeprefix("share ")
        return f"{amount:g} {self.unit}" if share == self.unit else f"{amount:.0%} {share}"

    @property
    def family(self) -> str:
        """The family, which names the actuator."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """What is done, within the family."""
        return self.name.partition(".")[2]


def _share(intensity: float) -> float:
    return intensity


def _whole(_: float) -> float:
    """Some things are there or not."""
    return 1.0


def _delay_ms(intensity: float) -> float:
    """125, 500 and 2000 ms: below, around and beyond what people put into a timeout."""
    return _LONGEST_DELAY_MS * intensity**2


def _everything(_: float) -> float:
    """A partition knows no half: whatever the intensity, nothing passes."""
    return 1.0


def _bytes_per_s(intensity: float) -> float:
    """8192, 2048 and 512 bytes/s, for all connections of an edge together.

    The embedded platform asks for features about 30 times a second in some 150 bytes each: 4.5 kB/s. The first rate
    carries that, the second less than half of it, so that a queue grows for as long as it lasts, and the third next to
    nothing.
    """
    return _NARROWEST_BYTES_PER_S / intensity**2


def _cpu_share(intensity: float) -> float:
    """58, 83 and 97 % of the CPU time: the rest is what is left, and half the intensity leaves its square root.

    One replica of the embedded model server, asked 30 times a second, has enough left at the first level, too little at
    the second, where two replicas still bear it together, and next to nothing at the third.
    """
    return 1.0 - math.pow(_LEAST_CPU_SHARE, intensity)


def _mib_left(intensity: float) -> float:
    """12, 8 and 0 MiB: a little more than the stack of a thread, just that, and nothing at all."""
    return _MOST_MIB_LEFT * (1.0 - intensity)


def _gpu_memory_share(intensity: float) -> float:
    """62, 86 and 98 % of a card's memory in use, by whomever; half the intensity leaves its square root free.

    What others use counts, so that this says how the card is and never how much fuller it gets. The last level leaves
    less than it takes to begin with a model anew, and something all the same.
    """
    return 1.0 - math.pow(_LEAST_GPU_MEMORY_SHARE, intensity)


def _gpu_time_share(intensity: float) -> float:
    """29, 50 and 75 % of a card's time: what neighbours take that ask for it as often as that.

    A card gives equal slices of its time to all processes that have work for it: one neighbour that always has some
    takes half, and three take three quarters.
    """
    return 1.0 - math.pow(_LEAST_GPU_TIME_SHARE, intensity)


_OWN_EXPORTER = frozenset({"up", "cpu_share", "memory_mb"})

_KINDS = (
    FaultKind(
        name="pod.kill",
        amount=_share,
        unit="share of instances",
        duration_s=9.0,
        reversible=False,
        scope="instance",
        capability="Pods",
        symptom="the instance's process is gone",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="pod.pause",
        amount=_share,
        unit="share of instances",
        duration_s=12.0,
        reversible=True,
        scope="instance",
        capability="Pods",
        symptom="the instance's process is stopped and stays",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="network.delay",
        amount=_delay_ms,
        unit="ms towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="bytes towards the target were held back",
    ),
    FaultKind(
        name="network.loss",
        amount=_share,
        unit="share of messages towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="connections towards the target were reset",
    ),
    FaultKind(
        name="network.partition",
        amount=_everything,
        unit="share of traffic from and towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="bytes or connections towards the target were kept from passing",
    ),
    FaultKind(
        name="network.bandwidth",
        amount=_bytes_per_s,
        unit="bytes/s towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="bytes towards the target had to wait for their turn",
    ),
    FaultKind(
        name="model.checkpoint_corrupt",
        amount=_share,
        unit="share of the newest checkpoint cut off",
        duration_s=50.0,
        reversible=False,
        scope="instance",
        capability="Checkpoints",
        symptom="the newest checkpoint's bytes are the damaged ones and its writer is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
    ),
    FaultKind(
        name="model.checkpoint_delete",
        amount=_whole,
        unit="share of the newest checkpoint gone",
        duration_s=50.0,
        reversible=False,
        scope="instance",
        capability="Checkpoints",
        symptom="the newest checkpoint is not there and its writer is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
    ),
    FaultKind(
        name="model.registry_corrupt",
        amount=_share,
        unit="share of the model's bytes lost",
        duration_s=15.0,
        reversible=False,
        scope="instance",
        capability="Registry",
        symptom="the corrupt version is the one to serve and one of its readers is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
        lapses=True,
    ),
    FaultKind(
        name="model.registry_unavailable",
        amount=_whole,
        unit="share of the registry out of reach",
        duration_s=15.0,
        reversible=False,
        scope="instance",
        capability="Registry",
        symptom="the registry names no version to serve and one of its readers is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
        lapses=True,
    ),
    FaultKind(
        name="model.bad_canary",
        amount=_share,
        unit="share of the model's weights never learnt",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Registry",
        symptom="the bad version is the one to serve",
        lapses=True,
    ),
    FaultKind(
        name="pod.cpu_stress",
        amount=_cpu_share,
        unit="share of CPU time taken",
        duration_s=30.0,  # beyond the deadline by which a platform is to have found other ways to serve
        reversible=True,
        scope="component",  # a noisy neighbour, or a limit that is too low, meets all instances alike
        capability="Pods",
        symptom="the instances' processes are seen stopped and seen running, by turns",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="pod.node_kill",
        amount=_whole,
        unit="share of the node's processes",
        duration_s=12.0,
        reversible=False,
        scope="component",
        capability="Nodes",
        symptom="the process that is the node is gone",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="pod.memory_stress",
        amount=_mib_left,
        unit="MiB left to grow",
        duration_s=20.0,
        reversible=True,
        scope="component",  # a limit that is too low meets all instances alike
        capability="Memory",
        symptom="the limit on the instances' memory, read back, is the lowered one",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="gpu.memory_pressure",
        amount=_gpu_memory_share,
        unit="share of the card's memory in use",
        duration_s=30.0,
        reversible=True,
        scope="component",  # whoever shares the card with a neighbour does so with all ranks that it has there
        capability="Gpus",
        symptom="the neighbour runs, and so much of the card's memory is in use",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="gpu.compute_contention",
        amount=_gpu_time_share,
        unit="share of the card's time taken",
        duration_s=30.0,
        reversible=True,
        scope="component",
        capability="Gpus",
        symptom="the neighbours run on the card, and it is busy for as much of the time as they ask for",
    ),
)

CATALOGUE: Mapping[str, FaultKind] = {kind.name: kind for kind in _KINDS}


def kind_of(name: str) -> FaultKind:
    """Returns the catalogue's entry for `name`.

    Raises:
        BadInput: no such kind.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise BadInput(f"unknown fault kind {name!r}; known are {', '.join(sorted(CATALOGUE))}") from None


def instances_hit(kind: FaultKind, intensity: float, total: int) -> int:
    """Returns how many of `total` instances a fault of this strength reaches, at least one.

    A fault of scope `component` reaches all. A latent fault reaches one: whoever reads the damage first.

    >>> instances_hit(CATALOGUE["pod.kill"], 0.5, 4)
    2
    >>> instances_hit(CATALOGUE["pod.kill"], 0.25, 2)
    1
    """
    if kind.scope == "component":
        return total
    if kind.trigger is not None:
        return 1
    return max(1, int(kind.amount(intensity) * total))
